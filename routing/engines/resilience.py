"""Wraps engines for long runs: retries, one restart, a spending ceiling.

Failures are handled in the same way for all back ends. An engine reports the
kind of a failure by an error type of `engine`: `Unavailable`, `Refused`,
`EngineDied` or `Stop`. This module decides by the type whether to repeat the
request, restart the process, or pass the error on to the caller.
"""

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import dataclasses
import itertools
import random

from absl import logging

from routing import costs
from routing import types
from routing.engines import engine as engine_lib


@dataclasses.dataclass(frozen=True)
class Limits:
  """Limits on requests, retries and spending; 0 = no limit.

  requests: maximum number of concurrent requests of each engine.
  attempts: maximum number of attempts at one request, the first included; at
    least 1.
  first_wait: seconds to wait before the second attempt; the wait is doubled
    before each further attempt.
  longest_wait: maximum wait in seconds, unless the back end asks for more.
  dollars: maximum spending of a run, at the list prices of the routes.
  tokens: maximum number of tokens of a run: read anew, cached and written.
  failures: number of consecutive failed problems that stop a run, because the
    back end rather than the problems must be at fault.
  """

  requests: int = 0
  attempts: int = 6
  first_wait: float = 1.0
  longest_wait: float = 60.0
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


class Meter:
  """Adds up what a run has spent, and compares it with the spending ceiling.

  Args:
    specs: the routes with their prices, by route index.
    limits: the limits of the run, of which `dollars` and `tokens` are used.
  """

  def __init__(self, specs: Sequence[costs.RouteSpec], limits: Limits):
    self._specs, self._limits = specs, limits
    self.dollars, self.tokens = 0.0, 0

  def add(self, usage: types.Usage) -> None:
    """Adds the usage of one step, or of discarded tokens, to the total."""
    spec = self._specs[usage.route]
    self.dollars += float(costs.call_cost(usage, spec, 'price'))
    self.tokens += int(usage.read + usage.cached + usage.written)

  def share(self) -> float:
    """Returns the spent fraction of the ceiling, which is reached at 1.

    If both dollars and tokens are limited, the larger fraction counts.
    """
    parts = [0.0]  # Without any limit, the fraction stays 0.
    if self._limits.dollars:
      parts.append(self.dollars / self._limits.dollars)
    if self._limits.tokens:
      parts.append(self.tokens / self._limits.tokens)
    return max(parts)

  def check(self) -> None:
    """Raises `engine_lib.Stop` once the spending ceiling is reached."""
    if self.share() >= 1:
      raise engine_lib.Stop(
          f'The spending ceiling is reached: {self} were spent. To continue, '
          'raise the limit on dollars or tokens that was reached.'
      )

  def __str__(self) -> str:
    return f'${self.dollars:.4g} and {self.tokens:,} tokens'


def with_retries(
    engines: Sequence[engine_lib.Engine], limits: Limits, meter: Meter
) -> list['ResilientEngine']:
  """Wraps each engine of a run in a `ResilientEngine`; all share one meter."""
  return [
      # The seeds of the waits differ, so that engines behind the same server do
      # not retry at the same times.
      ResilientEngine(engine, limits, meter, seed=engine.route)
      for engine in engines
  ]


class ResilientEngine:
  """An engine that retries failed requests and restarts a dead process once.

  Args:
    engine: the wrapped engine, which writes. If its process can be restarted,
      it has a coroutine `restart()`.
    limits: see `Limits`.
    meter: the spending of the run, shared by the engines of all routes.
    seed: seed of the random part of the waits.
    sleep: coroutine function that waits for a number of seconds.
  """

  def __init__(
      self,
      engine: engine_lib.Engine,
      limits: Limits,
      meter: Meter,
      *,
      seed: int = 0,
      sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
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
    self._num_restarts = 0
    self._restarting = asyncio.Lock()

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
      engine_lib.Refused: if the engine refuses the request, or all attempts
        failed.
      engine_lib.Stop: if the spending ceiling is reached, or the engine's
        process is dead and cannot be restarted.
    """
    for attempt in itertools.count(1):
      # The count is read before the attempt. If it has changed when the attempt
      # fails, another request has already restarted the process.
      num_restarts = self._num_restarts
      try:
        # The slot is released before any wait below, so that a request that
        # backs off does not block others.
        async with self._slots:
          # The ceiling is checked after the slot is obtained, since it may have
          # been reached while this request waited for the slot.
          self._meter.check()
          steps = await session.write(request)
      except engine_lib.Unavailable as error:
        # `attempt` may exceed the limit, since an attempt that ended in a
        # restart was not compared with it.
        if attempt >= self._limits.attempts:
          raise engine_lib.Refused(
              f'All {attempt} attempts of a request failed; the last: {error}'
          ) from error
        await self._wait(attempt, error)
      except engine_lib.EngineDied as error:
        # No wait is needed here: the next attempt meets a fresh process.
        await self._restart(num_restarts, error)
      else:
        for step in steps:
          self._meter.add(step.usage)
        return steps

  def count_tokens(self, question: str, trace: str) -> int:
    """Counts prompt tokens; see `engine.Engine.count_tokens`."""
    return self._engine.count_tokens(question, trace)

  def encode(self, question: str, trace: str) -> Sequence[int] | None:
    """Returns the prompt's token ids; see `engine.Engine.encode`."""
    return self._engine.encode(question, trace)

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
        restarted once.
    """
    # All requests in flight fail at the same time. The lock lets the first of
    # them restart the process; the others then return and try again.
    async with self._restarting:
      if self._num_restarts > num_before:
        return
      restart = getattr(self._engine, 'restart', None)
      # A process that died twice would probably die again, so a second death
      # ends the run instead of leading to endless restarts.
      if restart is None or self._num_restarts:
        raise error
      logging.warning('%s; restarting the process, once.', error)
      self._num_restarts += 1
      await restart()


class ResilientSession(engine_lib.Session):
  """A session of a `ResilientEngine`.

  Args:
    engine: the engine, which retries.
    session: the session of the wrapped engine.
    meter: the spending of the run.
  """

  def __init__(
      self, engine: ResilientEngine, session: engine_lib.Session, meter: Meter
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
