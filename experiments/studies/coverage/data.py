"""Sets of problems with known risks, to count broken promises on.

There are three kinds. *Simulated*: every sample has new ladders of the
simulated process; the true risk is computed by exact enumeration. *Embedded*:
collected ladders and a trained router. *Real*: published answers of a small and
a large model, as one-step ladders (`coverage.answers`). The last two are finite
sets: samples are drawn from them with replacement, so the risk of the set is
the true risk.
"""

from collections.abc import Iterable
import dataclasses
import pathlib

import jax
import numpy as np

from experiments import command_line
from experiments import records_on_disk
from experiments import train
from routing import protocols
from routing.calibration import thresholds as thresholds_lib
from routing.outcomes import stopping as stopping_lib
from routing.routers import families
from routing.routers import learned
from routing.simulation import history_tree as tree_lib
from routing.simulation import process as process_lib
from routing.simulation import sampling

_GRID_SIZE = 100  # Thresholds.
_CHUNK = 100_000  # Ladders simulated at a time; bounds the memory.


@dataclasses.dataclass(frozen=True)
class Problems:
  """N problems, or distinct kinds of problems, with a score at each decision.

  scores: `[N, T]` float in [0, 1]; higher means hand over.
  outcomes: of the same problems.
  labels: `[N]` int, the group of each, known before anything is spent.
  weights: `[N]`, share of each; the sum is 1.
  """

  scores: np.ndarray
  outcomes: stopping_lib.Outcomes
  labels: np.ndarray
  weights: np.ndarray


@dataclasses.dataclass(frozen=True)
class Case:
  """A set to draw calibration samples from, with its true risks.

  name, kind: for the tables; the kind is 'simulated', 'embedded' or 'real'.
  pool: the problems that the rows of a sample point to.
  truth: its weighted means are the true risks. It is the pool itself, or the
    distribution that the pool was drawn from.
  grid: `[K]` thresholds, fixed before any sample is drawn.
  fresh: `[S, n]` rows of the pool, new independent problems for each sample;
    None = samples are drawn from the pool with replacement.
  """

  name: str
  kind: str
  pool: Problems
  truth: Problems
  grid: np.ndarray
  fresh: np.ndarray | None = None

  def draw(self, num_splits: int, size: int, seed: int) -> np.ndarray:
    """Draws S samples of n independent problems: `[S, n]` int32 rows.

    Raises:
      ValueError: if there are fewer fresh problems than asked for.
    """
    if self.fresh is None:
      return self.redraw(num_splits, size, seed)
    if self.fresh.shape[0] < num_splits or self.fresh.shape[1] < size:
      raise ValueError(
          f'{self.name} has fresh samples of shape {self.fresh.shape}; '
          f'{(num_splits, size)} were asked for, which must not be larger.'
      )
    return self.fresh[:num_splits, :size]

  def redraw(self, num_splits: int, size: int, seed: int) -> np.ndarray:
    """Draws from the pool with replacement, even if there are fresh rows."""
    return draw(self.pool.weights, num_splits, size, seed)


def draw(
    weights: np.ndarray, num_splits: int, size: int, seed: int
) -> np.ndarray:
  """Draws `[S, n]` int32 in 0..N-1 with replacement, by `[N]` weights."""
  rng = np.random.default_rng([seed, size])
  edges = np.cumsum(weights)[:-1]
  places = rng.random((num_splits, size))
  return np.searchsorted(edges, places, side='right').astype(np.int32)


def finite(
    name: str,
    kind: str,
    scores: np.ndarray,
    outcomes: stopping_lib.Outcomes,
    labels: np.ndarray,
    grid: np.ndarray,
) -> Case:
  """Returns a case of N equally likely problems that is its own truth."""
  num = outcomes.num_problems
  pool = Problems(scores, outcomes, labels, np.full(num, 1 / num))
  return Case(name, kind, pool, pool, grid)


def tables(**columns: np.ndarray) -> stopping_lib.Outcomes:
  """Returns outcomes from `[N, T + 1]` correct, cost and loss.

  Every problem has T decisions. Gains are not counted here, so they are 0.
  """
  loss = columns['loss']
  mask = np.ones((loss.shape[0], loss.shape[1] - 1), bool)
  return stopping_lib.Outcomes(mask=mask, gain=np.zeros(loss.shape), **columns)


# The simulated process.


def simulated(num_splits: int, size: int, seed: int = 0) -> Case:
  """Returns a case of new ladders of the default process.

  The truth is the process itself, by exact enumeration.

  Args:
    num_splits, size: S samples of n ladders, all new and independent.
    seed: of all draws.
  """
  process = process_lib.Process()
  tree = tree_lib.build(process, protocols.Protocol('escalate'))
  key = jax.random.key(seed)
  sample = jax.jit(
      lambda k, num: sampling.sample_ladders(tree, k, num), static_argnums=1
  )
  # The score is a least-squares fit of "the small model loses this problem" on
  # separate ladders, so that no sample has influenced it.
  fitted = jax.device_get(sample(jax.random.fold_in(key, 0), 20_000))
  lost = np.repeat(stopping_lib.stay_loss(fitted), process.num_steps)
  seen = fitted.features.reshape(len(lost), -1).astype(np.float64)
  weights = np.linalg.lstsq(seen, lost, rcond=None)[0]
  score = lambda features: np.clip(
      np.round(features.astype(np.float64) @ weights, 6), 0, 1
  )
  chunks = -(-num_splits * size // _CHUNK)
  batches = (
      jax.device_get(sample(jax.random.fold_in(key, 1 + k), _CHUNK))
      for k in range(chunks)
  )
  pool, rows = _ladders(batches, score)
  law = _law(tree, score)
  # Groups by the first score, which is known before anything is spent.
  first = np.unique(law.scores[:, 0])
  label = lambda x: np.searchsorted(first, x.scores[:, 0])
  return Case(
      name='simulated',
      kind='simulated',
      pool=dataclasses.replace(pool, labels=label(pool)),
      truth=dataclasses.replace(law, labels=label(law)),
      grid=thresholds_lib.grid(score(fitted.features), fitted.mask, _GRID_SIZE),
      fresh=rows[: num_splits * size].reshape(num_splits, size),
  )


def _ladders(batches, score) -> tuple[Problems, np.ndarray]:
  """Returns the distinct ladders, and `[M]` int32 which of them each one is.

  Two ladders with equal scores and outcomes are the same for every threshold.
  """

  def wholes():
    for batch in batches:
      table = stopping_lib.from_batch(batch)
      yield np.column_stack(
          [score(batch.features), table.correct, table.loss, table.cost]
      )

  kept, rows = distinct(wholes())
  steps = (kept.shape[1] - 3) // 4
  scores, correct, loss, cost = np.split(
      kept, [steps, 2 * steps + 1, 3 * steps + 2], axis=1
  )
  shares = np.bincount(rows, minlength=len(kept)) / len(rows)
  outcomes = tables(correct=correct, cost=cost, loss=loss)
  return Problems(scores, outcomes, np.zeros(len(kept), int), shares), rows


def distinct(chunks: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Returns the distinct rows, equal up to 1e-6; of millions, few thousands.

  Args:
    chunks: arrays `[B, C]` float.

  Returns:
    `[N, C]` distinct rows in the order of their first occurrence; and `[M]`
    int32, which of them each row of all chunks is.
  """
  places: dict[int, int] = {}
  kept, rows = [], []
  for whole in chunks:
    # A random linear hash: one integer per row, a hundred times faster to sort
    # than rows of floats. Different rows practically never collide.
    factors = np.random.default_rng(0).integers(2**62, size=whole.shape[1])
    marks = np.round(1e6 * whole).astype(np.int64) @ factors
    found, first, where = np.unique(
        marks, return_index=True, return_inverse=True
    )
    for mark, place in zip(found.tolist(), first, strict=True):
      if places.setdefault(mark, len(places)) == len(kept):
        kept.append(whole[place])
    index = np.array([places[mark] for mark in found.tolist()], np.int32)
    rows.append(index[where])
  return np.array(kept), np.concatenate(rows)


def _law(tree: tree_lib.HistoryTree, score) -> Problems:
  """Returns every history of the small trace, with its expected outcomes.

  A policy sees the history only, so outcomes may be averaged given the history:
  the risks of every policy stay exact. `weights` are the probabilities of the
  histories.
  """
  process, last = tree.process, tree.levels[-1]
  rows, columns = np.arange(len(last.chance)), []
  never = last.gains[:, 0] / last.chance[:, None]
  # Backwards from the last level: column t is the expected outcome of handing
  # over at step t, given the prefix of the history up to t.
  for level in reversed(tree.levels):
    columns.append((level.gains[:, -1] / level.chance[:, None])[rows])
    rows = level.parent[rows]
  ways = np.stack([*columns[::-1], never], axis=1)
  costs = process_lib.action_costs(process, tree.protocol)
  # Handing over at t pays the small steps before t, then the hand-over itself.
  before = np.cumsum(costs[:, 0]) - costs[:, 0]
  cost = np.append(before + costs[:, -1], costs[:, 0].sum())
  outcomes = tables(
      correct=ways[..., 0],
      cost=np.tile(cost.astype(np.float32).astype(np.float64), (len(ways), 1)),
      loss=ways[..., 2],
  )
  scores = score(tree_lib.histories(tree, len(tree.levels) - 1))
  return Problems(scores, outcomes, np.zeros(len(ways), int), last.chance)


# Collected ladders.


def embedded(workdir: pathlib.Path | str, seed: int = 0) -> Case:
  """Returns a case of the test ladders of a work directory.

  Scores are those of its own router. No stage has seen these problems, so the
  costs of promises are as in service. The thresholds come from `select`.

  Args:
    workdir: of a finished run.
    seed: training seed of the router.

  Raises:
    ValueError, FileNotFoundError: if a split is not collected, or the router is
      not trained.
  """
  router = learned.load(train.run_directory(workdir, seed))
  config = command_line.saved_config(workdir)
  family = families.policies(router)[0]
  select, test = (
      records_on_disk.source(config, workdir, split, router.card, 'known')
      for split in ('select', 'test')
  )
  router.seen.check('test', test.problems)
  outcomes, scores = stopping_lib.from_table(
      test.table, *family.score(test.table.decisions), router.card.metric
  )
  # Groups by length: longer questions are harder, and the length is known
  # before anything is spent.
  lengths = [len(problem.question) for problem in test.problems]
  labels = np.digitize(lengths, np.quantile(lengths, [1 / 3, 2 / 3]))
  grid = select.grid(family, 100)
  return finite('embedded', 'embedded', scores, outcomes, labels, grid)
