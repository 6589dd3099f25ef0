"""An engine for vLLM's server and other servers with OpenAI's protocol.

How a half-written answer is continued depends on the server; see
`endpoint.MODES`. In mode 'instruct' the server cannot continue it: the model is
shown the question and the trace and asked to continue, and its answer is cut
into steps.

Failed requests are classified here (`engine.Unavailable`, `engine.Refused`,
`engine.Stop`) and repeated by `resilience`.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import json
import time
from typing import Any

from routing import types
from routing.engines import endpoint as endpoint_lib
from routing.engines import engine as engine_lib
from routing.engines import openai_responses
from routing.engines import prompts
from routing.engines import repetition
from routing.engines import segmentation


class OpenAIEngine:
  """An engine that writes steps with a model behind a server.

  Servers other than vLLM do not say whether they stopped at the stop string or
  at the end of the answer. The engine assumes the stop string until a request
  returns no token, so the end of an answer costs one extra request.

  Args:
    name: the model's name.
    route: its route index.
    endpoint: the server.
    prompter: has the model's tokenizer. Prompts are then token ids in mode
      'completions', and tokens can be counted. None = not known.
    dialogue: how a problem is put to a chat model.
    num_equal: see `repetition.truncate_repetition`.
  """

  def __init__(
      self,
      name: str,
      route: int,
      endpoint: endpoint_lib.Endpoint,
      *,
      prompter: prompts.Prompter | None = None,
      dialogue: prompts.Dialogue | None = None,
      num_equal: int = repetition.NUM_EQUAL,
  ):
    # Imported here: runs without servers do not need the package.
    import openai

    self.name = name
    self.route = route
    self.capabilities = endpoint_lib.capabilities(
        endpoint, prompter is not None
    )
    self._endpoint = endpoint
    self._prompter = prompter
    self._dialogue = dialogue or prompts.Dialogue()
    self._num_equal = num_equal
    self._client = openai.AsyncOpenAI(
        base_url=endpoint.base_url,
        api_key=endpoint.api_key,
        # `resilience` retries: the client's own retries would bypass its limits
        # and multiply its attempts.
        max_retries=0,
        timeout=endpoint.timeout,
    )

  def count_tokens(self, question: str, trace: str) -> int:
    """Counts the prompt tokens of a request.

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
    """Returns the prompt's ids; see `engine.Engine.encode`."""
    if self._prompter is None:
      return None
    return self._prompter.ids(question, trace)

  async def write(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """Writes one step, or all to the end; see `engine.Engine.write`.

    Raises:
      engine_lib.Unavailable, Refused, Stop: if a request fails; see their docs.
      ValueError: if the server does less than its endpoint declares.
    """
    if request.max_tokens < 1:
      raise engine_lib.Refused(
          f'max_tokens is {request.max_tokens}; allowed: >= 1.'
      )
    # In mode 'instruct' a request cannot stop within a block and be continued,
    # so the answer is requested as a whole and surplus steps are dropped below.
    can_stop = self.capabilities.continues_prefix
    counts = []  # Tokens that each call wrote.

    async def call(text: str, stop: str | None, max_tokens: int):
      following = dataclasses.replace(
          request,
          trace=request.trace + text,
          max_tokens=max_tokens,
          # Another seed for each call, or all would draw the same noise.
          seed=request.seed + len(counts),
      )
      start = time.perf_counter()
      reply, prompt = await self._ask(following, stop)
      seconds = time.perf_counter() - start
      usage = types.Usage(
          self.route, reply.read, reply.cached, reply.written, seconds
      )
      counts.append(reply.written)
      return self._written(reply, prompt, following, stop), usage

    steps = await segmentation.write_steps(
        call,
        to_end=request.to_end or not can_stop,
        max_tokens=request.max_tokens,
    )
    kept = steps if request.to_end else steps[:1]
    kept = repetition.truncate_repetition(kept, request.trace, self._num_equal)
    # Dropped steps are charged to the last kept one: the server bills them.
    return segmentation.charged(
        [openai_responses.without_gaps(step) for step in kept], sum(counts)
    )

  async def cancel_speculation(self, session: str) -> None:
    """Does nothing: the engine never continues speculatively."""

  def forget(self, session: str) -> None:
    """Does nothing: servers evict the least recently used prefixes."""

  async def close(self) -> None:
    """Closes the connections to the server."""
    await self._client.close()

  async def _ask(
      self, request: engine_lib.Request, stop: str | None
  ) -> tuple[openai_responses.Reply, list[int]]:
    """Sends one request; returns the reply and the prompt's ids, if known."""
    import openai

    endpoint = self._endpoint
    prompt = (
        self._prompter.ids(request.question, request.trace)
        if self._prompter
        else []
    )
    room = self._room(request, len(prompt))
    fields = self._fields(request, stop, room)
    try:
      if endpoint.mode == 'completions':
        response = await self._client.completions.create(
            prompt=prompt or request.question + request.trace, **fields
        )
      else:
        response = await self._client.chat.completions.create(
            messages=self._messages(request), **fields
        )
    # The client does not wrap the error of a body that is not JSON, such as a
    # proxy's error page.
    except (openai.APIError, json.JSONDecodeError) as error:
      raise openai_responses.read_fault(error, self.name) from error
    reply = openai_responses.read_reply(
        response, self.name, endpoint.num_log_probs
    )
    self._check(reply, room)
    return reply, prompt

  def _room(self, request: engine_lib.Request, num_read: int) -> int:
    """Returns the maximum number of tokens to request.

    Raises:
      engine_lib.Refused: if it would be less than 1.
    """
    endpoint = self._endpoint
    if not endpoint.max_length:
      return request.max_tokens
    # Without a tokenizer num_read is 0 here, and the server itself rejects
    # prompts that are too long.
    room = min(request.max_tokens, endpoint.max_length - num_read)
    if room < 1:
      raise engine_lib.Refused(
          f'No token can be written: the prompt has {num_read} tokens, and '
          f'max_length of {self.name} is {endpoint.max_length}. Raise '
          'max_length, or stop earlier.'
      )
    return room

  def _fields(
      self, request: engine_lib.Request, stop: str | None, room: int
  ) -> dict[str, Any]:
    """Returns the fields that completion and chat requests have in common."""
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
      # The top log-probabilities come as a dictionary by token text. Different
      # tokens may have one text and would overwrite each other; ids do not.
      extra['return_tokens_as_token_ids'] = self._prompter is not None
      if stop is not None:
        extra['include_stop_str_in_output'] = True
      # The salt is part of the hash of each cached block, so that sessions do
      # not share prefixes and their costs do not depend on each other.
      if request.session:
        extra['cache_salt'] = _salt(request.session)
      if endpoint.mode == 'chat' and request.trace:
        extra.update(continue_final_message=True, add_generation_prompt=False)
    return {**fields, 'extra_body': extra}

  def _messages(self, request: engine_lib.Request) -> list[dict[str, Any]]:
    """Returns the conversation of a chat request."""
    if self._endpoint.mode == 'instruct':
      return self._dialogue.instruct(
          request.question, request.trace, to_end=request.to_end
      )
    *others, last = self._dialogue.messages(request.question, request.trace)
    if last['role'] == 'assistant':
      last = {**last, **self._endpoint.last_message}
    return [*others, last]

  def _check(self, reply: openai_responses.Reply, room: int) -> None:
    """Raises ValueError unless the server did what its endpoint declares.

    Args:
      reply: the server's reply.
      room: number of tokens that were requested.
    """
    endpoint = self._endpoint
    if endpoint.is_vllm and reply.token_ids is None:
      raise ValueError(
          f'The server of {self.name} returned no token ids, so it is not vLLM '
          'or too old; set is_vllm to False.'
      )
    if endpoint.num_log_probs and reply.log_probs is None and reply.text:
      raise ValueError(
          f'The server of {self.name} returned no log-probabilities; set '
          'num_log_probs to 0.'
      )
    # Cut before the token limit means that the server's context is full. Where
    # max_length does not say so, the request would seem to be the cause.
    total = reply.read + reply.cached + reply.written
    is_full = endpoint.max_length and total >= endpoint.max_length
    if reply.finish == 'length' and reply.written < room and not is_full:
      raise ValueError(
          f'The server of {self.name} was asked for {room} tokens and stopped '
          f'after {reply.written}, at {total} in total; set max_length to the '
          "length of the server's context."
      )

  def _written(
      self,
      reply: openai_responses.Reply,
      prompt: Sequence[int],
      request: engine_lib.Request,
      stop: str | None,
  ) -> segmentation.Written:
    """Interprets a reply: its tokens, its text, and whether the answer ended.

    Args:
      reply: the server's reply.
      prompt: the prompt's ids, [] if unknown.
      request: the request that was sent.
      stop: its stop string; None = the end of the answer.
    """
    endpoint = self._endpoint
    text, is_final = reply.text, reply.finish == 'stop'
    pieces = None
    if endpoint.mode == 'instruct':
      text, is_final = _complete(text, is_final, request.to_end)
    elif endpoint.is_vllm:
      is_final &= stop is None or reply.stopped_at != stop
    elif is_final and stop is not None and reply.written:
      # Other servers remove the stop string and report 'stop' both for it and
      # for the end of the answer. Only a reply without tokens is the end.
      text, is_final = text + stop, False
    if endpoint.is_vllm and self._prompter:
      pieces = self._prompter.decode_tokens(prompt, reply.token_ids)
    is_final |= repetition.ends_in_blank_steps(request.trace + text)
    return openai_responses.to_written(reply, text, pieces, is_final)


def _salt(session: str) -> str:
  """Returns a session's name as a cache salt: short, and without '/'."""
  return hashlib.blake2b(session.encode(), digest_size=16).hexdigest()


def _complete(text: str, has_ended: bool, to_end: bool) -> tuple[str, bool]:
  """Completes the reply of a model that was asked to continue an answer.

  The model was told to end a step with a blank line, but the reply may lack it;
  then it is added.

  Args:
    text: the reply.
    has_ended: the model ended its reply, rather than running out of tokens.
    to_end: the rest of the answer was requested, not one step.

  Returns:
    The text without `prompts.DONE`, and whether the answer is complete.
  """
  text, done, _ = text.partition(prompts.DONE)
  text = text.strip()
  if not has_ended or to_end or done:
    return text, has_ended and (to_end or bool(done))
  return text + types.DELIMITER, False
