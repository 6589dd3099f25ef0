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
import json
import time
from typing import Any
import uuid

from routing import types
from routing.engines import boundaries
from routing.engines import endpoint as endpoint_lib
from routing.engines import engine as engine_lib
from routing.engines import openai_faults
from routing.engines import openai_requests
from routing.engines import openai_responses
from routing.engines import prompts
from routing.engines import repetition
from routing.engines import segmentation
from routing.engines import shared_prefix
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

    async def call(text: str, stop: str | None, max_tokens: int):
      following = dataclasses.replace(
          request,
          trace=request.trace + text,
          max_tokens=max_tokens,
          # With one seed, all calls would draw the same sampling noise.
          seed=request.seed + len(usages),
      )
      start = time.perf_counter()
      reply, prompt = await self._ask(session, following, stop)
      seconds = time.perf_counter() - start
      usage = types.Usage(
          self.route, reply.read, reply.cached, reply.written, seconds
      )
      usages.append(usage)
      return self._written(reply, prompt, following, stop), usage

    try:
      steps = await segmentation.write_steps(
          call,
          to_end=request.to_end or not can_stop,
          max_tokens=request.max_tokens,
          opening=self._opening(request),
          delimiter=request.delimiter,
      )
    except (engine_lib.Unavailable, engine_lib.Refused) as error:
      error.billed = (*usages, *error.billed)  # Calls before it were paid for.
      raise
    return openai_responses.kept_steps(
        steps, request, sum(x.written for x in usages), self._num_equal
    )

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
  ) -> tuple[openai_responses.Reply, list[int]]:
    """Sends one request to the server.

    If the caller is cancelled, the client closes the connection, which tells
    the server to end the request.

    Args:
      session: the session that makes the request.
      request: the session's request, or what is left of it.
      stop: the stop string; None = write to the end of the answer.

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
    response = await self._send(session, request, prompt, fields)
    reply = openai_responses.read_reply(
        response, self.name, self.route, endpoint.num_log_probs
    )
    self._check(reply, room)
    return reply, prompt

  async def _send(
      self,
      session: 'OpenAISession',
      request: engine_lib.Request,
      prompt: list[int],
      fields: Mapping[str, Any],
  ) -> Any:
    """Sends a request with these fields; returns the client's response."""
    import openai

    endpoint = self._endpoint
    try:
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
    # The client raises JSONDecodeError, not an error of its own, if the body is
    # not JSON, e.g. a proxy's error page.
    except (openai.APIError, json.JSONDecodeError) as error:
      raise openai_faults.read_fault(error, self.name) from error

  def _check(self, reply: openai_responses.Reply, room: int) -> None:
    """Checks a reply against what the endpoint declares.

    Args:
      reply: the server's reply.
      room: maximum number of new tokens that the request asked for.

    Raises:
      ValueError: if the reply contradicts the endpoint's declarations.
      engine_lib.Refused: if the tokens ran out before the text began.
    """
    endpoint = self._endpoint
    # Another model has another price, and writes other answers.
    if not openai_responses.is_same_model(endpoint.model, reply.model):
      raise ValueError(
          f'The server of {self.name} was asked for the model '
          f'{endpoint.model!r} and answered with {reply.model!r}; name the '
          'model that it has.'
      )
    if endpoint.is_vllm and reply.token_ids is None:
      raise ValueError(
          f'The server of {self.name} returned no token ids, so it is not '
          "vLLM's or is too old; set the endpoint's is_vllm to False."
      )
    if endpoint.num_log_probs and reply.log_probs is None and reply.text:
      raise ValueError(
          f'The server of {self.name} returned no log-probabilities; set the '
          "endpoint's num_log_probs to 0."
      )
    if reply.thought and not reply.text and reply.finish == 'length':
      error = engine_lib.Refused(
          f'{self.name} spent all {reply.written} tokens on thoughts and wrote '
          'no text; allow it more tokens, or lower its reasoning_effort.'
      )
      error.billed = (
          types.Usage(self.route, reply.read, reply.cached, reply.written),
      )
      raise error
    # A reply that was cut before the token limit means that the server's
    # context is full. If max_length is not the context's length, such a reply
    # would pass for one that reached the limit of the request.
    total = reply.read + reply.cached + reply.written
    is_full = endpoint.max_length and total >= endpoint.max_length
    if reply.finish == 'length' and reply.written < room and not is_full:
      raise ValueError(
          f'The server of {self.name} was asked for {room} tokens and stopped '
          f'after {reply.written}, at {total} in total with the prompt; set '
          "max_length to the length of the server's context."
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
