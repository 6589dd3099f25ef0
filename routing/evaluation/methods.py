"""Methods as sets of candidate policies, chosen on `select`, seen on `test`.

Every method offers many policies: thresholds, steps, members. Which of them
make its curve is decided on `select` problems alone, in the metric at hand.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from routing.evaluation import metrics
from routing.outcomes import points as points_lib
from routing.outcomes import refusal
from routing.outcomes import sources

# Constant hazards: dense at the small end, where the curve bends.
HAZARDS = (0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1)
# Correct answers per unit of cost, for the oracle's sweep.
PRICES = (0, 0.01, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.2, 1.5, 2, 3, 5, 10, 30)
GRID_SIZE = 100  # Thresholds of a family that are tried.


@dataclasses.dataclass(frozen=True)
class Pair:
  """The two splits that a method is evaluated with.

  select: which policies make a curve is decided here.
  test: the curve is of these problems.
  """

  select: sources.Source
  test: sources.Source


@dataclasses.dataclass(frozen=True)
class Candidates:
  """The same K policies on `select` and on `test` problems.

  is_selective: only the policies on the hull of `select` make the curve. False
    for a curve that is to be shown as it is.
  """

  select: points_lib.Points
  test: points_lib.Points
  is_selective: bool = True

  def points(self) -> points_lib.Points:
    """The test outcomes of the policies that make the curve."""
    if not self.is_selective:
      return self.test
    cost, accuracy = self.select.mean_cost, self.select.accuracy
    return self.test.take(metrics.upper_hull(cost, accuracy))

  def select_area(self) -> float:
    """Area of the curve on `select`, by which settings may be compared."""
    cost, accuracy = self.select.mean_cost, self.select.accuracy
    hull = metrics.upper_hull(cost, accuracy)
    return metrics.area_for_tuning(cost[hull], accuracy[hull])

  def at_budget(self, budget: float) -> points_lib.Points:
    """The test outcome of the best policy within budget on `select`.

    Without one within the budget, the cheapest.
    """
    cost, accuracy = self.select.mean_cost, self.select.accuracy
    allowed = np.flatnonzero(cost <= budget)
    if not allowed.size:
      allowed = np.array([np.argmin(cost)])
    best = allowed[np.lexsort((cost[allowed], -accuracy[allowed]))[0]]
    return self.test.take(np.array([best]))


def thresholded(
    families: Sequence[sources.Family],
    pair: Pair,
    metric: str,
    size: int = GRID_SIZE,
) -> Candidates:
  """Thresholds on the scores of one or several families, in one pool.

  Args:
    families: e.g. the members of a router.
    pair: the two splits.
    metric: of the costs.
    size: quantiles of the scores on `select` that are tried, of each family.

  Thresholds that a source cannot judge are not tried.

  Raises:
    refusal.Refusal: if no threshold of any family can be judged.
  """
  tried = [pair.select.grid(family, size) for family in families]
  told = [
      grid[
          pair.select.answerable(family, grid)
          & pair.test.answerable(family, grid)
      ]
      for family, grid in zip(families, tried, strict=True)
  ]
  if not any(grid.size for grid in told):
    raise refusal.Refusal(
        f'None of {sum(map(len, tried))} thresholds can be judged from what is '
        f'recorded of {len(pair.select.problems)} select and '
        f'{len(pair.test.problems)} test problems.',
        None,
        note='',
    )
  return pooled(
      [
          _of_thresholds(family, grid, pair, metric)
          for family, grid in zip(families, told, strict=True)
          if grid.size
      ]
  )


def _of_thresholds(family, told, pair, metric) -> Candidates:
  return Candidates(
      pair.select.evaluate(family, told, metric),
      pair.test.evaluate(family, told, metric),
  )


def area_for_tuning(
    families: Sequence[sources.Family], select: sources.Source, metric: str
) -> float:
  """What settings are compared by: `metrics.area_for_tuning` on `select`.

  Args:
    families: as fitted with one setting; all their thresholds make one hull.
    select: the problems.
    metric: of the costs.

  Returns:
    The area; -inf if no threshold can be judged, for another setting's may be.
  """
  try:
    found = thresholded(families, Pair(select, select), metric)
  except refusal.Refusal:
    return -np.inf
  return found.select_area()


def pooled(candidates: Sequence[Candidates]) -> Candidates:
  """The policies of several sets of candidates in one pool."""
  return Candidates(
      points_lib.concatenate([x.select for x in candidates]),
      points_lib.concatenate([x.test for x in candidates]),
  )


def random_per_step(pair: Pair, metric: str) -> Candidates:
  """Hands over at every step with the same chance.

  Not selective: the hull would mix its two ends, which is random per question.

  Raises:
    refusal.Refusal: if a source cannot judge one of the rates.
  """
  return Candidates(
      pair.select.at_rates(HAZARDS, metric),
      pair.test.at_rates(HAZARDS, metric),
      is_selective=False,
  )


def random_per_question(pair: Pair, metric: str) -> Candidates:
  """Draws one of the two models for a question, before anything is written.

  Raises:
    refusal.Refusal: if a source cannot judge the small model alone.
  """
  ends = [
      points_lib.concatenate([x.at_rates([0.0], metric), x.largest_alone()])
      for x in (pair.select, pair.test)
  ]
  return Candidates(*ends)
