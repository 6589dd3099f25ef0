"""What a policy would have got in `switch` and `redraft`, exactly, from trees.

The twin of `evaluation.replay`, which reads ladders: a router at a threshold is
a walk down each tree, a randomised one an expectation over its leaves.
"""

from collections.abc import Sequence

import numpy as np

from routing.evaluation import replay
from routing.features import forests


def _points(forest: forests.Forest, leaves: np.ndarray, ruler: str):
  """The policies that end in `[K, N]` leaves."""
  correct = forest.leaf_correct[leaves].astype(np.float64)
  return replay.Points(
      correct=correct,
      cost=forest.leaf_cost[ruler][leaves],
      loss=forest.alone * (1 - correct),
      gain=correct * (1 - forest.alone),
  )


def at_thresholds(
    forest: forests.Forest,
    scores: np.ndarray,
    thresholds: np.ndarray,
    ruler: str,
    routes: np.ndarray | None = None,
) -> replay.Points:
  """Names a larger route wherever score >= kappa, for `[K]` thresholds.

  Args:
    forest: of N problems.
    scores: `[M]`, higher = rather a larger route.
    thresholds: `[K]`.
    ruler: of the costs.
    routes: `[M]` int, the route that is then named; None = the largest.
  """
  if scores.shape != forest.depth.shape:
    raise ValueError(
        f'Scores must be {forest.depth.shape}, one a decision; got '
        f'{scores.shape}.'
    )
  if routes is None:
    routes = np.full(scores.shape, forest.children.shape[1] - 1)
  thresholds = np.asarray(thresholds)[:, None]
  place = np.tile(forest.roots, (len(thresholds), 1))
  for _ in range(forest.max_depth):
    node = np.maximum(place, 0)  # Where a leaf is reached, anything.
    action = np.where(scores[node] >= thresholds, routes[node], 0)
    place = np.where(place < 0, place, forest.children[node, action])
  return _points(forest, -1 - place, ruler)


def expected(
    forest: forests.Forest, chances: np.ndarray, ruler: str
) -> replay.Points:
  """A randomised policy (K = 1), in expectation over its own coins.

  Args:
    forest: of N problems.
    chances: `[M, A]` of naming each route; rows sum to 1.
    ruler: of the costs.
  """
  if chances.shape != forest.children.shape:
    raise ValueError(
        f'Chances must be {forest.children.shape}, got {chances.shape}.'
    )
  if chances.min() < 0 or np.abs(chances.sum(axis=1) - 1).max() > 1e-6:
    raise ValueError('Chances must be >= 0 and sum to 1 at each decision.')
  reached = np.zeros(len(forest.depth))
  reached[forest.roots] = 1.0
  ended = np.zeros(len(forest.leaf_correct))
  for depth in range(forest.max_depth):
    here = np.flatnonzero(forest.depth == depth)
    arrive = reached[here, None] * chances[here]
    child = forest.children[here]
    reached[child[child >= 0]] = arrive[child >= 0]
    ended[-1 - child[child < 0]] = arrive[child < 0]
  correct = forest.leaf_correct.astype(np.float64)
  alone = forest.alone[forest.leaf_problem]
  values = {
      'correct': correct,
      'cost': forest.leaf_cost[ruler],
      'loss': alone * (1 - correct),
      'gain': correct * (1 - alone),
  }
  return replay.Points(
      **{
          name: np.bincount(
              forest.leaf_problem, ended * value, forest.num_problems
          )[None]
          for name, value in values.items()
      }
  )


def at_rates(
    forest: forests.Forest, rates: Sequence[float], ruler: str
) -> replay.Points:
  """Random routing: the largest route with the same chance at each decision."""
  num_decisions, num_routes = forest.children.shape
  points = []
  for rate in rates:
    chances = np.zeros((num_decisions, num_routes))
    chances[:, 0], chances[:, -1] = 1 - rate, rate
    points.append(expected(forest, chances, ruler))
  return replay.concatenate(points)


def oracle(
    forest: forests.Forest, prices: Sequence[float], ruler: str
) -> replay.Points:
  """The best leaf of each problem, knowing every outcome beforehand.

  Args:
    forest: of N problems.
    prices: `[K]` >= 0, correct answers per unit of cost.
    ruler: of the costs.
  """
  cost, correct = forest.leaf_cost[ruler], forest.leaf_correct
  # By problem; ties go to the first leaf.
  best = [
      np.lexsort((-(correct - price * cost), forest.leaf_problem))
      for price in prices
  ]
  first = np.searchsorted(forest.leaf_problem, np.arange(forest.num_problems))
  return _points(forest, np.stack([order[first] for order in best]), ruler)


def largest_alone(forest: forests.Forest) -> replay.Points:
  """The largest model without a router: cost 1 and no draft, by definition."""
  correct = forest.alone[None].astype(np.float64)
  zeros = np.zeros_like(correct)
  return replay.Points(correct=correct, cost=zeros + 1, loss=zeros, gain=zeros)
