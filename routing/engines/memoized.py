"""An engine that never writes the same step twice: greedy replies, remembered.

Greedy decoding is a function of the prefix, so what a model replied to it once
it will reply again. Many routers, thresholds and seeds on the same problems
then cost next to no model time. What they are *charged* must not shrink with
it: the wrapper keeps the books of each session itself, and says of each call
what the engine alone, with a prefix cache of that session, would have said.
"""

import asyncio
from collections.abc import Sequence
import dataclasses
import weakref

from routing import types
from routing.engines import boundaries
from routing.engines import engine as engine_lib
from routing.engines import prefix_cache


class Memory:
  """Complete steps that one model wrote greedily, by question and trace.

  A step that was cut short by a limit is not its writer's answer to the prefix
  under another limit, and is not kept.

  Args:
    keeps_hidden: keep the steps' hidden states, too; observations read those of
      the smallest model alone.
  """

  def __init__(self, *, keeps_hidden: bool = True):
    self.keeps_hidden = keeps_hidden
    self._steps: dict[str, dict[str, types.Step]] = {}
    self._counts: dict[tuple[str, str], int] = {}

  def __len__(self) -> int:
    return sum(map(len, self._steps.values()))

  def get(self, question: str, trace: str) -> types.Step | None:
    """What the model wrote after `trace`; None if it is not known."""
    return self._steps.get(question, {}).get(trace)

  def add(self, question: str, trace: str, steps: Sequence[types.Step]) -> None:
    """Remembers steps that were written one after another, from `trace` on."""
    known = self._steps.setdefault(question, {})
    for step in steps:
      if not (step.is_final or boundaries.ends_step(step.text)):
        return
      known.setdefault(trace, self._lasting(step))
      num_read = prefix_cache.num_read(step)
      self._counts.setdefault((question, trace), num_read)
      trace += step.text

  def num_read(self, question: str, trace: str) -> int:
    """Tokens of a prompt, as its writer reported them; 0 if not known."""
    return self._counts.get((question, trace), 0)

  def _lasting(self, step: types.Step) -> types.Step:
    """The step without what belongs to one session."""
    usage = dataclasses.replace(step.usage, read=0, cached=0, in_context=0)
    hidden = step.hidden if self.keeps_hidden else None
    return dataclasses.replace(step, usage=usage, hidden=hidden)


class MemoizedEngine:
  """Asks an engine only what its memory does not hold.

  A reply is taken from memory if it is greedy and whole within the limit of the
  request; a request to the end of the answer, if all its steps are. Requests
  for the same reply, made while it is being written, wait for it.

  Of each call it reports the tokens written and the seconds of whoever wrote
  them first, and as cached what the engine alone would have found in the prefix
  cache of this session (`engines.prefix_cache`).

  Args:
    engine: writes what is not known. It must isolate the prefix caches of
      sessions.
    memory: of this very model; new replies are added to it.
  """

  def __init__(self, engine: engine_lib.Engine, memory: Memory):
    self.name, self.route = engine.name, engine.route
    self.capabilities = engine.capabilities
    self.memory = memory
    self.num_asked = 0  # Calls that the engine had to answer.
    self._engine = engine
    self._held: dict[str, prefix_cache.Held] = {}  # By session.
    self._asked: set[str] = set()  # Sessions that the engine knows of.
    self._locks = weakref.WeakValueDictionary()

  def count_tokens(self, question: str, trace: str) -> int:
    """See `engine.Engine.count_tokens`."""
    return self._engine.count_tokens(question, trace)

  def encode(self, question: str, trace: str) -> Sequence[int] | None:
    """See `engine.Engine.encode`."""
    return self._engine.encode(question, trace)

  async def write(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """Recalls what is asked for, or has it written; see `engine.Engine.write`.

    Raises:
      Exception: whatever the engine does. Nothing is remembered then.
    """
    if request.temperature > 0:
      written = await self._ask(request)
    else:
      written = self._recall(request) or await self._ask_once(request)
    return self._charged(request, written)

  async def cancel_speculation(self, session: str) -> None:
    """Nothing to do: the engine is asked for one reply at a time."""

  def forget(self, session: str) -> None:
    """See `engine.Engine.forget`. Replies are kept: they are nobody's own."""
    self._held.pop(session, None)
    if session in self._asked:
      self._asked.remove(session)
      self._engine.forget(session)

  async def close(self) -> None:
    """Closes the engine; the memory stays."""
    await self._engine.close()

  def _recall(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """The whole reply from memory; empty if a part of it is not known."""
    steps, trace, left = [], request.trace, request.max_tokens
    while True:
      step = self.memory.get(request.question, trace)
      if step is None or step.usage.written > left:
        return ()
      steps.append(step)
      if step.is_final or not request.to_end:
        return tuple(steps)
      trace, left = trace + step.text, left - step.usage.written

  async def _ask_once(
      self, request: engine_lib.Request
  ) -> tuple[types.Step, ...]:
    """Has a reply written, unless somebody else is having it written."""
    # Where one writes to the end and another a step, both are written: rare.
    key = request.question, request.trace, request.to_end, request.max_tokens
    lock = self._locks.get(key)
    if lock is None:
      self._locks[key] = lock = asyncio.Lock()
    async with lock:
      return self._recall(request) or await self._ask(request)

  async def _ask(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """Has the engine write; remembers it if it is greedy."""
    self._asked.add(request.session)
    self.num_asked += 1
    # What follows may be in the memory by the time it is asked for.
    alone = dataclasses.replace(request, may_speculate=False)
    written = await self._engine.write(alone)
    if request.temperature == 0:
      self.memory.add(request.question, request.trace, written)
    return written

  def _charged(
      self, request: engine_lib.Request, written: Sequence[types.Step]
  ) -> tuple[types.Step, ...]:
    """The steps with what this session pays for them."""
    prompt = prefix_cache.prompt(
        request.question,
        request.trace,
        # What was not remembered just came from the engine, with its count.
        self.memory.num_read(request.question, request.trace)
        or prefix_cache.num_read(written[0]),
        self._engine.encode(request.question, request.trace),
    )
    steps, self._held[request.session] = prefix_cache.charged(
        written,
        prompt,
        self._held.get(request.session, ()),
        self.capabilities.prefix_cache,
    )
    return steps
