"""Counts broken promises of joint thresholds: by steps, or by larger routes.

`search_then_test` takes its candidates from each sample, so there is no common
table of outcomes, and the library's own functions are run sample by sample.
What does not depend on the level is computed once per sample: the searched
path, and the outcomes of its candidates on the other half.
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

STEP_GROUPS = (0, 2)  # One threshold for steps 0 and 1, another from 2 on.
_SIZE = 6  # Thresholds per channel in the grid of candidates.
_FINE = 20  # The same in the grid on which the true optimum is sought.


@dataclasses.dataclass(frozen=True)
class Channels:
  """Problems as `routing.calibration.joint` takes them.

  A channel is a group of steps, or a larger route, with its own threshold.

  scores: `[N, T, G]` float, for G channels.
  tables: one for all channels, or one per channel.
  weights: `[N]`, share of each problem; the sum is 1.
  """

  scores: np.ndarray
  tables: tuple[stopping_lib.Outcomes, ...]
  weights: np.ndarray

  def take(self, rows: np.ndarray) -> 'Channels':
    """Returns the problems of `rows`, which may repeat."""
    tables = tuple(table.take(rows) for table in self.tables)
    return Channels(self.scores[rows], tables, self.weights[rows])

  def values_at(self, thresholds: np.ndarray) -> dict[str, np.ndarray]:
    """Returns quantity -> `[K, N]`, at `[K, G]` thresholds."""
    return joint.values_at(self.scores, self.tables, thresholds)

  def means_at(self, thresholds: np.ndarray) -> dict[str, np.ndarray]:
    """Returns quantity -> `[K]`, weighted means."""
    found = self.values_at(thresholds)
    return {name: x @ self.weights for name, x in found.items()}

  def grid(self, size: int) -> np.ndarray:
    """Returns `[K, G]` candidates, with `size` thresholds per channel."""
    return joint.grid(self.scores, self.tables[0].mask, size)


@dataclasses.dataclass(frozen=True)
class Case:
  """A set of problems to draw samples from; it is its own truth."""

  name: str
  kind: str
  pool: Channels


def by_steps(problems: data_lib.Problems) -> Channels:
  """Returns problems with two channels: the first steps, and the others."""
  return Channels(
      joint.by_step(problems.scores, STEP_GROUPS),
      (problems.outcomes,),
      problems.weights,
  )


def by_routes(num: int = 20_000, seed: int = 0) -> Case:
  """Returns ladders of a simulated process with two larger routes.

  Each larger route has a score, fitted on other ladders to "the small model
  loses this problem and the route does not".

  Args:
    num: ladders.
    seed: of all draws.
  """
  process = process_lib.three_routes()
  tree = tree_lib.build(process, protocols.Protocol('escalate'))
  sample = jax.jit(lambda key: sampling.sample_ladders(tree, key, num))
  fitted, pool = (
      jax.device_get(sample(jax.random.key(2 * seed + k))) for k in range(2)
  )
  seen = fitted.features.reshape(-1, fitted.features.shape[-1])
  # `[B, T, A-1]`: 1 where the small model loses the problem and the route, from
  # this step on, does not.
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
  """Returns `[size]` bool, true for a random half of the places in a sample.

  All samples can share it, because their rows are drawn independently.
  """
  order = np.random.default_rng(seed).permutation(size)
  return order < (size + 1) // 2


def searched(
    pool: Channels,
    truth: Channels,
    rows: np.ndarray,
    risks: Sequence[risks_lib.Risk],
) -> list[counts_lib.Verdict]:
  """Returns the verdict on `joint.search_then_test`, for every risk.

  One half of each sample is searched, and the other half is tested.

  Args:
    pool: the problems that samples are drawn from.
    truth: its weighted means are the true risks.
    rows: `[S, n]`, indices of problems of the pool.
    risks: promises of loss.
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
            # The order of testing was fixed on the other half.
            orders={'loss': np.arange(len(path))},
            max_cost=np.inf,
        )
      except risks_lib.Refusal:
        continue
      true = truth.means_at(np.array([point.threshold]))
      cost[r, s] = true['cost'][0]
      broken[r, s] = true['loss'][0] > risk.level * (1 + 1e-9)
  true = truth.means_at(pool.grid(_FINE))
  # The cheapest point of a fine grid that truly keeps each level.
  best = [
      float(true['cost'][true['loss'] <= x.level * (1 + 1e-9)].min())
      for x in risks
  ]
  return [
      counts_lib.Verdict(broken[r], np.isnan(cost[r]), cost[r], best[r])
      for r in range(len(risks))
  ]


def _path(seen: Channels) -> np.ndarray:
  """Returns `[K, G]` Pareto-optimal candidates of one half, by rising loss."""
  grid = seen.grid(_SIZE)
  found = seen.values_at(grid)
  path = joint.pareto_path(
      found['loss'].mean(axis=1), found['cost'].mean(axis=1)
  )
  return grid[path]
