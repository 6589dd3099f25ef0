"""Data parallel: each device takes its share of a batch's rows.

The step itself does not know. Its batch is laid out over the devices, all else
is on every device, and XLA adds the means over rows across them. Up to the
order of those additions the numbers are those of one device.
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
  """Where arrays are put.

  whole: puts a tree where every device has all of it.
  rows: puts a tree of arrays with rows first so that each device has some.
  """

  whole: Callable[[PyTree], PyTree] = jax.device_put
  rows: Callable[[PyTree], PyTree] = jax.device_put


def first_devices(num: int) -> Layout:
  """`over_devices` of the first `num` devices there are.

  Raises:
    ValueError: if there are fewer.
  """
  devices = jax.devices()
  if not 1 <= num <= len(devices):
    raise ValueError(
        f'{num} devices are asked for; allowed: 1 to {len(devices)}.'
    )
  return over_devices(devices[:num])


def over_devices(devices: Sequence[jax.Device]) -> Layout:
  """Shares rows out evenly over devices; one device needs no layout.

  Its `rows` raises ValueError if they cannot be shared evenly.
  """
  if len(devices) == 1:
    return Layout()
  mesh = jax.sharding.Mesh(np.asarray(devices), (_AXIS,))
  everywhere, shared = (
      jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
      for axes in ((), (_AXIS,))
  )

  def rows(tree):
    for x in jax.tree.leaves(tree):
      if len(x) % len(devices):
        raise ValueError(
            f'A batch of {len(x)} rows cannot be shared by {len(devices)} '
            'devices; batch_size must be a multiple of their number, and no '
            'more than there are rows.'
        )
    return jax.device_put(tree, shared)

  return Layout(lambda tree: jax.device_put(tree, everywhere), rows)
