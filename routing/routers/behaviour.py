"""Behaviour policies: routers that draw, and say with which probability.

What they did is weighed later by what another policy would have done, so each
decision carries the chance that its route had. All draws follow from (seed,
problem, trajectory, step) by hashing: a collection that is killed and taken up
again is the one that was never killed.
"""

from collections.abc import Sequence
import dataclasses
import functools

import numpy as np
from scipy import special

from routing import types
from routing.rollout import behaviour_rollouts
from routing.routers import router as router_lib


@dataclasses.dataclass(frozen=True)
class Uniform:
  """Every allowed route with the same chance.

  allowed: `[A]` bool, e.g. of `Protocol.action_mask`.
  """

  allowed: Sequence[bool]

  def __post_init__(self):
    if not any(self.allowed):
      raise ValueError('No route is allowed; there must be 1 or more.')

  def action_probabilities(self, trace: types.Trace) -> np.ndarray:
    """See `router.Policy.action_probabilities`."""
    del trace
    return np.asarray(self.allowed, np.float64) / sum(self.allowed)


_gauss_legendre = functools.cache(np.polynomial.legendre.leggauss)


@dataclasses.dataclass(frozen=True)
class RandomRate:
  """A larger route at a rate that is drawn evenly for each answer, and unknown.

  Answers that leave the small model seldom and often are then as common as
  those between, where coins of one half would make long runs of one writer
  rare. The chances are those *given the routes before*, the rate averaged out:
  after k larger ones of n, with the whole range, (k + 1) / (n + 2), Laplace's
  rule of succession. Drawing so gives the same answers as drawing the rate
  first, and ratios to these chances are unbiased too, but far calmer: given its
  rate, an answer that keeps to the small model at a rate of .9 would weigh ten
  times more at every step.

  low, high: the rate's range, in [0, 1].
  num_routes: A >= 2; all larger ones alike.

  Sources: Blackwell 1947, "Conditional Expectation and Unbiased Sequential
  Estimation"; Blackwell and MacQueen 1973, "Ferguson Distributions via Polya
  Urn Schemes".
  """

  low: float = 0.0
  high: float = 1.0
  num_routes: int = 2

  def __post_init__(self):
    if not 0 <= self.low <= self.high <= 1:
      raise ValueError(
          f'The rates go from {self.low} to {self.high}; allowed: '
          '0 <= low <= high <= 1.'
      )
    if self.num_routes < 2:
      raise ValueError(f'num_routes is {self.num_routes}; allowed: >= 2.')

  def action_probabilities(self, trace: types.Trace) -> np.ndarray:
    """See `router.Policy.action_probabilities`."""
    num = len(trace.steps)
    num_larger = sum(step.route > 0 for step in trace.steps)
    # Exact, since what is averaged is a polynomial of degree n + 1.
    places, weights = _gauss_legendre((num + 3) // 2)
    rates = self.low + (self.high - self.low) * (places + 1) / 2
    # In logarithms, since traces may have a thousand steps.
    logs = special.xlogy(num_larger, rates)
    logs += special.xlog1py(num - num_larger, -rates)
    if np.isneginf(logs).all():
      raise ValueError(
          f'No rate from {self.low} to {self.high} names {num_larger} larger '
          f'routes of {num}; the trace is not of this behaviour.'
      )
    likely = weights * np.exp(logs - logs.max())
    larger = float(np.clip(likely @ rates / likely.sum(), self.low, self.high))
    others = self.num_routes - 1
    return np.array([1 - larger, *[larger / others] * others])


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Another policy, with a second one blended in at every step.

  policy: e.g. a trained one.
  other: e.g. `Uniform`, so that no route has chance 0.
  epsilon: weight of `other`, in [0, 1].
  """

  policy: router_lib.Policy
  other: router_lib.Policy
  epsilon: float

  def __post_init__(self):
    if not 0 <= self.epsilon <= 1:
      raise ValueError(f'epsilon must be in [0, 1], got {self.epsilon}.')

  def action_probabilities(self, trace: types.Trace) -> np.ndarray:
    """See `router.Policy.action_probabilities`."""
    first, second = self.policy.action_probabilities(
        trace
    ), self.other.action_probabilities(trace)
    if first.shape != second.shape:
      raise ValueError(
          f'Policies of {first.shape} and {second.shape} routes do not mix.'
      )
    return (1 - self.epsilon) * first + self.epsilon * second


@dataclasses.dataclass(frozen=True)
class DrawingRouter:
  """Draws each route by the chances of a policy, in one trajectory.

  policy: whose chances.
  seed: of the collection.
  problem_id, trajectory: which answer this is; each has coins of its own.
  """

  policy: router_lib.Policy
  seed: int
  problem_id: str
  trajectory: int

  def decide(self, trace: types.Trace) -> types.Decision:
    """Tosses the coin of this trajectory and step.

    Raises:
      ValueError: if the policy's chances are none.
    """
    probabilities = np.asarray(
        self.policy.action_probabilities(trace), np.float64
    )
    if not (probabilities.min() >= 0 and abs(probabilities.sum() - 1) < 1e-4):
      raise ValueError(
          f'The policy gave chances {probabilities.tolist()} at step '
          f'{len(trace.steps)}; they must be >= 0 and sum to 1.'
      )
    probabilities /= (
        probabilities.sum()
    )  # A float32 softmax is off by rounding.
    draw = router_lib.draw(
        self.seed, self.problem_id, self.trajectory, len(trace.steps)
    )
    bounds = np.cumsum(probabilities)
    # Scaled, since the last bound may miss 1 by rounding; a route of chance 0
    # has no room between its bounds.
    route = int(np.searchsorted(bounds, draw * bounds[-1], side='right'))
    return types.Decision(
        route=route,
        score=float(probabilities[1:].sum()),
        probability=float(probabilities[route]),
    )


def drawn(policy: router_lib.Policy, seed: int) -> behaviour_rollouts.Behaviour:
  """One policy for all trajectories; drawn from it, on-policy data."""
  return lambda problem, trajectory: DrawingRouter(
      policy, seed, problem.id, trajectory
  )


def random_rate(
    num_routes: int, seed: int, low: float = 0.0, high: float = 1.0
) -> behaviour_rollouts.Behaviour:
  """Trajectories of `RandomRate`; raises ValueError as it does.

  Args:
    num_routes: A.
    seed: of the collection.
    low, high: the rate's range, in [0, 1].
  """
  return drawn(RandomRate(low, high, num_routes), seed)
