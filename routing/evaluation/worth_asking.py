"""Which knobs are worth asking models about: those that a result can show.

Live answers take most of the time of a comparison, and no curve, area or budget
reads a knob that is off the hull of `select`, or far dearer than the largest
model alone.
"""

from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from routing import costs
from routing.evaluation import budgets as budgets_lib
from routing.evaluation import entries as entries_lib
from routing.evaluation import methods as methods_lib
from routing.evaluation import metrics
from routing.evaluation import style
from routing.outcomes import live_answers
from routing.outcomes import sources


def budgets(source: sources.Known) -> dict[str, tuple[float, ...]]:
  """Returns the costs for which knobs are chosen, in each cost metric.

  Args:
    source: of all test problems, without drafts. Only what the small model
      costs on them is read.
  """
  return {
      metric: budgets_lib.within(
          float(source.at_rates([0.0], metric).mean_cost[0])
      )
      for metric in costs.COST_METRICS
  }


def worth_testing(
    select: entries_lib.Outcomes, levels: Mapping[str, Sequence[float]]
) -> np.ndarray:
  """Returns the knobs that form a curve or are chosen for a budget.

  Args:
    select: outcomes on this split.
    levels: cost metric in which curves are drawn -> costs for which one knob
      is chosen.

  Returns:
    Indices of the knobs, ascending.
  """
  kept = set()
  for metric, costs_of in levels.items():
    points = select.points(metric)
    cost = points.mean_cost
    hull = metrics.upper_hull(cost, points.accuracy)
    # One vertex beyond is kept, to which the curve rises.
    num_within = int(np.sum(cost[hull] < style.MAX_COST))
    kept.update(hull[: num_within + 1].tolist())
    kept.update(methods_lib.best_within(points, x) for x in costs_of)
  return np.array(sorted(kept))


def is_beyond(
    answers: Sequence[live_answers.Outcome], alone: entries_lib.Alone
) -> bool:
  """Returns whether a knob is dearer than curves show, in every cost metric.

  Args:
    answers: of one knob, one for each problem of `alone`.
    alone: what the models do alone.
  """
  cost = entries_lib.of_answers([answers], alone).cost
  return all(cost[x].mean() >= style.MAX_COST for x in costs.COST_METRICS)
