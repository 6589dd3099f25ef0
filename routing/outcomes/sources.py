"""One question, three answers: what do these thresholds earn on these problems.

Calibration and evaluation ask it of a `Source` and know nothing of protocols or
of how records came about:

known     every way through each problem is recorded (ladders, trees of greedy
          replies): outcomes are look-ups, exact, for any threshold
recorded  trajectories of a behaviour policy, weighted by importance; where too
          few agree with a threshold, the source refuses
live      engines answer the problems anew at each threshold (`outcomes.live`)
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
  """Routers that differ in their threshold alone; see `routers.families`."""

  fingerprint: str

  def score(
      self, decisions: table_lib.Decisions
  ) -> tuple[np.ndarray, np.ndarray | None]:
    """`[M]` scores, and `[M]` routes named at or above a threshold."""
    ...

  def at(self, threshold: float) -> Any:
    """The live router at a threshold."""
    ...


class Source(Protocol):
  """What thresholds earn on N problems.

  Attributes:
    kind: 'known', 'recorded' or 'live'.
    problems: the N problems.
    is_graded_once: each outcome is one answer, right or wrong, rather than a
      share of several.
  """

  kind: str
  problems: Sequence[types.Problem]
  is_graded_once: bool

  def grid(self, family: Family, size: int) -> np.ndarray:
    """`[K]` rising thresholds from -inf to inf, K <= size + 2.

    Quantiles of scores met on these problems; outcomes are not read.
    """
    ...

  def answerable(self, family: Family, thresholds: np.ndarray) -> np.ndarray:
    """`[K]` bool, the thresholds of which the source can tell."""
    ...

  def evaluate(
      self, family: Family, thresholds: np.ndarray, metric: str
  ) -> points_lib.Points:
    """The outcomes of `[K]` thresholds on the N problems.

    Raises:
      refusal.Refusal: if the source cannot tell of one of them.
    """
    ...

  def frontier(
      self, family: Family, metric: str, size: int
  ) -> frontier_lib.Frontier:
    """Means at every threshold that can be told apart, or at those of a grid.

    Raises:
      refusal.Refusal: if the source cannot tell of any threshold.
    """
    ...

  def at_rates(self, rates: Sequence[float], metric: str) -> points_lib.Points:
    """Random routing to the largest route, at each rate."""
    ...

  def largest_alone(self) -> points_lib.Points:
    """The largest model without a router; costs 1 by definition."""
    ...


def quantile_grid(scores: np.ndarray, size: int) -> np.ndarray:
  """`[K]` rising thresholds: quantiles of `[M]` scores, -inf and inf."""
  if not scores.size:
    return np.array([-np.inf, np.inf])
  # 'lower' keeps thresholds on scores that occur, so ties stay ties.
  inner = np.quantile(scores, np.linspace(0, 1, size), method='lower')
  return np.concatenate([[-np.inf], np.unique(inner), [np.inf]])


@dataclasses.dataclass(frozen=True)
class Known:
  """A source in which every way through each problem is known.

  table: of the N problems.
  problems: the N problems.
  is_graded_once: see `Source`.
  """

  table: table_lib.OutcomeTable
  problems: Sequence[types.Problem]
  is_graded_once: bool = True
  kind: str = dataclasses.field(default='known', init=False)

  def grid(self, family: Family, size: int) -> np.ndarray:
    """See `Source.grid`; only scores at which an answer changes count."""
    high = known.reached(self.table, *family.score(self.table.decisions)).high
    return quantile_grid(high[high < np.inf], size)

  def answerable(self, family: Family, thresholds: np.ndarray) -> np.ndarray:
    """Every threshold is."""
    del family
    return np.ones(len(thresholds), bool)

  def evaluate(
      self, family: Family, thresholds: np.ndarray, metric: str
  ) -> points_lib.Points:
    """See `Source.evaluate`; thresholds `[K, T]` have one for each decision."""
    scores, routes = family.score(self.table.decisions)
    at = known.at_thresholds
    if np.ndim(thresholds) == 2:
      at = known.at_depth_thresholds
    return at(self.table, scores, thresholds, metric, routes)

  def frontier(
      self, family: Family, metric: str, size: int = 0
  ) -> frontier_lib.Frontier:
    """See `Source.frontier`; exact, whatever `size` is."""
    del size
    scores, routes = family.score(self.table.decisions)
    return known.frontier(self.table, scores, metric, routes)

  def at_rates(self, rates: Sequence[float], metric: str) -> points_lib.Points:
    """See `Source.at_rates`; in expectation over the random draws."""
    return known.at_rates(self.table, rates, metric)

  def largest_alone(self) -> points_lib.Points:
    """See `Source.largest_alone`."""
    return known.largest_alone(self.table)

  def oracle(self, prices: Sequence[float], metric: str) -> points_lib.Points:
    """The best ending of each problem at each price; see `known.oracle`."""
    return known.oracle(self.table, prices, metric)


@dataclasses.dataclass(frozen=True)
class Recorded:
  """A source of trajectories that a behaviour policy wrote.

  The outcome of a problem is its contribution to the weighted estimate, so it
  may exceed 1; the mean over problems is the estimate.

  batch: B trajectories; features not standardised.
  costs: cost metric -> `[B, T]` float, as `batch.costs`.
  uncertainty: `[B, T]` float nats; see `table.Decisions`.
  owner: `[B]` int in 0..N-1, ascending, the problem that each answers.
  large_correct: `[N]` float, the largest model alone is right.
  problems: the N problems.
  min_effective_size: effective number of problems below which it refuses.
  """

  batch: types.TrajectoryBatch
  costs: Mapping[str, np.ndarray]
  uncertainty: np.ndarray
  owner: np.ndarray
  large_correct: np.ndarray
  problems: Sequence[types.Problem]
  min_effective_size: float = 100.0
  is_graded_once: bool = dataclasses.field(default=True, init=False)
  kind: str = dataclasses.field(default='recorded', init=False)

  @functools.cached_property
  def decisions(self) -> table_lib.Decisions:
    """The decisions that were taken, trajectory by trajectory."""
    mask = np.asarray(self.batch.mask, bool)
    depth = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)[mask]
    return table_lib.Decisions(
        features=np.asarray(self.batch.features)[mask],
        uncertainty=self.uncertainty[mask].astype(np.float32),
        depth=depth.astype(np.int32),
        parents=np.where(depth > 0, np.arange(len(depth)) - 1, -1).astype(
            np.int32
        ),
    )

  def scores(self, family: Family) -> tuple[np.ndarray, np.ndarray]:
    """`[B, T]` scores of a family, and the routes that it would name."""
    mask = np.asarray(self.batch.mask, bool)
    found, chosen = family.score(self.decisions)
    scores = np.zeros(mask.shape)
    routes = np.full(mask.shape, self.batch.available.shape[-1] - 1)
    scores[mask] = found
    if chosen is not None:
      routes[mask] = chosen
    return scores, routes

  def in_metric(self, metric: str) -> types.TrajectoryBatch:
    """The batch with its costs in a metric."""
    return dataclasses.replace(self.batch, costs=self.costs[metric])

  def grid(self, family: Family, size: int) -> np.ndarray:
    """See `Source.grid`."""
    scores, _ = family.score(self.decisions)
    return quantile_grid(scores, size)

  def answerable(self, family: Family, thresholds: np.ndarray) -> np.ndarray:
    """Those with which enough trajectories agree, by their weights."""
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
    return answered_frontier(self, family, grid, metric)

  def at_rates(self, rates: Sequence[float], metric: str) -> points_lib.Points:
    """See `Source.at_rates`."""
    weights = (importance.random_weights(self.batch, rate) for rate in rates)
    return self._points(weights, metric)

  def largest_alone(self) -> points_lib.Points:
    """See `Source.largest_alone`; it was asked once on every problem."""
    correct = self.large_correct[None].astype(np.float64)
    zeros = np.zeros_like(correct)
    return points_lib.Points(
        correct=correct, cost=zeros + 1, loss=zeros, gain=zeros
    )

  def _points(self, weights, metric) -> points_lib.Points:
    batch = self.in_metric(metric)
    found = [
        importance.contributions(x, batch, self.owner, self.min_effective_size)
        for x in weights
    ]
    return points_lib.Points(
        **{
            name: np.stack([x[name] for x in found])
            for name in points_lib.NAMES
        }
    )


def answered_frontier(
    source: Source, family: Family, grid: np.ndarray, metric: str
) -> frontier_lib.Frontier:
  """The frontier at those thresholds of a grid that a source can tell of.

  Raises:
    refusal.Refusal: if it can tell of none.
  """
  told = grid[source.answerable(family, grid)]
  if not told.size:
    raise refusal.Refusal(
        f'None of {len(grid)} thresholds can be judged from what is recorded '
        f'of {len(source.problems)} problems; answer them live, or record a '
        'behaviour policy closer to the router.',
        None,
        note='',
    )
  values = source.evaluate(family, told, metric).values()
  return frontier_lib.from_rollouts(told, **values)
