"""Data parallelism: each device takes an equal share of a batch's rows.

The code of a training step is the same as on one device. The batch is sharded
over the devices, and everything else is replicated. From this, XLA inserts the
reductions across devices. The results equal those of one device up to the order
of floating-point additions.
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
  """Functions that place arrays on devices; the default is a single device.

  whole: replicates a pytree, so that every device has all of its arrays.
  rows: shards each array of a pytree along its first axis.
  """

  whole: Callable[[PyTree], PyTree] = jax.device_put
  rows: Callable[[PyTree], PyTree] = jax.device_put


def first_devices(num: int) -> Layout:
  """Returns the layout over the first `num` devices of this machine.

  Raises:
    ValueError: if `num` is below 1, or the machine has fewer devices.
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

  The function `rows` of this layout raises ValueError if the number of rows is
  not a multiple of the number of devices.
  """
  # One device needs no mesh. Without one, XLA compiles the program as if there
  # were no parallelism.
  if len(devices) == 1:
    return Layout()
  mesh = jax.sharding.Mesh(np.asarray(devices), (_AXIS,))
  # PartitionSpec() replicates, PartitionSpec('batch') shards the first axis.
  everywhere, shared = (
      jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
      for axes in ((), (_AXIS,))
  )

  def rows(tree):
    # XLA would raise an error too, but without the name of the setting.
    for x in jax.tree.leaves(tree):
      if len(x) % len(devices):
        raise ValueError(
            f'A batch of {len(x)} rows cannot be shared evenly by '
            f'{len(devices)} devices. Set batch_size to a multiple of '
            f'{len(devices)} that is at most the number of rows.'
        )
    return jax.device_put(tree, shared)

  return Layout(lambda tree: jax.device_put(tree, everywhere), rows)
