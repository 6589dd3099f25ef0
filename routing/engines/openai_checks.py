"""Checks the replies of servers against what their endpoints declare."""

from routing import types
from routing.engines import endpoint as endpoint_lib
from routing.engines import engine as engine_lib
from routing.engines import openai_responses


def check(
    endpoint: endpoint_lib.Endpoint,
    reply: openai_responses.Reply,
    room: int,
    name: str,
    route: int,
) -> None:
  """Checks a reply against what the endpoint declares.

  Args:
    endpoint: the server.
    reply: its reply.
    room: maximum number of new tokens that the request asked for.
    name: the engine's name, for the message.
    route: the engine's route, for the usage of a reply without text.

  Raises:
    ValueError: if the reply contradicts the endpoint's declarations.
    engine_lib.Refused: if the tokens ran out before the text began.
  """
  # Another model has another price, and writes other answers.
  if not openai_responses.is_same_model(endpoint.model, reply.model):
    raise ValueError(
        f'The server of {name} was asked for the model {endpoint.model!r} and '
        f'answered with {reply.model!r}; name the model that it has.'
    )
  if endpoint.is_vllm and reply.token_ids is None:
    raise ValueError(
        f"The server of {name} returned no token ids, so it is not vLLM's or "
        "is too old; set the endpoint's is_vllm to False."
    )
  if endpoint.num_log_probs and reply.log_probs is None and reply.text:
    raise ValueError(
        f'The server of {name} returned no log-probabilities; set '
        "the endpoint's num_log_probs to 0."
    )
  if reply.thought and not reply.text and reply.finish == 'length':
    error = engine_lib.Refused(
        f'{name} spent all {reply.written} tokens on thoughts and wrote no '
        'text; allow it more tokens, or lower its reasoning_effort.'
    )
    error.billed = (
        types.Usage(route, reply.read, reply.cached, reply.written),
    )
    raise error
  # A reply that was cut before the token limit means that the server's context
  # is full. If max_length is not the context's length, such a reply would pass
  # for one that reached the limit of the request.
  total = reply.read + reply.cached + reply.written
  is_full = endpoint.max_length and total >= endpoint.max_length
  if reply.finish == 'length' and reply.written < room and not is_full:
    raise ValueError(
        f'The server of {name} was asked for {room} tokens and stopped after '
        f'{reply.written}, at {total} in total with the prompt; set max_length '
        "to the length of the server's context."
    )
