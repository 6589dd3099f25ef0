"""Behaviour policies: routers that draw, and say with which probability.

What they did is weighed later by what another policy would have done, so each
decision carries the chance that its route had. All draws follow from (seed,
problem, trajectory, step) by hashing: a collection that is killed and taken up
again is the one that was never killed.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from routing import types
from routing.rollout import behave
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

  def chances(self, trace: types.Trace) -> np.ndarray:
    """See `router.Policy.chances`."""
    del trace
    return np.asarray(self.allowed, np.float64) / sum(self.allowed)


@dataclasses.dataclass(frozen=True)
class Leaving:
  """A larger route with a given chance, all larger ones alike.

  rate: chance of a route other than 0, in [0, 1].
  num_routes: A >= 2.
  """

  rate: float
  num_routes: int = 2

  def __post_init__(self):
    if not 0 <= self.rate <= 1:
      raise ValueError(f'The rate must be in [0, 1], got {self.rate}.')
    if self.num_routes < 2:
      raise ValueError(f'num_routes is {self.num_routes}; allowed: >= 2.')

  def chances(self, trace: types.Trace) -> np.ndarray:
    """See `router.Policy.chances`."""
    del trace
    num_larger = self.num_routes - 1
    return np.array([1 - self.rate, *[self.rate / num_larger] * num_larger])


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

  def chances(self, trace: types.Trace) -> np.ndarray:
    """See `router.Policy.chances`."""
    first, second = self.policy.chances(trace), self.other.chances(trace)
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
    chances = np.asarray(self.policy.chances(trace), np.float64)
    if not (chances.min() >= 0 and abs(chances.sum() - 1) < 1e-4):
      raise ValueError(
          f'The policy gave chances {chances.tolist()} at step '
          f'{len(trace.steps)}; they must be >= 0 and sum to 1.'
      )
    chances /= chances.sum()  # A float32 softmax is off by rounding.
    coin = router_lib.coin(
        self.seed, self.problem_id, self.trajectory, len(trace.steps)
    )
    bounds = np.cumsum(chances)
    # Scaled, since the last bound may miss 1 by rounding; a route of chance 0
    # has no room between its bounds.
    route = int(np.searchsorted(bounds, coin * bounds[-1], side='right'))
    return types.Decision(
        route=route,
        score=float(chances[1:].sum()),
        probability=float(chances[route]),
    )


def drawn(policy: router_lib.Policy, seed: int) -> behave.Behaviour:
  """One policy for all trajectories; drawn from it, on-policy data."""
  return lambda problem, trajectory: DrawingRouter(
      policy, seed, problem.id, trajectory
  )


def random_rate(
    num_routes: int, seed: int, low: float = 0.0, high: float = 1.0
) -> behave.Behaviour:
  """A rate of leaving for each trajectory, drawn once and evenly.

  Trajectories that leave seldom and often are then as common as those between,
  where coins of one half would make long runs of one writer rare. The recorded
  probability is the one *given the rate*: the trajectory was written by that
  very policy, so ratios to it are unbiased.

  Args:
    num_routes: A.
    seed: of the collection.
    low, high: the rate's range, in [0, 1].

  Raises:
    ValueError: if the range is none.
  """
  if not 0 <= low <= high <= 1:
    raise ValueError(
        f'The rates go from {low} to {high}; allowed: 0 <= low <= high <= 1.'
    )

  def draw_rate(problem: types.Problem, trajectory: int) -> DrawingRouter:
    coin = router_lib.coin(seed, problem.id, trajectory, 'rate')
    policy = Leaving(low + (high - low) * coin, num_routes)
    return DrawingRouter(policy, seed, problem.id, trajectory)

  return draw_rate
