"""Wraps engines for long runs: retries, restarts, a spending ceiling.

Failures are handled in the same way for all back ends. An engine reports the
kind of a failure by an error type of `engine`: `Unavailable`, `Refused`,
`EngineDied` or `Stop`. This module decides by the type whether to repeat the
request, restart the process, or pass the error on to the caller. Only `Refused`
is permanent: the same request would fail again on another day.
"""

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import dataclasses
import itertools
import random
import time
from typing import Any

from absl import logging

from routing import types
from routing.engines import engine as engine_lib
from routing.engines import meter as meter_lib
from routing.engines import restarts


@dataclasses.dataclass(frozen=True)
class Limits:
  """Limits on requests, retries and spending; 0 = no limit.

  requests: maximum number of concurrent requests of each engine.
  attempts: maximum number of attempts at one request, the first included; at
    least 1.
  first_wait: seconds to wait before the second attempt; the wait is doubled
    before each further attempt.
  longest_wait: maximum wait in seconds, unless the back end asks for more.
  longest_asked: maximum wait in seconds that a back end may ask for; a request
    that it asks to wait for longer has failed.
  dollars: maximum spending of a run, at the list prices of the routes.
  tokens: maximum number of tokens of a run: read anew, cached and written.
  failures: number of consecutive failed problems that stop a run, because the
    back end rather than the problems must be at fault.
  """

  requests: int = 0
  attempts: int = 6
  first_wait: float = 1.0
  longest_wait: float = 60.0
  longest_asked: float = 0.0
  dollars: float = 0.0
  tokens: int = 0
  failures: int = 20

  def __post_init__(self):
    for field in dataclasses.fields(self):
      # 0 means "no limit" for the other fields, but 0 attempts would mean that
      # no request is ever made.
      minimum = 1 if field.name == 'attempts' else 0
      if (value := getattr(self, field.name)) < minimum:
        raise ValueError(f'{field.name} is {value}; allowed: >= {minimum}.')


class Exhausted(engine_lib.Unavailable):
  """The failure of all attempts at a request, for reasons that may pass."""


def with_retries(
    engines: Sequence[engine_lib.Engine], limits: Limits, meter: meter_lib.Meter
) -> list['ResilientEngine']:
  """Wraps each engine of a run in a `ResilientEngine`; all share one meter."""
  return [
      # The seeds of the waits differ, so that engines behind the same server do
      # not retry at the same times.
      ResilientEngine(engine, limits, meter, seed=engine.route)
      for engine in engines
  ]


class ResilientEngine:
  """An engine that retries failed requests and restarts a dead process.

  Args:
    engine: the wrapped engine, which writes. If its process can be restarted,
      it has a coroutine `restart()`.
    limits: see `Limits`.
    meter: the spending of the run, shared by the engines of all routes.
    seed: seed of the random part of the waits.
    sleep: coroutine function that waits for a number of seconds.
    clock: seconds that rise.
  """

  def __init__(
      self,
      engine: engine_lib.Engine,
      limits: Limits,
      meter: meter_lib.Meter,
      *,
      seed: int = 0,
      sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
      clock: Callable[[], float] = time.monotonic,
  ):
    self.name, self.route = engine.name, engine.route
    self.capabilities = engine.capabilities
    self.num_retries = 0
    self._engine, self._limits, self._meter = engine, limits, meter
    self._sleep = sleep
    self._random = random.Random(seed)
    self._slots = (
        asyncio.Semaphore(limits.requests)
        if limits.requests
        else contextlib.nullcontext()
    )
    self._restarts = restarts.Restarts(clock)
    self._restarting = asyncio.Lock()

  @property
  def open_tokens(self) -> Any:
    """Opens a token session of the wrapped engine, if it has any.

    Such sessions belong to engines in this process, whose calls do not fail.

    Raises:
      AttributeError: if the wrapped engine has none, as it would itself.
    """
    return self._engine.open_tokens

  def open(self, question: str) -> 'ResilientSession':
    """Opens a session about a question; see `engine.Engine.open`."""
    return ResilientSession(self, self._engine.open(question), self._meter)

  async def reply(
      self, session: engine_lib.Session, request: engine_lib.Request
  ) -> tuple[types.Step, ...]:
    """Writes the requested steps, with retries.

    Args:
      session: the session of the wrapped engine, which writes.
      request: the request.

    Raises:
      engine_lib.Refused: if the engine refuses the request.
      Exhausted: if all attempts failed for reasons that may pass.
      engine_lib.Stop: if the spending ceiling is reached, or the engine's
        process is dead and cannot be restarted.
    """
    for attempt in itertools.count(1):
      # The count is read before the attempt. If it has changed when the attempt
      # fails, another request has already restarted the process.
      num_restarts = self._restarts.count
      try:
        # The slot is released before any wait below, so that a request that
        # backs off does not block others.
        async with self._slots:
          return await self._attempt(session, request)
      except engine_lib.Unavailable as error:
        # `attempt` may exceed the limit, since an attempt that ended in a
        # restart was not compared with it.
        longest = self._limits.longest_asked or float('inf')
        if attempt >= self._limits.attempts or error.retry_after > longest:
          wait = error.retry_after
          asked = f'; it asks to wait for {wait:.0f} s' if wait else ''
          raise Exhausted(
              f'All {attempt} attempts of a request failed; the last: {error}'
              f'{asked}'
          ) from error
        await self._wait(attempt, error)
      except engine_lib.EngineDied as error:
        # No wait is needed here: the next attempt meets a fresh process.
        await self._restart(num_restarts, error)

  async def _attempt(
      self, session: engine_lib.Session, request: engine_lib.Request
  ) -> tuple[types.Step, ...]:
    """Makes one attempt, and counts what it used, also if it failed."""
    largest = self._largest_usage(session.question, request)
    # A request that has to wait for a slot reserves nothing in the meantime.
    await self._meter.reserve(largest)
    billed, is_unsure = (), True
    asked, end = _until_it_ends(request)
    try:
      steps = await session.write(asked)
      billed, is_unsure = [step.usage for step in steps], False
      return steps
    except (engine_lib.Unavailable, engine_lib.Refused) as error:
      billed, is_unsure = error.billed, error.may_be_billed
      for usage in billed if request.on_billed is not None else ():
        request.on_billed(usage)
      raise
    except engine_lib.EngineDied:
      raise  # What was in flight was written in part.
    except engine_lib.Stop:
      is_unsure = False  # The back end takes no request at all.
      raise
    finally:
      end()
      # After a cancellation or an unknown error, the request may be billed.
      self._meter.settle(largest, billed, is_unsure=is_unsure)

  def _largest_usage(
      self, question: str, request: engine_lib.Request
  ) -> types.Usage:
    """Returns the largest usage that one attempt at a request may have."""
    if self.capabilities.counts_tokens:
      read = self.count_tokens(question, request.trace)
    else:
      # A token is at least a byte. There are about four bytes to a token, so
      # this also covers the words that a chat template adds.
      read = len((question + request.trace).encode())
    return types.Usage(self.route, read, 0, request.max_tokens)

  def count_tokens(self, question: str, trace: str) -> int:
    """Counts prompt tokens; see `engine.Engine.count_tokens`."""
    return self._engine.count_tokens(question, trace)

  def encode(self, question: str, trace: str) -> Sequence[int] | None:
    """Returns the prompt's token ids; see `engine.Engine.encode`."""
    return self._engine.encode(question, trace)

  def pieces(self, ids: Sequence[int]) -> list[str] | None:
    """Returns the text of each token; see `engine.pieces`."""
    return engine_lib.pieces(self._engine, ids)

  async def close(self) -> None:
    """Releases all resources; see `engine.Engine.close`."""
    await self._engine.close()

  def pause(self, attempt: int, retry_after: float) -> float:
    """Returns the seconds to wait after a failed attempt.

    With w = min(first_wait * 2**(attempt - 1), longest_wait), the result is
    max(w / 2, retry_after) plus a uniform draw from [0, w / 2). The draw keeps
    requests that failed together from returning together.

    Args:
      attempt: number of the failed attempt; the first is 1.
      retry_after: seconds that the back end asked to wait; 0 = not given.

    Source: exponential back-off with equal jitter, as in Brooker 2015,
    "Exponential Backoff And Jitter".
    """
    limits = self._limits
    # The exponent is capped, because 2.0**1024 overflows and the number of
    # attempts has no upper limit. 2**32 s exceed every sensible `longest_wait`.
    factor = 2.0 ** min(attempt - 1, 32)
    wait = min(limits.first_wait * factor, limits.longest_wait)
    jitter = wait / 2 * self._random.random()
    return max(wait / 2, retry_after) + jitter

  async def _wait(self, attempt: int, error: engine_lib.Unavailable) -> None:
    """Waits before the next attempt; logs the wait at most every 30 seconds.

    Args:
      attempt: number of the failed attempt.
      error: the failure of that attempt.
    """
    self.num_retries += 1
    seconds = self.pause(attempt, error.retry_after)
    logging.log_every_n_seconds(
        logging.WARNING,
        '%s; attempt %d of %d follows in %.1f s (%d retries so far).',
        30,
        error,
        attempt + 1,
        self._limits.attempts,
        seconds,
        self.num_retries,
    )
    await self._sleep(seconds)

  async def _restart(self, num_before: int, error: Exception) -> None:
    """Restarts a dead process, once for all requests that failed with it.

    Args:
      num_before: number of restarts when the failed attempt began.
      error: the failure of that attempt.

    Raises:
      Exception: `error`, if the engine has no `restart` or was already
        restarted in the last hour.
    """
    # All requests in flight fail at the same time. The lock lets the first of
    # them restart the process; the others then return and try again.
    async with self._restarting:
      if self._restarts.count > num_before:
        return
      restart = getattr(self._engine, 'restart', None)
      # A second death within the hour ends the run instead of leading to
      # endless restarts.
      if restart is None or not self._restarts.is_allowed:
        raise error
      logging.warning('%s; restarting the process, once an hour.', error)
      self._restarts.note()
      await restart()


def _until_it_ends(
    request: engine_lib.Request,
) -> tuple[engine_lib.Request, Callable[[], None]]:
  """Returns the request of one attempt, and what to call when that has ended.

  A back end may still tell of a step when the attempt has failed and the next
  one is in progress. Such a step was paid for, but is no part of the answer: it
  is passed on as one that was cut off.
  """
  if (listener := request.on_step) is None:
    return request, lambda: None
  has_ended = False

  def listen(place: int, step: types.Step) -> None:
    if has_ended:
      step = dataclasses.replace(step, is_final=False, is_complete=False)
    listener(place, step)

  def end() -> None:
    nonlocal has_ended
    has_ended = True

  return dataclasses.replace(request, on_step=listen), end


class ResilientSession(engine_lib.Session):
  """A session of a `ResilientEngine`.

  Args:
    engine: the engine, which retries.
    session: the session of the wrapped engine.
    meter: the spending of the run.
  """

  def __init__(
      self,
      engine: ResilientEngine,
      session: engine_lib.Session,
      meter: meter_lib.Meter,
  ):
    super().__init__(session.question, session.route)
    self._engine, self._session, self._meter = engine, session, meter

  async def write(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """Writes the requested steps; see `ResilientEngine.reply`."""
    return await self._engine.reply(self._session, request)

  async def cancel_speculation(self) -> types.Usage | None:
    """Discards text written ahead, and counts it as spending."""
    return self._metered(await self._session.cancel_speculation())

  async def close(self) -> types.Usage | None:
    """Ends the session, and counts discarded text as spending."""
    return self._metered(await self._session.close())

  def _metered(self, usage: types.Usage | None) -> types.Usage | None:
    """Adds the usage of discarded text to the run's spending; returns it."""
    if usage is not None:  # Wasted tokens count as spending, like all others.
      self._meter.add(usage)
    return usage
