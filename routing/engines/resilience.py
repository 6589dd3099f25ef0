"""What lets a collection run overnight: retries, one restart, a ceiling.

One policy for every back end: an engine says what kind of failure it met
(`engine.Unavailable`, `engine.Refused`, `engine.EngineDied`), and what follows
is decided here.
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
  """How much may be asked, how often, and for how much; 0 = no limit.

  requests: under way at once, for each engine.
  attempts: at one request, the first included; at least 1.
  first_wait: seconds before the second attempt, doubled with each further one.
  longest_wait: seconds at most, unless the back end asks for more.
  dollars: that a run may spend, by the list prices of the routes.
  tokens: that a run may read, from cache or not, and write.
  failures: problems that may fail in a row before it is the back end's fault.
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
      least = 1 if field.name == 'attempts' else 0
      if getattr(self, field.name) < least:
        raise ValueError(
            f'{field.name} is {getattr(self, field.name)}; allowed: >= {least}.'
        )


class Meter:
  """What all engines of a run have consumed, held against the ceiling.

  Args:
    specs: prices of the routes; of consequence only for dollars.
    limits: `dollars` and `tokens` of it.
  """

  def __init__(self, specs: Sequence[costs.RouteSpec], limits: Limits):
    self._specs, self._limits = specs, limits
    self.dollars, self.tokens = 0.0, 0

  def add(self, usage: types.Usage) -> None:
    """Counts what was read and written."""
    spec = self._specs[usage.route]
    self.dollars += float(costs.call_cost(usage, spec, 'price'))
    self.tokens += int(usage.read + usage.cached + usage.written)

  def share(self) -> float:
    """The part of the ceiling that is spent; 1 or more = all of it."""
    parts = [0.0]
    if self._limits.dollars:
      parts.append(self.dollars / self._limits.dollars)
    if self._limits.tokens:
      parts.append(self.tokens / self._limits.tokens)
    return max(parts)

  def check(self) -> None:
    """Raises `engine_lib.Stop` once the ceiling is reached."""
    if self.share() >= 1:
      raise engine_lib.Stop(f'The ceiling is reached: {self} were spent.')

  def __str__(self) -> str:
    return f'${self.dollars:.4g} and {self.tokens:,} tokens'


def with_retries(
    engines: Sequence[engine_lib.Engine], limits: Limits, meter: Meter
) -> list['ResilientEngine']:
  """The engines of a run, none of which gives up at once."""
  return [
      ResilientEngine(engine, limits, meter, seed=engine.route)
      for engine in engines
  ]


class ResilientEngine:
  """An engine that does not give up at once.

  Args:
    engine: does the work; if its process can be started again, its coroutine
      `restart` does so.
    limits: see `Limits`.
    meter: shared by the engines of a run.
    seed: of the jitter.
    sleep: waits so many seconds.
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
    self._places = (
        asyncio.Semaphore(limits.requests)
        if limits.requests
        else contextlib.nullcontext()
    )
    self._num_restarts = 0
    self._restarting = asyncio.Lock()

  async def write(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """See `engine.Engine.write`.

    Raises:
      engine_lib.Refused: if the request will not heal, or did not in time.
      engine_lib.Stop: if the ceiling is reached, or the engine is dead.
    """
    for attempt in itertools.count(1):
      num_restarts = self._num_restarts
      try:
        async with self._places:
          self._meter.check()
          steps = await self._engine.write(request)
      except engine_lib.Unavailable as error:
        if attempt == self._limits.attempts:
          raise engine_lib.Refused(
              f'Given up after {attempt} attempts: {error}'
          ) from error
        await self._wait(attempt, error)
      except engine_lib.EngineDied as error:
        await self._restart(num_restarts, error)
      else:
        for step in steps:
          self._meter.add(step.usage)
        return steps

  async def cancel_speculation(self, session: str) -> types.Usage | None:
    """See `engine.Engine.cancel_speculation`; discarded text is paid, too."""
    usage = await self._engine.cancel_speculation(session)
    if usage is not None:
      self._meter.add(usage)
    return usage

  def count_tokens(self, question: str, trace: str) -> int:
    """See `engine.Engine.count_tokens`."""
    return self._engine.count_tokens(question, trace)

  def encode(self, question: str, trace: str) -> Sequence[int] | None:
    """See `engine.Engine.encode`."""
    return self._engine.encode(question, trace)

  def forget(self, session: str) -> None:
    """See `engine.Engine.forget`."""
    self._engine.forget(session)

  async def close(self) -> None:
    """See `engine.Engine.close`."""
    await self._engine.close()

  def pause(self, attempt: int, retry_after: float) -> float:
    """Seconds to wait after a failed attempt, 1 for the first.

    Half of the wait is random, lest all who failed together come back together;
    where the back end names a time, the random part comes on top of it. Source:
    exponential back-off with equal jitter, as in Brooker 2015, "Exponential
    Backoff And Jitter".
    """
    limits = self._limits
    # 2**63 would not do as a float factor for thousands of attempts.
    factor = 2.0 ** min(attempt - 1, 32)
    wait = min(limits.first_wait * factor, limits.longest_wait)
    jitter = wait / 2 * self._random.random()
    return max(wait / 2, retry_after) + jitter

  async def _wait(self, attempt: int, error: engine_lib.Unavailable) -> None:
    """Waits before the next attempt, and says so now and then."""
    self.num_retries += 1
    seconds = self.pause(attempt, error.retry_after)
    logging.log_every_n_seconds(
        logging.WARNING,
        '%s; attempt %d of %d in %.1f s (%d so far).',
        30,
        error,
        attempt + 1,
        self._limits.attempts,
        seconds,
        self.num_retries,
    )
    await self._sleep(seconds)

  async def _restart(self, num_before: int, error: Exception) -> None:
    """Starts a dead process again, once; those who waited find it done.

    Args:
      num_before: restarts when the request that failed was made.
      error: what it failed with.
    """
    async with self._restarting:
      if self._num_restarts > num_before:
        return
      restart = getattr(self._engine, 'restart', None)
      if restart is None or self._num_restarts:
        raise error
      logging.warning('%s; it is started again, once.', error)
      self._num_restarts += 1
      await restart()
