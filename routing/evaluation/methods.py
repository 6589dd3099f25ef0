"""Methods as sets of candidate policies, chosen on validation, seen on test.

Every method offers many policies: thresholds, steps, members. Which of them
make its curve is decided on validation problems alone, in the ruler at hand.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from routing.calibration import thresholds as thresholds_lib
from routing.evaluation import metrics
from routing.outcomes import points as points_lib
from routing.outcomes import stopping as stopping_lib

# Constant hazards: dense at the small end, where the curve bends.
HAZARDS = (0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1)
# Correct answers per unit of cost, for the oracle's sweep.
PRICES = (0, 0.01, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.2, 1.5, 2, 3, 5, 10, 30)


@dataclasses.dataclass(frozen=True)
class Candidates:
  """The same K policies, replayed on validation and on test problems.

  is_selective: only the policies on the validation hull make the curve. False
    for a curve that is to be shown as it is.
  """

  validation: points_lib.Points
  test: points_lib.Points
  is_selective: bool = True

  def points(self) -> points_lib.Points:
    """The test outcomes of the policies that make the curve."""
    if not self.is_selective:
      return self.test
    cost, accuracy = self.validation.mean_cost, self.validation.accuracy
    return self.test.take(metrics.upper_hull(cost, accuracy))

  def at_budget(self, budget: float) -> points_lib.Points:
    """The test outcome of the best policy within budget on validation.

    Without one within the budget, the cheapest.
    """
    cost, accuracy = self.validation.mean_cost, self.validation.accuracy
    allowed = np.flatnonzero(cost <= budget)
    if not allowed.size:
      allowed = np.array([np.argmin(cost)])
    best = allowed[np.lexsort((cost[allowed], -accuracy[allowed]))[0]]
    return self.test.take(np.array([best]))


def thresholded(
    validation: stopping_lib.Outcomes,
    validation_scores: np.ndarray,
    test: stopping_lib.Outcomes,
    test_scores: np.ndarray,
    size: int = 100,
) -> Candidates:
  """Thresholds on one score.

  Args:
    validation: table of the validation problems.
    validation_scores: `[N, T]`.
    test: table of the test problems.
    test_scores: `[N', T]`.
    size: quantiles of the validation scores that are tried.
  """
  grid = thresholds_lib.grid(validation_scores, validation.mask, size)
  return Candidates(
      replay.at_thresholds(validation_scores, validation, grid),
      replay.at_thresholds(test_scores, test, grid),
  )


def pooled(candidates: Sequence[Candidates]) -> Candidates:
  """The policies of several members in one pool."""
  return Candidates(
      points_lib.concatenate([x.validation for x in candidates]),
      points_lib.concatenate([x.test for x in candidates]),
  )


def fixed_step(
    validation: stopping_lib.Outcomes, test: stopping_lib.Outcomes
) -> Candidates:
  """Hand over at step 0, 1, ..., or never."""
  steps = range(validation.num_steps + 1)
  return Candidates(
      replay.at_steps(validation, steps), replay.at_steps(test, steps)
  )


def random_hazard(
    validation: stopping_lib.Outcomes, test: stopping_lib.Outcomes
) -> Candidates:
  """Hand over at every step with the same chance.

  Not selective: the hull would mix its two ends, which is the fixed step.
  """
  return Candidates(
      replay.at_hazards(validation, HAZARDS),
      replay.at_hazards(test, HAZARDS),
      is_selective=False,
  )


def coin_per_question(
    validation: stopping_lib.Outcomes, test: stopping_lib.Outcomes
) -> Candidates:
  """A coin decides between the two models before anything is written."""
  both = [
      points_lib.concatenate(
          [replay.at_steps(x, [x.num_steps]), replay.largest_alone(x)]
      )
      for x in (validation, test)
  ]
  return Candidates(*both)
