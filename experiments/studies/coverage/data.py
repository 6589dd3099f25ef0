"""Labelled problems whose risks are known, to count broken promises on.

Three kinds. *Simulated*: the made-up process, new ladders for each sample, the
truth by exact enumeration. *Embedded*: collected ladders and a trained router.
*Real*: published answers of a small and a large model to the same problems, as
ladders of one step (`coverage.answers`). Of the latter two a finite set is at
hand; samples are drawn from it with replacement, so that the risk of the set
itself is the truth.
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

_GRID_SIZE = 100
_CHUNK = 100_000


@dataclasses.dataclass(frozen=True)
class Problems:
  """N problems, or kinds of problems, with a score at each decision.

  scores: `[N, T]` float in [0, 1], higher means hand over.
  outcomes: the table of the same.
  labels: `[N]` int, a group that is known beforehand.
  weights: `[N]`, share of each, summing to 1.
  """

  scores: np.ndarray
  outcomes: stopping_lib.Outcomes
  labels: np.ndarray
  weights: np.ndarray


@dataclasses.dataclass(frozen=True)
class Case:
  """A set to draw samples from, and what is true of it.

  name, kind: for the tables; the kind is 'simulated', 'embedded' or 'real'.
  pool: what rows of a sample point into.
  truth: whose weighted means are the true risks; the pool itself, or its law.
  grid: `[K]` thresholds, fixed without the pool, or before any sample.
  fresh: `[S, n]` rows of new, independent draws; None = drawn by weight.
  """

  name: str
  kind: str
  pool: Problems
  truth: Problems
  grid: np.ndarray
  fresh: np.ndarray | None = None

  def draw(self, num_splits: int, size: int, seed: int) -> np.ndarray:
    """`[S, n]` int32 rows of the pool: S samples of n independent problems.

    Raises:
      ValueError: if fewer were drawn anew than are asked for.
    """
    if self.fresh is None:
      return self.redraw(num_splits, size, seed)
    if self.fresh.shape[0] < num_splits or self.fresh.shape[1] < size:
      raise ValueError(
          f'{self.name} has samples of {self.fresh.shape}; asked for '
          f'{(num_splits, size)}.'
      )
    return self.fresh[:num_splits, :size]

  def redraw(self, num_splits: int, size: int, seed: int) -> np.ndarray:
    """The same from the pool, with replacement, whatever its truth is."""
    return draw(self.pool.weights, num_splits, size, seed)


def draw(
    weights: np.ndarray, num_splits: int, size: int, seed: int
) -> np.ndarray:
  """`[S, n]` int32 in 0..N-1: draws with replacement, by `[N]` weights."""
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
  """A case that is its own truth."""
  num = outcomes.num_problems
  pool = Problems(scores, outcomes, labels, np.full(num, 1 / num))
  return Case(name, kind, pool, pool, grid)


def tables(**columns: np.ndarray) -> stopping_lib.Outcomes:
  """An outcome table from correct, cost and loss; all decisions exist."""
  loss = columns['loss']
  mask = np.ones((loss.shape[0], loss.shape[1] - 1), bool)
  return stopping_lib.Outcomes(mask=mask, gain=np.zeros(loss.shape), **columns)


# The made-up process.


def simulated(num_splits: int, size: int, seed: int = 0) -> Case:
  """Ladders of the default process; the truth is that of the process.

  Args:
    num_splits, size: of the samples; all are of new, independent ladders.
    seed: of everything.
  """
  process = process_lib.Process()
  tree = tree_lib.build(process, protocols.Protocol('escalate'))
  key = jax.random.key(seed)
  sample = jax.jit(
      lambda k, num: sampling.sample_ladders(tree, k, num), static_argnums=1
  )
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
  """The distinct ladders of many, and `[M]` int32 which one each is.

  Scores, and where each way out leads, are all that a threshold can tell of a
  ladder.
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
  """The distinct rows of many, equal up to 1e-6: of millions few thousand.

  Args:
    chunks: each `[B, C]` float.

  Returns:
    `[N, C]` rows, in the order in which they first came; `[M]` int32, which of
    them each row of all chunks is.
  """
  places: dict[int, int] = {}
  kept, rows = [], []
  for whole in chunks:
    # One number each, a hundred times faster to sort than rows of floats.
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
  """Each history of the small trace, its chance, and what is expected then.

  A rule that looks at no more than the history cannot tell apart what is
  averaged here, so its risks are exact.
  """
  process, last = tree.process, tree.levels[-1]
  rows, columns = np.arange(len(last.chance)), []
  never = last.gains[:, 0] / last.chance[:, None]
  for level in reversed(tree.levels):
    columns.append((level.gains[:, -1] / level.chance[:, None])[rows])
    rows = level.parent[rows]
  ways = np.stack([*columns[::-1], never], axis=1)
  costs = process_lib.action_costs(process, tree.protocol)
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
  """The test ladders of a work directory, as its own router sees them.

  No stage has seen these problems, so that promises cost what they cost in
  service. The thresholds that are tested come from `select`.

  Raises:
    ValueError, FileNotFoundError: if something is not collected or not trained.
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
  # Longer questions are harder; the length is known before anything is spent.
  lengths = [len(problem.question) for problem in test.problems]
  labels = np.digitize(lengths, np.quantile(lengths, [1 / 3, 2 / 3]))
  grid = select.grid(family, 100)
  return finite('embedded', 'embedded', scores, outcomes, labels, grid)
