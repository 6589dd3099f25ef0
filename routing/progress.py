"""Progress display: a bar on a terminal, otherwise one log line a minute."""

from collections.abc import Callable
import sys
import threading
import time
from typing import Any
from typing import Self
from typing import TextIO

from absl import logging


class Progress:
  """Counts finished items out of `total`, and shows rate and time left.

  On a terminal it draws a tqdm bar. Elsewhere (a log file, a notebook, CI) it
  logs one line every `interval` seconds, and one at the end.

  Args:
    total: number of items, including those that are already done.
    name: name of the task, e.g. 'collect train'.
    unit: what an item is, in the singular, e.g. 'problem'.
    done: number of items that an earlier run finished. They count as done, but
      not in the rate of this run.
    has_estimate: False = the time left is not shown. Use it where one item may
      take many times as long as another.
    is_brief: True = the bar is cleared at the end, and no last line is logged.
    pauses: returns a running total of seconds that the estimate of the time
      left leaves out, e.g. those of compilation. Only differences of this total
      are used.
    interval: seconds between log lines.
    stream: where the bar is drawn. If it is not a terminal, lines are logged
      instead. None = standard error.
    clock: returns a monotonic time in seconds; only differences are used.
    log: writes one line to the log.
  """

  def __init__(
      self,
      total: int,
      name: str,
      *,
      unit: str = 'step',
      done: int = 0,
      has_estimate: bool = True,
      is_brief: bool = False,
      pauses: Callable[[], float] = lambda: 0.0,
      interval: float = 60.0,
      stream: TextIO | None = None,
      clock: Callable[[], float] = time.monotonic,
      log: Callable[[str], None] = logging.info,
  ):
    if not 0 <= done <= total:
      raise ValueError(
          f'done is {done}; allowed: 0 to total, which is {total}.'
      )
    stream = sys.stderr if stream is None else stream
    self._total, self._name, self._unit = total, name, unit
    self._initial = self._done = self._begun = done
    self._figures: dict[str, float] = {}
    self._has_estimate, self._is_brief = has_estimate, is_brief
    self._pauses = pauses
    self._interval, self._clock, self._log = interval, clock, log
    self._start = self._last_line = clock()
    self._start_pauses = pauses()
    self._bar: Any = None
    if stream.isatty():
      self._bar = _open_bar(
          self.seconds_left,
          total=total,
          desc=name,
          unit=unit,
          initial=done,
          file=stream,
          leave=not is_brief,
      )

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def begin(self, count: int = 1) -> None:
    """Notes that `count` more items have begun, if items run concurrently.

    An item that has begun counts as half done in the estimate of the time left.
    Otherwise, if all items begin together, there would be no progress for a
    long time and then all of it at once.
    """
    self._begun += count

  def update(self, count: int = 1, **figures: float) -> None:
    """Adds `count` finished items, and shows named figures, e.g. loss=0.3.

    A figure stays on display until a later call gives it another value.
    """
    self._done += count
    self._figures.update(figures)
    if self._bar is not None:
      if figures:
        self._bar.set_postfix(self._figures, refresh=False)
      self._bar.update(count)
    elif self._clock() - self._last_line >= self._interval:
      self._write_line()

  def say(self, line: str) -> None:
    """Prints a line on standard output, above the bar if there is one."""
    if self._bar is not None:
      self._bar.write(line, file=sys.stdout)
    else:
      print(line, flush=True)

  def close(self) -> None:
    """Ends the display.

    The final state stays on the screen or in the log, unless `is_brief` is set.
    """
    if self._bar is not None:
      self._bar.close()
    elif not self._is_brief:
      self._write_line()

  def seconds_left(self) -> float | None:
    """Returns the estimated seconds until all items are done.

    Returns None if no estimate is possible yet, or `has_estimate` is False.
    """
    seconds = self._clock() - self._start
    seconds -= self._pauses() - self._start_pauses
    if not self._has_estimate or self._done == self._initial or seconds <= 0:
      return None
    # Items finished by this run, plus half of each item that is under way.
    work = self._done + max(self._begun - self._done, 0) / 2 - self._initial
    # At the rate of work / seconds so far, for the work that remains.
    return seconds * (self._total - self._initial - work) / work

  def line(self) -> str:
    """Returns items done, rate, time left and figures as one line of text."""
    parts = [f'{self._name}: {self._done}/{self._total} {self._unit}s']
    left = self.seconds_left()
    if left is not None:
      rate = (self._done - self._initial) / (self._clock() - self._start)
      parts += [f'{rate:.3g}/s', f'{format_seconds(left)} left']
    parts += [f'{key} {value:.4g}' for key, value in self._figures.items()]
    return ', '.join(parts)

  def _write_line(self) -> None:
    self._last_line = self._clock()
    self._log(self.line())


def _open_bar(seconds_left: Callable[[], float | None], **settings: Any) -> Any:
  """Returns a tqdm bar that redraws every second and shows `seconds_left`.

  tqdm's own estimate of the time left is an average over finished items. That
  is far off if many items run at once, or if the first item includes
  compilation. Also, tqdm redraws only when an item is done, so that a long item
  looks like a crash.

  Args:
    seconds_left: returns the time left that the bar shows; None = not known.
    **settings: keyword arguments of `tqdm.tqdm`.
  """
  import tqdm

  class Bar(tqdm.tqdm):
    """A tqdm bar whose format can show `{left}`, our estimate of time left."""

    @property
    def format_dict(self) -> dict[str, Any]:
      left = seconds_left()
      text = '' if left is None else f', {format_seconds(left)} left'
      return {**super().format_dict, 'left': text}

    def close(self) -> None:
      is_closed.set()
      super().close()

  is_closed = threading.Event()
  bar = Bar(
      bar_format='{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit}s'
      ' [{elapsed}{left}{postfix}]',
      **settings,
  )

  def draw() -> None:
    while not is_closed.wait(1.0):
      bar.refresh()

  # A daemon, so that a bar that was never closed does not keep the process
  # alive.
  threading.Thread(target=draw, daemon=True).start()
  return bar


def format_seconds(seconds: float) -> str:
  """Formats a duration in seconds: '7 s', '2 min 05 s' or '3 h 04 min'."""
  minutes, rest = divmod(round(seconds), 60)
  if not minutes:
    return f'{rest} s'
  hours, minutes = divmod(minutes, 60)
  return (
      f'{hours} h {minutes:02d} min' if hours else f'{minutes} min {rest:02d} s'
  )
