"""Watches the back ends of a service: which is down, and what it has failed."""

import asyncio
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import time

from routing import types
from routing.engines import engine as engine_lib
from routing.rollout import step_requests


class BackEndDown(RuntimeError):
  """The failure of a back end in the middle of an answer.

  Args:
    route: route index of its model.
    name: name of its model.
  """

  def __init__(self, route: int, name: str):
    super().__init__(f'The back end of {name} does not answer.')
    self.route, self.name = route, name


class Health:
  """Which back ends are down.

  A back end that failed is left alone for some seconds. A single answer then
  tries it, and its success ends the failure; others wait for what it finds out,
  at most for the same time again.

  Args:
    retry_after: these seconds.
    on_change: called with (name, error) when a back end fails, and with (name,
      None) when it is back.
    on_refused: called with the name of a back end that refuses a request for
      what it asks.
    clock: seconds that rise.
  """

  def __init__(
      self,
      retry_after: float,
      on_change: Callable[[str, BaseException | None], None] = (
          lambda name, error: None
      ),
      on_refused: Callable[[str], None] = lambda name: None,
      clock: Callable[[], float] = time.monotonic,
  ):
    self._retry_after, self._on_change = retry_after, on_change
    self.on_refused, self._clock = on_refused, clock
    self._failed: dict[int, float] = {}  # Route -> time of the last failure.
    # Route -> (the answer that tries it again, until when others wait for it).
    self._trials: dict[int, tuple[object, float]] = {}

  def is_down(self, route: int) -> bool:
    """Returns whether a back end failed lately and must not be asked yet."""
    failed = self._failed.get(route)
    return failed is not None and self._clock() < failed + self._retry_after

  def may_ask(self, route: int, who: object) -> bool:
    """Returns whether an answer may ask a back end.

    Args:
      route: of the back end.
      who: the answer; `leave` says that it has ended.
    """
    if route not in self._failed:
      return True
    if self.is_down(route):
      return False
    now = self._clock()
    other, until = self._trials.get(route, (who, now))
    if other is not who and now < until:
      return False
    self._trials[route] = who, now + self._retry_after
    return True

  def leave(self, who: object) -> None:
    """Notes that an answer has ended, which may have tried a back end."""
    for route, (other, _) in list(self._trials.items()):
      if other is who:
        del self._trials[route]

  def note(
      self, engine: engine_lib.Engine, error: BaseException | None
  ) -> None:
    """Notes how a request to a back end ended; None = well."""
    self._trials.pop(engine.route, None)
    if error is not None:
      self._failed[engine.route] = self._clock()
    elif self._failed.pop(engine.route, None) is None:
      return  # It was up before.
    self._on_change(engine.name, error)


def check_temperatures(
    engines: Sequence[engine_lib.Engine], sampling: step_requests.Sampling
) -> None:
  """Raises ValueError if a model cannot sample as the configuration asks."""
  for engine in engines:
    allowed = engine.capabilities.temperature
    asked = sampling.temperature_of(engine.route)
    if allowed not in (None, asked):
      raise ValueError(
          f'The model {engine.name!r} samples at temperature {allowed} only, '
          f'but the configuration asks for {asked}; allowed: {allowed}.'
      )


class WatchedEngine:
  """An engine whose failures are noted, and named by its route.

  Args:
    engine: the engine that writes.
    health: where failures are noted.
  """

  def __init__(self, engine: engine_lib.Engine, health: Health):
    self.name, self.route = engine.name, engine.route
    self.capabilities = engine.capabilities
    self.health = health
    self._engine = engine

  def open(self, question: str) -> 'WatchedSession':
    """Opens a session about a question; see `engine.Engine.open`."""
    return WatchedSession(self, self._engine.open(question))

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


class WatchedSession(engine_lib.Session):
  """A session of a `WatchedEngine`.

  Args:
    engine: the engine.
    session: the session that writes.
  """

  def __init__(self, engine: WatchedEngine, session: engine_lib.Session):
    super().__init__(session.question, session.route)
    self._engine, self._session = engine, session

  async def write(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """Writes the requested steps; see `engine.Session.write`.

    Raises:
      BackEndDown: if the back end fails for a reason that is not the request's.
    """
    with self._watched():
      steps = await self._session.write(request)
    self._engine.health.note(self._engine, None)
    return steps

  async def cancel_speculation(self) -> types.Usage | None:
    """Discards text written ahead; see `engine.Session`."""
    with self._watched():
      return await self._session.cancel_speculation()

  async def close(self) -> types.Usage | None:
    """Ends the session; see `engine.Session`."""
    with self._watched():
      return await self._session.close()

  @contextlib.contextmanager
  def _watched(self) -> Iterator[None]:
    """Notes a failure, and raises it under the name of the back end."""
    engine = self._engine
    try:
      yield
    except engine_lib.Refused:
      engine.health.on_refused(engine.name)
      raise
    # `Unavailable` is a ConnectionError.
    except (engine_lib.Stop, OSError) as error:
      # Of an answer that was given up, the end of its session may fail where
      # the back end is well.
      if not asyncio.current_task().cancelling():
        engine.health.note(engine, error)
      raise BackEndDown(engine.route, engine.name) from error
