"""Evaluates routers by answering the problems again with engines."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

import numpy as np

from routing import types
from routing.outcomes import frontier as frontier_lib
from routing.outcomes import live_answers
from routing.outcomes import points as points_lib
from routing.outcomes import sources
from routing.rollout import driver

# `compare` treats costs as equal if they differ by less than this fraction of
# the cost of the largest model alone. The tolerance lies far above the rounding
# of float32, in which batches store costs, and far below the cost of one token.
SAME_COST = 1e-4


@dataclasses.dataclass(frozen=True)
class Live:
  """A source in which models answer the problems again at each threshold.

  A problem that an engine refuses counts as answered wrongly, at the cost of
  the largest model alone. So all points have the same problems, and a promise
  also holds for a service, which has no answer to give either.

  answering: the settings of the answers.
  problems: the N problems.
  large_correct: `[N]` float, 1 where the largest model alone is right.
  large_cost: cost metric -> `[N]` float64, cost of the largest model alone, in
    the unit of the metric.
  random_router: makes the random router of a hand-over rate; only `at_rates`
    needs it.
  grid_source: recorded trajectories on the same problems, whose scores give the
    grid of thresholds. If None, `grid` and `frontier` raise an error.
  folder: where answers are kept; see `live_answers`. None = nowhere.
  large_cut: `[N]` float, 1 where the answer of the largest model alone was cut
    off; None = not recorded.
  """

  answering: live_answers.Answering
  problems: Sequence[types.Problem]
  large_correct: np.ndarray
  large_cost: Mapping[str, np.ndarray]
  random_router: Callable[[float], driver.Router] | None = None
  grid_source: sources.Recorded | None = None
  folder: pathlib.Path | None = None
  large_cut: np.ndarray | None = None
  is_graded_once: bool = dataclasses.field(default=True, init=False)
  kind: str = dataclasses.field(default='live', init=False)

  def grid(self, family: sources.Family, size: int) -> np.ndarray:
    """See `Source.grid`; quantiles of the scores of `grid_source`.

    Raises:
      ValueError: if there is no `grid_source`.
    """
    if self.grid_source is None:
      raise ValueError(
          'A grid of thresholds needs scores from earlier answers to these '
          'problems; give trajectories of a behaviour policy as grid_source.'
      )
    return self.grid_source.grid(family, size)

  def answerable(
      self, family: sources.Family, thresholds: np.ndarray
  ) -> np.ndarray:
    """Returns True for every threshold, since models can answer at any."""
    del family
    return np.ones(len(thresholds), bool)

  def evaluate(
      self, family: sources.Family, thresholds: np.ndarray, metric: str
  ) -> points_lib.Points:
    """See `sources.Source.evaluate`; runs models for uncached thresholds."""
    routers = [family.at(kappa) for kappa in thresholds]
    return self._outcomes(family.fingerprint, thresholds, routers, metric)

  def frontier(
      self, family: sources.Family, metric: str, size: int
  ) -> frontier_lib.Frontier:
    """See `sources.Source.frontier`."""
    grid = self.grid(family, size)
    return sources.frontier_on_grid(self, family, grid, metric)

  def at_rates(self, rates: Sequence[float], metric: str) -> points_lib.Points:
    """See `sources.Source.at_rates`; runs the random router once per rate."""
    # The draws are hashes of seed, question and step, so a second run repeats
    # them and finds its answers in the cache.
    routers = [self.random_router(float(rate)) for rate in rates]
    return self._outcomes('random', list(map(float, rates)), routers, metric)

  def largest_alone(self) -> points_lib.Points:
    """See `sources.Source.largest_alone`."""
    return points_lib.of_largest(self.large_correct, self.large_cut)

  def _outcomes(self, name, settings, routers, metric) -> points_lib.Points:
    """Returns the outcomes of K routers, kept ones or new ones.

    Args:
      name: name of the router family in the cache.
      settings: the K thresholds or rates of the routers, for the cache keys.
      routers: the K routers.
      metric: cost metric.
    """
    asked = [
        live_answers.Asked(router, name, setting)
        for router, setting in zip(routers, settings, strict=True)
    ]
    answers = live_answers.answer_under(
        self.answering, self.problems, asked, self.folder
    )
    # Each problem has one answer, graded 0 or 1, so loss and gain are products.
    correct = np.array([[_correct(x) for x in row] for row in answers])
    alone, large_cost = self.large_correct, self.large_cost[metric]
    cost = np.array(
        [
            [_cost(x, metric, y) for x, y in zip(row, large_cost, strict=True)]
            for row in answers
        ]
    )  # `[K, N]`.
    return points_lib.Points(
        correct=correct,
        cost=cost / large_cost,
        loss=alone * (1 - correct),
        gain=correct * (1 - alone),
        cut=np.array([[_cut(x) for x in row] for row in answers]),
    )


def _correct(outcome: live_answers.Outcome) -> float:
  """Returns the grade of an outcome; a refused problem is not answered."""
  is_answered = isinstance(outcome, live_answers.Answer)
  return float(is_answered and outcome.is_correct)


def _cut(outcome: live_answers.Outcome) -> float:
  """Returns 1 if the answer was cut off; NaN where this is not recorded."""
  if isinstance(outcome, live_answers.Refused):
    return 0.0
  return np.nan if outcome.is_cut is None else float(outcome.is_cut)


def _cost(
    outcome: live_answers.Outcome, metric: str, large_cost: float
) -> float:
  """Returns the cost of an outcome; of a refused one, the largest model's."""
  if isinstance(outcome, live_answers.Refused):
    return float(large_cost)
  return outcome.cost[metric]


def compare(
    answers: Sequence[live_answers.Outcome],
    large_cost: np.ndarray,
    predicted: points_lib.Points,
    answering: live_answers.Answering,
) -> dict[str, Any]:
  """Compares live answers with predicted outcomes, problem by problem.

  The live cost includes wasted tokens, which a model wrote speculatively and
  which did not enter the answer. Records cannot predict their number, because
  it depends on what else was running. A problem therefore counts as agreeing if
  its grade and its cost without wasted tokens are as predicted. Problems that
  an engine refused are left out.

  Args:
    answers: N live answers under one router, at least one of them not refused.
    large_cost: `[N]`, cost of the largest model alone, in the metric of
      `answering.accounting`.
    predicted: `[1, N]` predicted outcomes of this router on the same problems.
    answering: the settings of the live answers.

  Returns:
    Accuracy and cost, live and predicted, and the live share of cut answers,
    with the numbers of problems that were answered, agree, and were left out.
  """
  metric = answering.accounting.metric
  rows = [
      i for i, x in enumerate(answers) if isinstance(x, live_answers.Answer)
  ]
  num_left_out = len(answers) - len(rows)
  answers, predicted = [answers[i] for i in rows], predicted.on(rows)
  # The total cost and its wasted part, `[N]` each, as fractions of the cost of
  # the largest model alone.
  cost, wasted = (
      np.array([x[metric] for x in values]) / large_cost[rows]
      for values in (
          [answer.cost for answer in answers],
          [answer.wasted for answer in answers],
      )
  )
  correct = np.array([float(answer.is_correct) for answer in answers])
  # Equal grade and cost stand for the same steps by the same models.
  agrees = (correct == predicted.correct[0]) & (
      np.abs(cost - wasted - predicted.cost[0]) < SAME_COST
  )
  return {
      'num_problems': len(answers),
      'num_left_out': num_left_out,
      'accuracy': float(correct.mean()),
      'cut': float(np.mean([_cut(answer) for answer in answers])),
      'cost': float(cost.mean()),
      'cost_wasted': float(wasted.mean()),
      'predicted_accuracy': float(predicted.accuracy[0]),
      'predicted_cost': float(predicted.mean_cost[0]),
      'num_agreeing': int(agrees.sum()),
  }
