"""Dials: a policy with the thresholds that a reader of a report can turn to.

A position is the index of a threshold, and has the figures that the policy
earns there on test problems. Named operating points have positions, too. Where
an operating point has one threshold per decision, it is a dial of its own, with
one position.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from routing.evaluation import results as results_lib
from routing.outcomes import refusal
from routing.outcomes import sources
from routing.outcomes import table as table_lib
from routing.routers import card as card_lib

# Thresholds of a dial besides those of named points; quantiles of the scores.
SIZE = 100
# Of figures; the page shows four of them, and rounds but once.
_DIGITS = 8


@dataclasses.dataclass(frozen=True)
class Dial:
  """The positions that one policy can be turned to.

  policy_index: of the router.
  thresholds: `[K]` float64, rising; or `[1, T]`, one threshold per decision.
  points: position in 0..K-1 -> names of the operating points there.
  """

  policy_index: int
  thresholds: np.ndarray
  points: Mapping[int, tuple[str, ...]]

  def ranks(self, scores: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Returns the position from which a decision no longer hands over.

    The larger route is taken at all positions below it, so the comparison
    `score >= threshold` is exact, however the scores are rounded for display.

    Args:
      scores: `[M]` float, of the decisions.
      depth: `[M]` int, number of earlier decisions on the path.

    Returns:
      `[M]` int in 0..K.
    """
    scores = np.asarray(scores, np.float64)
    if self.thresholds.ndim == 2:
      return (scores >= self.thresholds[0, depth]).astype(int)
    return np.searchsorted(self.thresholds, scores, side='right')


def of_points(
    points: Sequence[card_lib.OperatingPoint],
    families: Sequence[sources.Family],
    source: sources.Source,
    size: int = SIZE,
) -> list[Dial]:
  """Returns a dial per policy, and one per point with several thresholds.

  Args:
    points: operating points of one router.
    families: the router's families, one per policy.
    source: of the test problems; thresholds that it cannot evaluate are no
      positions.
    size: number of quantiles per policy.
  """
  dials = []
  for index, family in enumerate(families):
    # Several promises may hold at one threshold.
    named: dict[float, tuple[str, ...]] = {}
    for p in points:
      if p.policy_index == index and not isinstance(p.threshold, tuple):
        named[p.threshold] = (*named.get(p.threshold, ()), p.name)
    grid = np.union1d(source.grid(family, size), np.array([*named], float))
    grid = grid[source.answerable(family, grid)]
    if grid.size:
      at = {k: named[x] for k, x in enumerate(grid.tolist()) if x in named}
      dials.append(Dial(index, grid, at))
  dials += [
      Dial(p.policy_index, np.array([p.threshold]), {0: (p.name,)})
      for p in points
      if isinstance(p.threshold, tuple)
  ]
  return dials


def figures(
    dial: Dial,
    family: sources.Family,
    source: sources.Source,
    metrics: Sequence[str],
) -> dict[str, Any] | None:
  """Returns what each position of a dial earns on the problems of a source.

  Args:
    dial: K positions.
    family: of the dial's policy.
    source: N problems.
    metrics: names of the cost metrics.

  Returns:
    'accuracy', 'loss' and 'gain', each `[K]` means, and for the first two also
    '<name> low' and '<name> high', the 95 % interval; 'cost': metric -> `[K]`
    means. None if the source refuses.
  """
  try:
    by_metric = {
        metric: source.evaluate(family, dial.thresholds, metric)
        for metric in metrics
    }
  except refusal.Refusal:
    return None
  points = next(iter(by_metric.values()))
  earned: dict[str, Any] = {
      'cost': {m: _rounded(p.mean_cost) for m, p in by_metric.items()},
      'gain': _rounded(points.gain.mean(axis=1)),
  }
  for name, values in (('accuracy', points.correct), ('loss', points.loss)):
    rates = list(map(results_lib.rate, values))
    earned[name] = _rounded([x['mean'] for x in rates])
    for side in ('low', 'high'):
      earned[f'{name} {side}'] = _rounded([x[side] for x in rates])
  return earned


def scores(
    dials: Sequence[Dial],
    families: Sequence[sources.Family],
    decisions: table_lib.Decisions,
    num_routes: int,
    rows: slice | np.ndarray = slice(None),
) -> list[dict[str, np.ndarray]]:
  """Returns what each dial says at M decisions between A routes.

  Args:
    dials: of one router.
    families: the router's families, one per policy.
    decisions: more than M, if `rows` chooses among them.
    num_routes: A.
    rows: which decisions.

  Returns:
    For each dial 'score', `[M]` float; 'rank', see `Dial.ranks`; and 'route',
    `[M]` int, the larger route that is taken below that position.
  """
  said = []
  for dial in dials:
    score, route = families[dial.policy_index].score(decisions)
    score = score[rows]
    said.append(
        {
            'score': score,
            'rank': dial.ranks(score, decisions.depth[rows]),
            'route': np.full(len(score), num_routes - 1)
            if route is None
            else route[rows],
        }
    )
  return said


def _rounded(values: Any) -> list[float]:
  return np.round(np.asarray(values, np.float64), _DIGITS).tolist()
