"""Defines the engine for vLLM's server and others with OpenAI's protocol.

How a half-written answer is continued depends on the server; see
`endpoint.MODES`. In mode 'instruct' the server cannot continue an answer: the
model is shown question and trace and asked to continue, and its reply is cut
into steps.

A failed request raises `engine.Unavailable`, `engine.Refused` or `engine.Stop`,
depending on the failure. The module `resilience` repeats requests.
"""

from collections.abc import Sequence
import dataclasses
import json
import time
from typing import Any
import uuid

from routing import types
from routing.engines import endpoint as endpoint_lib
from routing.engines import engine as engine_lib
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
    # continued. The reply is therefore requested without a stop string, and all
    # steps but the first are dropped below.
    can_stop = self.capabilities.continues_prefix
    opening = ''
    if can_stop and self._prompter and not request.trace:
      opening = self._prompter.opening
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
          opening=opening,
      )
    except (engine_lib.Unavailable, engine_lib.Refused) as error:
      error.billed = (*usages, *error.billed)  # Calls before it were paid for.
      raise
    kept = steps if request.to_end else steps[:1]
    kept = repetition.truncate_repetition(kept, request.trace, self._num_equal)
    # The server bills dropped steps as well, so their tokens are charged to the
    # last step that is kept.
    return segmentation.charged(
        [openai_responses.without_gaps(step) for step in kept],
        sum(usage.written for usage in usages),
    )

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
    import openai

    endpoint = self._endpoint
    prompt = (
        self._prompter.ids(session.question, request.trace)
        if self._prompter
        else []
    )
    room = self._room(request, len(prompt))
    fields = self._fields(session, request, stop, room)
    try:
      if endpoint.mode == 'completions':
        response = await self._client.completions.create(
            prompt=prompt
            or self._prompt.text(session.question) + request.trace,
            **fields,
        )
      else:
        response = await self._client.chat.completions.create(
            messages=self._messages(session, request), **fields
        )
    # The client raises JSONDecodeError, not an error of its own, if the body is
    # not JSON, e.g. a proxy's error page.
    except (openai.APIError, json.JSONDecodeError) as error:
      raise openai_responses.read_fault(error, self.name) from error
    reply = openai_responses.read_reply(
        response, self.name, self.route, endpoint.num_log_probs
    )
    self._check(reply, room)
    return reply, prompt

  def _room(self, request: engine_lib.Request, num_read: int) -> int:
    """Returns the maximum number of new tokens to ask the server for.

    Args:
      request: the session's request, or what is left of it.
      num_read: number of prompt tokens; 0 = not known.

    Raises:
      engine_lib.Refused: if the prompt leaves no room for a token.
    """
    endpoint = self._endpoint
    if not endpoint.max_length:
      return request.max_tokens
    # Without a tokenizer, num_read is 0 and the check below always passes. The
    # server itself then rejects prompts that are too long.
    room = min(request.max_tokens, endpoint.max_length - num_read)
    if room < 1:
      raise engine_lib.Refused(
          f'No token can be written: the prompt has {num_read} tokens, and '
          f'max_length of {self.name} is {endpoint.max_length}. Raise '
          'max_length, or end the answer earlier.'
      )
    return room

  def _fields(
      self,
      session: 'OpenAISession',
      request: engine_lib.Request,
      stop: str | None,
      room: int,
  ) -> dict[str, Any]:
    """Returns the body of a request, except its prompt or messages.

    Args:
      session: the session that makes the request.
      request: the session's request, or what is left of it.
      stop: the stop string; None = write to the end of the answer.
      room: maximum number of new tokens.
    """
    endpoint = self._endpoint
    fields = dict(
        model=endpoint.model,
        max_tokens=room,
        temperature=request.temperature,
    )
    extra = dict(endpoint.extra)
    if endpoint.num_log_probs and endpoint.mode == 'completions':
      fields['logprobs'] = endpoint.num_log_probs
    elif endpoint.num_log_probs:
      fields.update(logprobs=True, top_logprobs=endpoint.num_log_probs)
    # A greedy request needs no seed, and some servers reject the field.
    if endpoint.seeds and request.temperature:
      fields['seed'] = request.seed
    if stop is not None:
      fields['stop'] = [stop]
    if endpoint.is_vllm:
      extra['return_token_ids'] = True
      # The top log-probabilities come as a dictionary, keyed by token. If keys
      # are texts, different tokens with the same text overwrite each other; ids
      # are unique.
      extra['return_tokens_as_token_ids'] = self._prompter is not None
      if stop is not None:
        extra['include_stop_str_in_output'] = True
      # The salt is part of the hash of each cached block. Sessions with
      # different salts share no cached prefix, so their costs are independent.
      if session.salt:
        extra['cache_salt'] = session.salt
      if endpoint.mode == 'chat' and request.trace:
        extra.update(continue_final_message=True, add_generation_prompt=False)
    return {**fields, 'extra_body': extra}

  def _messages(
      self, session: 'OpenAISession', request: engine_lib.Request
  ) -> list[dict[str, Any]]:
    """Returns the messages of a chat request."""
    if self._endpoint.mode == 'instruct':
      return prompts.instruct(
          self._prompt, session.question, request.trace, to_end=request.to_end
      )
    thoughts.check_shown(
        self._prompter, session.question, request.trace, self.name
    )
    *others, last = self._prompt.messages(session.question, request.trace)
    if last['role'] == 'assistant':
      last = {**last, **self._endpoint.last_message}
    return [*others, last]

  def _check(self, reply: openai_responses.Reply, room: int) -> None:
    """Raises ValueError if a reply contradicts what the endpoint declares.

    Args:
      reply: the server's reply.
      room: maximum number of new tokens that the request asked for.
    """
    endpoint = self._endpoint
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
      text, is_final = openai_responses.complete(text, is_final, request.to_end)
    elif endpoint.is_vllm:
      is_final &= stop is None or reply.stopped_at != stop
    elif is_final and stop is not None and reply.written:
      # Other servers remove the stop string from the text. They report 'stop'
      # both at the stop string and at the end of the answer, so only a reply
      # without tokens is taken for the end.
      text, is_final = text + stop, False
    if endpoint.is_vllm and self._prompter:
      pieces = self._prompter.decode_tokens(prompt, reply.token_ids)
    is_final |= repetition.ends_in_blank_steps(request.trace + text)
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
