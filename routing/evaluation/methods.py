"""Builds each method's curve: policies chosen on `select`, evaluated on `test`.

Every method offers many candidate policies: thresholds, hand-over steps or the
trained policies of several levels. Outcomes on `select` problems alone decide
which candidates form the method's curve, in each cost metric separately.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from routing.evaluation import metrics
from routing.outcomes import points as points_lib
from routing.outcomes import refusal
from routing.outcomes import sources

# Hand-over rates of the random router. They are denser at small rates, because
# the probability of ever handing over, 1 - (1 - rate)^T, rises fastest there.
HAZARDS = (0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1)
# Prices of the oracle, in correct answers per unit of cost. They trace the
# oracle's hull from the most accurate point (0) to the cheapest (30).
PRICES = (0, 0.01, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.2, 1.5, 2, 3, 5, 10, 30)
GRID_SIZE = 100  # Thresholds per family, the same for every method.


@dataclasses.dataclass(frozen=True)
class Pair:
  """The sources of the two splits that a method is evaluated on.

  select: problems that decide which policies form a curve.
  test: problems on which the chosen policies are evaluated.
  """

  select: sources.Source
  test: sources.Source


@dataclasses.dataclass(frozen=True)
class Candidates:
  """The outcomes of K candidate policies on `select` and on `test` problems.

  select: outcomes on the `select` problems.
  test: outcomes of the same policies, in the same order, on the test problems.
  forms_hull: True if only the policies on the hull of `select` form the curve;
    False if all K policies do.
  """

  select: points_lib.Points
  test: points_lib.Points
  forms_hull: bool = True

  def points(self) -> points_lib.Points:
    """Returns the test outcomes of the policies that form the curve."""
    if not self.forms_hull:
      return self.test
    # The hull of `test` would pick lucky policies and bias the curve upwards.
    cost, accuracy = self.select.mean_cost, self.select.accuracy
    return self.test.take(metrics.upper_hull(cost, accuracy))

  def select_area(self) -> float:
    """Returns `metrics.area_for_tuning` of the hull on `select` problems."""
    cost, accuracy = self.select.mean_cost, self.select.accuracy
    hull = metrics.upper_hull(cost, accuracy)
    return metrics.area_for_tuning(cost[hull], accuracy[hull])

  def at_budget(self, budget: float) -> points_lib.Points:
    """Returns the test outcomes of the policy that is `best_within` it."""
    return self.test.take(np.array([best_within(self.select, budget)]))


def best_within(points: points_lib.Points, budget: float) -> int:
  """Returns the index of the policy that is best within a budget.

  It is the most accurate one that costs no more, of several the cheapest; or
  the cheapest of all if none is within the budget.

  Args:
    points: outcomes of K policies on `select`.
    budget: a cost.
  """
  cost, accuracy = points.mean_cost, points.accuracy
  allowed = np.flatnonzero(cost <= budget)
  if not allowed.size:
    return int(np.argmin(cost))
  return int(allowed[np.lexsort((cost[allowed], -accuracy[allowed]))[0]])


def thresholded(
    families: Sequence[sources.Family],
    pair: Pair,
    metric: str,
    size: int = GRID_SIZE,
) -> Candidates:
  """Returns the thresholds of one or several families as candidates.

  Thresholds that a source cannot evaluate are left out.

  Args:
    families: e.g. one per policy of a router.
    pair: sources of the two splits.
    metric: cost metric.
    size: number of score quantiles on `select` to try for each family.

  Raises:
    refusal.Refusal: if no threshold of any family can be evaluated.
  """
  # The thresholds are quantiles of scores on `select`. Test scores must not
  # influence the choice of policies.
  tried = [pair.select.grid(family, size) for family in families]
  # Both sources must be able to evaluate a threshold: a policy is chosen on one
  # and evaluated on the other.
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
  """Evaluates the thresholds `evaluable` of one family on both splits."""
  return Candidates(
      pair.select.evaluate(family, evaluable, metric),
      pair.test.evaluate(family, evaluable, metric),
  )


def area_for_tuning(
    families: Sequence[sources.Family], select: sources.Source, metric: str
) -> float:
  """Returns the value of a learner's setting, which tuning maximises.

  Args:
    families: router families fitted with this setting; the thresholds of all
      families form one hull.
    select: source of the `select` problems.
    metric: cost metric.

  Returns:
    `metrics.area_for_tuning` of the hull, or -inf if no threshold can be
    evaluated.
  """
  try:
    candidates = thresholded(families, Pair(select, select), metric)
  except refusal.Refusal:
    return -np.inf  # Tuning goes on with other settings.
  return candidates.select_area()


def pooled(candidates: Sequence[Candidates]) -> Candidates:
  """Joins several sets of candidate policies into one set."""
  return Candidates(
      points_lib.concatenate([x.select for x in candidates]),
      points_lib.concatenate([x.test for x in candidates]),
  )


def random_per_step(pair: Pair, metric: str) -> Candidates:
  """Returns the random router at each rate in `HAZARDS` as candidates.

  At every step the router hands over with the same probability, the rate. The
  candidates do not form a hull: it would be the mixture of the small and
  the large model alone, which is `random_per_question`.

  Raises:
    refusal.Refusal: if a source cannot evaluate one of the rates.
  """
  return Candidates(
      pair.select.at_rates(HAZARDS, metric),
      pair.test.at_rates(HAZARDS, metric),
      forms_hull=False,
  )


def random_per_question(pair: Pair, metric: str) -> Candidates:
  """Returns the small and the large model alone as the two candidates.

  The line between the two points is random routing per question: one of the two
  models is drawn at random and writes the whole answer.

  Raises:
    refusal.Refusal: if a source cannot evaluate the small model alone.
  """
  # At rate 0 the small model writes everything. Rate 1 would not be the large
  # model alone: under `peek` it pays for a discarded draft.
  ends = [
      points_lib.concatenate([x.at_rates([0.0], metric), x.largest_alone()])
      for x in (pair.select, pair.test)
  ]
  return Candidates(*ends)
