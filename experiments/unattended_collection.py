"""Runs a collection unattended: limits, retries, signals and a clean end.

Each finished problem is on disk at once. After a signal, or near a spending
limit, no further problem begins. The problems that are under way, which are
paid in part, are completed; then the collection stops and says how to continue.

A failure is permanent if the back end refuses a request for its text: the
problem is noted in the manifest with the reason. All other failures may pass:
the collection continues with other problems, says at its end how many failed,
and the next run tries them again. If many problems fail in a row, the back end
is at fault: the collection stops and notes none of them.
"""

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import signal
import threading
import time
from typing import Any
from typing import Protocol

from absl import logging

from routing import costs
from routing import progress as progress_lib
from routing import types
from routing.engines import engine as engine_lib
from routing.engines import meter as meter_lib
from routing.engines import resilience
from routing.rollout import cut_answers
from routing.shards import manifest as manifest_lib
from routing.training import compile_time

# Share of a spending limit at which no further problem begins. The rest absorbs
# problems that cost more than the mean so far.
_MARGIN = 0.9
RESUME = 'The same command continues from there.'


class Writer(Protocol):
  """The part of a shard writer that is used here, for records of any kind."""

  manifest: manifest_lib.Manifest

  def missing(self) -> list[int]:
    """Returns the indices of the problems still to be collected."""
    ...

  def add(self, index: int, record: Any) -> None:
    """Adds the record of a problem."""
    ...

  def fail(self, index: int, reason: str) -> None:
    """Notes that a problem failed and will have no record."""
    ...


class Watch:
  """Decides which problems may begin, and takes their records or failures.

  Args:
    writer: of the shards.
    meter: measures spending against its limit.
    limits: only `failures` is used.

  Attributes:
    missing: indices of the problems that were missing at the start. The `place`
      of a problem is its position in this list.
    reason: why no further problem may begin; '' while they may.
    stopped: set once there is a reason.
    cut: counts the answers that a limit cut off.
  """

  def __init__(
      self, writer: Writer, meter: meter_lib.Meter, limits: resilience.Limits
  ):
    self._writer, self._meter, self._limits = writer, meter, limits
    self.missing = writer.missing()
    self._num_begun = self._num_ended = 0
    self._share_before = meter.share()  # Spent by earlier collections.
    # Failures since the last success; those that are permanent, by index.
    self._num_in_a_row = 0
    self._refused: list[tuple[int, engine_lib.Refused]] = []
    self._passing: list[engine_lib.Unavailable] = []
    self._turn, self._changed = asyncio.Lock(), asyncio.Event()
    self.reason, self.stopped = '', asyncio.Event()
    self.cut = cut_answers.Count()

  def stop(self, reason: str) -> None:
    """Lets no further problem begin."""
    if not self.reason:
      logging.warning('%s: completing the problems under way.', reason)
    self.reason = self.reason or reason
    self.stopped.set()
    self._wake()

  async def may_begin(self, place: int) -> bool:
    """Returns whether the missing problem at `place` may begin.

    Under a spending limit, this waits while the problems under way might take
    what is left of it.
    """
    del place
    async with self._turn:  # One waits for room, the others for their turn.
      while not self.reason:
        if self._is_affordable():
          self._num_begun += 1
          return True
        if self._num_begun == self._num_ended:
          self.stop('The next problem might cost more than is left')
          return False
        await self._changed.wait()
    return False

  def take(self, place: int, record: Any) -> None:
    """Takes a record. The back end works, so earlier refusals are noted."""
    self._writer.add(self.missing[place], record)
    self.cut.add(record)
    self._note_refused()
    self._num_in_a_row = 0
    self._end_one()

  def fail(
      self, place: int, error: engine_lib.Refused | engine_lib.Unavailable
  ) -> None:
    """Takes a failure.

    A refusal is permanent, and is noted once another problem succeeds. Any
    other failure is not noted, so that the next run tries the problem again.

    Raises:
      engine_lib.Stop: if `limits.failures` problems have failed in a row.
    """
    index = self.missing[place]
    if isinstance(error, engine_lib.Refused):
      self._refused.append((index, error))
    else:
      logging.warning(
          'Problem %d failed for a reason that may pass: %s', index, error
      )
      self._passing.append(error)
    self._num_in_a_row += 1
    self._end_one()
    if self._num_in_a_row == self._limits.failures:
      raise engine_lib.Stop(
          f'{self._num_in_a_row} problems failed in a row, the last with: '
          f'{error}'
      )

  def finish(self) -> None:
    """Ends the collection, when no problem is under way any more.

    Raises:
      engine_lib.Stop: if problems are missing, or `stop` was called. The
        message says why, and how to continue.
    """
    # The last of all may have failed. If some of them failed for reasons that
    # may pass, the back end is in trouble, and its refusals may pass as well.
    if self._num_in_a_row == len(self._refused):
      self._note_refused()
    reasons = [self.reason] if self.reason else []
    if self._passing:
      reasons.append(
          f'{len(self._passing)} problems failed for a reason that may pass, '
          f'the last with: {self._passing[-1]}'
      )
    # Also after a signal with nothing left: the user does not want the next
    # split to start either.
    if reasons or self._writer.missing():
      reasons = [reason.rstrip('.') for reason in reasons]
      raise engine_lib.Stop('. '.join([*reasons, self.state()]))

  def state(self) -> str:
    """Returns how much is on disk and how to collect the rest, in words."""
    total = self._writer.manifest.num_problems
    done = total - len(self._writer.missing())
    return f'{done} of {total} problems are on disk. {RESUME}'

  def _note_refused(self) -> None:
    """Notes the refusals so far in the manifest."""
    for index, error in self._refused:
      self._writer.fail(index, str(error))
    self._refused.clear()

  def _end_one(self) -> None:
    """Counts a problem that ended, and lets waiting ones look again."""
    self._num_ended += 1
    self._wake()

  def _wake(self) -> None:
    """Wakes all problems that wait to begin."""
    self._changed.set()
    self._changed = asyncio.Event()

  def _is_affordable(self) -> bool:
    """Returns whether one more problem will probably stay below the ceiling."""
    if not self._meter.is_limited:
      return True
    num_under_way = self._num_begun - self._num_ended
    # A slow start: what a problem costs is known only when some have ended. If
    # many began before, all of them might be cut off half-paid.
    if num_under_way > self._num_ended:
      return False
    if not self._num_ended:
      return True
    # The mean is an upper estimate, because the problems under way are paid in
    # part. It falls as they end, and those that wait look again.
    mean = (self._meter.share() - self._share_before) / self._num_ended
    expected = self._share_before + mean * (self._num_begun + 1)
    # The last request must fit with the largest usage that it may have.
    return expected + self._meter.largest_share <= _MARGIN


async def collect_missing(
    collect_all: Callable[..., Awaitable[None]],
    problems: Sequence[types.Problem],
    engines: Sequence[engine_lib.Engine],
    writer: Writer,
    *,
    specs: Sequence[costs.RouteSpec],
    concurrency: int,
    limits: resilience.Limits | None = None,
    name: str = 'collect',
) -> None:
  """Collects the problems that are in no shard yet, and closes the engines.

  Args:
    collect_all: collects records of problems, such as `collect.collect_ladders`
      with its plan and its grader.
    problems: all problems of the split.
    engines: one per route, smallest first.
    writer: of the shards.
    specs: names and prices of the routes; see `meter.Meter`.
    concurrency: problems in flight.
    limits: see `resilience.Limits`; None = its defaults.
    name: shown with the progress.

  Raises:
    engine_lib.Stop: if the collection ended before all problems were done, or a
      signal came while the last of them were under way. The message says why,
      and how to continue.
  """
  limits = limits or resilience.Limits()
  meter = meter_lib.Meter(specs, limits.dollars, limits.tokens)
  watch = Watch(writer, meter, limits)
  with_retries = resilience.with_retries(engines, limits, meter)
  start = time.monotonic()
  try:
    await _collect(
        collect_all, problems, with_retries, watch, concurrency, name
    )
  except engine_lib.Stop as error:
    raise engine_lib.Stop(
        f'{str(error).rstrip(".")}. {watch.state()}'
    ) from error
  except asyncio.CancelledError:
    if not watch.reason:  # Cancelled by the caller, not by a second signal.
      raise
    raise engine_lib.Stop(
        f'{watch.reason}, and a second signal. {watch.state()}'
    ) from None
  finally:
    seconds = time.monotonic() - start  # Without those of closing the engines.
    for engine in with_retries:
      await engine.close()
  logging.info('%s: %s', name, _spent(meter, specs, seconds))
  if line := watch.cut.in_words():
    is_high = watch.cut.share > cut_answers.MUCH
    (logging.warning if is_high else logging.info)('%s: %s', name, line)
  watch.finish()


def _spent(
    meter: meter_lib.Meter, specs: Sequence[costs.RouteSpec], seconds: float
) -> str:
  """Returns the seconds that a collection took, and the speed of each route."""
  if not meter.tokens:  # Where other processes hold the engines.
    return f'{seconds:.0f} s.'
  wrote = [
      f'{spec.name} wrote {count:,} tokens, {count / seconds:,.0f} a second'
      for spec, count in zip(specs, meter.written, strict=True)
  ]
  return f'{seconds:.0f} s and {meter}; {"; ".join(wrote)}.'


async def _collect(
    collect_all: Callable[..., Awaitable[None]],
    problems: Sequence[types.Problem],
    engines: Sequence[engine_lib.Engine],
    watch: Watch,
    concurrency: int,
    name: str,
) -> None:
  """Collects under a watch, with a progress bar and signal handlers."""
  done = len(problems) - len(watch.missing)
  compiling = compile_time.watched()
  progress = progress_lib.Progress(
      len(problems),
      name,
      unit='problem',
      done=done,
      # The embedded pair compiles a program for each size of batch, the small
      # ones at the end. Measured at a tenth of the first split: as much as half
      # of what was compiled by then is still to come.
      pauses=lambda: compiling.seconds() / 2,
  )
  with _heed_signals(watch), progress:
    await collect_all(
        [problems[i] for i in watch.missing],
        engines,
        watch.take,
        concurrency=concurrency,
        on_begin=progress.begin,
        on_done=progress.update,
        on_failed=watch.fail,
        may_begin=watch.may_begin,
        stopped=watch.stopped,
    )


@contextlib.contextmanager
def _heed_signals(watch: Watch) -> Iterator[None]:
  """Handles SIGINT and SIGTERM within the block.

  The first signal completes the problems under way; a second cancels them.
  """
  if threading.current_thread() is not threading.main_thread():
    yield  # Python delivers signals to the main thread only.
    return
  # Through the event loop: a handler set by `signal.signal` could run in the
  # middle of a write.
  loop, task = asyncio.get_running_loop(), asyncio.current_task()
  heard = []

  def hear(number: signal.Signals) -> None:
    heard.append(number)
    watch.stop(f'Got {number.name}')
    if len(heard) > 1:
      task.cancel()

  numbers = signal.SIGINT, signal.SIGTERM
  before = {number: signal.getsignal(number) for number in numbers}
  for number in numbers:
    loop.add_signal_handler(number, hear, number)
  try:
    yield
  finally:
    for number, handler in before.items():
      loop.remove_signal_handler(number)
      # The loop would leave Python's default, also where a caller has another.
      if handler is not None:
        signal.signal(number, handler)
