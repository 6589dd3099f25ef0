"""Wraps an engine so that no greedy reply is computed twice.

Greedy decoding is a function of the prefix, so a model always replies the same
to it. With replies remembered, many routers, thresholds and seeds can run on
the same problems at almost no model time.

The *charges* must stay the same, though. The wrapper tracks the prefix cache of
each session itself. It reports for each call the usage that the engine alone
would have reported.
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

  A step that was cut short by a token limit is not stored, because it is not
  the model's reply under a larger limit.

  Args:
    keeps_hidden: store the hidden states of the steps as well. Observations use
      those of the smallest model alone.
  """

  def __init__(self, *, keeps_hidden: bool = True):
    self.keeps_hidden = keeps_hidden
    self._steps: dict[str, dict[str, types.Step]] = {}  # [question][trace].
    # Prompt tokens by (question, trace), for engines that give no token ids.
    self._counts: dict[tuple[str, str], int] = {}

  def __len__(self) -> int:
    return sum(map(len, self._steps.values()))

  def get(self, question: str, trace: str) -> types.Step | None:
    """Returns what the model wrote after `trace`; None if not known."""
    return self._steps.get(question, {}).get(trace)

  def add(self, question: str, trace: str, steps: Sequence[types.Step]) -> None:
    """Stores consecutive steps, the first of which follows `trace`."""
    known = self._steps.setdefault(question, {})
    for step in steps:
      if not (step.is_final or boundaries.ends_step(step.text)):
        return  # Cut short by a limit.
      # The first writer wins: a later reply may differ by floating-point
      # rounding, and what was returned once must be returned again.
      known.setdefault(trace, self._without_session(step))
      num_read = prefix_cache.num_read(step)
      self._counts.setdefault((question, trace), num_read)
      trace += step.text

  def num_read(self, question: str, trace: str) -> int:
    """Returns the reported number of prompt tokens; 0 if not known."""
    return self._counts.get((question, trace), 0)

  def _without_session(self, step: types.Step) -> types.Step:
    """Returns the step without the fields that depend on its session."""
    usage = dataclasses.replace(step.usage, read=0, cached=0, in_context=0)
    hidden = step.hidden if self.keeps_hidden else None
    return dataclasses.replace(step, usage=usage, hidden=hidden)


class MemoizedEngine:
  """An engine that calls another engine only for replies not in its memory.

  A reply comes from memory if the request is greedy and the reply fits into the
  request's token limit. A request to the end of the answer also needs all its
  steps in memory. Concurrent requests for the same reply wait for the one that
  computes it.

  The usage of each call has the written tokens and the seconds of the original
  call. Its cached tokens are those that the engine alone would have found in
  the prefix cache of this session (`engines.prefix_cache`).

  Args:
    engine: writes replies that are not known. It must separate the prefix
      caches of sessions.
    memory: the memory of this model; new replies are added to it.
  """

  def __init__(self, engine: engine_lib.Engine, memory: Memory):
    self.name, self.route = engine.name, engine.route
    self.capabilities = engine.capabilities
    self.memory = memory
    self.num_asked = 0  # Calls that the wrapped engine had to answer.
    self._engine = engine
    # What each session would have in its prefix cache, memory hits included.
    self._contents: dict[str, prefix_cache.Contents] = {}
    self._engine_sessions: set[str] = set()  # Sessions the engine knows of.
    # One lock for each reply being computed. Weak values, so that a lock goes
    # with its last waiter and the dictionary does not grow with the run.
    self._locks = weakref.WeakValueDictionary()

  def count_tokens(self, question: str, trace: str) -> int:
    """Counts prompt tokens; see `engine.Engine.count_tokens`."""
    return self._engine.count_tokens(question, trace)

  def encode(self, question: str, trace: str) -> Sequence[int] | None:
    """Returns the prompt's ids; see `engine.Engine.encode`."""
    return self._engine.encode(question, trace)

  async def write(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """Writes steps, from memory if possible; see `engine.Engine.write`.

    Raises:
      Exception: any error of the engine; nothing is stored then.
    """
    if request.temperature > 0:
      written = await self._ask(request)
    else:
      written = self._recall(request) or await self._ask_once(request)
    return self._charged(request, written)

  async def cancel_speculation(self, session: str) -> None:
    """Does nothing: the engine is never asked to continue speculatively."""

  def forget(self, session: str) -> None:
    """Releases a session; the memory stays, as all sessions share it."""
    self._contents.pop(session, None)
    if session in self._engine_sessions:
      self._engine_sessions.remove(session)
      self._engine.forget(session)

  async def close(self) -> None:
    """Closes the wrapped engine; the memory can still be used."""
    await self._engine.close()

  def _recall(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """Returns the whole reply from memory; () if a part is not known."""
    steps, trace, left = [], request.trace, request.max_tokens
    while True:
      step = self.memory.get(request.question, trace)
      # A step over the limit is no hit: the engine would have cut it short, and
      # only the engine knows where.
      if step is None or step.usage.written > left:
        return ()
      steps.append(step)
      if step.is_final or not request.to_end:
        return tuple(steps)
      trace, left = trace + step.text, left - step.usage.written

  async def _ask_once(
      self, request: engine_lib.Request
  ) -> tuple[types.Step, ...]:
    """Computes a reply, or waits for another request that computes it."""
    # Requests that differ in the last two fields do not share a lock, so both
    # are computed. This is rare.
    key = request.question, request.trace, request.to_end, request.max_tokens
    lock = self._locks.get(key)
    if lock is None:
      self._locks[key] = lock = asyncio.Lock()
    async with lock:
      # Look again: whoever had the lock before has probably stored the reply.
      return self._recall(request) or await self._ask(request)

  async def _ask(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """Calls the engine; stores the reply if it is greedy."""
    self._engine_sessions.add(request.session)
    self.num_asked += 1
    # No speculation: the next step may come from memory, and the speculative
    # text would be wasted.
    request = dataclasses.replace(request, may_speculate=False)
    written = await self._engine.write(request)
    if request.temperature == 0:
      self.memory.add(request.question, request.trace, written)
    return written

  def _charged(
      self, request: engine_lib.Request, written: Sequence[types.Step]
  ) -> tuple[types.Step, ...]:
    """Returns the steps with what this session is charged for them."""
    prompt = prefix_cache.prompt(
        request.question,
        request.trace,
        # A reply that is not in memory (sampled or cut short) has just come
        # from the engine, whose usage contains the count.
        self.memory.num_read(request.question, request.trace)
        or prefix_cache.num_read(written[0]),
        self._engine.encode(request.question, request.trace),
    )
    steps, self._contents[request.session] = prefix_cache.charged(
        written,
        prompt,
        self._contents.get(request.session, ()),
        self.capabilities.prefix_cache,
    )
    return steps
