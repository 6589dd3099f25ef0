"""Converts outcome tables to padded batches, the form that training uses."""

import numpy as np

from routing import types
from routing.features import standardize
from routing.outcomes import table as table_lib


def outcome_batch(
    table: table_lib.OutcomeTable,
    statistics: standardize.Statistics,
    metric: str,
    widths: int = 0,
) -> types.OutcomeBatch:
  """Returns an outcome table as a padded batch, one row per problem.

  A level holds the decisions of equal depth. Level t of every problem takes the
  same `widths[t]` columns, side by side.

  Args:
    table: outcome table of N problems.
    statistics: mean and standard deviation of the features.
    metric: cost metric of the batch's costs.
    widths: of ladders only, the least number of levels, each one column wide;
      so that batches of several tables have the same shape.

  Returns:
    NumPy arrays with B = N; features are standardised, padding is 0.
  """
  places, found = level_places(table)
  widths = np.pad(found, (0, max(widths - len(found), 0)), constant_values=1)
  starts = np.concatenate([[0], np.cumsum(widths)])
  depth, parents = table.decisions.depth, table.decisions.parents
  # (row, column) of each decision in the batch.
  at = table.problem, starts[depth] + places
  shape = table.num_problems, int(starts[-1])

  def filled(values: np.ndarray) -> np.ndarray:
    padded = np.zeros((*shape, *values.shape[1:]), values.dtype)
    padded[at] = values
    return padded

  # Only branches that end the answer have an outcome; all other branches get 0.
  # The sum over all branches, weighted by the probability of taking each, is
  # then the expected outcome.
  ends = table.children < 0
  ending = np.where(ends, -1 - table.children, 0)
  outcome = lambda values: filled(
      np.where(ends, values[ending], 0.0).astype(np.float32)
  )
  route = _route_taken(table)
  # `branch` = A * (place of the parent in its level) + route taken there.
  branch = np.where(
      parents < 0, 0, table.num_routes * places[parents] + route
  ).astype(np.int32)
  return types.OutcomeBatch(
      features=filled(standardize.apply(table.decisions.features, statistics)),
      mask=filled(np.ones(len(depth), bool)),
      branch=filled(branch),
      correct=outcome(table.ending_correct),
      cost=outcome(table.ending_cost[metric]),
      loss=outcome(table.ending_loss),
      widths=tuple(int(width) for width in widths),
  )


def level_places(
    table: table_lib.OutcomeTable,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the place of each decision within its level, and the level widths.

  Returns:
    `[M]` int, the place of each decision among those of the same problem and
    level, from 0 in the order of the table; `[T]` int, the largest number of
    decisions that any problem has in each level.
  """
  depth = table.decisions.depth
  num_levels = table.decisions.max_depth
  # One group per (problem, level). After a stable sort a decision's place is
  # its rank minus the rank of the group's first decision.
  group = table.problem * num_levels + depth
  order = np.argsort(group, kind='stable')
  sizes = np.bincount(group, minlength=table.num_problems * num_levels)
  first = np.cumsum(sizes) - sizes
  places = np.empty(len(depth), np.int64)
  places[order] = np.arange(len(depth)) - first[group[order]]
  return places, sizes.reshape(table.num_problems, num_levels).max(axis=0)


def _route_taken(table: table_lib.OutcomeTable) -> np.ndarray:
  """Returns `[M]` int, the route that leads to each decision; 0 at roots."""
  route = np.zeros(len(table.children), np.int64)
  parent, action = np.nonzero(table.children >= 0)
  route[table.children[parent, action]] = action
  return route
