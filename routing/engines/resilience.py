"""Retries, one restart and a spending ceiling for long collections.

All back ends share one policy. An engine says what kind of failure it met
(`engine.Unavailable`, `engine.Refused`, `engine.EngineDied`); this module
decides what follows from it.
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
  first_wait: seconds before the second attempt; doubled for each further one.
  longest_wait: maximum wait in seconds, unless the back end asks for more.
  dollars: maximum spending of a run, at the list prices of the routes.
  tokens: maximum number of tokens of a run: read anew, cached and written.
  failures: number of consecutive failed problems after which the back end, not
    the problems, is considered at fault.
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
      # Elsewhere 0 means "no limit", but no attempts would mean no answers.
      minimum = 1 if field.name == 'attempts' else 0
      if (value := getattr(self, field.name)) < minimum:
        raise ValueError(f'{field.name} is {value}; allowed: >= {minimum}.')


class Meter:
  """The consumption of all engines of a run, against its spending ceiling.

  Args:
    specs: the routes, with their prices; used for dollars only.
    limits: only `dollars` and `tokens` are used.
  """

  def __init__(self, specs: Sequence[costs.RouteSpec], limits: Limits):
    self._specs, self._limits = specs, limits
    self.dollars, self.tokens = 0.0, 0

  def add(self, usage: types.Usage) -> None:
    """Adds the usage of one call."""
    spec = self._specs[usage.route]
    self.dollars += float(costs.call_cost(usage, spec, 'price'))
    self.tokens += int(usage.read + usage.cached + usage.written)

  def share(self) -> float:
    """Returns the used fraction of the ceiling; at 1 it is reached.

    If both dollars and tokens are limited, the larger fraction counts.
    """
    parts = [0.0]  # Without any limit the share stays 0, so nothing stops.
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
          'raise the limit on dollars or tokens.'
      )

  def __str__(self) -> str:
    return f'${self.dollars:.4g} and {self.tokens:,} tokens'


def with_retries(
    engines: Sequence[engine_lib.Engine], limits: Limits, meter: Meter
) -> list['ResilientEngine']:
  """Wraps the engines of a run so that they retry failed requests."""
  return [
      # Seeds differ, so that engines behind one server do not retry in step.
      ResilientEngine(engine, limits, meter, seed=engine.route)
      for engine in engines
  ]


class ResilientEngine:
  """An engine that retries failed requests and restarts a dead process once.

  Args:
    engine: the engine that writes. If its process can be started again, its
      coroutine `restart` does so.
    limits: see `Limits`.
    meter: shared by the engines of a run.
    seed: seed of the random part of the waits.
    sleep: waits for so many seconds.
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

  async def write(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """Writes steps, with retries; see `engine.Engine.write`.

    Raises:
      engine_lib.Refused: if the request is refused, or all attempts failed.
      engine_lib.Stop: if the ceiling is reached, or the engine is dead.
    """
    for attempt in itertools.count(1):
      # Read before the attempt: `_restart` compares it to see whether another
      # request has already restarted the process that this one failed with.
      num_restarts = self._num_restarts
      try:
        # The slot is released before any wait below, so that a request that
        # backs off does not block others.
        async with self._slots:
          # Inside, since the ceiling may be reached while waiting for the slot.
          self._meter.check()
          steps = await self._engine.write(request)
      except engine_lib.Unavailable as error:
        # At least: a restart may have used up the last attempt.
        if attempt >= self._limits.attempts:
          raise engine_lib.Refused(
              f'All {attempt} attempts of a request failed; the last: {error}'
          ) from error
        await self._wait(attempt, error)
      except engine_lib.EngineDied as error:
        # No wait: the restart itself takes time, and then the process is fresh.
        await self._restart(num_restarts, error)
      else:
        for step in steps:
          self._meter.add(step.usage)
        return steps

  async def cancel_speculation(self, session: str) -> types.Usage | None:
    """Discards speculative text; see `engine.Engine.cancel_speculation`."""
    usage = await self._engine.cancel_speculation(session)
    if usage is not None:  # Wasted tokens are paid for like any others.
      self._meter.add(usage)
    return usage

  def count_tokens(self, question: str, trace: str) -> int:
    """Counts prompt tokens; see `engine.Engine.count_tokens`."""
    return self._engine.count_tokens(question, trace)

  def encode(self, question: str, trace: str) -> Sequence[int] | None:
    """Returns the prompt's ids; see `engine.Engine.encode`."""
    return self._engine.encode(question, trace)

  def forget(self, session: str) -> None:
    """Releases a session; see `engine.Engine.forget`."""
    self._engine.forget(session)

  async def close(self) -> None:
    """Releases all resources; see `engine.Engine.close`."""
    await self._engine.close()

  def pause(self, attempt: int, retry_after: float) -> float:
    """Returns the seconds to wait after a failed attempt (1 = the first).

    The wait w = min(first_wait * 2**(attempt - 1), longest_wait) is half fixed
    and half random, so that requests that failed together do not all return
    together. If the back end names a time, it replaces the fixed half if
    longer.

    Source: exponential back-off with equal jitter, as in Brooker 2015,
    "Exponential Backoff And Jitter".
    """
    limits = self._limits
    # The exponent is capped: 2.0**1024 overflows, and attempts may be many. 32
    # is past every sensible `longest_wait`.
    factor = 2.0 ** min(attempt - 1, 32)
    wait = min(limits.first_wait * factor, limits.longest_wait)
    jitter = wait / 2 * self._random.random()
    return max(wait / 2, retry_after) + jitter

  async def _wait(self, attempt: int, error: engine_lib.Unavailable) -> None:
    """Waits before the next attempt, and logs it at most every 30 seconds."""
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
    """Restarts a dead process, once for all requests that it took along.

    Args:
      num_before: number of restarts before the failed attempt began.
      error: the failure of that attempt.

    Raises:
      Exception: `error`, if the engine cannot restart or was restarted before.
    """
    # All requests in flight fail at the same time. The lock lets the first one
    # restart the process; the others then return and try again.
    async with self._restarting:
      if self._num_restarts > num_before:
        return
      restart = getattr(self._engine, 'restart', None)
      # A process that dies twice would die again: stop rather than loop.
      if restart is None or self._num_restarts:
        raise error
      logging.warning('%s; restarting the process, once.', error)
      self._num_restarts += 1
      await restart()
