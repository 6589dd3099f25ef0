"""Defines the engine that writes with a model run by llama.cpp.

The model is a GGUF file, mostly with weights of 4 to 8 bits, which is the
fastest way on a CPU. By default the engine starts llama.cpp's own server, from
the package `xllamacpp`, on a free port of this machine; it can also use a
server that runs already. It uses the server's native interface, `/completion`,
which takes and returns token ids and says why the model stopped. The interface
of OpenAI's protocol does neither.
"""

import asyncio
from collections.abc import Callable
import dataclasses
from typing import Any

from routing import types
from routing.engines import engine as engine_lib
from routing.engines import llama_cpp_server
from routing.engines import llama_cpp_slots
from routing.engines import llama_cpp_stream
from routing.engines import prefix_cache
from routing.engines import prompts
from routing.engines import repetition
from routing.engines import shared_prefix
from routing.engines import shared_time
from routing.engines import telling
from routing.tasks import prompt as prompt_lib


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of llama.cpp.

  model: path of the GGUF file; with `base_url`, the server's name of the model.
  base_url: address of a server that runs already; '' = start one.
  api_key: key of that server.
  max_length: maximum number of tokens of question and answer together.
  num_slots: maximum number of concurrent requests; further requests wait.
  num_aside_slots: further slots, for questions outside the task, e.g. to a
    judge, so that they do not displace answers from the cache; 0 = they share
    the slots. Without effect on a server that runs already.
  num_threads: threads that compute; 0 = one per core.
  num_gpu_layers: layers that an accelerator computes; -1 = all. Without effect
    on a build for CPUs.
  num_log_probs: k, the number of top log-probabilities for each token.
  shares_prefix: the tokens with which all prompts begin, e.g. solved examples,
    are read once and charged as cached. A server that runs already reads them
    once per slot.
  timeout: seconds until a request without a new token counts as failed.
  """

  model: str
  base_url: str = ''
  api_key: str = 'none'
  max_length: int = 4_096
  num_slots: int = 8
  num_aside_slots: int = 0
  num_threads: int = 0
  num_gpu_layers: int = -1
  num_log_probs: int = 5
  shares_prefix: bool = False
  timeout: float = 600.0

  def __post_init__(self):
    for name in ('max_length', 'num_slots'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name} is {getattr(self, name)}; allowed: >= 1.')
    for name in ('num_aside_slots', 'num_threads', 'num_log_probs'):
      if getattr(self, name) < 0:
        raise ValueError(f'{name} is {getattr(self, name)}; allowed: >= 0.')


class LlamaCppEngine:
  """An engine that writes steps with one model that llama.cpp runs.

  llama.cpp's slots may be shared by several sessions. What it reports as cached
  would thus depend on other sessions, so usage is computed from a session's own
  calls (`shared_prefix.ChargedSession`).

  Concurrent requests do not change a result, except by rounding: they change
  the shapes of matrix products.

  Args:
    name: the model's name.
    route: its route index.
    settings: see `Settings`.
    prompter: makes the model's prompts.
    num_equal: see `repetition.truncate_repetition`.

  Raises:
    ValueError: if the file does not exist or is not in the GGUF format.
  """

  def __init__(
      self,
      name: str,
      route: int,
      settings: Settings,
      prompter: prompts.Prompter,
      num_equal: int = repetition.NUM_EQUAL,
  ):
    # The import is local, because other runs do not need the package.
    import httpx

    self.name = name
    self.route = route
    self.capabilities = engine_lib.Capabilities(
        continues_prefix=True,
        num_log_probs=settings.num_log_probs,
        hidden_size=0,
        seeds=True,
        counts_tokens=True,
        reports_cached=True,
        tells_steps=True,
        names_tokens=True,
        prefix_cache=prefix_cache.PrefixCache(
            shared=prompter.num_shared() if settings.shares_prefix else 0
        ),
    )
    self._settings = settings
    self._prompter = prompter
    self._num_equal = num_equal
    self._time = shared_time.SharedTime()
    self._server, num_asides = None, 0
    if not settings.base_url:
      num_asides = settings.num_aside_slots
      self._server = llama_cpp_server.Server(
          settings.model,
          max_length=settings.max_length,
          num_slots=settings.num_slots,
          num_aside_slots=num_asides,
          num_threads=settings.num_threads,
          num_gpu_layers=settings.num_gpu_layers,
      )
    self._slots = llama_cpp_slots.Slots(settings.num_slots, num_asides)
    self._filling: asyncio.Future | None = None
    self._client = httpx.AsyncClient(
        base_url=settings.base_url or self._server.address,
        headers={'Authorization': f'Bearer {settings.api_key}'},
        timeout=httpx.Timeout(settings.timeout, connect=30.0, pool=None),
        # The server queues what exceeds its slots. It closes a connection after
        # some requests or seconds, and would lose the next request on it.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
    )

  @property
  def address(self) -> str:
    """The server's address, without /v1."""
    return str(self._client.base_url)

  def count_tokens(self, question: str, trace: str) -> int:
    """Counts prompt tokens; see `engine.Engine.count_tokens`."""
    return len(self.encode(question, trace))

  def encode(self, question: str, trace: str) -> list[int]:
    """Returns the prompt's token ids; see `engine.Engine.encode`."""
    return self._prompter.ids(question, trace)

  def open(self, question: str) -> engine_lib.Session:
    """Opens a session about a question; see `engine.Engine.open`."""
    session = LlamaCppSession(self, question)
    return shared_prefix.ChargedSession(session, self)

  async def close(self) -> None:
    """Closes the connections, and the server if the engine has started it."""
    await self._client.aclose()
    if self._server is not None:
      self._server.close()
      self._server = None

  async def reply(
      self, question: str, request: engine_lib.Request
  ) -> tuple[types.Step, ...]:
    """Writes the steps that a session requests; see `engine.Session.write`.

    Raises:
      engine_lib.Unavailable, Refused: if a request fails; the type says whether
        it may be repeated.
    """
    await self._fill_slots(question)
    is_aside = isinstance(question, prompt_lib.Plain)
    usages = []  # Of each call.
    teller = telling.Teller(
        request,
        self._num_equal,
        '' if request.trace else self._prompter.opening,
    )

    async def call(text: str, stop: str | None, max_tokens: int):
      prompt = self._prompter.ids(question, request.trace + text)
      room = engine_lib.room(
          self.name, len(prompt), max_tokens, self._settings.max_length
      )
      fields = self._fields(request, stop, room)
      # With one seed, all calls would draw the same sampling noise.
      fields |= dict(prompt=prompt, seed=request.seed + len(usages))
      reply, start = llama_cpp_stream.Reply(), self._time.enter()

      def so_far():
        usage = reply.usage(self.route, len(prompt), self._time.since(start))
        return reply.written(self._settings.num_log_probs, stop), usage

      teller.begin(so_far)
      try:
        async with self._slots.lend(prompt, is_aside) as slot:
          await self._ask(fields | slot, reply, teller.look)
      finally:
        seconds = self._time.leave(start)
      usages.append(reply.usage(self.route, len(prompt), seconds))
      written = reply.written(self._settings.num_log_probs, stop)
      whole = request.trace + text + ''.join(written.pieces)
      if repetition.ends_in_blank_steps(whole, delimiter=request.delimiter):
        written = dataclasses.replace(written, is_final=True)
      return written, usages[-1]

    try:
      return await teller.write(call, to_end=request.to_end)
    except (engine_lib.Unavailable, engine_lib.Refused) as error:
      error.billed = (*usages, *error.billed)
      raise

  async def _fill_slots(self, question: str) -> None:
    """Has the tokens that all prompts share read before the first request."""
    import httpx

    shared = self.capabilities.prefix_cache.shared
    if self._server is None or not shared:
      return
    if self._filling is None:
      ids = self._prompter.ids(question, '')[:shared]
      self._filling = asyncio.ensure_future(
          self._server.fill_slots(self._client, ids)
      )
    try:
      # Others wait for it too, so it goes on if this request is cancelled.
      await asyncio.shield(self._filling)
    except httpx.HTTPError as error:
      self._filling = None  # To be tried again.
      raise engine_lib.Unavailable(
          f'The llama.cpp server of {self.name} does not answer: {error!r}.'
      ) from error

  def _fields(
      self, request: engine_lib.Request, stop: str | None, room: int
  ) -> dict[str, Any]:
    """Returns the body of a request, except prompt and seed."""
    return dict(
        n_predict=room,
        temperature=request.temperature,
        # By default the server also has top_k 40, top_p .95 and min_p .05.
        samplers=['temperature'],
        n_probs=self._settings.num_log_probs,
        stop=[] if stop is None else [stop],
        # Only a stream has the log-probabilities of the stop string's tokens.
        stream=True,
        return_tokens=True,
        cache_prompt=True,
    )

  async def _ask(
      self,
      fields: dict[str, Any],
      reply: llama_cpp_stream.Reply,
      look: Callable[[str], None],
  ) -> None:
    """Sends one request, and reads the reply as it is being written.

    If the caller is cancelled, the connection is closed, which ends the request
    in the server.

    Args:
      fields: the body of the request.
      reply: takes what the server sends.
      look: called with the newest text.
    """
    import httpx

    try:
      async with self._client.stream(
          'POST', '/completion', json=fields
      ) as response:
        if response.is_error:
          await response.aread()
          self._fail(response.status_code, response.text)
        async for event in llama_cpp_stream.events(response.aiter_lines()):
          if 'error' in event:
            error = event['error']
            self._fail(error.get('code', 500), error.get('message', ''))
          reply.add(event)
          look(event['content'])
    except httpx.HTTPError as error:
      raise engine_lib.Unavailable(
          f'The llama.cpp server of {self.name} does not answer: {error!r}.'
      ) from error
    if not reply.stop_type:
      raise engine_lib.Unavailable(
          f'The llama.cpp server of {self.name} broke off a reply after '
          f'{len(reply.pieces)} tokens.'
      )

  def _fail(self, status: int, text: str) -> None:
    """Raises the error that belongs to a status of HTTP."""
    message = f'llama.cpp ({self.name}) answered {status}: {text[:300]}'
    if status in (401, 403, 404):
      raise engine_lib.Stop(message)
    # 503: the model is still being loaded.
    if status >= 500 or status in (408, 429):
      raise engine_lib.Unavailable(message)
    refused = engine_lib.Refused(message)
    refused.is_quoted = True
    raise refused


class LlamaCppSession(engine_lib.Session):
  """A session of llama.cpp, which finds the slot with the longest prefix."""

  def __init__(self, engine: LlamaCppEngine, question: str):
    super().__init__(question, engine.route)
    self._engine = engine

  async def write(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """Writes the requested steps; see `LlamaCppEngine.reply`."""
    return await self._engine.reply(self.question, request)
