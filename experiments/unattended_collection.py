"""A collection that is left alone: what may begin, and how it comes to an end.

Shards are written whole, so whatever ends a collection early - a signal, a
ceiling, a dead engine - should find them whole: from then on only problems of
shards already begun begin, and when those are done it stops and says how to go
on. A problem whose request is refused for good is noted in the manifest; if
many fail in a row the back end is at fault, and nothing is noted.
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

# Of a ceiling; more may be promised than the mean so far suggests.
_MARGIN = 0.9
_RESUME = 'The same command goes on from there.'


class Writer(Protocol):
  """What is used of a writer of shards, whatever its records."""

  manifest: manifest_lib.Manifest

  def missing(self) -> list[int]:
    """Indices of the problems still to be collected."""
    ...

  def add(self, index: int, record: Any) -> None:
    """Takes the record of a problem."""
    ...

  def fail(self, index: int, reason: str) -> None:
    """Takes note that there will be none."""
    ...


class Watch:
  """Says which problems may still begin, and takes what comes of them.

  Args:
    writer: of the shards.
    meter: what is spent.
    limits: `failures` of it.

  Attributes:
    missing: indices of the problems that were missing at first; a problem's
      place is its place among them.
    reason: why no further shard begins; empty while they do.
  """

  def __init__(
      self, writer: Writer, meter: resilience.Meter, limits: resilience.Limits
  ):
    self._writer, self._meter, self._limits = writer, meter, limits
    self.missing = writer.missing()
    self._begun: set[int] = set()  # Shards.
    # Problems of those, those of them that have begun, and that have ended.
    self._num_promised = self._num_begun = self._num_ended = 0
    self._refused: list[tuple[int, engine_lib.Refused]] = []
    self.reason = ''

  def stop(self, reason: str) -> None:
    """From now on no shard is begun."""
    if not self.reason:
      logging.warning('%s: finishing the shards in hand.', reason)
    self.reason = self.reason or reason

  def may_begin(self, place: int) -> bool:
    """Whether the missing problem at `place` may begin."""
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
    """Takes a record; refusals before it were then the problems' own."""
    self._num_ended += 1
    self._writer.add(self.missing[place], record)
    self.note_refused()

  def refuse(self, place: int, error: engine_lib.Refused) -> None:
    """Takes a refusal.

    Raises:
      engine_lib.Stop: if it is one too many in a row.
    """
    self._num_ended += 1
    self._refused.append((self.missing[place], error))
    if len(self._refused) == self._limits.failures:
      raise engine_lib.Stop(
          f'{len(self._refused)} problems failed in a row, the last with: '
          f'{error}'
      )

  def note_refused(self) -> None:
    """Notes the refusals so far in the manifest."""
    for index, error in self._refused:
      self._writer.fail(index, str(error))
    self._refused.clear()

  def _shard(self, index: int) -> int:
    return index // self._writer.manifest.shard_size

  def _would_exceed(self, size: int) -> bool:
    """Whether `size` problems more might pass the ceiling, by those so far."""
    if not self._num_ended:
      return False
    # Those under way are half done, on average.
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
    engines: one a route, smallest first.
    writer: of their shards.
    specs: prices, for the ceiling in dollars.
    concurrency: problems in flight.
    limits: see `resilience.Limits`; None = its defaults.
    name: for progress.

  Raises:
    engine_lib.Stop: if it came to an end before all problems did, or was told
      to stop while the last of them were under way; says why and how to go on.
  """
  limits = limits or resilience.Limits()
  meter = resilience.Meter(specs, limits)
  watch = Watch(writer, meter, limits)
  steady = resilience.steady(engines, limits, meter)
  try:
    await _collect(collect_all, problems, steady, watch, concurrency, name)
    watch.note_refused()
  except engine_lib.Stop as error:
    raise engine_lib.Stop(f'{error} {_state(writer)}') from error
  except asyncio.CancelledError:
    if not watch.reason:
      raise
    raise engine_lib.Stop(
        f'{watch.reason}, and a second signal. {_state(writer)}'
    ) from None
  finally:
    for engine in steady:
      await engine.close()
  logging.info('%s: %s.', name, meter)
  # Who asked to stop does not want the next split either.
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
  """Collects under watch, and heeds signals meanwhile."""
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
  """What is on disk, and how to get the rest."""
  total = writer.manifest.num_problems
  done = total - len(writer.missing())
  return f'{done} of {total} problems are on disk. {_RESUME}'


@contextlib.contextmanager
def _heed_signals(watch: Watch) -> Iterator[None]:
  """SIGINT and SIGTERM finish the shards in hand; a second one ends it all."""
  if threading.current_thread() is not threading.main_thread():
    yield  # Python hands signals to the main thread only.
    return
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
