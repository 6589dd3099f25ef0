"""Sources of training batches: memory, streamed shards, or on-policy rounds.

A source returns the batch of each gradient step. It is a pure function of the
step (and of the policy, on-policy), whatever it returned before. So a resumed
run sees the same batches as an uninterrupted one.
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
  """A function from a gradient step to its batch; pure in its arguments."""

  def __call__(self, step: int, state: state_lib.TrainState) -> step_lib.Batch:
    """Returns the batch of one gradient step.

    Args:
      step: number of the gradient step, from 0.
      state: before this step; on-policy sources collect with its policies.
    """
    ...


def with_constant(data: Data, columns: slice) -> Data:
  """Returns the data with constant feature columns stored once per trajectory.

  Args:
    data: arrays, with features `[B, T, F]`.
    columns: of the features, the same at every decision of a trajectory.

  Returns:
    The data with `layers.Observations` as features.

  Raises:
    ValueError: if a value in these columns changes within a trajectory.
  """
  # Decision 0 is never padding if any decision exists; padding may differ.
  values = data.features[..., columns]
  if (values != values[:, :1])[data.mask].any():
    raise ValueError(
        f'Features {columns.start} to {columns.stop - 1} are declared '
        'constant, but they change within a trajectory. Pass only columns that '
        '`observation.constant` names.'
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
    seed: of the order of rows, together with the epoch.
    batch_size: rows per step; more than there are means all.
    layout: places data and row indices on the devices.
    constant: see `with_constant`.
  """
  num = len(data.mask)
  # Replicated once. A step sends only the row indices, and gathers on device.
  data = layout.whole(with_constant(batching.trimmed(data), constant))

  def batch_at(step, state):
    del state
    # `data` goes along unchanged: the jitted step takes its rows.
    rows = batching.minibatch_indices(seed, step, num, batch_size)
    return data, layout.rows(rows)

  return batch_at


@dataclasses.dataclass(frozen=True)
class Shards:
  """Trajectories in files on disk.

  load: index of a file -> its arrays, with standardised features. T is the same
    for all files.
  sizes: number of rows of each file.
  """

  load: Callable[[int], types.TrajectoryBatch]
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

  Each epoch shuffles the files, takes them in groups of `num_shards_in_memory`,
  and shuffles the rows of each group. So each row is visited once per epoch. A
  file has neighbouring problems: the larger the groups, the better mixed the
  batches. There is no prefetching of the next group.

  Args:
    shards: the files.
    seed: of the order of files and rows, together with the epoch.
    batch_size: rows per step; more than there are means all.
    num_shards_in_memory: >= 1, files per group. Memory holds up to two groups,
      since a batch may span the end of one and the start of the next.
    layout: places a batch on the devices.
    constant: see `with_constant`.

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
    # The position follows from the step, so a resumed run starts mid-epoch.
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
  """Returns an on-policy source that collects new trajectories every round.

  Args:
    collect: (round, from 0; state) -> arrays with standardised features. It is
      called at the first step of a round, and again by a run that resumes
      within the round. It must then return the same trajectories as before.
    every: gradient steps per round, >= 1.
    seed: of the order of rows.
    batch_size: rows per step; more than there are means all.
    layout: places a batch on the devices.
    constant: see `with_constant`.

  Raises:
    ValueError: if `every` is below 1.
  """
  if every < 1:
    raise ValueError(f'on_policy.every is {every}; it must be at least 1.')
  # The trajectories of the current round alone.
  rounds: dict[int, types.TrajectoryBatch] = {}

  def batch_at(step, state):
    number = step // every
    if number not in rounds:
      rounds.clear()  # First, so that memory never holds two rounds.
      rounds[number] = collect(number, state)
    data = rounds[number]
    rows = batching.minibatch_indices(seed, step, len(data.mask), batch_size)
    batch = with_constant(jax.tree.map(lambda x: x[rows], data), constant)
    return layout.rows(batch), None

  return batch_at


class _Stream:
  """The endless sequence of rows of all epochs, readable at any position."""

  def __init__(self, shards: Shards, seed: int, num_shards_in_memory: int):
    self._shards, self._seed, self._num_shards_in_memory = (
        shards,
        seed,
        num_shards_in_memory,
    )
    # Caches per instance: on the methods themselves they would keep every
    # instance, and its arrays, alive.
    self._groups = functools.lru_cache(maxsize=1)(self._groups)
    # 2, since a batch may span two groups; with 1 both would be read each time.
    self._read = functools.lru_cache(maxsize=2)(self._read)

  def rows(self, position: int, num: int) -> types.TrajectoryBatch:
    """Returns `num` rows from `position` on; they may span epochs."""
    pieces = []
    # One piece per group: a slice ends with its group, and the rest follows.
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
    """Returns the group with row `offset` of an epoch, and the place in it."""
    ends = np.cumsum(
        [sum(self._shards.sizes[i] for i in x) for x in self._groups(epoch)]
    )
    # `right`: the row at the end of a group is the first of the next.
    group = int(np.searchsorted(ends, offset, side='right'))
    return group, offset - (int(ends[group - 1]) if group else 0)

  def _groups(self, epoch: int) -> list[np.ndarray]:
    """Returns the shuffled file indices of an epoch, in groups."""
    # Seeded by (seed, epoch) alone, so that any epoch can be entered directly.
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
    """Returns the shuffled rows of one group of files."""
    files = [self._shards.load(int(i)) for i in self._groups(epoch)[group]]
    rows = jax.tree.map(lambda *x: np.concatenate(x), *files)
    order = np.random.default_rng((self._seed, epoch, group)).permutation(
        len(rows.mask)
    )
    return jax.tree.map(lambda x: x[order], rows)
