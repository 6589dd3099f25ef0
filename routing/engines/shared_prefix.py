"""Charges sessions that share a cache as if each had a cache of its own.

Where all prompts begin with the same long text, e.g. solved examples, sessions
share the back end's cache, so that the text is read once. What the back end
reports as cached would then depend on other sessions, so it is not used.
"""

import dataclasses
import functools

from routing import types
from routing.engines import engine as engine_lib
from routing.engines import prefix_cache
from routing.engines import telling


class ChargedSession(engine_lib.Session):
  """A session whose usage is computed from its own calls alone.

  Args:
    session: the session that writes; it never speculates.
    engine: the session's engine, which has the model's tokenizer.
  """

  def __init__(self, session: engine_lib.Session, engine: engine_lib.Engine):
    super().__init__(session.question, session.route)
    self._session, self._engine = session, engine
    self._ledger = prefix_cache.Ledger(engine.capabilities.prefix_cache)

  async def write(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """Writes the requested steps; see `engine.Session.write`."""
    prompt = self._engine.encode(self.question, request.trace)
    asked = request
    if request.on_step is not None:
      on_step = telling.charged_alone(
          request.on_step,
          functools.partial(self._ledger.preview, prompt_ids=prompt),
      )
      asked = dataclasses.replace(request, on_step=on_step)
    steps = await self._session.write(asked)
    return self._ledger.charge(steps, prompt)

  async def close(self) -> types.Usage | None:
    """Ends the session; see `engine.Session.close`."""
    return await self._session.close()
