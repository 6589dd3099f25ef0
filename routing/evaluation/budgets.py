"""The costs at which tables report accuracies, and their column names."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from routing.evaluation import markdown
from routing.evaluation import metrics


def within(small_cost: float) -> tuple[float, ...]:
  """Returns the three costs at which tables report a curve's accuracy.

  They are `metrics.BUDGETS`, or, if the small model alone costs more than the
  second of these, the quarters between its cost and 1: no mixture of the models
  costs .4 where the small one costs .5.

  Args:
    small_cost: cost of the small model alone; NaN if unknown.
  """
  # Nearer to 1 there is nothing to tell apart.
  if not metrics.BUDGETS[1] < small_cost < 0.95:
    return metrics.BUDGETS
  quarters = small_cost + (1 - small_cost) * np.array([0.25, 0.5, 0.75])
  return tuple(np.round(quarters, 3).tolist())


def keys(figures: Mapping[str, Any]) -> list[str]:
  """Returns the keys of the three budgets in the figures of a cost metric."""
  # Results of before have no entry.
  return [f'{x:g}' for x in figures.get('budgets', metrics.BUDGETS)]


def header(figures: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
  """Returns columns with the budgets of a cost metric, e.g. 'acc @.62'.

  Args:
    figures: of the cost metric.
    columns: names with '@.2', '@.4' and '@.6' for the three budgets.
  """
  names = []
  for column in columns:
    for budget, key in zip(metrics.BUDGETS, keys(figures), strict=True):
      old = f'@{markdown.without_zero(f"{budget:g}")}'
      if old in column:
        column = column.replace(old, f'@{markdown.without_zero(key)}')
        break
    names.append(column)
  return names
