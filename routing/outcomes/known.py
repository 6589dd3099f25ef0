"""What any policy earns, exactly, where every way through a problem is known.

A router at a threshold takes one way through each problem of an outcome table,
so its outcomes are look-ups; those of a randomised policy are expectations over
endings. No model is called.

As the threshold kappa rises, a decision with score s names its larger route for
kappa <= s and the small one for kappa > s. So each ending is reached for the
kappas of one interval (low, high]: `low` is the highest score at which the way
to it keeps the small route, `high` the least at which it names the larger one.
The intervals of a problem's endings part the line of thresholds, which gives
all thresholds at once.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from routing.outcomes import frontier as frontier_lib
from routing.outcomes import points as points_lib
from routing.outcomes import table as table_lib


@dataclasses.dataclass(frozen=True)
class Reached:
  """The endings that some threshold reaches, problem by problem.

  ending: `[E]` int, by problem, and by rising thresholds within a problem.
  low, high: `[E]` float64, reached for low < kappa <= high.
  """

  ending: np.ndarray
  low: np.ndarray
  high: np.ndarray


def reached(
    table: table_lib.OutcomeTable,
    scores: np.ndarray,
    routes: np.ndarray | None = None,
) -> Reached:
  """Which endings are reached, and for which thresholds.

  Args:
    table: of N problems.
    scores: `[M]` float, higher = more in need of a larger route.
    routes: `[M]` int in 1..A-1, the larger route that is then named; None = the
      largest.

  Raises:
    ValueError: on a wrong shape, a score that is not finite or a route that
      does not exist.
  """
  scores, routes = _checked(table, scores, routes)
  num_endings = len(table.ending_problem)
  low = np.full(len(scores), -np.inf)
  high = np.full(len(scores), np.inf)
  end_low, end_high = np.full(num_endings, np.inf), np.full(
      num_endings, -np.inf
  )
  for here in table.levels():
    for route in range(table.num_routes):
      if route == 0:
        after = np.maximum(low[here], scores[here]), high[here]
      else:
        is_named = routes[here] == route
        after = (
            np.where(is_named, low[here], np.inf),
            np.where(is_named, np.minimum(high[here], scores[here]), -np.inf),
        )
      child = table.children[here, route]
      ends = child < 0
      end_low[-1 - child[ends]] = after[0][ends]
      end_high[-1 - child[ends]] = after[1][ends]
      low[child[~ends]], high[child[~ends]] = after[0][~ends], after[1][~ends]
  kept = np.flatnonzero(end_low < end_high)
  kept = kept[np.lexsort((end_low[kept], table.ending_problem[kept]))]
  return Reached(kept, end_low[kept], end_high[kept])


def _checked(table, scores, routes):
  """Scores as float64 and routes, both `[M]`."""
  shape = table.decisions.depth.shape
  scores = np.asarray(scores, np.float64)
  if scores.shape != shape:
    raise ValueError(
        f'Scores must be {shape}, one a decision; got {scores.shape}.'
    )
  if not np.isfinite(scores).all():
    index = int(np.argmin(np.isfinite(scores)))
    raise ValueError(
        f'The score of decision {index} (problem {table.problem[index]}) is '
        f'{scores[index]}; scores must be finite.'
    )
  if routes is None:
    return scores, np.full(shape, table.num_routes - 1)
  routes = np.asarray(routes)
  if (
      routes.shape != shape
      or routes.min() < 1
      or routes.max() >= table.num_routes
  ):
    raise ValueError(
        f'Routes must be {shape} in 1..{table.num_routes - 1}; got '
        f'{routes.shape}, {routes.min()} to {routes.max()}.'
    )
  return scores, routes


def at_thresholds(
    table: table_lib.OutcomeTable,
    scores: np.ndarray,
    thresholds: np.ndarray,
    metric: str,
    routes: np.ndarray | None = None,
) -> points_lib.Points:
  """The outcomes of naming a larger route wherever score >= kappa.

  Args:
    table: of N problems.
    scores: `[M]` float, higher = more in need of a larger route.
    thresholds: `[K]` float, in any order; -inf names it everywhere, inf never.
    metric: of the costs.
    routes: `[M]` int, the larger route that is then named; None = the largest.

  Returns:
    K policies on N problems.
  """
  ways = reached(table, scores, routes)
  thresholds = np.asarray(thresholds, np.float64)
  order = np.argsort(thresholds, kind='stable')
  rising = thresholds[order]
  first = np.searchsorted(rising, ways.low, side='right')
  first[ways.low == -np.inf] = 0  # There a threshold of -inf belongs to it.
  counts = np.searchsorted(rising, ways.high, side='right') - first
  endings = np.repeat(ways.ending, counts).reshape(table.num_problems, -1)
  places = np.empty_like(order)
  places[order] = np.arange(len(order))
  return of_endings(table, endings.T[places], metric)


def at_depth_thresholds(
    table: table_lib.OutcomeTable,
    scores: np.ndarray,
    thresholds: np.ndarray,
    metric: str,
    routes: np.ndarray | None = None,
) -> points_lib.Points:
  """The same with a threshold of its own for each decision of a way.

  Args:
    table, scores, metric, routes: see `at_thresholds`.
    thresholds: `[K, T]` float, T at least the table's greatest depth.

  Raises:
    ValueError: if a problem has more than T decisions.
  """
  if thresholds.shape[1] < table.decisions.max_depth:
    raise ValueError(
        f'There are thresholds for {thresholds.shape[1]} decisions; a problem '
        f'has {table.decisions.max_depth}. Calibrate anew.'
    )
  scores, routes = _checked(table, scores, routes)
  place = np.tile(table.roots, (len(thresholds), 1))
  for _ in range(table.decisions.max_depth):
    node = np.maximum(place, 0)  # Where an ending is reached, anything.
    kappa = np.take_along_axis(thresholds, table.decisions.depth[node], axis=1)
    action = np.where(scores[node] >= kappa, routes[node], 0)
    place = np.where(place < 0, place, table.children[node, action])
  return of_endings(table, -1 - place, metric)


def of_endings(
    table: table_lib.OutcomeTable, endings: np.ndarray, metric: str
) -> points_lib.Points:
  """The outcomes of the policies that end in `[K, N]` endings."""
  look_up = lambda values: values[endings].astype(np.float64)
  return points_lib.Points(
      correct=look_up(table.ending_correct),
      cost=look_up(table.ending_cost[metric]),
      loss=look_up(table.ending_loss),
      gain=look_up(table.ending_gain),
  )


def frontier(
    table: table_lib.OutcomeTable,
    scores: np.ndarray,
    metric: str,
    routes: np.ndarray | None = None,
) -> frontier_lib.Frontier:
  """Accuracy, cost, relative loss and gain at every distinct threshold.

  One sort: as kappa passes the end of an interval, its problem moves on to the
  ending of the next one.

  Args are those of `at_thresholds`.

  Returns:
    K points. The lowest threshold is -inf, not the lowest score seen: on these
    problems both name the larger route everywhere, on others only -inf does.
  """
  ways = reached(table, scores, routes)
  moves = np.flatnonzero(ways.high < np.inf)  # The last of a problem is never.
  moves = moves[np.argsort(ways.high[moves], kind='stable')]
  thresholds, starts = np.unique(ways.high[moves], return_index=True)
  thresholds[:1] = -np.inf
  never = ways.ending[ways.high == np.inf]
  means = {}
  for name, values in (
      ('accuracy', table.ending_correct),
      ('cost', table.ending_cost[metric]),
      ('loss', table.ending_loss),
      ('gain', table.ending_gain),
  ):
    values = values.astype(np.float64)
    steps = values[ways.ending[moves + 1]] - values[ways.ending[moves]]
    # At each threshold: what it is at the end, less the moves still to come.
    to_come = np.cumsum(steps[::-1])[::-1]
    end = values[never].sum()
    means[name] = np.append(end - to_come[starts], end) / table.num_problems
  return frontier_lib.Frontier(np.append(thresholds, np.inf), **means)


def expected(
    table: table_lib.OutcomeTable, probabilities: np.ndarray, metric: str
) -> points_lib.Points:
  """The expected outcomes of a randomised policy (K = 1).

  Args:
    table: of N problems.
    action_probabilities: `[M, A]`, probability of naming each route; rows sum
      to 1.
    metric: of the costs.

  Raises:
    ValueError: on a wrong shape, or a row that is no distribution.
  """
  if probabilities.shape != table.children.shape:
    raise ValueError(
        f'Chances must be {table.children.shape}, got {probabilities.shape}.'
    )
  if (
      probabilities.min() < 0
      or np.abs(probabilities.sum(axis=1) - 1).max() > 1e-6
  ):
    raise ValueError('Chances must be >= 0 and sum to 1 at each decision.')
  arrived = np.zeros(len(probabilities))
  arrived[table.roots] = 1.0
  ended = np.zeros(len(table.ending_problem))
  for here in table.levels():
    taken = arrived[here, None] * probabilities[here]
    child = table.children[here]
    arrived[child[child >= 0]] = taken[child >= 0]
    ended[-1 - child[child < 0]] = taken[child < 0]
  mean = lambda values: np.bincount(
      table.ending_problem, ended * values, table.num_problems
  )[None]
  return points_lib.Points(
      correct=mean(table.ending_correct),
      cost=mean(table.ending_cost[metric]),
      loss=mean(table.ending_loss),
      gain=mean(table.ending_gain),
  )


def at_rates(
    table: table_lib.OutcomeTable, rates: Sequence[float], metric: str
) -> points_lib.Points:
  """Random routing: the largest route with the same chance at each decision."""
  points = []
  for rate in rates:
    probabilities = np.zeros(table.children.shape)
    probabilities[:, 0], probabilities[:, -1] = 1 - rate, rate
    points.append(expected(table, probabilities, metric))
  return points_lib.concatenate(points)


def oracle(
    table: table_lib.OutcomeTable, prices: Sequence[float], metric: str
) -> points_lib.Points:
  """The best ending of each problem, knowing every outcome beforehand.

  For each price lambda, the ending that maximises correct - lambda * cost; no
  policy that ends in one ending a problem is above the hull of these points.

  Args:
    table: of N problems.
    prices: `[K]` >= 0, correct answers per unit of cost.
    metric: of the costs.
  """
  cost, correct = table.ending_cost[metric], table.ending_correct
  # By problem; ties go to the first ending.
  best = [
      np.lexsort((-(correct - price * cost), table.ending_problem))
      for price in prices
  ]
  first = np.searchsorted(table.ending_problem, np.arange(table.num_problems))
  return of_endings(table, np.stack([order[first] for order in best]), metric)


def largest_alone(table: table_lib.OutcomeTable) -> points_lib.Points:
  """The largest model without a router: cost 1 and no draft, by definition."""
  correct = table.large_correct[None].astype(np.float64)
  zeros = np.zeros_like(correct)
  return points_lib.Points(
      correct=correct, cost=zeros + 1, loss=zeros, gain=zeros
  )
