"""Sources, which evaluate thresholds on problems from three kinds of data.

Calibration and evaluation use a `Source` and need not know about protocols or
how the records were collected:

known     All paths through each problem are recorded (ladders, reply trees).
          Outcomes are exact look-ups for any threshold.
recorded  Trajectories of a behaviour policy are recorded, and importance
          weights estimate the outcomes. Raises a `Refusal` where too few
          trajectories agree with a threshold.
live      Engines answer the problems again at each threshold
          (`outcomes.live`).
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any
from typing import Protocol

import numpy as np

from routing import types
from routing.outcomes import frontier as frontier_lib
from routing.outcomes import importance
from routing.outcomes import known
from routing.outcomes import points as points_lib
from routing.outcomes import refusal
from routing.outcomes import table as table_lib


class Family(Protocol):
  """Routers that differ only in their threshold; see `routers.families`.

  fingerprint: identifies the family in caches of live answers.
  """

  fingerprint: str

  def score(
      self, decisions: table_lib.Decisions
  ) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the score and the larger route of each decision.

    Returns:
      `[M]` scores, and the `[M]` larger routes that are taken where the score
      reaches the threshold; None = the largest route everywhere.
    """
    ...

  def at(self, threshold: float) -> Any:
    """Returns a `routers.router.Router` that applies this threshold live."""
    ...


@dataclasses.dataclass(frozen=True)
class Scored:
  """A family whose scores of the decisions of one table are known.

  To score may take longer than to look outcomes up in several metrics.

  scores: what `Family.score` returns for this table.
  """

  scores: tuple[np.ndarray, np.ndarray | None]

  def score(
      self, decisions: table_lib.Decisions
  ) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the scores; the decisions must be those of the table."""
    del decisions
    return self.scores


class Source(Protocol):
  """Evaluates thresholds on N problems.

  Attributes:
    kind: 'known', 'recorded' or 'live'.
    problems: the N problems.
    is_graded_once: True if each outcome is a single right or wrong answer
      rather than a mean over several.
  """

  kind: str
  problems: Sequence[types.Problem]
  is_graded_once: bool

  def grid(self, family: Family, size: int) -> np.ndarray:
    """Returns `[K]` rising thresholds from -inf to inf, K <= size + 2.

    The finite thresholds are quantiles of the scores on these problems.
    Outcomes are not read, so choosing the grid uses up no statistical
    confidence.
    """
    ...

  def answerable(self, family: Family, thresholds: np.ndarray) -> np.ndarray:
    """Returns `[K]` bool, True for each threshold that can be evaluated."""
    ...

  def evaluate(
      self, family: Family, thresholds: np.ndarray, metric: str
  ) -> points_lib.Points:
    """Returns the outcomes of `[K]` thresholds on the N problems.

    Raises:
      refusal.Refusal: if the source cannot evaluate one of the thresholds.
    """
    ...

  def frontier(
      self, family: Family, metric: str, size: int
  ) -> frontier_lib.Frontier:
    """Returns the mean outcomes of a family as a function of its threshold.

    A known source includes every threshold that changes an outcome; the others
    use `grid(family, size)`.

    Raises:
      refusal.Refusal: if the source cannot evaluate any threshold.
    """
    ...

  def at_rates(self, rates: Sequence[float], metric: str) -> points_lib.Points:
    """Returns the outcomes of the random router at each hand-over rate."""
    ...

  def largest_alone(self) -> points_lib.Points:
    """Returns the outcomes of the largest model alone, as `[1, N]` points.

    Costs are fractions of its cost, so its cost is 1.
    """
    ...


def quantile_grid(scores: np.ndarray, size: int) -> np.ndarray:
  """Returns `[K]` rising thresholds: score quantiles, -inf and inf."""
  if not scores.size:
    return np.array([-np.inf, np.inf])
  # 'lower' returns scores that occur instead of interpolating between scores: a
  # threshold between two scores gives the same policy as the higher of the two.
  inner = np.quantile(scores, np.linspace(0, 1, size), method='lower')
  return np.concatenate([[-np.inf], np.unique(inner), [np.inf]])


@dataclasses.dataclass(frozen=True)
class Known:
  """A source that knows the outcome of every path through each problem.

  table: outcome table of the N problems.
  problems: the N problems.
  is_graded_once: see `Source`.
  """

  table: table_lib.OutcomeTable
  problems: Sequence[types.Problem]
  is_graded_once: bool = True
  kind: str = dataclasses.field(default='known', init=False)

  def grid(self, family: Family, size: int) -> np.ndarray:
    """See `Source.grid`; quantiles of the scores where an outcome changes."""
    # An outcome changes only where a threshold interval ends. Scores of other
    # decisions would waste grid points on equal policies.
    high = known.reached(self.table, *family.score(self.table.decisions)).high
    return quantile_grid(high[high < np.inf], size)

  def answerable(self, family: Family, thresholds: np.ndarray) -> np.ndarray:
    """Returns True for every threshold, since all outcomes are known."""
    del family
    return np.ones(len(thresholds), bool)

  def evaluate(
      self, family: Family, thresholds: np.ndarray, metric: str
  ) -> points_lib.Points:
    """See `Source.evaluate`.

    `[K, T]` thresholds give each of the T decisions of a path its own one.
    """
    scores, routes = family.score(self.table.decisions)
    at = known.at_thresholds
    if np.ndim(thresholds) == 2:
      at = known.at_depth_thresholds
    return at(self.table, scores, thresholds, metric, routes)

  def frontier(
      self, family: Family, metric: str, size: int = 0
  ) -> frontier_lib.Frontier:
    """See `Source.frontier`; exact for any `size`."""
    del size
    scores, routes = family.score(self.table.decisions)
    return known.frontier(self.table, scores, metric, routes)

  def at_rates(self, rates: Sequence[float], metric: str) -> points_lib.Points:
    """See `Source.at_rates`; the expectation over the random draws."""
    return known.at_rates(self.table, rates, metric)

  def largest_alone(self) -> points_lib.Points:
    """See `Source.largest_alone`."""
    return known.largest_alone(self.table)

  def oracle(self, prices: Sequence[float], metric: str) -> points_lib.Points:
    """Returns the outcomes of the oracle at each price; see `known.oracle`."""
    return known.oracle(self.table, prices, metric)


@dataclasses.dataclass(frozen=True)
class Recorded:
  """A source that estimates outcomes off-policy from behaviour trajectories.

  The outcome of a problem is its contribution to the weighted estimate, which
  may exceed 1. The mean over problems is the estimate.

  batch: B trajectories; features are not standardised.
  costs: cost metric -> `[B, T]` float, as `batch.costs`.
  uncertainty: `[B, T, S]` float nats; see `table.Decisions`.
  owner: `[B]` int in 0..N-1, ascending, the problem of each trajectory.
  large_correct: `[N]` float, 1 where the largest model alone is right.
  problems: the N problems.
  min_effective_size: the smallest effective number of problems at which a
    threshold is evaluated.
  cut: `[B]` float, 1 where the token limit cut a trajectory off; None = not
    recorded.
  large_cut: `[N]` float, the same of the largest model alone.
  """

  batch: types.TrajectoryBatch
  costs: Mapping[str, np.ndarray]
  uncertainty: np.ndarray
  owner: np.ndarray
  large_correct: np.ndarray
  problems: Sequence[types.Problem]
  min_effective_size: float = 100.0
  cut: np.ndarray | None = None
  large_cut: np.ndarray | None = None
  is_graded_once: bool = dataclasses.field(default=True, init=False)
  kind: str = dataclasses.field(default='recorded', init=False)

  @functools.cached_property
  def decisions(self) -> table_lib.Decisions:
    """The M recorded decisions without padding, trajectory by trajectory."""
    mask = np.asarray(self.batch.mask, bool)
    depth = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)[mask]
    return table_lib.Decisions(
        features=np.asarray(self.batch.features)[mask],
        uncertainty=self.uncertainty[mask].astype(np.float32),
        depth=depth.astype(np.int32),
        # A trajectory is a chain: the parent of a decision is the row before.
        parents=np.where(depth > 0, np.arange(len(depth)) - 1, -1).astype(
            np.int32
        ),
    )

  def scores(self, family: Family) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scores and larger routes of a family, both `[B, T]`."""
    mask = np.asarray(self.batch.mask, bool)
    found, chosen = family.score(self.decisions)
    # The flat `[M]` scores return to `[B, T]`; padding keeps score 0.
    scores = np.zeros(mask.shape)
    routes = np.full(mask.shape, self.batch.available.shape[-1] - 1)
    scores[mask] = found
    if chosen is not None:
      routes[mask] = chosen
    return scores, routes

  def in_metric(self, metric: str) -> types.TrajectoryBatch:
    """Returns the trajectories with their costs in the given cost metric."""
    return dataclasses.replace(self.batch, costs=self.costs[metric])

  def grid(self, family: Family, size: int) -> np.ndarray:
    """See `Source.grid`."""
    # The scores of all decisions count, because a policy with another threshold
    # may reach any of them.
    scores, _ = family.score(self.decisions)
    return quantile_grid(scores, size)

  def answerable(self, family: Family, thresholds: np.ndarray) -> np.ndarray:
    """See `Source.answerable`; decided by the effective sample size."""
    scores, routes = self.scores(family)
    return np.array(
        [
            importance.effective_number(
                importance.cumulative_weights(
                    scores, self.batch, kappa, routes
                ),
                self.owner,
            )
            >= self.min_effective_size
            for kappa in thresholds
        ],
        bool,
    )

  def evaluate(
      self, family: Family, thresholds: np.ndarray, metric: str
  ) -> points_lib.Points:
    """See `Source.evaluate`."""
    scores, routes = self.scores(family)
    # A generator keeps only one `[B, T]` array of weights in memory.
    weights = (
        importance.cumulative_weights(scores, self.batch, kappa, routes)
        for kappa in thresholds
    )
    return self._points(weights, metric)

  def frontier(
      self, family: Family, metric: str, size: int
  ) -> frontier_lib.Frontier:
    """See `Source.frontier`."""
    grid = self.grid(family, size)
    return frontier_on_grid(self, family, grid, metric)

  def at_rates(self, rates: Sequence[float], metric: str) -> points_lib.Points:
    """See `Source.at_rates`."""
    weights = (importance.random_weights(self.batch, rate) for rate in rates)
    return self._points(weights, metric)

  def largest_alone(self) -> points_lib.Points:
    """See `Source.largest_alone`; each problem has one recorded answer."""
    return points_lib.of_largest(self.large_correct, self.large_cut)

  def _points(self, weights, metric) -> points_lib.Points:
    """Returns the outcomes of K target policies, given the weights of each.

    Args:
      weights: iterable of K `[B, T]` arrays of importance weights.
      metric: cost metric.
    """
    # Only the costs of the batch depend on the metric; the weights do not.
    batch = self.in_metric(metric)
    found = [
        importance.contributions(
            x, batch, self.owner, self.min_effective_size, self.cut
        )
        for x in weights
    ]
    return points_lib.Points(
        **{name: np.stack([x[name] for x in found]) for name in found[0]}
    )


def frontier_on_grid(
    source: Source, family: Family, grid: np.ndarray, metric: str
) -> frontier_lib.Frontier:
  """Returns the frontier at those grid thresholds that a source can evaluate.

  Raises:
    refusal.Refusal: if the source can evaluate none of the thresholds.
  """
  # A frontier with fewer thresholds is still valid; only an empty one is not.
  evaluable = grid[source.answerable(family, grid)]
  if not evaluable.size:
    raise refusal.Refusal(
        f'None of {len(grid)} thresholds can be evaluated from the records of '
        f'{len(source.problems)} problems. Answer the problems live, or record '
        'trajectories of a behaviour policy closer to the router.',
        None,
        note='',  # No test was made, so the sample may be used again.
    )
  values = source.evaluate(family, evaluable, metric).values()
  return frontier_lib.from_rollouts(evaluable, **values)
