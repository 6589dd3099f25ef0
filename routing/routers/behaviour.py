"""Behaviour policies, which sample routes and record action probabilities.

Off-policy estimates divide by the probability of the action that was taken, so
every decision records this probability. All draws are hashes of (seed, problem,
trajectory, step): a collection that is interrupted and resumed gives the same
data as an uninterrupted one.
"""

from collections.abc import Sequence
import dataclasses
import functools

import numpy as np
import scipy

from routing import types
from routing.rollout import behaviour_rollouts
from routing.routers import router as router_lib


@dataclasses.dataclass(frozen=True)
class Uniform:
  """A policy that chooses uniformly among the allowed routes.

  allowed: `[A]` bool, e.g. from `Protocol.action_mask`.
  """

  allowed: Sequence[bool]

  def __post_init__(self):
    if not any(self.allowed):
      raise ValueError(
          'allowed is False for every route; at least one must be True.'
      )

  def action_probabilities(self, trace: types.Trace) -> np.ndarray:
    """See `router.Policy.action_probabilities`."""
    del trace
    return np.asarray(self.allowed, np.float64) / sum(self.allowed)


# Quadrature nodes and weights, cached because every decision needs those for
# the length of its trace.
_gauss_legendre = functools.cache(np.polynomial.legendre.leggauss)


@dataclasses.dataclass(frozen=True)
class RandomRate:
  """A policy that takes larger routes at a rate drawn anew for each answer.

  The rate is a latent variable: it is drawn from U(low, high), and the policy
  never sees it. Answers that use the large model rarely or often are then as
  common as answers in between. The random router at rate 1/2 would almost never
  produce a long run of steps by one model.

  The action probabilities are conditioned on the earlier routes, with the rate
  integrated out. For the range [0, 1] and k larger routes among n steps the
  probability of a larger route is (k + 1) / (n + 2), Laplace's rule of
  succession. Sampling from these marginal probabilities gives the same
  distribution of answers as drawing the rate first. Importance weights based on
  them are unbiased, with a far lower variance than weights based on the rate:
  at a rate of 0.9, the weight of an answer that stays with the small model
  would grow by a factor of 10 at every step.

  low, high: range of the rate, 0 <= low <= high <= 1.
  num_routes: A >= 2; all larger routes have the same probability.

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
          f'The range of rates is {self.low} to {self.high}; it must satisfy '
          '0 <= low <= high <= 1.'
      )
    if self.num_routes < 2:
      raise ValueError(
          f'num_routes is {self.num_routes}; it must be 2 or more.'
      )

  def action_probabilities(self, trace: types.Trace) -> np.ndarray:
    """See `router.Policy.action_probabilities`."""
    num = len(trace.steps)
    num_larger = sum(step.route > 0 for step in trace.steps)
    # P(larger | history) = E[r^(k+1) (1-r)^(n-k)] / E[r^k (1-r)^(n-k)] for
    # r ~ U(low, high). Both integrands are polynomials of degree <= n + 1, and
    # Gauss-Legendre with m nodes is exact up to degree 2 m - 1 >= n + 1.
    nodes, weights = _gauss_legendre((num + 3) // 2)
    rates = self.low + (self.high - self.low) * (nodes + 1) / 2
    # Logarithms are used because r^k underflows for traces of a thousand steps.
    # `xlogy` gives 0 log 0 = 0, which a rate of exactly 0 or 1 needs.
    logs = scipy.special.xlogy(num_larger, rates)
    logs += scipy.special.xlog1py(num - num_larger, -rates)
    if np.isneginf(logs).all():
      raise ValueError(
          f'A trace with {num_larger} larger routes in {num} steps is '
          f'impossible at rates from {self.low} to {self.high}; this behaviour '
          'policy did not collect it.'
      )
    # Subtracting the maximum cancels in the ratio below and prevents underflow:
    # the largest exponent becomes 0.
    posterior = weights * np.exp(logs - logs.max())
    larger = posterior @ rates / posterior.sum()
    # A mean of rates lies in [low, high]; `clip` removes rounding errors.
    larger = float(np.clip(larger, self.low, self.high))
    others = self.num_routes - 1
    return np.array([1 - larger, *[larger / others] * others])


@dataclasses.dataclass(frozen=True)
class Mixture:
  """A policy whose action probabilities are a weighted mean of two policies'.

  policy: the first policy, with weight 1 - epsilon; e.g. a trained router.
  other: e.g. `Uniform`, which gives every route a positive probability.
  epsilon: weight of `other`, in [0, 1].
  """

  policy: router_lib.Policy
  other: router_lib.Policy
  epsilon: float

  def __post_init__(self):
    if not 0 <= self.epsilon <= 1:
      raise ValueError(f'epsilon is {self.epsilon}; it must be in [0, 1].')

  def action_probabilities(self, trace: types.Trace) -> np.ndarray:
    """See `router.Policy.action_probabilities`."""
    first, second = self.policy.action_probabilities(
        trace
    ), self.other.action_probabilities(trace)
    if first.shape != second.shape:
      raise ValueError(
          'Both policies of a mixture must have the same routes; got '
          f'{first.shape} and {second.shape}.'
      )
    return (1 - self.epsilon) * first + self.epsilon * second


@dataclasses.dataclass(frozen=True)
class DrawingRouter:
  """A router that samples the routes of one trajectory from a policy.

  policy: gives the action probabilities.
  seed: seed of the collection.
  problem_id, trajectory: identify the answer. Each answer has independent
    draws.
  """

  policy: router_lib.Policy
  seed: int
  problem_id: str
  trajectory: int

  def decide(self, trace: types.Trace) -> types.Decision:
    """Draws the route that writes the next step of this trajectory.

    Raises:
      ValueError: if the policy's probabilities are negative or do not sum to 1.
    """
    probabilities = np.asarray(
        self.policy.action_probabilities(trace), np.float64
    )
    if not (probabilities.min() >= 0 and abs(probabilities.sum() - 1) < 1e-4):
      raise ValueError(
          f'The action probabilities are {probabilities.tolist()} at step '
          f'{len(trace.steps)}; they must be >= 0 and sum to 1.'
      )
    # A float32 softmax sums to 1 only up to rounding.
    probabilities /= probabilities.sum()
    draw = router_lib.draw(
        self.seed, self.problem_id, self.trajectory, len(trace.steps)
    )
    bounds = np.cumsum(probabilities)
    # Rounding may leave the last bound below 1; scaling the draw by that bound
    # keeps the index below A. With side='right' a route of probability 0 has an
    # empty interval and is never drawn.
    route = int(np.searchsorted(bounds, draw * bounds[-1], side='right'))
    return types.Decision(
        route=route,
        score=float(probabilities[1:].sum()),
        probability=float(probabilities[route]),
    )


def drawn(policy: router_lib.Policy, seed: int) -> behaviour_rollouts.Behaviour:
  """Returns a behaviour that samples every trajectory from one policy.

  With the policy that is being trained, the collected data are on-policy.
  """
  return lambda problem, trajectory: DrawingRouter(
      policy, seed, problem.id, trajectory
  )


def random_rate(
    num_routes: int, seed: int, low: float = 0.0, high: float = 1.0
) -> behaviour_rollouts.Behaviour:
  """Returns a behaviour that samples every trajectory from `RandomRate`.

  Args:
    num_routes: A >= 2.
    seed: seed of the collection.
    low, high: range of the rate, in [0, 1].

  Raises:
    ValueError: if the range or the number of routes is not allowed.
  """
  return drawn(RandomRate(low, high, num_routes), seed)
