"""Keeps slots of llama.cpp apart: those of answers, and those of asides.

An aside is a question outside the task, e.g. to a model that judges a step. The
server itself gives a request the free slot with the longest common prefix, or
else the one that was used least recently. So asides would take slots from
answers, and each answer would read the task's examples again.
"""

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Sequence
import contextlib

from routing.engines import slots as slots_lib


class Pool:
  """Slots among which requests are placed by the rule of the server.

  A request waits while none is free.

  Args:
    indices: of the slots in the server.
  """

  def __init__(self, indices: Sequence[int]):
    self._held: dict[int, Sequence[int]] = {i: () for i in indices}
    self._free = list(indices)  # The least recently used one first.
    self._turns = asyncio.Semaphore(len(indices))

  @contextlib.asynccontextmanager
  async def lend(self, ids: Sequence[int]) -> AsyncIterator[int]:
    """Lends a slot for one request.

    Args:
      ids: the token ids of the prompt.

    Yields:
      The index of the slot.
    """
    async with self._turns:
      # Of equal ones `max` returns the first.
      index = max(
          self._free,
          key=lambda i: slots_lib.common_prefix(self._held[i], ids),
      )
      self._free.remove(index)
      self._held[index] = ids
      try:
        yield index
      finally:
        self._free.append(index)


class Slots:
  """The slots of one server.

  Args:
    num_answers: slots of answers, which are the first.
    num_asides: slots of asides; 0 = the server places all requests.
  """

  def __init__(self, num_answers: int, num_asides: int):
    self._pools: dict[bool, Pool] = {}  # [is_aside].
    if num_asides:
      end = num_answers + num_asides
      self._pools[False] = Pool(range(num_answers))
      self._pools[True] = Pool(range(num_answers, end))

  @contextlib.asynccontextmanager
  async def lend(
      self, ids: Sequence[int], is_aside: bool
  ) -> AsyncIterator[dict[str, int]]:
    """Lends a slot for one request.

    Args:
      ids: the token ids of the prompt.
      is_aside: whether it is outside the task.

    Yields:
      The fields of the request that name the slot.
    """
    if not self._pools:
      yield {}
      return
    async with self._pools[is_aside].lend(ids) as index:
      yield {'id_slot': index}
