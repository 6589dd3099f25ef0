"""Splits the wall-clock time of a back end among concurrent requests."""

from collections.abc import Callable
import time


class SharedTime:
  """Wall-clock seconds of a back end, shared evenly by concurrent requests.

  The shares of all requests add up to the time in which at least one request
  was in flight. Two requests that run together for 2 s are charged 1 s each.

  Args:
    clock: returns seconds.
  """

  def __init__(self, clock: Callable[[], float] = time.perf_counter):
    self._clock = clock
    self._num_in_flight = 0
    self._last = 0.0
    # The integral of dt / n(t), with n(t) the number of requests in flight. The
    # share of a request is the difference of this integral between its end and
    # its start, so each event costs O(1) however many requests there are.
    self._share = 0.0

  def enter(self) -> float:
    """Begins a request; returns the start value for `since` and `leave`."""
    self._advance()
    self._num_in_flight += 1
    return self._share

  def since(self, start: float) -> float:
    """Returns the seconds charged so far to a request that stays in flight.

    Args:
      start: the value from `enter`, plus all seconds that `since` has returned
        for this request.
    """
    self._advance()
    return self._share - start

  def leave(self, start: float) -> float:
    """Ends a request; returns its seconds since `start`, as `since` does."""
    seconds = self.since(start)
    self._num_in_flight -= 1
    return seconds

  def _advance(self) -> None:
    """Adds the time since the last event to the integral."""
    # Must run before the number in flight changes: dt belongs to the old n(t).
    now = self._clock()
    if self._num_in_flight:
      self._share += (now - self._last) / self._num_in_flight
    self._last = now
