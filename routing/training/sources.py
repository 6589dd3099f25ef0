"""Sources of training batches: memory, streamed shards, or on-policy rounds.

A source is a function that returns the batch of a gradient step. The batch
depends only on the index of the step and, on-policy, on the current policies,
not on earlier calls. So a resumed run sees the same batches as an uninterrupted
one.
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
_NO_COLUMNS = slice(0, 0)


class Source(Protocol):
  """The interface of a source: a pure function from a step to its batch."""

  def __call__(self, step: int, state: state_lib.TrainState) -> step_lib.Batch:
    """Returns the batch of one gradient step.

    Args:
      step: index of the gradient step, from 0.
      state: training state before this step. An on-policy source collects
        trajectories with the policies in it; other sources ignore it.
    """
    ...


def with_constant(data: Data, columns: slice) -> Data:
  """Returns the data with constant feature columns stored once per trajectory.

  Args:
    data: arrays, with features `[B, T, F]`.
    columns: the feature columns that have the same value at every decision of
      a trajectory.

  Returns:
    The data with `layers.Observations` as features.

  Raises:
    ValueError: if a value in these columns changes within a trajectory.
  """
  # Every decision is compared with decision 0, which is never padding if the
  # row has any decision. Padding may have other values.
  values = data.features[..., columns]
  if (values != values[:, :1])[data.mask].any():
    raise ValueError(
        f'Feature columns {columns.start} to {columns.stop - 1} are declared '
        'constant, but they change within a trajectory. Pass only columns that '
        '`observation.constant` returns.'
    )
  return data.replace(features=layers.split(data.features, columns))


def resident(
    data: Data,
    seed: int,
    batch_size: int,
    layout: parallel.Layout = _ONE_DEVICE,
    constant: slice = _NO_COLUMNS,
) -> Source:
  """Returns a source that keeps all of `data` on the device.

  Rows are visited in shuffled epochs.

  Args:
    data: NumPy arrays.
    seed: of the order of rows; it differs between epochs.
    batch_size: rows per step; a number above the number of rows means all rows.
    layout: places data and row indices on the devices.
    constant: the constant feature columns; see `with_constant`.
  """
  num = len(data.mask)
  # The data are sent to the devices once. Each step sends only row indices, and
  # the rows are gathered on the device.
  data = layout.whole(with_constant(batching.trimmed(data), constant))

  def batch_at(step, state):
    del state
    # `data` is an argument of the jitted step, which selects the rows.
    rows = batching.minibatch_indices(seed, step, num, batch_size)
    return data, layout.rows(rows)

  return batch_at


@dataclasses.dataclass(frozen=True)
class Shards:
  """Training trajectories or ladders that are stored in several files.

  load: index of a file -> the arrays in it, with standardised features. T must
    be the same for all files.
  sizes: number of trajectories, or of ladders, in each file.
  """

  load: Callable[[int], Data]
  sizes: Sequence[int]


def streamed(
    shards: Shards,
    seed: int,
    batch_size: int,
    num_shards_in_memory: int,
    layout: parallel.Layout = _ONE_DEVICE,
    constant: slice = _NO_COLUMNS,
) -> Source:
  """Returns a source that reads a few files at a time, for data beyond memory.

  Each epoch shuffles the files, divides them into groups of
  `num_shards_in_memory` files, and shuffles the rows within each group. So each
  row is visited once per epoch. A file has neighbouring problems: the larger
  the groups, the better mixed the batches. The next group is not prefetched.

  Args:
    shards: the files.
    seed: of the order of files and rows; it differs between epochs.
    batch_size: rows per step; a number above the number of rows means all rows.
    num_shards_in_memory: >= 1, number of files in a group. Memory holds up to
      two groups, because a batch may span the end of one and the start of the
      next.
    layout: places a batch on the devices.
    constant: the constant feature columns; see `with_constant`.

  Raises:
    ValueError: if `num_shards_in_memory` is below 1, or there are no rows.
  """
  if num_shards_in_memory < 1:
    raise ValueError(
        f'num_shards_in_memory is {num_shards_in_memory}; it must be at least '
        '1.'
    )
  if not sum(shards.sizes):
    raise ValueError('The shards hold 0 trajectories; at least 1 is needed.')
  stream = _Stream(shards, seed, num_shards_in_memory)
  size = min(batch_size, sum(shards.sizes))

  def batch_at(step, state):
    del state
    # The position in the sequence of rows follows from the step, so a resumed
    # run can start in the middle of an epoch.
    rows = with_constant(stream.rows(step * size, size), constant)
    return layout.rows(rows), None

  return batch_at


def renewed(
    collect: Callable[[int, state_lib.TrainState], types.TrajectoryBatch],
    every: int,
    seed: int,
    batch_size: int,
    layout: parallel.Layout = _ONE_DEVICE,
    constant: slice = _NO_COLUMNS,
) -> Source:
  """Returns an on-policy source that collects new trajectories in each round.

  A round is a fixed number of gradient steps.

  Args:
    collect: (index of the round, state) -> arrays of new trajectories, with
      standardised features. It is called at the first step of a round. A run
      that resumes within a round calls it again; it must then return the same
      trajectories as before.
    every: number of gradient steps in a round, >= 1.
    seed: of the order of rows.
    batch_size: rows per step; a number above the number of rows means all rows.
    layout: places a batch on the devices.
    constant: the constant feature columns; see `with_constant`.

  Raises:
    ValueError: if `every` is below 1.
  """
  if every < 1:
    raise ValueError(f'on_policy.every is {every}; it must be at least 1.')
  # Index of the current round -> its trajectories. It has at most one entry.
  rounds: dict[int, types.TrajectoryBatch] = {}

  def batch_at(step, state):
    number = step // every
    if number not in rounds:
      # Cleared before the collection, so that memory never holds two rounds.
      rounds.clear()
      rounds[number] = collect(number, state)
    data = rounds[number]
    rows = batching.minibatch_indices(seed, step, len(data.mask), batch_size)
    batch = with_constant(jax.tree.map(lambda x: x[rows], data), constant)
    return layout.rows(batch), None

  return batch_at


class _Stream:
  """The rows of all epochs as one endless sequence with random access."""

  def __init__(self, shards: Shards, seed: int, num_shards_in_memory: int):
    self._shards, self._seed, self._num_shards_in_memory = (
        shards,
        seed,
        num_shards_in_memory,
    )
    # Each instance has its own caches. A cache on the class's method would hold
    # a reference to every instance, and never free its arrays.
    self._groups = functools.lru_cache(maxsize=1)(self._groups)
    # The size is 2, because a batch may span two groups. With 1, both would be
    # read from disk again for each such batch.
    self._read = functools.lru_cache(maxsize=2)(self._read)

  def rows(self, position: int, num: int) -> Data:
    """Returns `num` rows, from `position` of the endless sequence on.

    The rows may span several groups and epochs.
    """
    pieces = []
    # Each iteration takes one piece, up to the end of its group at most.
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
    """Locates row `offset` of an epoch.

    Returns:
      The index of the group that has the row, and the row's index within it.
    """
    ends = np.cumsum(
        [sum(self._shards.sizes[i] for i in x) for x in self._groups(epoch)]
    )
    # With `right`, an offset equal to the end of a group is in the next group.
    group = int(np.searchsorted(ends, offset, side='right'))
    return group, offset - (int(ends[group - 1]) if group else 0)

  def _groups(self, epoch: int) -> list[np.ndarray]:
    """Returns the file indices of an epoch, shuffled, divided into groups."""
    # The order depends on (seed, epoch) only, so that a resumed run can start
    # in any epoch.
    order = np.random.default_rng((self._seed, epoch)).permutation(
        len(self._shards.sizes)
    )
    return np.split(
        order,
        range(
            self._num_shards_in_memory, len(order), self._num_shards_in_memory
        ),
    )

  def _read(self, epoch: int, group: int) -> Data:
    """Returns the shuffled rows of one group of files."""
    files = [int(i) for i in self._groups(epoch)[group]]
    num = sum(self._shards.sizes[i] for i in files)
    order = np.random.default_rng((self._seed, epoch, group)).permutation(num)
    # Row i of the group goes to place `places[i]`. Each file is put into place
    # when it is read, so that memory holds the group once and one file.
    places, start, found = np.argsort(order), 0, None
    for index in files:
      file = self._shards.load(index)
      if found is None:
        found = jax.tree.map(
            lambda x: np.empty((num, *x.shape[1:]), x.dtype), file
        )
      to = places[start : start + len(file.mask)]
      jax.tree.map(functools.partial(_put, to), found, file)
      start += len(file.mask)
    return found


def _put(to: np.ndarray, out: np.ndarray, values: np.ndarray) -> None:
  out[to] = values
