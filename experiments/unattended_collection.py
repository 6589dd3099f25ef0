"""Runs a collection unattended: limits, retries, signals and a clean end.

Shards are written whole, so a collection that ends early should end between
shards. After a signal, or near a spending limit, no further shard is begun. The
shards that are under way are completed; then the collection stops and says how
to continue.

A problem whose request is rejected for good is noted in the manifest. If many
problems fail in a row, the back end is at fault: the collection stops and notes
none of them, so that they are tried again.
"""

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import signal
import threading
from typing import Any
from typing import Protocol

from absl import logging

from routing import costs
from routing import progress as progress_lib
from routing import types
from routing.engines import engine as engine_lib
from routing.engines import resilience
from routing.shards import manifest as manifest_lib
from routing.training import compile_time

# Share of a spending limit at which no further shard begins. The rest absorbs
# problems that cost more than the mean so far.
_MARGIN = 0.9
_RESUME = 'The same command continues from there.'


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
    reason: why no further shard may begin; '' while they may.
  """

  def __init__(
      self, writer: Writer, meter: resilience.Meter, limits: resilience.Limits
  ):
    self._writer, self._meter, self._limits = writer, meter, limits
    self.missing = writer.missing()
    self._begun: set[int] = set()  # Numbers of shards.
    # Problems in those shards; how many of them have begun, and have ended.
    self._num_promised = self._num_begun = self._num_ended = 0
    self._refused: list[tuple[int, engine_lib.Refused]] = []
    self.reason = ''

  def stop(self, reason: str) -> None:
    """Lets no further shard begin."""
    if not self.reason:
      logging.warning('%s: completing the shards that are under way.', reason)
    self.reason = self.reason or reason

  def may_begin(self, place: int) -> bool:
    """Returns whether the missing problem at `place` may begin.

    Problems of a shard that is under way always may, so that it is completed.
    """
    shard = self._shard(self.missing[place])
    if shard not in self._begun:
      size = sum(self._shard(index) == shard for index in self.missing)
      if not self.reason and self._would_exceed(size):
        self.stop('The next shard might cost more than is left')
      if self.reason:
        return False
      self._begun.add(shard)
      self._num_promised += size
    self._num_begun += 1
    return True

  def take(self, place: int, record: Any) -> None:
    """Takes a record. The back end works, so earlier failures are noted."""
    self._num_ended += 1
    self._writer.add(self.missing[place], record)
    self.note_refused()

  def refuse(self, place: int, error: engine_lib.Refused) -> None:
    """Takes a failure, and notes it once another problem succeeds.

    Raises:
      engine_lib.Stop: if `limits.failures` problems have failed in a row.
    """
    self._num_ended += 1
    self._refused.append((self.missing[place], error))
    if len(self._refused) == self._limits.failures:
      raise engine_lib.Stop(
          f'{len(self._refused)} problems failed in a row, the last with: '
          f'{error}'
      )

  def note_refused(self) -> None:
    """Notes the failures so far in the manifest."""
    for index, error in self._refused:
      self._writer.fail(index, str(error))
    self._refused.clear()

  def _shard(self, index: int) -> int:
    return index // self._writer.manifest.shard_size

  def _would_exceed(self, size: int) -> bool:
    """Returns whether `size` further problems might exceed a spending limit.

    share() is the spent share of the limit, in [0, 1]. The mean per problem is
    share / (number paid for), and all promised problems must stay within
    _MARGIN.
    """
    if not self._num_ended:
      return False  # Nothing to extrapolate from yet.
    # Problems under way are half paid on average: ended + (begun - ended) / 2.
    num_paid = (self._num_begun + self._num_ended) / 2
    mean = self._meter.share() / num_paid
    return mean * (self._num_promised + size) > _MARGIN


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
    specs: prices of the routes, for the limit in dollars.
    concurrency: problems in flight.
    limits: see `resilience.Limits`; None = its defaults.
    name: shown with the progress.

  Raises:
    engine_lib.Stop: if the collection ended before all problems were done, or a
      signal came while the last of them were under way. The message says why,
      and how to continue.
  """
  limits = limits or resilience.Limits()
  meter = resilience.Meter(specs, limits)
  watch = Watch(writer, meter, limits)
  with_retries = resilience.with_retries(engines, limits, meter)
  try:
    await _collect(
        collect_all, problems, with_retries, watch, concurrency, name
    )
    # The last problems of all may have failed, with no success after them.
    watch.note_refused()
  except engine_lib.Stop as error:
    raise engine_lib.Stop(f'{error} {_state(writer)}') from error
  except asyncio.CancelledError:
    if not watch.reason:  # Cancelled by the caller, not by a second signal.
      raise
    raise engine_lib.Stop(
        f'{watch.reason}, and a second signal. {_state(writer)}'
    ) from None
  finally:
    for engine in with_retries:
      await engine.close()
  logging.info('%s: %s.', name, meter)
  # Also after a signal with nothing left: the user does not want the next split
  # to start either.
  if writer.missing() or watch.reason:
    raise engine_lib.Stop(f'{watch.reason}. {_state(writer)}')


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
        on_refused=watch.refuse,
        may_begin=watch.may_begin,
    )


def _state(writer: Writer) -> str:
  """Returns how much is on disk and how to collect the rest, in words."""
  total = writer.manifest.num_problems
  done = total - len(writer.missing())
  return f'{done} of {total} problems are on disk. {_RESUME}'


@contextlib.contextmanager
def _heed_signals(watch: Watch) -> Iterator[None]:
  """Handles SIGINT and SIGTERM within the block.

  The first signal completes the shards under way; a second one cancels them.
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
  for number in numbers:
    loop.add_signal_handler(number, hear, number)
  try:
    yield
  finally:
    for number in numbers:
      loop.remove_signal_handler(number)
