"""Defines the engine for vLLM's server and others with OpenAI's protocol.

How a half-written answer is continued depends on the server; see
`endpoint.MODES`. In mode 'instruct' the server cannot continue an answer: the
model is shown question and trace and asked to continue, and its reply is cut
into steps.

A failed request raises `engine.Unavailable`, `engine.Refused` or `engine.Stop`,
depending on the failure. The module `resilience` repeats requests.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import time
from typing import Any
import uuid

from routing import types
from routing.engines import boundaries
from routing.engines import endpoint as endpoint_lib
from routing.engines import engine as engine_lib
from routing.engines import openai_checks
from routing.engines import openai_faults
from routing.engines import openai_requests
from routing.engines import openai_responses
from routing.engines import openai_streams
from routing.engines import prompts
from routing.engines import repetition
from routing.engines import segmentation
from routing.engines import shared_prefix
from routing.engines import telling
from routing.engines import thoughts
from routing.tasks import prompt as prompt_lib


class OpenAIEngine:
  """An engine that writes steps with a model behind a server.

  Servers other than vLLM do not report whether they stopped at the stop string
  or at the end of the answer. The engine assumes the stop string until a
  request returns no token, so the end of an answer costs one extra request.

  Args:
    name: the model's name.
    route: route index of the model.
    endpoint: the server.
    prompter: builds prompts with the model's tokenizer. The engine can then
      count tokens, and sends token ids in mode 'completions'. None = the
      tokenizer is not known, and prompts are sent as text.
    prompt: how a question is put to a model whose tokenizer is not known.
    num_equal: see `repetition.truncate_repetition`.
    sampling: request fields that truncate or change the distribution, e.g.
      top_p; see `openai_requests.fields`.
  """

  def __init__(
      self,
      name: str,
      route: int,
      endpoint: endpoint_lib.Endpoint,
      *,
      prompter: prompts.Prompter | None = None,
      prompt: prompt_lib.Prompt | None = None,
      num_equal: int = repetition.NUM_EQUAL,
      sampling: Mapping[str, float] | None = None,
  ):
    # The import is local, because runs without servers do not need the package.
    import openai

    self.name = name
    self.route = route
    self.capabilities = endpoint_lib.capabilities(endpoint, prompter)
    self._endpoint = endpoint
    self._prompter = prompter
    self._prompt = (
        prompter.prompt if prompter else prompt or prompt_lib.Prompt()
    )
    self._num_equal = num_equal
    self._sampling = dict(sampling or {})
    self._client = openai.AsyncOpenAI(
        base_url=endpoint.base_url,
        api_key=endpoint.api_key,
        # The module `resilience` retries. If the client retried as well, it
        # would bypass the limits on requests and multiply the attempts.
        max_retries=0,
        timeout=endpoint.timeout,
    )

  def count_tokens(self, question: str, trace: str) -> int:
    """Counts prompt tokens; see `engine.Engine.count_tokens`.

    Raises:
      ValueError: if the engine has no tokenizer.
    """
    if self._prompter is None:
      raise ValueError(
          f'Engine {self.name!r} has no tokenizer to count tokens with; give '
          'it a prompter.'
      )
    return len(self._prompter.ids(question, trace))

  def encode(self, question: str, trace: str) -> list[int] | None:
    """Returns the prompt's token ids; see `engine.Engine.encode`."""
    if self._prompter is None:
      return None
    return self._prompter.ids(question, trace)

  def open(self, question: str) -> engine_lib.Session:
    """Opens a session about a question; see `engine.Engine.open`."""
    session = OpenAISession(self, question)
    if not self._endpoint.shares_prefix:
      return session
    session.salt = None
    return shared_prefix.ChargedSession(session, self)

  async def close(self) -> None:
    """Closes the connections to the server."""
    await self._client.close()

  async def reply(
      self, session: 'OpenAISession', request: engine_lib.Request
  ) -> tuple[types.Step, ...]:
    """Writes the steps that a session requests; see `engine.Session.write`.

    Raises:
      engine_lib.Unavailable, Refused, Stop: if a request fails; the type says
        whether it may be repeated.
      ValueError: if the server lacks a capability that its endpoint declares.
    """
    if request.max_tokens < 1:
      raise engine_lib.Refused(
          f'max_tokens is {request.max_tokens}; allowed: >= 1.'
      )
    # In mode 'instruct' a reply that stopped inside a block could not be
    # continued, and with `trims_end` a reply begins with the stop string. The
    # reply is then requested without a stop string, and all steps but the first
    # are dropped below.
    can_stop = (
        self.capabilities.continues_prefix and not self._endpoint.trims_end
    )
    usages = []  # Of each call.
    # What was cached of a prompt is said at the end.
    teller = telling.Teller(
        request, self._num_equal, self._opening(request), knows_prompt=False
    )

    async def call(text: str, stop: str | None, max_tokens: int):
      following = dataclasses.replace(
          request,
          trace=request.trace + text,
          max_tokens=max_tokens,
          # With one seed, all calls would draw the same sampling noise.
          seed=request.seed + len(usages),
      )
      start = time.perf_counter()
      reply, prompt = await self._ask(session, following, stop, teller)
      seconds = time.perf_counter() - start
      usage = types.Usage(
          self.route, reply.read, reply.cached, reply.written, seconds
      )
      usages.append(usage)
      return self._written(reply, prompt, following, stop), usage

    try:
      return await teller.write(call, to_end=request.to_end or not can_stop)
    except (engine_lib.Unavailable, engine_lib.Refused) as error:
      error.billed = (*usages, *error.billed)  # Calls before it were paid for.
      raise

  def _opening(self, request: engine_lib.Request) -> str:
    """Returns what the chat template writes of the answer; see `Prompter`."""
    if request.trace or not self._prompter:
      return ''
    return self._prompter.opening if self.capabilities.continues_prefix else ''

  async def _ask(
      self,
      session: 'OpenAISession',
      request: engine_lib.Request,
      stop: str | None,
      teller: telling.Teller,
  ) -> tuple[openai_responses.Reply, list[int]]:
    """Sends one request to the server.

    If the caller is cancelled, the client closes the connection, which tells
    the server to end the request.

    Args:
      session: the session that makes the request.
      request: the session's request, or what is left of it.
      stop: the stop string; None = write to the end of the answer.
      teller: learns what was written, if anybody listens and the server tells.

    Returns:
      The reply, and the token ids of the prompt, which are [] if the tokenizer
      is not known.
    """
    endpoint = self._endpoint
    prompt = (
        self._prompter.ids(session.question, request.trace)
        if self._prompter
        else []
    )
    room = openai_requests.room(
        endpoint, request.max_tokens, len(prompt), self.name
    )
    fields = openai_requests.fields(
        endpoint,
        request,
        stop,
        room,
        returns_ids=self._prompter is not None,
        salt=session.salt,
        sampling=self._sampling,
        name=self.name,
    )
    if teller.is_heard and self.capabilities.tells_steps:
      response = await self._stream(
          session, request, prompt, fields, stop, teller
      )
    else:
      response = await self._send(session, request, prompt, fields)
    reply = self._read(response)
    openai_checks.check(endpoint, reply, room, self.name, self.route)
    return reply, prompt

  def _read(self, response: Any) -> openai_responses.Reply:
    return openai_responses.read_reply(
        response, self.name, self.route, self._endpoint.num_log_probs
    )

  async def _stream(
      self,
      session: 'OpenAISession',
      request: engine_lib.Request,
      prompt: list[int],
      fields: Mapping[str, Any],
      stop: str | None,
      teller: telling.Teller,
  ) -> Any:
    """As `_send`, and tells what was written while it is being written.

    Raises:
      engine_lib.Unavailable: if the stream breaks off.
    """
    joined, start = openai_streams.Joined(), time.perf_counter()
    # About four bytes to a token, where they cannot be counted.
    num_read = len(prompt) or (
        len((session.question + request.trace).encode()) // 4
    )

    def so_far():
      written = telling.NOTHING
      if joined.num_tokens:
        reply = self._read(joined.response())
        written = self._written(reply, prompt, request, stop)
      seconds = time.perf_counter() - start
      return written, types.Usage(
          self.route, num_read, 0, joined.num_tokens, seconds
      )

    teller.begin(so_far)
    streamed = {'stream': True, 'stream_options': {'include_usage': True}}
    chunks = await self._send(session, request, prompt, fields | streamed)
    async with chunks:
      with openai_faults.raised(self.name):
        async for chunk in chunks:
          teller.look(joined.add(chunk))
    if not joined.is_whole:
      raise engine_lib.Unavailable(
          f'The server of {self.name} broke off a reply after '
          f'{joined.num_tokens} tokens.',
          may_be_billed=True,
      )
    return joined.response()

  async def _send(
      self,
      session: 'OpenAISession',
      request: engine_lib.Request,
      prompt: list[int],
      fields: Mapping[str, Any],
  ) -> Any:
    """Sends a request with these fields; returns the client's response."""
    endpoint = self._endpoint
    with openai_faults.raised(self.name):
      if endpoint.mode == 'completions':
        return await self._client.completions.create(
            prompt=prompt
            or self._prompt.text(session.question) + request.trace,
            **fields,
        )
      else:
        if endpoint.mode != 'instruct':
          trace = (
              request.trace.rstrip() if endpoint.trims_end else request.trace
          )
          thoughts.check_shown(
              self._prompter, session.question, trace, self.name
          )
        return await self._client.chat.completions.create(
            messages=openai_requests.messages(
                endpoint, self._prompt, session.question, request
            ),
            **fields,
        )

  def _written(
      self,
      reply: openai_responses.Reply,
      prompt: Sequence[int],
      request: engine_lib.Request,
      stop: str | None,
  ) -> segmentation.Written:
    """Returns the tokens of a reply, and whether the answer ends with it.

    Args:
      reply: the server's reply.
      prompt: token ids of the prompt, [] if the tokenizer is not known.
      request: the request that the server replied to.
      stop: the stop string of the request; None = the end of the answer.
    """
    endpoint = self._endpoint
    text, is_final = reply.text, reply.finish == 'stop'
    pieces = None
    if endpoint.mode == 'instruct':
      text, is_final = openai_responses.complete(
          text,
          is_final,
          request.to_end,
          request.trace,
          request.delimiter.text,
      )
    elif endpoint.trims_end and request.trace[-1:].isspace():
      text = text.lstrip()  # The white space is in the trace already.
    elif endpoint.is_vllm:
      is_final &= stop is None or reply.stopped_at != stop
    elif is_final and stop is not None:
      # Other servers remove the stop string from the text, and report 'stop'
      # both at the stop string and at the end of the answer.
      is_final = openai_responses.ends_answer(
          reply, stop, bool(boundaries.open_block(request.trace))
      )
      text = text if is_final else text + stop
    if endpoint.is_vllm and self._prompter:
      pieces = self._prompter.decode_tokens(prompt, reply.token_ids)
      openai_responses.check_same_text(reply.text, ''.join(pieces), self.name)
    is_final |= repetition.ends_in_blank_steps(
        request.trace + text, delimiter=request.delimiter
    )
    return openai_responses.to_written(reply, text, pieces, is_final)


class OpenAISession(engine_lib.Session):
  """A session behind a server, which evicts the least recently used prefixes.

  Attributes:
    salt: the cache salt of the session, which no other session has; None = the
      session shares its cache with others.
  """

  def __init__(self, engine: OpenAIEngine, question: str):
    super().__init__(question, engine.route)
    self._engine = engine
    self.salt: str | None = uuid.uuid4().hex

  async def write(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """Writes the requested steps; see `OpenAIEngine.reply`."""
    return await self._engine.reply(self, request)
