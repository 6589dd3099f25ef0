"""Methods as sets of candidate policies, chosen on `select`, shown on `test`.

Every method offers many candidates: thresholds, steps, policies of several
levels. Only `select` problems decide which of them form its curve, in each cost
metric separately.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from routing.evaluation import metrics
from routing.outcomes import points as points_lib
from routing.outcomes import refusal
from routing.outcomes import sources

# Hand-over rates of the random router. Denser at small rates: the probability
# of ever handing over, 1 - (1 - rate)^T, rises fastest there.
HAZARDS = (0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1)
# Prices of the oracle, in correct answers per unit of cost. They trace its hull
# from the most accurate point (0) to the cheapest (30).
PRICES = (0, 0.01, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.2, 1.5, 2, 3, 5, 10, 30)
GRID_SIZE = 100  # Thresholds per family, the same for every method.


@dataclasses.dataclass(frozen=True)
class Pair:
  """The sources of the two splits that a method is evaluated on.

  select: decides which policies form a curve.
  test: gives the curve.
  """

  select: sources.Source
  test: sources.Source


@dataclasses.dataclass(frozen=True)
class Candidates:
  """The same K policies on `select` and on `test` problems.

  select, test: their outcomes.
  is_selective: True if only the policies on the hull of `select` form the
    curve; False for a curve that is shown with all of them.
  """

  select: points_lib.Points
  test: points_lib.Points
  is_selective: bool = True

  def points(self) -> points_lib.Points:
    """Returns the test outcomes of the policies that form the curve."""
    if not self.is_selective:
      return self.test
    # The hull of `test` would pick lucky policies and bias the curve upwards.
    cost, accuracy = self.select.mean_cost, self.select.accuracy
    return self.test.take(metrics.upper_hull(cost, accuracy))

  def select_area(self) -> float:
    """Returns the area of the curve on `select`, for tuning."""
    cost, accuracy = self.select.mean_cost, self.select.accuracy
    hull = metrics.upper_hull(cost, accuracy)
    return metrics.area_for_tuning(cost[hull], accuracy[hull])

  def at_budget(self, budget: float) -> points_lib.Points:
    """Returns the test outcome of the best policy within budget on `select`.

    If no policy is within the budget, it is the cheapest one.
    """
    cost, accuracy = self.select.mean_cost, self.select.accuracy
    allowed = np.flatnonzero(cost <= budget)
    if not allowed.size:
      allowed = np.array([np.argmin(cost)])
    # Highest accuracy; of equally accurate policies the cheapest.
    best = allowed[np.lexsort((cost[allowed], -accuracy[allowed]))[0]]
    return self.test.take(np.array([best]))


def thresholded(
    families: Sequence[sources.Family],
    pair: Pair,
    metric: str,
    size: int = GRID_SIZE,
) -> Candidates:
  """Pools the thresholds of one or several families as candidates.

  Thresholds that a source cannot evaluate are left out.

  Args:
    families: e.g. the policies of a router.
    pair: the two splits.
    metric: cost metric.
    size: number of score quantiles on `select` to try for each family.

  Raises:
    refusal.Refusal: if no threshold of any family can be evaluated.
  """
  # The grid comes from scores on `select`; test scores stay unread.
  tried = [pair.select.grid(family, size) for family in families]
  # Both sources must be able to evaluate a threshold: it is chosen on one and
  # shown on the other.
  evaluable = [
      grid[
          pair.select.answerable(family, grid)
          & pair.test.answerable(family, grid)
      ]
      for family, grid in zip(families, tried, strict=True)
  ]
  if not any(grid.size for grid in evaluable):
    raise refusal.Refusal(
        f'None of {sum(map(len, tried))} thresholds can be evaluated from the '
        f'records of {len(pair.select.problems)} select and '
        f'{len(pair.test.problems)} test problems.',
        None,
        note='',
    )
  return pooled(
      [
          _of_thresholds(family, grid, pair, metric)
          for family, grid in zip(families, evaluable, strict=True)
          if grid.size
      ]
  )


def _of_thresholds(family, evaluable, pair, metric) -> Candidates:
  """Evaluates the thresholds of one family on both splits."""
  return Candidates(
      pair.select.evaluate(family, evaluable, metric),
      pair.test.evaluate(family, evaluable, metric),
  )


def area_for_tuning(
    families: Sequence[sources.Family], select: sources.Source, metric: str
) -> float:
  """Returns the tuning value of a setting: the area of its hull on `select`.

  Args:
    families: fitted with one setting; all their thresholds form one hull.
    select: the problems.
    metric: cost metric.

  Returns:
    `metrics.area_for_tuning`, or -inf if no threshold can be evaluated.
  """
  try:
    found = thresholded(families, Pair(select, select), metric)
  except refusal.Refusal:
    return -np.inf  # Another setting may still be evaluable.
  return found.select_area()


def pooled(candidates: Sequence[Candidates]) -> Candidates:
  """Joins several sets of candidates into one."""
  return Candidates(
      points_lib.concatenate([x.select for x in candidates]),
      points_lib.concatenate([x.test for x in candidates]),
  )


def random_per_step(pair: Pair, metric: str) -> Candidates:
  """Returns the random router: the same hand-over probability at every step.

  It is not selective, because the hull would mix its two ends, and that mixture
  is `random_per_question`.

  Raises:
    refusal.Refusal: if a source cannot evaluate one of the rates.
  """
  return Candidates(
      pair.select.at_rates(HAZARDS, metric),
      pair.test.at_rates(HAZARDS, metric),
      is_selective=False,
  )


def random_per_question(pair: Pair, metric: str) -> Candidates:
  """Returns random routing per question: one model writes the whole answer.

  The two ends, small and large alone, are the candidates. Every point on the
  line between them is a mixture that draws the model before anything is
  written.

  Raises:
    refusal.Refusal: if a source cannot evaluate the small model alone.
  """
  # Rate 0 is the small model alone; the large model alone pays no draft.
  ends = [
      points_lib.concatenate([x.at_rates([0.0], metric), x.largest_alone()])
      for x in (pair.select, pair.test)
  ]
  return Candidates(*ends)
