"""vLLM's server, and whatever else speaks OpenAI's protocol, as an engine.

How a half-written answer is gone on with depends on the server; see
`endpoint.MODES`. In the last mode it cannot be: the model is shown question and
trace and asked to go on, and its answer is cut into steps. Failed requests are
told apart here (`engine.Unavailable`, `engine.Refused`, `engine.Stop`) and made
again elsewhere, see `resilience`: the client's own repetitions are off.
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
  """Writes steps with a model behind a server.

  A server that is not vLLM does not tell whether it met the stop string or the
  end of the answer. It is taken for the former until it writes nothing more, so
  the end costs a request.

  Args:
    name: the model's name.
    route: its route index.
    endpoint: where and what the server is.
    prompter: knows the model's tokenizer: prompts are token ids in mode
      'completions', and tokens can be counted. None = it is not known.
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
        max_retries=0,
        timeout=endpoint.timeout,
    )

  def count_tokens(self, question: str, trace: str) -> int:
    """Prompt tokens of a request for `question`, continued after `trace`.

    Raises:
      ValueError: if the tokenizer is not known.
    """
    if self._prompter is None:
      raise ValueError(
          f'Engine {self.name!r} has no tokenizer to count tokens with.'
      )
    return len(self._prompter.ids(question, trace))

  def encode(self, question: str, trace: str) -> list[int] | None:
    """See `engine.Engine.encode`."""
    if self._prompter is None:
      return None
    return self._prompter.ids(question, trace)

  async def write(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """Writes one step, or all to the end; see `engine.Engine.write`.

    Raises:
      engine_lib.Unavailable, Refused, Stop: as they say.
      ValueError: if the server does less than its endpoint declares.
    """
    if request.max_tokens < 1:
      raise engine_lib.Refused(
          f'max_tokens is {request.max_tokens}; allowed: >= 1.'
      )
    can_stop = self.capabilities.continues_prefix
    paid = []

    async def call(text: str, stop: str | None, max_tokens: int):
      asked = dataclasses.replace(
          request,
          trace=request.trace + text,
          max_tokens=max_tokens,
          seed=request.seed + len(paid),  # No noise comes twice.
      )
      start = time.perf_counter()
      reply, prompt = await self._ask(asked, stop)
      seconds = time.perf_counter() - start
      usage = types.Usage(
          self.route, reply.read, reply.cached, reply.written, seconds
      )
      paid.append(reply.written)
      return self._written(reply, prompt, asked, stop), usage

    steps = await segmentation.write_steps(
        call,
        to_end=request.to_end or not can_stop,
        max_tokens=request.max_tokens,
    )
    kept = steps if request.to_end else steps[:1]
    kept = repetition.truncate_repetition(kept, request.trace, self._num_equal)
    return segmentation.charged(
        [openai_responses.without_gaps(step) for step in kept], sum(paid)
    )

  async def cancel_speculation(self, session: str) -> None:
    """Nothing to do: only what is asked for is written."""

  def forget(self, session: str) -> None:
    """Nothing to do: servers give up first what was not used for longest."""

  async def close(self) -> None:
    """Closes the connections."""
    await self._client.close()

  async def _ask(
      self, request: engine_lib.Request, stop: str | None
  ) -> tuple[openai_responses.Reply, list[int]]:
    """One request; returns the reply and, if known, the prompt's ids."""
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
    except (openai.APIError, json.JSONDecodeError) as error:
      raise openai_responses.read_fault(error, self.name) from error
    reply = openai_responses.read_reply(
        response, self.name, endpoint.num_log_probs
    )
    self._check(reply, room)
    return reply, prompt

  def _room(self, request: engine_lib.Request, num_read: int) -> int:
    """The tokens that may be written.

    Raises:
      engine_lib.Refused: if there is room for none.
    """
    endpoint = self._endpoint
    if not endpoint.max_length:
      return request.max_tokens
    room = min(request.max_tokens, endpoint.max_length - num_read)
    if room < 1:
      raise engine_lib.Refused(
          f'No room to write: the prompt has {num_read} tokens, and '
          f'{self.name} holds {endpoint.max_length}.'
      )
    return room

  def _fields(
      self, request: engine_lib.Request, stop: str | None, room: int
  ) -> dict[str, Any]:
    """The fields that both kinds of request have."""
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
    if endpoint.seeds and request.temperature:
      fields['seed'] = request.seed
    if stop is not None:
      fields['stop'] = [stop]
    if endpoint.is_vllm:
      extra['return_token_ids'] = True
      # Two alternatives may have one text; by their ids they are told apart.
      extra['return_tokens_as_token_ids'] = self._prompter is not None
      if stop is not None:
        extra['include_stop_str_in_output'] = True
      if request.session:
        extra['cache_salt'] = _salt(request.session)
      if endpoint.mode == 'chat' and request.trace:
        extra.update(continue_final_message=True, add_generation_prompt=False)
    return {**fields, 'extra_body': extra}

  def _messages(self, request: engine_lib.Request) -> list[dict[str, Any]]:
    """The conversation of a request."""
    if self._endpoint.mode == 'instruct':
      return self._dialogue.instruct(
          request.question, request.trace, to_end=request.to_end
      )
    *others, last = self._dialogue.messages(request.question, request.trace)
    if last['role'] == 'assistant':
      last = {**last, **self._endpoint.last_message}
    return [*others, last]

  def _check(self, reply: openai_responses.Reply, room: int) -> None:
    """Raises ValueError unless the server did what its endpoint declares."""
    endpoint = self._endpoint
    if endpoint.is_vllm and reply.token_ids is None:
      raise ValueError(
          f'The server of {self.name} gives no token ids, so it is not vLLM, '
          'or too old; set is_vllm to False.'
      )
    if endpoint.num_log_probs and reply.log_probs is None and reply.text:
      raise ValueError(
          f'The server of {self.name} gives no log-probabilities; set '
          'num_log_probs to 0.'
      )
    total = reply.read + reply.cached + reply.written
    is_full = endpoint.max_length and total >= endpoint.max_length
    if reply.finish == 'length' and reply.written < room and not is_full:
      raise ValueError(
          f'The server of {self.name} was to write {room} tokens and stopped '
          f'after {reply.written}, at {total} in all; set max_length to what '
          'it holds.'
      )

  def _written(
      self,
      reply: openai_responses.Reply,
      prompt: Sequence[int],
      request: engine_lib.Request,
      stop: str | None,
  ) -> segmentation.Written:
    """What a reply counts for."""
    endpoint = self._endpoint
    text, is_final = reply.text, reply.finish == 'stop'
    pieces = None
    if endpoint.mode == 'instruct':
      text, is_final = _mend(text, is_final, request.to_end)
    elif endpoint.is_vllm:
      is_final &= stop is None or reply.stopped_at != stop
    elif is_final and stop is not None and reply.written:
      text, is_final = text + stop, False  # Such servers leave it out.
    if endpoint.is_vllm and self._prompter:
      pieces = self._prompter.decode_tokens(prompt, reply.token_ids)
    is_final |= repetition.ends_in_blank_steps(request.trace + text)
    return openai_responses.to_written(reply, text, pieces, is_final)


def _salt(session: str) -> str:
  """A session's name as vLLM's server takes it: short, and without '/'."""
  return hashlib.blake2b(session.encode(), digest_size=16).hexdigest()


def _mend(text: str, has_ended: bool, to_end: bool) -> tuple[str, bool]:
  """The answer of a model that was asked to go on: as text, and if it is final.

  A step without its delimiter is given one: it was the model's to leave out.
  """
  text, done, _ = text.partition(prompts.DONE)
  text = text.strip()
  if not has_ended or to_end or done:
    return text, has_ended and (to_end or bool(done))
  return text + types.DELIMITER, False
