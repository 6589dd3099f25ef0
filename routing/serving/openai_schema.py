"""Requests of OpenAI's API: their fields, and what is refused by name.

A field that this service does not support is accepted only with the value that
means nothing, e.g. `tools: []`. Any other value, and any unknown field, is
refused: an answer that ignores what was asked for is worse than none.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Annotated
from typing import Any
from typing import ClassVar

import pydantic

from routing.serving import refusals

_ONE_WRITER = 'each step is written by whichever model the router chooses.'
_TEXT_ONLY = 'the models read and write text only.'
_NO_TOOLS = 'the models write steps of an answer and call nothing.'
# Field -> (values that mean nothing, why others are refused).
_NEUTRAL: Mapping[str, tuple[Sequence[Any], str]] = {
    'tools': ((None, []), _NO_TOOLS),
    'tool_choice': ((None, 'none', 'auto'), _NO_TOOLS),
    'parallel_tool_calls': ((None, True, False), _NO_TOOLS),
    'functions': ((None, []), _NO_TOOLS),
    'function_call': ((None, 'none', 'auto'), _NO_TOOLS),
    'modalities': ((None, ['text']), _TEXT_ONLY),
    'audio': ((None,), _TEXT_ONLY),
    'prediction': ((None,), _ONE_WRITER),
    'response_format': (
        (None, {'type': 'text'}),
        'the task says how an answer is written.',
    ),
    'top_p': ((None, 1), 'truncation is set for each model by its route.'),
    'presence_penalty': ((None, 0), _ONE_WRITER),
    'frequency_penalty': ((None, 0), _ONE_WRITER),
    'logit_bias': ((None, {}), 'the models have their own vocabularies.'),
    'top_logprobs': (
        (None, 0),
        'only the log-probabilities of the written tokens are recorded.',
    ),
    'reasoning_effort': ((None,), _ONE_WRITER),
    'verbosity': ((None,), _ONE_WRITER),
    'web_search_options': ((None,), _NO_TOOLS),
    'service_tier': ((None, 'auto', 'default'), 'there is one tier.'),
    'store': ((None, False), 'answers are not stored for retrieval.'),
    'metadata': ((None, {}), 'answers are not stored for retrieval.'),
    'echo': ((None, False), 'the prompt is a question, not a text to go on.'),
    'suffix': ((None, ''), 'the prompt is a question, not a text to go on.'),
    'best_of': ((None, 1), 'use n, and choose.'),
}


class _Body(pydantic.BaseModel):
  """A body; fields that are not declared are looked at in `check`."""

  model_config = pydantic.ConfigDict(extra='allow', strict=True)


class Routing(pydantic.BaseModel):
  """Which operating point answers; see `points.Points.choose`."""

  model_config = pydantic.ConfigDict(extra='forbid', strict=True)

  max_cost: (
      Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)] | None
  ) = None
  max_loss: Annotated[float, pydantic.Field(ge=0, le=1)] | None = None
  point: str | None = None


class StreamOptions(pydantic.BaseModel):
  """Options of a stream."""

  model_config = pydantic.ConfigDict(extra='forbid', strict=True)

  include_usage: bool = False


class Asked(_Body):
  """The fields that both kinds of completion share."""

  model: Annotated[str, pydantic.Field(max_length=200)]
  n: Annotated[int, pydantic.Field(ge=1)] | None = None
  max_tokens: Annotated[int, pydantic.Field(ge=1, le=2**31 - 1)] | None = None
  stop: str | list[str] | None = None
  seed: Annotated[int, pydantic.Field(ge=-(2**63), lt=2**63)] | None = None
  temperature: (
      Annotated[float, pydantic.Field(ge=0, le=2, allow_inf_nan=False)] | None
  ) = None
  user: Annotated[str, pydantic.Field(max_length=256)] | None = None
  stream: bool | None = None
  stream_options: StreamOptions | None = None
  routing: Routing | None = None

  def stops(self) -> tuple[str, ...]:
    """Returns the stop strings; at most four, none empty."""
    found = (self.stop,) if isinstance(self.stop, str) else self.stop or ()
    if (
        len(found) > 4
        or not all(found)
        or max(map(len, found), default=0) > 200
    ):
      raise refusals.invalid(
          'stop', 'stop has up to 4 strings of 1 to 200 characters.'
      )
    return tuple(found)

  def limit(self) -> int | None:
    """Returns the largest number of tokens asked for; None = not said."""
    return self.max_tokens

  def check(self) -> None:
    """Raises the refusal of the first field that is not supported."""
    for name, value in (self.model_extra or {}).items():
      if name not in _NEUTRAL:
        raise refusals.Refusal(
            400,
            f'Unrecognized request argument supplied: {name[:100]}',
            param=name[:100],
            code='unknown_parameter',
        )
      neutral, reason = _NEUTRAL[name]
      # 1 == True, but a number is not what was meant.
      if not any(
          value == x and isinstance(value, bool) == isinstance(x, bool)
          for x in neutral
      ):
        raise refusals.unsupported(name, reason)
    if self.stream_options is not None and not self.stream:
      raise refusals.invalid(
          'stream_options', 'stream_options is allowed only with stream: true.'
      )


class Message(pydantic.BaseModel):
  """A message of a chat."""

  model_config = pydantic.ConfigDict(extra='allow', strict=True)

  role: str
  content: str | list[dict[str, Any]] | None = None


class Chat(Asked):
  """The body of `/v1/chat/completions`."""

  ID_BEGINNING: ClassVar[str] = 'chatcmpl'
  QUESTION_FIELD: ClassVar[str] = 'messages'

  messages: Annotated[list[Message], pydantic.Field(min_length=1)]
  max_completion_tokens: (
      Annotated[int, pydantic.Field(ge=1, le=2**31 - 1)] | None
  ) = None
  logprobs: bool | None = None

  def limit(self) -> int | None:
    """Returns the largest number of tokens asked for; see `Asked.limit`."""
    if None not in (self.max_tokens, self.max_completion_tokens):
      raise refusals.invalid(
          'max_tokens', 'Give max_tokens or max_completion_tokens, not both.'
      )
    return self.max_completion_tokens or self.max_tokens

  def questions(self) -> list[str]:
    """Returns the question, the text of the only message.

    The models' prompts, with which the router was trained and calibrated, have
    room for one question. So an earlier turn or a system message is refused,
    not dropped.
    """
    *earlier, last = self.messages
    for index, message in enumerate(earlier):
      raise refusals.unsupported(
          f'messages[{index}]',
          f'it has the role {message.role[:40]!r} and is not the last message. '
          "The task's own prompt puts one question; send one message of the "
          "role 'user'.",
      )
    if last.role != 'user':
      raise refusals.unsupported(
          'messages[0].role',
          f"it is {last.role[:40]!r}; send one message of the role 'user'.",
      )
    for name, value in (last.model_extra or {}).items():
      if value:
        raise refusals.unsupported(
            f'messages[0].{name[:100]}', 'a message has role and content.'
        )
    return [_text(last.content)]

  def wants_logprobs(self) -> bool:
    """Whether the log-probability of each token is asked for."""
    return bool(self.logprobs)


class Completion(Asked):
  """The body of `/v1/completions`; each prompt is a question."""

  ID_BEGINNING: ClassVar[str] = 'cmpl'
  QUESTION_FIELD: ClassVar[str] = 'prompt'

  prompt: str | list[str] | list[int] | list[list[int]]
  logprobs: int | None = None

  def questions(self) -> list[str]:
    """Returns the questions, one for each prompt."""
    found = [self.prompt] if isinstance(self.prompt, str) else self.prompt
    if not found or not all(isinstance(x, str) for x in found):
      raise refusals.unsupported(
          'prompt', 'it must be a text or a list of texts, not token ids.'
      )
    return list(found)

  def wants_logprobs(self) -> bool:
    """Whether the log-probability of each token is asked for."""
    if self.logprobs:
      raise refusals.unsupported('logprobs', _NEUTRAL['top_logprobs'][1])
    return self.logprobs is not None


class Feedback(pydantic.BaseModel):
  """The body of `/v1/feedback`: whether an answer was right.

  `correct` says it; or `answer` is the right answer, with which the task's
  grader compares.
  """

  model_config = pydantic.ConfigDict(extra='forbid', strict=True)

  id: Annotated[str, pydantic.Field(min_length=1, max_length=100)]
  correct: bool | None = None
  answer: Annotated[str, pydantic.Field(max_length=10_000)] | None = None


class StepGiven(pydantic.BaseModel):
  """A step of a trace, as `/v1/decision` gets it; see `types.Step`."""

  model_config = pydantic.ConfigDict(extra='forbid', strict=True)

  text: Annotated[str, pydantic.Field(max_length=20_000)]
  model: str
  tokens: Annotated[int, pydantic.Field(ge=1, le=10_000)]
  log_probs: list[pydantic.FiniteFloat] = []
  top_log_probs: list[list[pydantic.FiniteFloat]] = []
  hidden: list[pydantic.FiniteFloat] | None = None


class Earlier(pydantic.BaseModel):
  """What the router saw at an earlier decision: its draft, and the cost."""

  model_config = pydantic.ConfigDict(extra='forbid', strict=True)

  draft: StepGiven | None = None
  spent: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)] = 0.0


class Decision(pydantic.BaseModel):
  """The body of `/v1/decision`; see `types.Trace`.

  A router that remembers also needs `earlier`, one for each step: a draft that
  was discarded is not among the steps.
  """

  model_config = pydantic.ConfigDict(extra='forbid', strict=True)

  model: Annotated[str, pydantic.Field(max_length=200)]
  question: str
  steps: Annotated[list[StepGiven], pydantic.Field(max_length=64)] = []
  draft: StepGiven | None = None
  spent: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)] = 0.0
  earlier: Annotated[list[Earlier], pydantic.Field(max_length=64)] = []
  routing: Routing | None = None


def _text(content: str | list[dict[str, Any]] | None) -> str:
  """Returns the text of a message's content."""
  if isinstance(content, str):
    return content
  if not content:
    raise refusals.invalid('messages[0].content', 'The message has no text.')
  for index, part in enumerate(content):
    where = f'messages[0].content[{index}]'
    if part.get('type') != 'text' or not isinstance(part.get('text'), str):
      raise refusals.unsupported(
          where,
          f'it has the type {str(part.get("type"))[:40]!r}; {_TEXT_ONLY}',
      )
    for name, value in part.items():
      if value and name not in ('type', 'text'):
        raise refusals.unsupported(
            f'{where}.{name[:100]}', 'a part has type and text.'
        )
  return ''.join(part['text'] for part in content)
