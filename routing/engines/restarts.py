"""Limits how often the process of an engine is restarted."""

from collections.abc import Callable
import time

# Seconds after a restart until there may be another one. A process that dies
# sooner would probably die again; one that has run for longer deserves another
# attempt, or a service would have one in its lifetime.
INTERVAL = 3_600.0


class Restarts:
  """Counts the restarts of one process, and allows one an hour.

  Args:
    clock: seconds that rise.

  Attributes:
    count: number of restarts so far.
  """

  def __init__(self, clock: Callable[[], float] = time.monotonic):
    self._clock = clock
    self._last = -float('inf')
    self.count = 0

  @property
  def is_allowed(self) -> bool:
    """Whether the process may be restarted now."""
    return self._clock() >= self._last + INTERVAL

  def note(self) -> None:
    """Notes that the process is being restarted."""
    self._last = self._clock()
    self.count += 1
