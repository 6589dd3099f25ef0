"""The bounded queue in which answers wait for their turn."""

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import math
import time

from routing.serving import refusals


class Places:
  """The places of one request in a waiting room.

  Args:
    count: number of places.
    free: called for each place that becomes free.
  """

  def __init__(self, count: int, free: Callable[[], None]):
    self._count, self._free = count, free

  def leave(self) -> None:
    """Gives one place back, whose answer was written or given up."""
    if self._count:
      self._count -= 1
      self._free()

  def leave_all(self) -> None:
    """Gives back what is left."""
    while self._count:
      self.leave()


class WaitingRoom:
  """Lets a number of answers be written at once, and some others wait.

  Args:
    concurrency: number of answers that are written at the same time.
    capacity: number of answers that may wait.
    clock: seconds that rise.

  Attributes:
    num_running: number of answers that are being written.
  """

  def __init__(
      self,
      concurrency: int,
      capacity: int,
      clock: Callable[[], float] = time.monotonic,
  ):
    self._concurrency, self._capacity = concurrency, capacity
    self._clock = clock
    self._turns = asyncio.Semaphore(concurrency)
    self._num_admitted = 0
    self._seconds = 1.0  # Of one answer, averaged over the latest.
    self.num_running = 0

  @property
  def size(self) -> int:
    """The number of answers that are written or wait at the same time."""
    return self._concurrency + self._capacity

  @property
  def num_waiting(self) -> int:
    """The number of answers that wait for their turn."""
    return max(self._num_admitted - self.num_running, 0)

  @property
  def is_full(self) -> bool:
    """Whether the next answer has to wait for its turn."""
    return self._turns.locked()

  @property
  def has_spare(self) -> bool:
    """Whether there is room for an answer that no client waits for.

    Such answers leave half of the places in the queue to clients.
    """
    return self._num_admitted < self._concurrency + self._capacity // 2

  @contextlib.contextmanager
  def admitted(self, count: int) -> Iterator[Places]:
    """Lets `count` answers in, at most as long as the context lasts.

    An answer that was written leaves before, so that a client that reads slowly
    takes no place.

    Raises:
      refusals.Refusal: if more would wait than may.
    """
    if self._num_admitted + count > self.size:
      ahead = (self.num_waiting + 1) / self._concurrency
      raise refusals.overloaded(max(1.0, math.ceil(ahead * self._seconds)))
    self._num_admitted += count
    places = Places(count, self._free)
    try:
      yield places
    finally:
      places.leave_all()

  @contextlib.asynccontextmanager
  async def turn(self) -> AsyncIterator[None]:
    """Waits for a turn, which lasts as long as the context."""
    async with self._turns:
      self.num_running += 1
      start = self._clock()
      try:
        yield
      finally:
        self.num_running -= 1
        self._seconds += 0.1 * (self._clock() - start - self._seconds)

  def _free(self) -> None:
    self._num_admitted -= 1
