"""Families: routers that differ in their threshold alone.

A family gives every decision a score, and names a larger route where the score
reaches the threshold. What thresholds earn is asked of a source
(`outcomes.sources`), which needs nothing else of a method.
"""

from collections.abc import Callable
import dataclasses
import functools
import hashlib
import math
import pickle
from typing import Any

import numpy as np

from routing import types
from routing.features import observation
from routing.outcomes import refusal
from routing.outcomes import table as table_lib
from routing.routers import fixed
from routing.routers import learned
from routing.routers import router as router_lib

_CHUNK = 8_192  # Observations that a network is shown at once.
Scores = tuple[np.ndarray, np.ndarray | None]


class PolicyFamily:
  """One policy of a learned router; its score is the chance to leave.

  Args:
    router: the router.
    policy_index: index of the policy.
  """

  def __init__(self, router: learned.LearnedRouter, policy_index: int):
    self._router, self._policy_index = router, policy_index
    self.fingerprint = f'{router.checkpoint_hash}/{policy_index}'
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
      return self._router.probabilities(features[rows], self._policy_index)
    way = path[rows]
    seen = np.where((way >= 0)[..., None], features[way], 0.0)
    probabilities = self._router.probabilities(seen, self._policy_index)
    return probabilities[np.arange(len(rows)), decisions.depth[rows]]

  def at(self, threshold: float) -> learned.LearnedRouter:
    """The router of this policy at a threshold."""
    return self._router.with_threshold(self._policy_index, threshold)


def policies(router: learned.LearnedRouter) -> list[PolicyFamily]:
  """A family for each policy of a router."""
  return [PolicyFamily(router, k) for k in range(router.num_policies)]


class Uncertainty:
  """The confidence threshold: minus the least log-probability on view.

  Args:
    route: whom to hand over to.
  """

  def __init__(self, route: int = 1):
    self._route = fixed.check_route(route)
    self.fingerprint = f'uncertainty/{route}'

  def score(self, decisions: table_lib.Decisions) -> Scores:
    """`[M]` nats.

    Raises:
      refusal.Refusal: if the engines gave no log-probabilities somewhere; the
        live router could not decide there.
    """
    missing = np.isnan(decisions.uncertainty)
    if missing.any():
      raise refusal.Refusal(
          'The confidence threshold needs log-probabilities; the engines gave '
          f'none at {missing.sum():,} of {len(missing):,} decisions.',
          None,
          note='',
      )
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


class Scored:
  """Any fitted scorer of observations.

  Args:
    scorer: its `score` maps `[M, F]` features, not standardised, to `[M]`
      scores, or to scores and the routes that it would name.
    features: what the live router observes.
    route: whom to hand over to where the scorer names no route.
  """

  def __init__(
      self, scorer: Any, features: observation.FeatureConfig, route: int
  ):
    self._scorer, self._features = scorer, features
    self._route = fixed.check_route(route)
    self._scored: dict[int, tuple[table_lib.Decisions, Scores]] = {}

  @functools.cached_property
  def fingerprint(self) -> str:
    """Names the fitted numbers, what they observe, and the route."""
    content = pickle.dumps((self._scorer, self._features, self._route))
    return hashlib.sha256(content).hexdigest()[:16]

  def score(self, decisions: table_lib.Decisions) -> Scores:
    """What the scorer says of each decision."""
    if id(decisions) not in self._scored:
      features = decisions.features
      parts = [
          self._of(features[start : start + _CHUNK])
          for start in range(0, len(features), _CHUNK)
      ]
      scores, routes = (np.concatenate(x) for x in zip(*parts, strict=True))
      self._scored[id(decisions)] = decisions, (scores, routes)
    return self._scored[id(decisions)][1]

  def _of(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`[M]` scores and routes of `[M, F]`."""
    found = self._scorer.score(features)
    if isinstance(found, tuple):
      return found
    return found, np.full(len(found), self._route)

  def at(self, threshold: float) -> 'ScoredRouter':
    """The router at a threshold."""
    return ScoredRouter(self._of, self._features, threshold)


@dataclasses.dataclass(frozen=True)
class ScoredRouter:
  """A fitted scorer as a live router.

  score: `[M, F]` to `[M]` scores and routes.
  features: what it observes.
  threshold: names the route where the score is at least this.
  """

  score: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
  features: observation.FeatureConfig
  threshold: float

  def decide(self, trace: types.Trace) -> types.Decision:
    """Scores the trace and compares with the threshold."""
    row = observation.observe(trace, self.features)
    (score,), (route,) = self.score(row[None])
    is_named = score >= self.threshold
    return types.Decision(int(route) if is_named else 0, float(score))
