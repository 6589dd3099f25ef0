"""Families of routers that differ only in their threshold.

A family gives every decision a score and chooses a larger route where the score
reaches the threshold. A source (`outcomes.sources`) evaluates the thresholds of
a family and needs nothing else from a method.
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

_CHUNK = 8_192  # Observations per network call; bounds the memory.
# `[M]` scores, and the `[M]` larger routes; None = the largest everywhere.
Scores = tuple[np.ndarray, np.ndarray | None]


class PolicyFamily:
  """The routers of one learned policy; the score is its hand-over probability.

  Args:
    router: the learned router.
    policy_index: index of the policy, in 0..K-1.
  """

  def __init__(self, router: learned.LearnedRouter, policy_index: int):
    self._router, self._policy_index = router, policy_index
    self.fingerprint = f'{router.checkpoint_hash}/{policy_index}'
    self._scored: dict[int, tuple[table_lib.Decisions, Scores]] = {}

  def score(self, decisions: table_lib.Decisions) -> Scores:
    """Returns the total probability of larger routes, and the likeliest one.

    Returns:
      `[M]` float32 scores in [0, 1], and `[M]` int routes in 1..A-1.
    """
    # Scores are cached, because callers ask again for each cost metric. The
    # cache also holds the decisions themselves: if they were freed, a new
    # object could reuse their `id` and get these scores.
    if id(decisions) not in self._scored:
      self._scored[id(decisions)] = decisions, self._score(decisions)
    return self._scored[id(decisions)][1]

  def _score(self, decisions: table_lib.Decisions) -> Scores:
    """Computes what `score` returns, without the cache."""
    num = len(decisions.depth)
    path = decisions.path() if self._router.has_memory else None
    larger = [
        self._probabilities(
            decisions, path, slice(start, min(start + _CHUNK, num))
        )
        for start in range(0, num, _CHUNK)
    ]
    # `[M, A - 1]`. The score sums the larger routes instead of taking
    # 1 - p(stay): in float32 the difference rounds all small probabilities to a
    # few equal values.
    larger = np.concatenate(larger)[:, 1:]
    return larger.sum(axis=-1), 1 + larger.argmax(axis=-1)

  def _probabilities(
      self,
      decisions: table_lib.Decisions,
      path: np.ndarray | None,
      rows: slice,
  ) -> np.ndarray:
    """Returns the action probabilities at m decisions, `[m, A]`.

    Args:
      decisions: M decisions.
      path: `[M, T]` int, the earlier decisions that a network with memory reads
        (see `Decisions.path`); None for a network without memory.
      rows: the decisions to compute.
    """
    features = decisions.features
    if path is None:
      return self._router.probabilities(features[rows], self._policy_index)
    history = path[rows]  # `[rows, T]`, -1 after the decision itself.
    # Index -1 would pick the last decision of the table, so its features are
    # replaced by zeros. The network is causal: this padding comes after the
    # decision whose output is read and does not change that output.
    seen = np.where((history >= 0)[..., None], features[history], 0.0)
    probabilities = self._router.probabilities(seen, self._policy_index)
    return probabilities[np.arange(len(seen)), decisions.depth[rows]]

  def at(self, threshold: float) -> learned.LearnedRouter:
    """Returns the live router of this policy at a threshold."""
    return self._router.with_threshold(self._policy_index, threshold)


def policies(router: learned.LearnedRouter) -> list[PolicyFamily]:
  """Returns one family for each policy of a router."""
  return [PolicyFamily(router, k) for k in range(router.num_policies)]


_MAX_UNKNOWN = 0.1  # Share of decisions without log-probabilities.


class Uncertainty:
  """Confidence thresholds: the score is -min log-probability of the step.

  Args:
    route: the larger route that takes over.
    statistic: one of `observation.UNCERTAINTIES`, instead of the minimum.
  """

  def __init__(self, route: int = 1, statistic: str = 'minimum'):
    self._route = fixed.check_route(route)
    self._statistic = fixed.check_statistic(statistic)
    self.fingerprint = f'uncertainty/{route}'
    if statistic != 'minimum':
      self.fingerprint += f'/{statistic}'

  def score(self, decisions: table_lib.Decisions) -> Scores:
    """Returns `[M]` uncertainty scores in nats, and the same route everywhere.

    A step whose log-probabilities are missing counts as `fixed.UNKNOWN`. A back
    end may lack them for single tokens: llama.cpp does where one character is
    several tokens.

    Raises:
      refusal.Refusal: if they are missing at more than a tenth of the
        decisions: then the rule would not be one of confidence.
    """
    index = observation.UNCERTAINTIES.index(self._statistic)
    scores = decisions.uncertainty[:, index]
    missing = np.isnan(scores)
    if missing.mean() > _MAX_UNKNOWN:
      raise refusal.Refusal(
          'The confidence threshold needs log-probabilities; they are missing '
          f'at {missing.sum():,} of {len(missing):,} decisions.',
          None,
          note='',
      )
    scores = np.where(missing, fixed.UNKNOWN, scores)
    routes = np.full(len(decisions.depth), self._route)
    return scores, routes

  def at(self, threshold: float) -> fixed.ConfidenceRouter:
    """Returns the live router at a threshold in nats."""
    return fixed.ConfidenceRouter(
        threshold, self._route, self._statistic, may_be_unknown=True
    )


class StepScore:
  """Thresholds on a step scorer: the score is 1 - the newest step's score.

  The larger route takes over at the first step that scores too low. Evaluated
  from ladders only; no live router calls a scorer.

  Args:
    route: the larger route that takes over.
  """

  def __init__(self, route: int = 1):
    self._route = fixed.check_route(route)
    self.fingerprint = f'step score/{route}'

  def score(self, decisions: table_lib.Decisions) -> Scores:
    """Returns `[M]` scores in [0, 1], and the same route everywhere.

    Raises:
      refusal.Refusal: if the steps are not scored.
    """
    if decisions.step_scores is None:
      raise refusal.Refusal(
          'The steps of these problems are not scored.', None, note=''
      )
    routes = np.full(len(decisions.depth), self._route)
    return 1.0 - decisions.step_scores, routes

  def at(self, threshold: float) -> router_lib.Router:
    """Raises ValueError: step scores are evaluated from ladders only."""
    raise ValueError(
        f'A threshold of {threshold} on step scores cannot answer live; set '
        "evaluation.source to 'known'."
    )


class FixedStep:
  """Routers that hand over at a fixed step; the score is the step's index.

  Args:
    route: the larger route that takes over.
  """

  def __init__(self, route: int = 1):
    self._route = fixed.check_route(route)
    self.fingerprint = f'fixed step/{route}'

  def score(self, decisions: table_lib.Decisions) -> Scores:
    """Returns `[M]` float64 step indices, and the same route everywhere."""
    routes = np.full(len(decisions.depth), self._route)
    return decisions.depth.astype(np.float64), routes

  def at(self, threshold: float) -> router_lib.Router:
    """Returns the router that hands over at step ceil(threshold)."""
    # An infinite threshold never hands over, and `ceil` cannot convert it.
    if threshold == math.inf:
      return fixed.SmallRouter()
    # Every grid starts at -inf, which means a hand-over at step 0.
    return fixed.StepRouter(max(math.ceil(max(threshold, 0.0)), 0), self._route)


class Scored:
  """Routers that threshold a fitted scorer, e.g. a regression or classifier.

  Args:
    scorer: an object whose `score` maps `[M, F]` features, not standardised, to
      `[M]` scores, or to `[M]` scores and the `[M]` larger routes to take.
    features: the features that the live router computes.
    route: the larger route that takes over if the scorer returns no routes.
  """

  def __init__(
      self, scorer: Any, features: observation.FeatureConfig, route: int
  ):
    self._scorer, self._features = scorer, features
    self._route = fixed.check_route(route)
    self._scored: dict[int, tuple[table_lib.Decisions, Scores]] = {}

  @functools.cached_property
  def fingerprint(self) -> str:
    """A hash of the fitted parameters, the features and the route."""
    # Cached live answers are looked up by this hash, so renaming a pickled
    # class or attribute makes those answers unreachable.
    content = pickle.dumps((self._scorer, self._features, self._route))
    return hashlib.sha256(content).hexdigest()[:16]

  def score(self, decisions: table_lib.Decisions) -> Scores:
    """Returns the scorer's `[M]` scores and `[M]` larger routes."""
    # `PolicyFamily.score` explains why the cache holds the decisions too.
    if id(decisions) not in self._scored:
      features = decisions.features
      parts = [
          self._score_rows(features[start : start + _CHUNK])
          for start in range(0, len(features), _CHUNK)
      ]
      scores, routes = (np.concatenate(x) for x in zip(*parts, strict=True))
      self._scored[id(decisions)] = decisions, (scores, routes)
    return self._scored[id(decisions)][1]

  def _score_rows(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the `[M]` scores and `[M]` larger routes of `[M, F]` features."""
    found = self._scorer.score(features)
    if isinstance(found, tuple):
      return found
    return found, np.full(len(found), self._route)

  def at(self, threshold: float) -> 'ScoredRouter':
    """Returns the live router at a threshold."""
    return ScoredRouter(self._score_rows, self._features, threshold)


@dataclasses.dataclass(frozen=True)
class ScoredRouter:
  """A live router that thresholds a fitted scorer.

  score: a function from `[M, F]` features to `[M]` scores and `[M]` larger
    routes.
  features: the features that the router computes.
  threshold: the larger route is taken where the score reaches this value.
  """

  score: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
  features: observation.FeatureConfig
  threshold: float

  def decide(self, trace: types.Trace) -> types.Decision:
    """Takes the scorer's larger route if the score reaches the threshold."""
    row = observation.observe(trace, self.features)
    (score,), (route,) = self.score(row[None])
    is_handover = score >= self.threshold
    return types.Decision(int(route) if is_handover else 0, float(score))
