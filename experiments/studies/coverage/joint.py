"""Several thresholds at once: early and late steps, or one per larger route.

`search_then_test` reads its candidates off each sample, so there is no common
table of outcomes, and it is run sample by sample, as it stands in the library.
What samples of one size share is computed once for all levels: the searched
path, and what its candidates lead to on the other part.
"""

from collections.abc import Sequence
import dataclasses

import jax
import numpy as np

from experiments.studies.coverage import counts as counts_lib
from experiments.studies.coverage import data as data_lib
from routing import protocols
from routing.calibration import joint
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from routing.outcomes import stopping as stopping_lib
from routing.simulation import history_tree as tree_lib
from routing.simulation import process as process_lib
from routing.simulation import sampling

STEP_GROUPS = (0, 2)
_SIZE = 6
_FINE = 20  # Of the grid on which the best that truly holds is sought.


@dataclasses.dataclass(frozen=True)
class Channels:
  """Problems as `joint` sees them.

  scores: `[N, T, G]` float.
  tables: one for all channels, or G.
  weights: `[N]`, share of each, summing to 1.
  """

  scores: np.ndarray
  tables: tuple[stopping_lib.Outcomes, ...]
  weights: np.ndarray

  def take(self, rows: np.ndarray) -> 'Channels':
    """Some of the problems, each as often as its row is named."""
    tables = tuple(table.take(rows) for table in self.tables)
    return Channels(self.scores[rows], tables, self.weights[rows])

  def values_at(self, thresholds: np.ndarray) -> dict[str, np.ndarray]:
    """By quantity `[K, N]`, at `[K, G]` thresholds."""
    return joint.values_at(self.scores, self.tables, thresholds)

  def means_at(self, thresholds: np.ndarray) -> dict[str, np.ndarray]:
    """By quantity `[K]`, weighted means."""
    found = self.values_at(thresholds)
    return {name: x @ self.weights for name, x in found.items()}

  def grid(self, size: int) -> np.ndarray:
    """`[K, G]` candidates."""
    return joint.grid(self.scores, self.tables[0].mask, size)


@dataclasses.dataclass(frozen=True)
class Case:
  """Problems to draw from, which are their own truth."""

  name: str
  kind: str
  pool: Channels


def by_steps(problems: data_lib.Problems) -> Channels:
  """Two thresholds: one for the first steps, one for the others."""
  return Channels(
      joint.by_step(problems.scores, STEP_GROUPS),
      (problems.outcomes,),
      problems.weights,
  )


def by_routes(num: int = 20_000, seed: int = 0) -> Case:
  """Ladders of the made-up process with two larger routes, a score for each.

  A route's score is fitted, on other ladders, to 'the small model loses this
  and the route does not'.
  """
  process = process_lib.three_routes()
  tree = tree_lib.build(process, protocols.Protocol('escalate'))
  fitted, pool = (
      jax.device_get(
          sampling.sample_ladders(tree, jax.random.key(2 * seed + k), num)
      )
      for k in range(2)
  )
  seen = fitted.features.reshape(-1, fitted.features.shape[-1])
  helps = stopping_lib.stay_loss(fitted)[:, None, None] * (
      1 - fitted.loss[..., 1:]
  )
  helps = helps.reshape(-1, process.num_routes - 1)
  weights = np.linalg.lstsq(seen.astype(np.float64), helps, rcond=None)[0]
  tables = tuple(
      stopping_lib.from_batch(pool, np.full(pool.mask.shape, route))
      for route in range(1, process.num_routes)
  )
  scores = np.round(pool.features.astype(np.float64) @ weights, 6)
  channels = Channels(scores, tables, np.full(num, 1 / num))
  return Case('simulated, three routes', 'simulated', channels)


def searched_half(size: int, seed: int = 0) -> np.ndarray:
  """`[size]` bool, true for a random half of the places in a sample.

  One half serves all samples, because their rows are drawn independently.
  """
  order = np.random.default_rng(seed).permutation(size)
  return order < (size + 1) // 2


def searched(
    pool: Channels,
    truth: Channels,
    rows: np.ndarray,
    risks: Sequence[risks_lib.Risk],
) -> list[counts_lib.Verdict]:
  """`joint.search_then_test` of one loss each, for every risk.

  Half of each sample is searched, the other half tested.

  Args:
    pool: what samples are drawn from.
    truth: whose weighted means are true.
    rows: `[S, n]`, problems of the pool.
    risks: of losses.
  """
  is_searched = searched_half(rows.shape[1])
  shape = len(risks), len(rows)
  broken, cost = np.zeros(shape, bool), np.full(shape, np.nan)
  for s, sample in enumerate(rows):
    seen, unseen = (pool.take(sample[x]) for x in (is_searched, ~is_searched))
    path = _path(seen)
    values = unseen.values_at(path)
    for r, risk in enumerate(risks):
      try:
        point = thresholds_lib.from_values(
            values,
            path,
            [risk],
            orders={'loss': np.arange(len(path))},
            max_cost=np.inf,
        )
      except risks_lib.Refusal:
        continue
      true = truth.means_at(np.array([point.threshold]))
      cost[r, s] = true['cost'][0]
      broken[r, s] = true['loss'][0] > risk.level * (1 + 1e-9)
  true = truth.means_at(pool.grid(_FINE))
  best = [
      float(true['cost'][true['loss'] <= x.level * (1 + 1e-9)].min())
      for x in risks
  ]
  return [
      counts_lib.Verdict(broken[r], np.isnan(cost[r]), cost[r], best[r])
      for r in range(len(risks))
  ]


def _path(seen: Channels) -> np.ndarray:
  """`[K, G]` candidates that none beats on one half, least loss first."""
  grid = seen.grid(_SIZE)
  found = seen.values_at(grid)
  path = joint.pareto_path(
      found['loss'].mean(axis=1), found['cost'].mean(axis=1)
  )
  return grid[path]
