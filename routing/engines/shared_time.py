"""Splits the wall-clock time of a back end among its concurrent requests."""

from collections.abc import Callable
import time


class SharedTime:
  """A clock that charges each request its even share of wall-clock seconds.

  The shares of all requests add up to the time during which at least one
  request was in flight. Two requests that run together for 2 s are charged 1 s
  each.

  Args:
    clock: function that returns the current time in seconds.
  """

  def __init__(self, clock: Callable[[], float] = time.perf_counter):
    self._clock = clock
    self._num_in_flight = 0
    self._last = 0.0
    # The integral of dt / n(t), where n(t) is the number of requests in flight.
    # A request's share is the integral at the request's end minus the integral
    # at its start, so an event costs O(1) however many requests there are.
    self._share = 0.0

  def enter(self) -> float:
    """Begins a request; returns the value to pass to `since` and `leave`."""
    self._advance()
    self._num_in_flight += 1
    return self._share

  def since(self, start: float) -> float:
    """Returns the seconds of a request that were not yet charged to it.

    The request stays in flight.

    Args:
      start: the value from `enter`, plus all seconds that `since` has already
        returned for this request.
    """
    self._advance()
    return self._share - start

  def leave(self, start: float) -> float:
    """Ends a request; returns its seconds not yet charged, as `since` does."""
    seconds = self.since(start)
    self._num_in_flight -= 1
    return seconds

  def _advance(self) -> None:
    """Adds the time since the last call to the integral `_share`."""
    # Callers change the number in flight only after this call, because the time
    # since the last call belongs to the old number.
    now = self._clock()
    if self._num_in_flight:
      self._share += (now - self._last) / self._num_in_flight
    self._last = now
