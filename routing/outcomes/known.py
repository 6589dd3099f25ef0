"""Exact outcomes of any policy on problems whose paths are all known.

A router at a threshold follows one path through each problem of an outcome
table, so its outcomes are look-ups. The outcomes of a randomised policy are
expectations over endings. No model is called.

Let kappa be the threshold. A decision with score s chooses its larger route for
kappa <= s and the small one for kappa > s. Each ending is therefore reached for
the thresholds of one interval (low, high]. `low` is the highest score among the
decisions of its path that take the small route, `high` the lowest score among
those that take the larger route. The intervals of a problem's endings partition
the thresholds, so they give the outcomes at all thresholds at once.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from routing.outcomes import frontier as frontier_lib
from routing.outcomes import points as points_lib
from routing.outcomes import table as table_lib


@dataclasses.dataclass(frozen=True)
class Reached:
  """The endings that some threshold reaches, each with its threshold interval.

  ending: `[E]` int, sorted by problem and then by rising thresholds.
  low, high: `[E]` float64; the ending is reached for low < kappa <= high.
  """

  ending: np.ndarray
  low: np.ndarray
  high: np.ndarray


def reached(
    table: table_lib.OutcomeTable,
    scores: np.ndarray,
    routes: np.ndarray | None = None,
) -> Reached:
  """Returns which endings are reached, and the interval of thresholds for each.

  Args:
    table: outcome table of N problems.
    scores: `[M]` float, higher = more in need of a larger route.
    routes: `[M]` int in 1..A-1, the larger route of each decision; None = the
      largest.

  Raises:
    ValueError: on a wrong shape, a score that is not finite, or a route that
      does not exist.
  """
  scores, routes = _checked(table, scores, routes)
  num_endings = len(table.ending_problem)
  # Thresholds at which each decision is reached; a root is reached at all.
  low = np.full(len(scores), -np.inf)
  high = np.full(len(scores), np.inf)
  # Endings start with an empty interval: a larger route that is never chosen
  # leaves its endings unreached.
  end_low, end_high = np.full(num_endings, np.inf), np.full(
      num_endings, -np.inf
  )
  # Levels are visited from the roots down. Each choice narrows the interval of
  # thresholds at which a path is followed.
  for here in table.levels():
    for route in range(table.num_routes):
      # Taking the small route adds the condition kappa > s, taking the larger
      # route kappa <= s.
      if route == 0:
        after = np.maximum(low[here], scores[here]), high[here]
      else:
        is_chosen = routes[here] == route
        after = (
            np.where(is_chosen, low[here], np.inf),
            np.where(is_chosen, np.minimum(high[here], scores[here]), -np.inf),
        )
      child = table.children[here, route]
      ends = child < 0
      end_low[-1 - child[ends]] = after[0][ends]
      end_high[-1 - child[ends]] = after[1][ends]
      low[child[~ends]], high[child[~ends]] = after[0][~ends], after[1][~ends]
  # An ending with an empty interval is reached at no threshold.
  endings = np.flatnonzero(end_low < end_high)
  order = np.lexsort((end_low[endings], table.ending_problem[endings]))
  endings = endings[order]
  return Reached(endings, end_low[endings], end_high[endings])


def _checked(table, scores, routes):
  """Checks scores and routes; returns them as `[M]` float64 and `[M]` int.

  Routes of None become the largest route everywhere.
  """
  shape = table.decisions.depth.shape
  scores = np.asarray(scores, np.float64)
  if scores.shape != shape:
    raise ValueError(
        f'Scores must have shape {shape}, one per decision; got {scores.shape}.'
    )
  if not np.isfinite(scores).all():
    # argmin of booleans: the first score that is not finite.
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
        f'Routes must have shape {shape} and be in 1..{table.num_routes - 1}; '
        f'got shape {routes.shape} and {routes.min()} to {routes.max()}.'
    )
  return scores, routes


def at_thresholds(
    table: table_lib.OutcomeTable,
    scores: np.ndarray,
    thresholds: np.ndarray,
    metric: str,
    routes: np.ndarray | None = None,
) -> points_lib.Points:
  """Returns the outcomes of choosing the larger route where score >= kappa.

  Args:
    table: outcome table of N problems.
    scores: `[M]` float, higher = more in need of a larger route.
    thresholds: `[K]` float, in any order; -inf always chooses the larger route,
      inf never does.
    metric: cost metric.
    routes: `[M]` int, the larger route of each decision; None = the largest.

  Returns:
    The outcomes of K policies on N problems.
  """
  intervals = reached(table, scores, routes)
  thresholds = np.asarray(thresholds, np.float64)
  order = np.argsort(thresholds, kind='stable')
  rising = thresholds[order]
  # An interval contains the sorted thresholds first .. first + count - 1.
  first = np.searchsorted(rising, intervals.low, side='right')
  # The lowest interval is open at -inf, but kappa = -inf must belong to it.
  first[intervals.low == -np.inf] = 0
  counts = np.searchsorted(rising, intervals.high, side='right') - first
  # The intervals of a problem are sorted and partition the thresholds, so each
  # problem gets exactly K endings, in rising order: the reshape gives `[N, K]`.
  ending = intervals.ending.astype(np.int32)  # Half the memory of the default.
  endings = np.repeat(ending, counts).reshape(table.num_problems, -1)
  ranks = np.empty_like(order)
  ranks[order] = np.arange(len(order))
  return of_endings(table, endings.T[ranks], metric)


def at_depth_thresholds(
    table: table_lib.OutcomeTable,
    scores: np.ndarray,
    thresholds: np.ndarray,
    metric: str,
    routes: np.ndarray | None = None,
) -> points_lib.Points:
  """Returns the outcomes of policies with one threshold per decision of a path.

  Args:
    table, scores, metric, routes: see `at_thresholds`.
    thresholds: `[K, T]` float, T at least the largest depth of the table.

  Raises:
    ValueError: if a problem has more than T decisions.
  """
  if thresholds.shape[1] < table.decisions.max_depth:
    raise ValueError(
        f'There are thresholds for {thresholds.shape[1]} decisions, but a '
        f'problem has {table.decisions.max_depth}. Calibrate with at least '
        'as many thresholds as decisions.'
    )
  scores, routes = _checked(table, scores, routes)
  # `[K, N]`, the current decision or the ending of policy k on problem n.
  place = np.tile(table.roots, (len(thresholds), 1))
  for _ in range(table.decisions.max_depth):
    # Where an ending is reached already, `node` is decision 0, which the last
    # line of the loop ignores.
    node = np.maximum(place, 0)
    kappa = np.take_along_axis(thresholds, table.decisions.depth[node], axis=1)
    action = np.where(scores[node] >= kappa, routes[node], 0)
    place = np.where(place < 0, place, table.children[node, action])
  return of_endings(table, -1 - place, metric)


def of_endings(
    table: table_lib.OutcomeTable, endings: np.ndarray, metric: str
) -> points_lib.Points:
  """Returns the outcomes of K policies, given the endings that they reach.

  Args:
    table: outcome table of N problems.
    endings: `[K, N]` int, the ending that policy k reaches on problem n.
    metric: cost metric.
  """
  outcomes = {
      'correct': table.ending_correct,
      'cost': table.ending_cost[metric],
      'loss': table.ending_loss,
      'gain': table.ending_gain,
      'cut': table.ending_cut,
  }
  return points_lib.LookedUp(endings, outcomes)


def frontier(
    table: table_lib.OutcomeTable,
    scores: np.ndarray,
    metric: str,
    routes: np.ndarray | None = None,
) -> frontier_lib.Frontier:
  """Returns accuracy, cost, relative loss and gain at every distinct threshold.

  One sort suffices: as kappa passes the end of an interval, the problem moves
  to the ending of its next interval.

  Args:
    table, scores, metric, routes: see `at_thresholds`.

  Returns:
    K points. The lowest threshold is -inf rather than the lowest score. Both
    thresholds always choose the larger route on these problems, but only -inf
    does so on other problems.
  """
  intervals = reached(table, scores, routes)
  # The last interval of a problem ends at infinity, and no interval follows it.
  moves = np.flatnonzero(intervals.high < np.inf)
  moves = moves[np.argsort(intervals.high[moves], kind='stable')]
  thresholds, starts = np.unique(intervals.high[moves], return_index=True)
  # Intervals are (low, high]: at kappa = high the problem has not moved yet, so
  # each `high` is a point of the frontier.
  thresholds[:1] = -np.inf
  never = intervals.ending[intervals.high == np.inf]
  means = {}
  for name, values in (
      ('accuracy', table.ending_correct),
      ('cost', table.ending_cost[metric]),
      ('loss', table.ending_loss),
      ('gain', table.ending_gain),
  ):
    values = values.astype(np.float64)
    steps = (
        values[intervals.ending[moves + 1]] - values[intervals.ending[moves]]
    )
    # The total at a threshold is the total at kappa = inf minus all moves that
    # happen between the two.
    to_come = np.cumsum(steps[::-1])[::-1]
    end = values[never].sum()
    means[name] = np.append(end - to_come[starts], end) / table.num_problems
  return frontier_lib.Frontier(np.append(thresholds, np.inf), **means)


def expected(
    table: table_lib.OutcomeTable, probabilities: np.ndarray, metric: str
) -> points_lib.Points:
  """Returns the expected outcomes of one randomised policy, as `[1, N]` points.

  Args:
    table: outcome table of N problems.
    probabilities: `[M, A]`, action probabilities at each decision; each row
      sums to 1.
    metric: cost metric.

  Raises:
    ValueError: on a wrong shape, or a row that is not a distribution.
  """
  if probabilities.shape != table.children.shape:
    raise ValueError(
        f'Action probabilities must have shape {table.children.shape}, got '
        f'{probabilities.shape}.'
    )
  if (
      probabilities.min() < 0
      or np.abs(probabilities.sum(axis=1) - 1).max() > 1e-6
  ):
    raise ValueError(
        'Action probabilities must be >= 0 and sum to 1 at each decision.'
    )
  # `reach` and `end` are the probabilities of reaching each decision and each
  # ending. Levels are visited in order, so that the probability of a decision
  # is known before it is split among the routes.
  reach = np.zeros(len(probabilities))
  reach[table.roots] = 1.0
  end = np.zeros(len(table.ending_problem))
  for here in table.levels():
    taken = reach[here, None] * probabilities[here]
    child = table.children[here]
    reach[child[child >= 0]] = taken[child >= 0]
    end[-1 - child[child < 0]] = taken[child < 0]
  # Expectations, `[1, N]`: sums over the endings of each problem. What is not
  # known of an ending (NaN) does not matter if the policy never reaches it.
  mean = lambda values: np.bincount(
      table.ending_problem,
      np.where(end > 0, end * values, 0.0),
      table.num_problems,
  )[None]
  return points_lib.Points(
      correct=mean(table.ending_correct),
      cost=mean(table.ending_cost[metric]),
      loss=mean(table.ending_loss),
      gain=mean(table.ending_gain),
      cut=None if table.ending_cut is None else mean(table.ending_cut),
  )


def at_rates(
    table: table_lib.OutcomeTable, rates: Sequence[float], metric: str
) -> points_lib.Points:
  """Returns the expected outcomes of the random router at each of K rates.

  At every decision the random router takes the largest route with probability
  `rate`, and otherwise the small route.
  """
  points = []
  for rate in rates:
    probabilities = np.zeros(table.children.shape)
    # Routes between the smallest and the largest are never chosen.
    probabilities[:, 0], probabilities[:, -1] = 1 - rate, rate
    points.append(expected(table, probabilities, metric))
  return points_lib.concatenate(points)


def oracle(
    table: table_lib.OutcomeTable, prices: Sequence[float], metric: str
) -> points_lib.Points:
  """Returns the outcomes of the oracle, which knows every outcome beforehand.

  At each price lambda and for each problem, the oracle takes the ending that
  maximises correct - lambda * cost. No deterministic policy on these problems
  lies above the concave hull of the oracle's points over all prices.

  Args:
    table: outcome table of N problems.
    prices: `[K]` >= 0, correct answers per unit of cost.
    metric: cost metric.
  """
  cost, correct = table.ending_cost[metric], table.ending_correct
  owner = table.ending_problem
  problems = np.arange(table.num_problems)
  first = np.searchsorted(owner, problems)

  def best(price: float) -> np.ndarray:
    value = correct - price * cost
    # An ending whose cost is not known is never the best.
    value = np.where(np.isnan(value), -np.inf, value)
    most = np.maximum.reduceat(value, first)
    # Of equally good endings the first in the table is taken.
    is_best = np.flatnonzero(value == most[owner])
    return is_best[np.searchsorted(owner[is_best], problems)]

  return of_endings(table, np.stack([best(x) for x in prices]), metric)


def largest_alone(table: table_lib.OutcomeTable) -> points_lib.Points:
  """Returns the outcomes of the largest model alone, as `[1, N]` points.

  Costs are fractions of its cost, so its cost is 1; it needs no draft of the
  small model.
  """
  return points_lib.of_largest(table.large_correct, table.large_cut)
