"""How long this process has been compiling.

The first call of a jitted function compiles, which may take longer than all
further calls together. An estimate of the time left leaves it out.
"""

from collections.abc import Callable
import functools
import threading
import time

import jax


class CompileTime:
  """Adds up the seconds in which at least one program was being compiled.

  `jax.monitoring` calls it at the end of each part of a compilation, with its
  duration. Threads may compile at the same time, and a part may hold other
  parts; each second counts once.
  """

  def __init__(self, clock: Callable[[], float] = time.monotonic):
    self._clock, self._lock = clock, threading.Lock()
    # Disjoint, in order: since calls come in the order of their ends, a new
    # interval can only swallow or touch the last ones.
    self._intervals: list[tuple[float, float]] = []

  def __call__(self, event: str, duration: float, **details) -> None:
    """Counts a duration if it is one of compiling."""
    del details
    if not event.startswith('/jax/core/compile/'):
      return
    with self._lock:
      end = self._clock()
      start = end - duration
      while self._intervals and self._intervals[-1][1] >= start:
        start = min(start, self._intervals.pop()[0])
      self._intervals.append((start, end))

  def seconds(self) -> float:
    """Returns the seconds counted so far."""
    with self._lock:
      return sum(end - start for start, end in self._intervals)


@functools.cache
def watched() -> CompileTime:
  """Returns the one of this process, which counts from the first call on."""
  watch = CompileTime()
  jax.monitoring.register_event_duration_secs_listener(watch)
  return watch
