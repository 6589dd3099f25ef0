"""Where batches come from: memory, more shards than it holds, or the policies.

A source is asked for the batch of each gradient step. It answers the same
whenever it is asked, and whatever it was asked before; so a resumed run sees
what an uninterrupted one sees.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools
from typing import Protocol

import jax
import numpy as np

from routing import types
from routing.features import batching
from routing.policy import layers
from routing.training import parallel
from routing.training import state as state_lib
from routing.training import step as step_lib

Data = types.OutcomeBatch | types.TrajectoryBatch
_ONE_DEVICE = parallel.Layout()
_NONE = slice(0, 0)  # No column.


class Source(Protocol):
  """Gives batches; pure in its arguments."""

  def __call__(self, step: int, state: state_lib.TrainState) -> step_lib.Batch:
    """The batch of gradient step `step`, counted from 0.

    Args:
      step: which batch.
      state: as it is before this step, for those who collect with it.
    """
    ...


def with_constant(data: Data, columns: slice) -> Data:
  """The data with some columns of its features held once a trajectory.

  Args:
    data: arrays.
    columns: of the features, the same at every decision of a trajectory.

  Raises:
    ValueError: if they are not the same.
  """
  values = data.features[..., columns]
  if (values != values[:, :1])[data.mask].any():
    raise ValueError(
        f'Features {columns.start} to {columns.stop - 1} are taken for '
        'constant; within a trajectory they change.'
    )
  return data.replace(features=layers.split(data.features, columns))


def resident(
    data: Data,
    seed: int,
    batch_size: int,
    layout: parallel.Layout = _ONE_DEVICE,
    constant: slice = _NONE,
) -> Source:
  """All of `data` on the device, and rows of it in shuffled epochs.

  Args:
    data: NumPy arrays.
    seed: of the order, with the epoch.
    batch_size: rows a step; at most those of the data.
    layout: puts data and rows on the device, or on several.
    constant: see `with_constant`.
  """
  num = len(data.mask)
  data = layout.whole(with_constant(batching.trimmed(data), constant))

  def batch_at(step, state):
    del state
    rows = batching.minibatch_indices(seed, step, num, batch_size)
    return data, layout.rows(rows)

  return batch_at


@dataclasses.dataclass(frozen=True)
class Shards:
  """Trajectories on disk, file by file.

  load: from a file's index to its arrays, standardised; all of one T.
  sizes: rows of each file.
  """

  load: Callable[[int], types.TrajectoryBatch]
  sizes: Sequence[int]


def streamed(
    shards: Shards,
    seed: int,
    batch_size: int,
    num_shards_in_memory: int,
    layout: parallel.Layout = _ONE_DEVICE,
    constant: slice = _NONE,
) -> Source:
  """Every row once an epoch, with so many files in memory at a time.

  Each epoch shuffles the files, takes them in groups of `num_shards_in_memory`,
  and
  shuffles the rows of each group. Files hold neighbouring problems, so the more
  are held, the better mixed a batch is. While one group is trained on, the next
  is not read yet.

  Args:
    shards: the files.
    seed: of the order, with the epoch.
    batch_size: rows a step; at most those of all files.
    num_shards_in_memory: >= 1; besides, a batch may take the end of the group
      before.
    layout: puts a batch on the device, or on several.
    constant: see `with_constant`.

  Raises:
    ValueError: if `num_shards_in_memory` is below 1, or there is no row.
  """
  if num_shards_in_memory < 1:
    raise ValueError(
        f'num_shards_in_memory is {num_shards_in_memory}; allowed: >= 1.'
    )
  if not sum(shards.sizes):
    raise ValueError('The shards hold no trajectory; at least 1 is needed.')
  stream = _Stream(shards, seed, num_shards_in_memory)
  size = min(batch_size, sum(shards.sizes))

  def batch_at(step, state):
    del state
    rows = with_constant(stream.rows(step * size, size), constant)
    return layout.rows(rows), None

  return batch_at


def renewed(
    collect: Callable[[int, state_lib.TrainState], types.TrajectoryBatch],
    every: int,
    seed: int,
    batch_size: int,
    layout: parallel.Layout = _ONE_DEVICE,
    constant: slice = _NONE,
) -> Source:
  """Trajectories that are collected anew every so many steps: on-policy.

  Args:
    collect: from a round, counted from 0, and the state to standardised arrays.
      It is asked at the round's first step, and again by a run that is resumed
      within the round; then it must give what it gave before.
    every: steps of a round, >= 1.
    seed: of the order of rows.
    batch_size: rows a step; at most those of the round.
    layout: puts a batch on the device, or on several.
    constant: see `with_constant`.

  Raises:
    ValueError: if `every` is below 1.
  """
  if every < 1:
    raise ValueError(f'on_policy.every is {every}; allowed: >= 1.')
  held: dict[int, types.TrajectoryBatch] = {}

  def batch_at(step, state):
    number = step // every
    if number not in held:
      held.clear()
      held[number] = collect(number, state)
    data = held[number]
    rows = batching.minibatch_indices(seed, step, len(data.mask), batch_size)
    batch = with_constant(jax.tree.map(lambda x: x[rows], data), constant)
    return layout.rows(batch), None

  return batch_at


class _Stream:
  """The rows of all epochs in their order, without end."""

  def __init__(self, shards: Shards, seed: int, num_shards_in_memory: int):
    self._shards, self._seed, self._num_shards_in_memory = (
        shards,
        seed,
        num_shards_in_memory,
    )
    self._groups = functools.lru_cache(maxsize=1)(self._groups)
    # A batch may lie across two groups.
    self._read = functools.lru_cache(maxsize=2)(self._read)

  def rows(self, position: int, num: int) -> types.TrajectoryBatch:
    """`num` rows from the `position`-th on; neither need be of one epoch."""
    pieces = []
    while num:
      epoch, offset = divmod(position, sum(self._shards.sizes))
      group, offset = self._find(epoch, offset)
      piece = jax.tree.map(
          lambda x, start=offset, end=offset + num: x[start:end],
          self._read(epoch, group),
      )
      pieces.append(piece)
      position, num = position + len(piece.mask), num - len(piece.mask)
    return jax.tree.map(lambda *x: np.concatenate(x), *pieces)

  def _find(self, epoch: int, offset: int) -> tuple[int, int]:
    """The group that holds a row of an epoch, and where in it."""
    ends = np.cumsum(
        [sum(self._shards.sizes[i] for i in x) for x in self._groups(epoch)]
    )
    group = int(np.searchsorted(ends, offset, side='right'))
    return group, offset - (int(ends[group - 1]) if group else 0)

  def _groups(self, epoch: int) -> list[np.ndarray]:
    order = np.random.default_rng((self._seed, epoch)).permutation(
        len(self._shards.sizes)
    )
    return np.split(
        order,
        range(
            self._num_shards_in_memory, len(order), self._num_shards_in_memory
        ),
    )

  def _read(self, epoch: int, group: int) -> types.TrajectoryBatch:
    files = [self._shards.load(int(i)) for i in self._groups(epoch)[group]]
    rows = jax.tree.map(lambda *x: np.concatenate(x), *files)
    order = np.random.default_rng((self._seed, epoch, group)).permutation(
        len(rows.mask)
    )
    return jax.tree.map(lambda x: x[order], rows)
