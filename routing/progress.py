"""Progress display: a bar on a terminal, otherwise one log line a minute."""

from collections.abc import Callable
import sys
import time
from typing import Self
from typing import TextIO

from absl import logging


class Progress:
  """Counts finished items out of `total`, and shows rate and time left.

  On a terminal this is a tqdm bar. Elsewhere (a log file, a notebook, CI) it is
  one log line every `interval` seconds, and one at the end.

  Args:
    total: number of items in all.
    name: the task, e.g. 'collect train'.
    unit: what an item is, singular, e.g. 'problem'.
    done: number of items that an earlier run finished; the rate leaves them
      out.
    interval: seconds between log lines.
    stream: where the bar is drawn; lines are logged instead if it is not a
      terminal. None = standard error.
    clock: returns seconds since a fixed but arbitrary origin.
    log: writes one line.
  """

  def __init__(
      self,
      total: int,
      name: str,
      *,
      unit: str = 'step',
      done: int = 0,
      interval: float = 60.0,
      stream: TextIO | None = None,
      clock: Callable[[], float] = time.monotonic,
      log: Callable[[str], None] = logging.info,
  ):
    if not 0 <= done <= total:
      raise ValueError(f'done is {done}; allowed: 0 to total, {total}.')
    stream = sys.stderr if stream is None else stream
    self._total, self._name, self._unit = total, name, unit
    self._initial = self._done = done
    self._figures: dict[str, float] = {}
    self._interval, self._clock, self._log = interval, clock, log
    self._start = self._last_line = clock()
    self._bar = None
    if stream.isatty():
      import tqdm

      self._bar = tqdm.tqdm(
          total=total, desc=name, unit=unit, initial=done, file=stream
      )

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error) -> None:
    self.close()

  def update(self, count: int = 1, **figures: float) -> None:
    """Adds `count` finished items, and shows `figures`, e.g. loss=0.3.

    A figure stays on display until a later call changes it.
    """
    self._done += count
    self._figures.update(figures)
    if self._bar is not None:
      if figures:
        self._bar.set_postfix(self._figures, refresh=False)
      self._bar.update(count)
    elif self._clock() - self._last_line >= self._interval:
      self._write_line()

  def close(self) -> None:
    """Ends the display and leaves the final state on screen or in the log."""
    if self._bar is not None:
      self._bar.close()
    else:
      self._write_line()

  def line(self) -> str:
    """Returns the current state as one line of text."""
    seconds = self._clock() - self._start
    new = self._done - self._initial
    parts = [f'{self._name}: {self._done}/{self._total} {self._unit}s']
    if new and seconds > 0:
      rate = new / seconds
      left = (self._total - self._done) / rate
      parts += [f'{rate:.3g}/s', f'{format_seconds(left)} left']
    parts += [f'{key} {value:.4g}' for key, value in self._figures.items()]
    return ', '.join(parts)

  def _write_line(self) -> None:
    self._last_line = self._clock()
    self._log(self.line())


def format_seconds(seconds: float) -> str:
  """Returns a duration as text: '7 s', '2 min 05 s' or '3 h 04 min'."""
  minutes, rest = divmod(round(seconds), 60)
  if not minutes:
    return f'{rest} s'
  hours, minutes = divmod(minutes, 60)
  return (
      f'{hours} h {minutes:02d} min' if hours else f'{minutes} min {rest:02d} s'
  )
