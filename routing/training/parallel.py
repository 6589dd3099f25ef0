"""Data parallelism: each device takes an equal share of a batch's rows.

The step's code is the same as on one device. Its batch is sharded over the
devices and all else is replicated, so XLA inserts the reductions over rows
across devices. The results equal those of one device up to the order of
floating-point additions.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import TypeVar

import jax
import numpy as np

_AXIS = 'batch'
PyTree = TypeVar('PyTree')


@dataclasses.dataclass(frozen=True)
class Layout:
  """How arrays are placed on devices.

  whole: replicates a pytree: every device has all of it.
  rows: shards a pytree of arrays along their first axis.
  """

  whole: Callable[[PyTree], PyTree] = jax.device_put
  rows: Callable[[PyTree], PyTree] = jax.device_put


def first_devices(num: int) -> Layout:
  """Returns the layout over the first `num` devices.

  Raises:
    ValueError: if there are fewer.
  """
  devices = jax.devices()
  if not 1 <= num <= len(devices):
    raise ValueError(
        f'The number of devices is {num}; it must be from 1 to '
        f'{len(devices)}, the devices of this machine.'
    )
  return over_devices(devices[:num])


def over_devices(devices: Sequence[jax.Device]) -> Layout:
  """Returns the layout that shards rows evenly over devices.

  Its `rows` raises ValueError if the number of rows is not a multiple of the
  number of devices.
  """
  # Without a mesh, so that a run on one device compiles to the plain program.
  if len(devices) == 1:
    return Layout()
  mesh = jax.sharding.Mesh(np.asarray(devices), (_AXIS,))
  # PartitionSpec() replicates, PartitionSpec('batch') shards the first axis.
  everywhere, shared = (
      jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
      for axes in ((), (_AXIS,))
  )

  def rows(tree):
    # Checked here, since XLA's own error would not name the setting to change.
    for x in jax.tree.leaves(tree):
      if len(x) % len(devices):
        raise ValueError(
            f'A batch of {len(x)} rows cannot be shared evenly by '
            f'{len(devices)} devices. Set batch_size to a multiple of '
            f'{len(devices)} that is at most the number of rows.'
        )
    return jax.device_put(tree, shared)

  return Layout(lambda tree: jax.device_put(tree, everywhere), rows)
