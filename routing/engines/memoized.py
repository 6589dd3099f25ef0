"""Wraps an engine so that no greedy reply is computed twice.

What a model writes greedily is a function of the text before it. With greedy
replies stored, many routers, thresholds and seeds can be run on the same
problems with few calls of the model.

The cost must not depend on whether a reply was stored. The wrapper therefore
simulates the engine's prefix cache for each session. It reports for each call
the usage that the engine would have reported without the wrapper.
"""

import asyncio
from collections.abc import Hashable
from collections.abc import Sequence
import dataclasses
from typing import Any
import weakref

from routing import types
from routing.engines import boundaries
from routing.engines import engine as engine_lib
from routing.engines import prefix_cache
from routing.engines import token_memory


class Memory:
  """A store of the complete steps that one model wrote by greedy decoding.

  A step is found by its question and the trace before it. A step that was cut
  short by a token limit is not stored, because under a larger limit the model
  would write more.

  Args:
    keeps_hidden: whether to store the hidden states of the steps as well. Only
      those of the smallest model are needed, for observations.
    keeps_exact: whether to store other replies too: those that were sampled,
      and those that a token limit cut short. They are found only by exactly the
      same request, its seed included.
  """

  def __init__(self, *, keeps_hidden: bool = True, keeps_exact: bool = False):
    self.keeps_hidden, self.keeps_exact = keeps_hidden, keeps_exact
    self._exact: dict[str, tuple[types.Step, ...]] = {}
    self._steps: dict[str, dict[str, types.Step]] = {}  # [question][trace].
    # Prompt tokens by (question, trace), for engines that give no token ids.
    self._counts: dict[tuple[str, str], int] = {}
    self.tokens = token_memory.TokenMemory()  # Of token sessions.

  def __len__(self) -> int:
    return sum(map(len, self._steps.values())) + len(self._exact)

  def get(self, question: str, trace: str) -> types.Step | None:
    """Returns the step that the model writes after `trace`; None if unknown."""
    return self._steps.get(question, {}).get(trace)

  def add(self, question: str, trace: str, steps: Sequence[types.Step]) -> None:
    """Stores consecutive steps of an answer; the first one follows `trace`."""
    known = self._steps.setdefault(question, {})
    for step in steps:
      if boundaries.is_cut(step):
        return  # This step was cut short by a token limit.
      # A stored step is never replaced. A later computation may differ by
      # floating-point rounding, but equal requests must get equal replies.
      if trace not in known:
        num_read = prefix_cache.num_read(step)
        self.store(question, trace, '', [self._without_session(step)], num_read)
      trace += step.text

  def get_exact(
      self, question: str, request: engine_lib.Request
  ) -> tuple[types.Step, ...]:
    """Returns the reply to exactly this request; () if it is not stored."""
    return self._exact.get(exact_key(question, request), ())

  def add_exact(
      self,
      question: str,
      request: engine_lib.Request,
      steps: Sequence[types.Step],
  ) -> None:
    """Stores the reply to a request, if such replies are kept."""
    key = exact_key(question, request)
    if self.keeps_exact and key not in self._exact:
      kept = list(map(self._without_session, steps))
      num_read = prefix_cache.num_read(steps[0])
      self.store(question, request.trace, key, kept, num_read)

  def store(
      self,
      question: str,
      trace: str,
      key: str,
      steps: Sequence[types.Step],
      num_read: int,
  ) -> None:
    """Puts a reply into the store; `add` and `add_exact` call it once for each.

    Args:
      question: of the request.
      trace: of the request.
      key: of the exact request; '' = one complete greedy step.
      steps: the reply, without the usage of the prompt.
      num_read: prompt tokens that the engine reported.
    """
    if key:
      self._exact[key] = tuple(steps)
    else:
      self._steps.setdefault(question, {})[trace] = steps[0]
    self._counts.setdefault((question, trace), num_read)

  def flush(self) -> None:
    """Writes what is not on the disk yet; a memory without a file has none."""

  def num_read(self, question: str, trace: str) -> int:
    """Returns the number of prompt tokens that the engine reported.

    The prompt consists of the question and the trace. The result is 0 if no
    reply to this prompt is stored.
    """
    return self._counts.get((question, trace), 0)

  def _without_session(self, step: types.Step) -> types.Step:
    """Returns the step without what depends on the session that wrote it.

    This is the usage of the prompt. The hidden state is dropped as well if
    `keeps_hidden` is False.
    """
    usage = dataclasses.replace(step.usage, read=0, cached=0, in_context=0)
    hidden = step.hidden if self.keeps_hidden else None
    # Texts of single tokens would take most of the memory.
    return dataclasses.replace(step, usage=usage, hidden=hidden, pieces=None)


def exact_key(question: str, request: engine_lib.Request) -> str:
  """Returns a name of everything that the reply to a request depends on."""
  # A greedy reply depends on no seed. Speculation changes no text.
  asked = dataclasses.replace(
      request,
      may_speculate=False,
      seed=request.seed if request.temperature else 0,
  )
  return repr((question, asked))


class MemoizedEngine:
  """An engine that looks up greedy replies and calls another engine if needed.

  A reply comes from memory if the request is greedy, all requested steps are in
  memory, and they fit into the request's token limit. If several concurrent
  requests need the same reply, one request computes it and the others wait.

  The usage of each call has the written tokens and the seconds of the call that
  computed the reply. Its read and cached tokens are those that the engine would
  have reported for this session (see `engines.prefix_cache`).

  Args:
    engine: the engine that writes all replies that are not in memory. It must
      have a separate prefix cache for each session.
    memory: the memory of this engine's model; new replies are added to it.
  """

  def __init__(self, engine: engine_lib.Engine, memory: Memory):
    self.name, self.route = engine.name, engine.route
    self.capabilities = engine.capabilities
    self.memory = memory
    self.num_asked = 0  # Number of calls of the wrapped engine.
    self._engine = engine
    # One lock for each reply that is being computed. The dictionary holds weak
    # references: a lock that no request uses any more is removed, so that the
    # dictionary does not grow with the run.
    self._locks = weakref.WeakValueDictionary()

  def count_tokens(self, question: str, trace: str) -> int:
    """Counts prompt tokens; see `engine.Engine.count_tokens`."""
    return self._engine.count_tokens(question, trace)

  def encode(self, question: str, trace: str) -> Sequence[int] | None:
    """Returns the prompt's token ids; see `engine.Engine.encode`."""
    return self._engine.encode(question, trace)

  def open(self, question: str) -> 'MemoizedSession':
    """Opens a session about a question; see `engine.Engine.open`."""
    return MemoizedSession(self, self._engine.open(question))

  @property
  def open_tokens(self) -> Any:
    """Opens a token session of the wrapped engine, if it has any.

    Greedy tokens are stored while the process runs.

    Raises:
      AttributeError: if the wrapped engine has none, as it would itself.
    """
    opened = self._engine.open_tokens
    return lambda question: self.memory.tokens.session(opened(question))

  async def close(self) -> None:
    """Closes the wrapped engine; the memory remains usable."""
    self.memory.flush()
    await self._engine.close()

  def lock(self, key: Hashable) -> asyncio.Lock:
    """Returns the lock of one reply, which only one session may compute."""
    found = self._locks.get(key)
    if found is None:
      self._locks[key] = found = asyncio.Lock()
    return found


class MemoizedSession(engine_lib.Session):
  """A session of a `MemoizedEngine`, with its simulated prefix cache.

  Args:
    engine: the engine.
    session: the session of the wrapped engine that writes what is not in
      memory.
  """

  def __init__(self, engine: MemoizedEngine, session: engine_lib.Session):
    super().__init__(session.question, session.route)
    self._engine, self._session = engine, session
    self._memory = engine.memory
    # The cache also contains replies from memory, which the wrapped engine did
    # not write in this session.
    self._contents: prefix_cache.Contents = ()

  async def write(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """Returns the requested steps, from memory or from the wrapped engine.

    Raises:
      Exception: any error of the wrapped engine; no step is stored then.
    """
    if request.temperature > 0:
      written = self._memory.get_exact(self.question, request)
      written = written or await self._ask(request)
    else:
      written = self._recall(request) or await self._ask_once(request)
    return self._charged(request, written)

  async def close(self) -> types.Usage | None:
    """Ends the session; its replies stay in the memory for other sessions."""
    return await self._session.close()

  def _recall(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """Returns all requested steps from memory; () if any of them is missing."""
    found = self._memory.get_exact(self.question, request)
    return found or self._recall_greedy(request)

  def _recall_greedy(
      self, request: engine_lib.Request
  ) -> tuple[types.Step, ...]:
    """Returns the complete greedy steps that make up a reply; () if none do."""
    if request.temperature > 0:
      return ()
    steps, trace, left = [], request.trace, request.max_tokens
    while True:
      step = self._memory.get(self.question, trace)
      # A step longer than the token limit does not count as found. The engine
      # would cut such a step short, and only the engine knows where.
      if step is None or step.num_tokens > left:
        return ()
      steps.append(step)
      if step.is_final or not request.to_end:
        return tuple(steps)
      trace, left = trace + step.text, left - step.num_tokens

  async def _ask_once(
      self, request: engine_lib.Request
  ) -> tuple[types.Step, ...]:
    """Returns a reply that only one of several concurrent requests computes."""
    # Requests for the same step that differ in `to_end` or `max_tokens` do not
    # share a lock, so the step is computed twice. This is rare.
    key = self.question, request.trace, request.to_end, request.max_tokens
    async with self._engine.lock(key):
      # The request that had the lock before has probably stored the reply.
      return self._recall(request) or await self._ask(request)

  async def _ask(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """Calls the wrapped engine; stores the reply if the request is greedy."""
    self._engine.num_asked += 1
    # The engine must not speculate: the next step may come from memory, and the
    # speculative text would then be wasted.
    request = dataclasses.replace(request, may_speculate=False)
    written = await self._session.write(request)
    if request.temperature == 0:
      self._memory.add(self.question, request.trace, written)
    # A sampled reply is repeatable only where the engine honours seeds.
    is_repeatable = not request.temperature or self._engine.capabilities.seeds
    if is_repeatable and not self._recall_greedy(request):
      self._memory.add_exact(self.question, request, written)
    return written

  def _charged(
      self, request: engine_lib.Request, written: Sequence[types.Step]
  ) -> tuple[types.Step, ...]:
    """Returns the steps with the usage that this request is charged for.

    Args:
      request: the request that the steps reply to.
      written: the steps, from memory or from the wrapped engine.
    """
    prompt = prefix_cache.prompt(
        self.question,
        request.trace,
        # A reply that cannot be in memory (sampled or cut short) has just come
        # from the wrapped engine, and its usage contains the prompt tokens.
        self._memory.num_read(self.question, request.trace)
        or prefix_cache.num_read(written[0]),
        self._engine.encode(self.question, request.trace),
    )
    steps, self._contents = prefix_cache.charged(
        written,
        prompt,
        self._contents,
        self._engine.capabilities.prefix_cache,
    )
    return steps
