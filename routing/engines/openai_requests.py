"""Builds the requests for servers of OpenAI's protocol.

What a request may contain depends on the server; see `endpoint.Endpoint`.
"""

from collections.abc import Mapping
from typing import Any

from routing.engines import endpoint as endpoint_lib
from routing.engines import engine as engine_lib
from routing.engines import prompts
from routing.tasks import prompt as prompt_lib

# Of fields that a request leaves out, vLLM's server takes the values of the
# model's generation_config.json. Qwen2.5's, for example, has a repetition
# penalty, which changes greedy answers as well.
_NO_TRUNCATION = {
    'top_p': 1.0,
    'top_k': 0,
    'min_p': 0.0,
    'repetition_penalty': 1.0,
}


def room(
    endpoint: endpoint_lib.Endpoint, max_tokens: int, num_read: int, name: str
) -> int:
  """Returns the maximum number of new tokens to ask the server for.

  Args:
    endpoint: the server.
    max_tokens: maximum number of new tokens that the caller wants, at least 1.
    num_read: number of prompt tokens; 0 = not known.
    name: the engine's name, for the error message.

  Raises:
    engine_lib.Refused: if the prompt leaves no room for a token.
  """
  if not endpoint.max_length:
    return max_tokens
  # Without a tokenizer, num_read is 0 and the check always passes. The server
  # itself then rejects prompts that are too long.
  return engine_lib.room(name, num_read, max_tokens, endpoint.max_length)


def fields(
    endpoint: endpoint_lib.Endpoint,
    request: engine_lib.Request,
    stop: str | None,
    num_new: int,
    *,
    returns_ids: bool,
    salt: str | None,
    sampling: Mapping[str, float],
    name: str,
) -> dict[str, Any]:
  """Returns the body of a request, except its prompt or messages.

  Args:
    endpoint: the server.
    request: the session's request, or what is left of it.
    stop: the stop string; None = write to the end of the answer.
    num_new: maximum number of new tokens.
    returns_ids: True = vLLM's server names tokens by their ids.
    salt: cache salt of the session; None = the session shares its cache.
    sampling: fields that truncate or change the distribution, e.g. top_p; of
      those not given, vLLM's server is told that there is none, and others
      apply their defaults.
    name: the engine's name, for error messages.

  Raises:
    engine_lib.Stop: if the model cannot sample at the requested temperature.
  """
  body = dict(
      model=endpoint.model, **_sampling(endpoint, request, num_new, name)
  )
  extra = {**sampling, **endpoint.extra}
  if endpoint.num_log_probs and endpoint.mode == 'completions':
    body['logprobs'] = endpoint.num_log_probs
  elif endpoint.num_log_probs:
    body.update(logprobs=True, top_logprobs=endpoint.num_log_probs)
  # A greedy request needs no seed, and some servers reject the field.
  if endpoint.seeds and request.temperature:
    body['seed'] = request.seed
  if stop is not None:
    body['stop'] = [stop]
  if endpoint.is_vllm:
    extra = {**_NO_TRUNCATION, **extra}
    extra['return_token_ids'] = True
    # The top log-probabilities come as a dictionary, keyed by token. If keys
    # are texts, different tokens with the same text overwrite each other; ids
    # are unique.
    extra['return_tokens_as_token_ids'] = returns_ids
    if stop is not None:
      extra['include_stop_str_in_output'] = True
    # The salt is part of the hash of each cached block. Sessions with different
    # salts share no cached prefix, so their costs are independent.
    if salt:
      extra['cache_salt'] = salt
    if endpoint.mode == 'chat' and request.trace:
      extra.update(continue_final_message=True, add_generation_prompt=False)
  return {**body, 'extra_body': extra}


def _sampling(
    endpoint: endpoint_lib.Endpoint,
    request: engine_lib.Request,
    num_new: int,
    name: str,
) -> dict[str, Any]:
  """Returns the fields of temperature, length and effort; see `fields`."""
  if not endpoint.reasoning_effort:
    return dict(max_tokens=num_new, temperature=request.temperature)
  own = endpoint_lib.REASONING_TEMPERATURE
  # These models reject the field `temperature`. Leaving it out without a word
  # would pass their samples for greedy answers.
  if request.temperature != own:
    raise engine_lib.Stop(
        f'{name} has a reasoning_effort, so it samples at temperature {own}, '
        f'but the run asks for {request.temperature}; allowed: {own}.'
    )
  return dict(
      max_completion_tokens=num_new, reasoning_effort=endpoint.reasoning_effort
  )


def messages(
    endpoint: endpoint_lib.Endpoint,
    prompt: prompt_lib.Prompt,
    question: str,
    request: engine_lib.Request,
) -> list[dict[str, Any]]:
  """Returns the messages of a chat request.

  Args:
    endpoint: the server.
    prompt: how a question is put.
    question: the problem's text.
    request: the session's request, or what is left of it.
  """
  if endpoint.mode == 'instruct':
    return prompts.instruct(
        prompt,
        question,
        request.trace,
        to_end=request.to_end,
        delimiter=request.delimiter.text,
    )
  *others, last = prompt.messages(question, request.trace)
  if last['role'] == 'assistant':
    if endpoint.trims_end:
      last['content'] = last['content'].rstrip()
    last = {**last, **endpoint.last_message}
  return [*others, last]
