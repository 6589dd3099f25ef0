"""Decides what failures of live answers mean: bad problems or a bad engine."""

from collections.abc import Callable

from routing.engines import engine as engine_lib
from routing.rollout import collect


class Failures:
  """The failures of one router's answers, until it is known what they mean.

  Args:
    note: called with (place, reason) of each problem that is refused for good.
    max_in_a_row: see `Answering.max_failures`.
  """

  def __init__(self, note: Callable[[int, str], None], max_in_a_row: int):
    self._note, self._max = note, max_in_a_row
    self._refused: list[tuple[int, str]] = []
    self._passing: list[Exception] = []
    self._num_in_a_row = 0

  def add(self, place: int, error: collect.Failure) -> None:
    """Takes the failure of the problem at `place`."""
    if isinstance(error, engine_lib.Refused):
      self._refused.append((place, str(error)))
    else:
      self._passing.append(error)
    self._num_in_a_row += 1
    if self._num_in_a_row == self._max:
      raise engine_lib.Stop(
          f'{self._max} live answers failed in a row, the last with: {error} '
          'Earlier answers are kept; the same command continues from there.'
      )

  def settle(self) -> None:
    """Notes the refusals: the back end works, so they are meant."""
    for place, reason in self._refused:
      self._note(place, reason)
    self._refused.clear()
    self._num_in_a_row = 0

  def finish(self, num_problems: int) -> None:
    """Raises `engine_lib.Stop` if a later run may have more answers."""
    # If some of the last failed for reasons that may pass, the back end is in
    # trouble, and its refusals may pass as well.
    if self._num_in_a_row == len(self._refused):
      self.settle()
    if self._passing:
      raise engine_lib.Stop(
          f'{len(self._passing)} of {num_problems} live answers failed for a '
          f'reason that may pass, the last with: {self._passing[-1]} The '
          'others are kept; run the same command again.'
      )
