"""What the service answers, for its OpenAPI description.

Responses are not made from these classes, since each would be checked at each
request. `python -m benchmarks.schema_cases` compares the two.
"""

from typing import Any
from typing import Literal

import pydantic
from starlette import responses as starlette_responses


class _Body(pydantic.BaseModel):
  """A body that has these fields and no other."""

  model_config = pydantic.ConfigDict(extra='forbid')


class ErrorFields(_Body):
  """What was wrong, as OpenAI's API says it."""

  message: str
  type: str
  param: str | None
  code: str | None


class Error(_Body):
  """The body of every response that is no success."""

  error: ErrorFields


class Health(_Body):
  """The process lives."""

  status: Literal['ok']


class Ready(_Body):
  """Whether answers can be written, and which models are up."""

  status: Literal['ready', 'not ready']
  models: dict[str, bool]


class Point(_Body):
  """An operating point and what it promises."""

  point: str
  is_promised: bool
  promise: str
  measured: dict[str, Any]


class Promise(Point):
  """The promise of an answer, and why it may not hold for it."""

  holds: bool
  why_not: str | None


class Model(_Body):
  """Something that answers: the router, one of its points, or one model."""

  id: str
  object: Literal['model']
  created: int
  owned_by: str
  routing: Point | None


class OfAll(_Body):
  """What is the same for all models: a question to try them with."""

  example: str | None


class Models(_Body):
  """Everything that answers."""

  object: Literal['list']
  data: list[Model]
  routing: OfAll


class StepRow(_Body):
  """The record of a step.

  Cost: metric -> cost, in the unit of the metric. Seconds: those of the models.
  """

  step: int
  model: str
  tokens: int
  score: float | None
  threshold: float | None
  cost: dict[str, float]
  wasted_tokens: int
  seconds: float
  overhead_ms: float


class Routing(_Body):
  """The record of an answer."""

  id: str
  model: str
  fall_back: str | None
  fall_back_reason: Literal['back_end_down', 'drift_alarm'] | None
  promise: Promise | None
  seed: int
  metric: str
  cost: dict[str, float]
  large_alone: dict[str, float | None]
  wasted_tokens: int
  overhead_ms: float
  steps: list[StepRow]


class RoutingOfSeveral(_Body):
  """The sums over several answers, and the record of each."""

  cost: dict[str, float]
  large_alone: dict[str, float | None]
  wasted_tokens: int
  overhead_ms: float
  choices: list[Routing]


class TokenUsage(_Body):
  """The tokens of the question and of the answer."""

  prompt_tokens: int
  completion_tokens: int
  total_tokens: int


class Message(_Body):
  """An answer to a chat."""

  role: Literal['assistant']
  content: str
  refusal: None


class _Choice(_Body):
  index: int
  finish_reason: Literal['stop', 'length']


class TokenLogprob(_Body):
  """The log-probability of a token."""

  token: str
  logprob: float
  bytes: list[int]
  top_logprobs: list[Any]


class ChatLogprobs(_Body):
  """The log-probabilities of an answer to a chat."""

  content: list[TokenLogprob]
  refusal: None


class ChatChoice(_Choice):
  """One answer to a chat."""

  message: Message
  logprobs: ChatLogprobs | None


class TextLogprobs(_Body):
  """The log-probabilities of an answer to a prompt."""

  tokens: list[str]
  token_logprobs: list[float]
  top_logprobs: None
  text_offset: list[int]


class TextChoice(_Choice):
  """One answer to a prompt."""

  text: str
  logprobs: TextLogprobs | None


class _Completion(_Body):
  id: str
  created: int
  model: str
  usage: TokenUsage
  routing: Routing | RoutingOfSeveral


class ChatCompletion(_Completion):
  """The answers to a chat."""

  object: Literal['chat.completion']
  choices: list[ChatChoice]


class TextCompletion(_Completion):
  """The answers to prompts."""

  object: Literal['text_completion']
  choices: list[TextChoice]


class Decided(_Body):
  """The decision at a trace."""

  object: Literal['routing.decision']
  model: str
  route: int
  writer: str
  score: float
  threshold: float | None


class Graded(_Body):
  """What was understood of a feedback."""

  id: str
  object: Literal['feedback']
  correct: bool
  loss: float
  is_loss_known: bool


class Used(_Body):
  """What a model has done for a key; the price is in dollars."""

  read: int
  cached: int
  written: int
  price: float


class UsageOfKey(_Body):
  """What a key has used, by model."""

  object: Literal['usage']
  key: str
  models: dict[str, Used]


# Of every endpoint. Which they are is in `refusals` and in docs/serving.md.
_ERRORS = {
    '4XX': {'model': Error, 'description': 'The request is refused.'},
    '5XX': {'model': Error, 'description': 'The service or a model failed.'},
}


def described(
    body: type[pydantic.BaseModel] | None,
    *,
    streams: bool = False,
    responses: dict[int | str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
  """Returns the arguments that describe the responses of a route.

  Args:
    body: of a success; None = it is plain text.
    streams: whether it may also be a stream of server-sent events.
    responses: of further statuses.
  """
  success: dict[str, Any] = {'description': 'Success.'}
  if body is not None:
    success['model'] = body
  if streams:
    success['description'] = (
        'Success. With `stream`, server-sent events: each is a chunk, the last '
        'has usage and routing.'
    )
    # OpenAPI 3.1 has no way to say what an event is.
    success['content'] = {'text/event-stream': {}}
  return {
      'response_model': None,
      'response_class': starlette_responses.JSONResponse
      if body is not None
      else starlette_responses.PlainTextResponse,
      'responses': {200: success, **_ERRORS, **(responses or {})},
  }
