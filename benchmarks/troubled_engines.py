"""Back ends in trouble: killed and back, slow, cut off, and refusing; seeded.

An engine in trouble is a real one. What it has read and written when a fault
comes was read and written, and is counted by the engine itself.
"""

import asyncio
import collections
from collections.abc import Sequence
import dataclasses
import random

from routing import types
from routing.engines import engine as engine_lib


@dataclasses.dataclass(frozen=True)
class Chances:
  """How often requests to a back end meet each fault, and for how long.

  slow, cut, refused: probability per request.
  killed: probability that a request finds the whole back end dying, with all
    requests that are in progress.
  longest_wait: seconds of the longest pause of a slow request.
  longest_down: seconds until a killed back end is back, at most.
  """

  slow: float = 0.05
  cut: float = 0.02
  refused: float = 0.01
  killed: float = 0.005
  longest_wait: float = 0.5
  longest_down: float = 1.0


class TroubledEngine:
  """An engine whose requests meet faults at random.

  Args:
    engine: writes.
    chances: of faults.
    seed: of the faults.

  Attributes:
    counts: how often each fault was met.
    is_calm: whether no faults come.
    is_down: whether the whole back end is down.
  """

  def __init__(self, engine: engine_lib.Engine, chances: Chances, seed: int):
    self.name, self.route = engine.name, engine.route
    self.capabilities = engine.capabilities
    self.counts: collections.Counter[str] = collections.Counter()
    self.is_calm, self.is_down = True, False
    self.engine, self._chances = engine, chances
    self._random = random.Random(f'{seed}/{engine.route}')
    self._writing: set[asyncio.Task] = set()

  def open(self, question: str) -> engine_lib.Session:
    """Opens a session about a question; see `engine.Engine.open`."""
    return _Session(self, self.engine.open(question))

  def count_tokens(self, question: str, trace: str) -> int:
    """Counts prompt tokens; see `engine.Engine.count_tokens`."""
    return self.engine.count_tokens(question, trace)

  def encode(self, question: str, trace: str) -> Sequence[int] | None:
    """Returns the prompt's token ids; see `engine.Engine.encode`."""
    return self.engine.encode(question, trace)

  def pieces(self, ids: Sequence[int]) -> list[str] | None:
    """Returns the text of each token; see `engine.pieces`."""
    return engine_lib.pieces(self.engine, ids)

  async def close(self) -> None:
    """Releases all resources; see `engine.Engine.close`."""
    await self.engine.close()

  def kill(self) -> None:
    """Kills the back end with all that it is writing; it comes back later."""
    self.is_down = True
    self.counts['killed'] += 1
    for task in self._writing:
      task.cancel()

    def come_back() -> None:
      self.is_down = False

    asyncio.get_running_loop().call_later(
        self._random.uniform(0, self._chances.longest_down), come_back
    )

  async def write(
      self, session: engine_lib.Session, request: engine_lib.Request
  ) -> tuple[types.Step, ...]:
    """Writes the requested steps, unless a fault comes.

    Raises:
      ConnectionError: if the back end is down, dies, or cuts the connection.
      engine_lib.Refused: if it refuses the request.
    """
    if self.is_calm:
      return await session.write(request)
    chances = self._chances
    if not self.is_down and self._random.random() < chances.killed:
      self.kill()
    if self.is_down:
      self.counts['down'] += 1
      raise engine_lib.Unavailable(f'{self.name} is down.')
    if self._random.random() < chances.refused:
      self.counts['refused'] += 1
      raise engine_lib.Refused(f'{self.name} refuses to answer.')
    if self._random.random() < chances.slow:
      self.counts['slow'] += 1
      await asyncio.sleep(self._random.uniform(0, chances.longest_wait))
    task = asyncio.ensure_future(session.write(request))
    self._writing.add(task)
    task.add_done_callback(self._writing.discard)
    is_cut = self._random.random() < chances.cut
    # The time after which it is cut is short enough to come before the end.
    timeout = self._random.uniform(0, 0.05) if is_cut else None
    try:
      await asyncio.wait([task], timeout=timeout)
    except asyncio.CancelledError:
      task.cancel()
      await asyncio.wait([task])
      raise
    if not task.done():
      self.counts['cut'] += 1
      task.cancel()
      await asyncio.wait([task])
    elif task.cancelled():
      self.counts['died with it'] += 1
    else:
      return task.result()
    raise ConnectionResetError(f'{self.name} has closed the connection.')


class _Session(engine_lib.Session):
  """A session of a `TroubledEngine`."""

  def __init__(self, engine: TroubledEngine, session: engine_lib.Session):
    super().__init__(session.question, session.route)
    self._engine, self._session = engine, session

  async def write(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """Writes the requested steps; see `TroubledEngine.write`."""
    return await self._engine.write(self._session, request)

  async def cancel_speculation(self) -> types.Usage | None:
    """Discards text written ahead; see `engine.Session`."""
    return await self._session.cancel_speculation()

  async def close(self) -> types.Usage | None:
    """Ends the session; see `engine.Session`."""
    return await self._session.close()
