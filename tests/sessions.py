"""Sessions of one engine by name, so that tests can say who shares a cache."""

import asyncio
from collections.abc import Sequence
import dataclasses

from routing import types
from routing.engines import engine as engine_lib


@dataclasses.dataclass(frozen=True)
class Ask:
  """A request, with the question and the name of its session."""

  question: str
  session: str
  request: engine_lib.Request


def ask(question: str, *, session: str = '', **fields) -> Ask:
  """Returns an `Ask`; `fields` are those of the request."""
  return Ask(question, session, engine_lib.Request(**fields))


class Sessions:
  """Opens a session for each pair of a question and a name, once."""

  def __init__(self, engine: engine_lib.Engine):
    self._engine = engine
    self._open: dict[tuple[str, str], engine_lib.Session] = {}

  def __getitem__(self, key: tuple[str, str]) -> engine_lib.Session:
    """Returns the session of a question and a name."""
    if key not in self._open:
      self._open[key] = self._engine.open(key[0])
    return self._open[key]

  async def write(self, asked: Ask) -> tuple[types.Step, ...]:
    """Makes one request in its session."""
    return await self[asked.question, asked.session].write(asked.request)

  async def __aenter__(self) -> 'Sessions':
    return self

  async def __aexit__(self, *error) -> None:
    for session in self._open.values():
      await session.close()


async def write_all(
    engine: engine_lib.Engine, asks: Sequence[Ask], **gather
) -> list[tuple[types.Step, ...]]:
  """Makes all requests concurrently; sessions end with the last one."""
  async with Sessions(engine) as sessions:
    return await asyncio.gather(*map(sessions.write, asks), **gather)
