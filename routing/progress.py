"""Progress for those who wait: a bar on a terminal, else a line a minute."""

from collections.abc import Callable
import sys
import time
from typing import Self
from typing import TextIO

from absl import logging


class Progress:
  """Counts what is done of `total`, and shows rate and time left.

  On a terminal this is a tqdm bar. Elsewhere (a log file, a notebook, CI) it is
  one log line every `interval` seconds, and one at the end.

  Args:
    total: how many there are to do.
    name: what is being done, e.g. 'collect train'.
    unit: what is counted, e.g. 'problem'.
    done: how many were done by an earlier run; they do not count for the rate.
    interval: seconds between log lines.
    stream: where a bar goes; decides between bar and lines.
    clock: seconds, from any origin.
    log: takes one line.
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
    """Adds `count`; `figures`, e.g. loss=0.3, are shown until changed."""
    self._done += count
    self._figures.update(figures)
    if self._bar is not None:
      if figures:
        self._bar.set_postfix(self._figures, refresh=False)
      self._bar.update(count)
    elif self._clock() - self._last_line >= self._interval:
      self._write_line()

  def close(self) -> None:
    """Leaves the last state on the screen or in the log."""
    if self._bar is not None:
      self._bar.close()
    else:
      self._write_line()

  def line(self) -> str:
    """The state in one line."""
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
  """'7 s', '2 min 05 s' or '3 h 04 min'."""
  minutes, rest = divmod(round(seconds), 60)
  if not minutes:
    return f'{rest} s'
  hours, minutes = divmod(minutes, 60)
  return (
      f'{hours} h {minutes:02d} min' if hours else f'{minutes} min {rest:02d} s'
  )
