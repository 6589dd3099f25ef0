"""Seconds of a back end that works on many requests at once."""

from collections.abc import Callable
import time


class SharedTime:
  """Wall-clock of a back end, shared evenly by the requests in flight.

  The shares of all requests sum to the time in which any was in flight.

  Args:
    clock: gives seconds.
  """

  def __init__(self, clock: Callable[[], float] = time.perf_counter):
    self._clock = clock
    self._num_in_flight = 0
    self._last = 0.0
    self._share = 0.0  # Of a request that has been in flight all along.

  def enter(self) -> float:
    """A request begins; returns what `since` and `leave` want to know."""
    self._advance()
    self._num_in_flight += 1
    return self._share

  def since(self, start: float) -> float:
    """Seconds up to now of a request that stays in flight.

    Args:
      start: what `enter` gave, and all seconds told since.
    """
    self._advance()
    return self._share - start

  def leave(self, start: float) -> float:
    """The last seconds of a request that ends; see `since`."""
    seconds = self.since(start)
    self._num_in_flight -= 1
    return seconds

  def _advance(self) -> None:
    now = self._clock()
    if self._num_in_flight:
      self._share += (now - self._last) / self._num_in_flight
    self._last = now
