"""Measures how long this process has spent on compilation.

The first call of a jitted function compiles it, which may take longer than all
further calls together. Progress displays subtract this time when they estimate
the time left.
"""

from collections.abc import Callable
import functools
import threading
import time

import jax


class CompileTime:
  """Adds up the seconds in which at least one program was being compiled.

  `jax.monitoring` calls an instance at the end of each phase of a compilation,
  with the phase's duration. Several threads may compile at the same time, and
  phases may be nested; each second is counted once.

  Args:
    clock: returns a monotonic time in seconds.
  """

  def __init__(self, clock: Callable[[], float] = time.monotonic):
    self._clock, self._lock = clock, threading.Lock()
    # Disjoint (start, end) of compilation, in order of time. Phases arrive in
    # the order of their ends, so a new one can overlap only the last intervals.
    self._intervals: list[tuple[float, float]] = []

  def __call__(self, event: str, duration: float, **details) -> None:
    """Counts an event's duration if the event is a phase of compilation."""
    del details
    if not event.startswith('/jax/core/compile/'):
      return
    with self._lock:
      end = self._clock()
      start = end - duration
      # Merge the new interval with all that it overlaps or touches.
      while self._intervals and self._intervals[-1][1] >= start:
        start = min(start, self._intervals.pop()[0])
      self._intervals.append((start, end))

  def seconds(self) -> float:
    """Returns the seconds of compilation that were counted so far."""
    with self._lock:
      return sum(end - start for start, end in self._intervals)


@functools.cache
def watched() -> CompileTime:
  """Returns the `CompileTime` of this process.

  It counts compilation from the first call of this function on.
  """
  watch = CompileTime()
  jax.monitoring.register_event_duration_secs_listener(watch)
  return watch
