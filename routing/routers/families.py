"""Families: routers that differ in their threshold alone.

A family gives every decision a score, and names a larger route where the score
reaches the threshold. What thresholds earn is asked of a source
(`outcomes.sources`), which needs nothing else of a method.
"""

import math

import numpy as np

from routing.outcomes import table as table_lib
from routing.routers import fixed
from routing.routers import learned
from routing.routers import router as router_lib

_CHUNK = 8_192  # Observations that a network is shown at once.
Scores = tuple[np.ndarray, np.ndarray | None]


class Member:
  """One policy of a learned router; its score is the chance to leave.

  Args:
    router: the router.
    member: index of the policy.
  """

  def __init__(self, router: learned.LearnedRouter, member: int):
    self._router, self._member = router, member
    self.fingerprint = f'{router.checkpoint_hash}/{member}'
    self._scored: dict[int, tuple[table_lib.Decisions, Scores]] = {}

  def score(self, decisions: table_lib.Decisions) -> Scores:
    """Action probabilities of the larger routes, summed, and the likeliest."""
    # The same decisions are asked about once for each cost metric. They are
    # kept with their scores, so that no others get their identity meanwhile.
    if id(decisions) not in self._scored:
      self._scored[id(decisions)] = decisions, self._score(decisions)
    return self._scored[id(decisions)][1]

  def _score(self, decisions: table_lib.Decisions) -> Scores:
    num = len(decisions.depth)
    path = decisions.path() if self._router.has_memory else None
    larger = [
        self._probabilities(
            decisions, path, np.arange(start, min(start + _CHUNK, num))
        )
        for start in range(0, num, _CHUNK)
    ]
    larger = np.concatenate(larger)[:, 1:]
    return larger.sum(axis=-1), 1 + larger.argmax(axis=-1)

  def _probabilities(
      self,
      decisions: table_lib.Decisions,
      path: np.ndarray | None,
      rows: np.ndarray,
  ) -> np.ndarray:
    """`[rows, A]`; a network with memory sees the decisions before, too."""
    features = decisions.features
    if path is None:
      return self._router.probabilities(features[rows], self._member)
    way = path[rows]
    seen = np.where((way >= 0)[..., None], features[way], 0.0)
    chances = self._router.probabilities(seen, self._member)
    return chances[np.arange(len(rows)), decisions.depth[rows]]

  def at(self, threshold: float) -> learned.LearnedRouter:
    """The router of this policy at a threshold."""
    return self._router.with_threshold(self._member, threshold)


def members(router: learned.LearnedRouter) -> list[Member]:
  """A family for each policy of a router."""
  return [Member(router, k) for k in range(router.num_members)]


class Uncertainty:
  """The confidence threshold: minus the least log-probability on view.

  Args:
    route: whom to hand over to.
  """

  def __init__(self, route: int = 1):
    self._route = fixed.check_route(route)
    self.fingerprint = f'uncertainty/{route}'

  def score(self, decisions: table_lib.Decisions) -> Scores:
    """`[M]` nats."""
    routes = np.full(len(decisions.depth), self._route)
    return decisions.uncertainty, routes

  def at(self, threshold: float) -> fixed.ConfidenceRouter:
    """The router at a threshold."""
    return fixed.ConfidenceRouter(threshold, self._route)


class FixedStep:
  """The larger route from a fixed step on; its score is the step's index.

  Args:
    route: whom to hand over to.
  """

  def __init__(self, route: int = 1):
    self._route = fixed.check_route(route)
    self.fingerprint = f'fixed step/{route}'

  def score(self, decisions: table_lib.Decisions) -> Scores:
    """`[M]` float, the number of decisions before."""
    routes = np.full(len(decisions.depth), self._route)
    return decisions.depth.astype(np.float64), routes

  def at(self, threshold: float) -> router_lib.Router:
    """The router that hands over at step `threshold`, rounded up."""
    if threshold == math.inf:
      return fixed.SmallRouter()
    return fixed.StepRouter(max(math.ceil(max(threshold, 0.0)), 0), self._route)
