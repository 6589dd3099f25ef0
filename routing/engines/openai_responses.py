"""What an OpenAI-compatible server replied, in terms of tokens and their cost.

Servers differ in what they tell of the tokens that they wrote. What is missing
stays missing: an id that is not told is `UNKNOWN_ID`, a log-probability that is
not told is NaN here and leaves its whole step without any (`without_gaps`).
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import datetime
import email.utils
from typing import Any

import numpy as np

from routing import types
from routing.engines import engine as engine_lib
from routing.engines import segmentation

UNKNOWN_ID = -1
_RETRIABLE = (408, 409, 425, 429)  # And 500 or more.
_PERMANENT = (401, 404)  # A wrong key or model name serves no problem.


@dataclasses.dataclass(frozen=True)
class Reply:
  """One reply.

  text: what was written.
  finish: why it ended, 'stop' or 'length'.
  stopped_at: vLLM's reason for a 'stop': the string or token that it met; None
    for the end of the answer, and on other servers.
  token_ids: the ids of the n tokens; None = not told.
  tokens: the text of each; None = not told.
  log_probs: `[n]` float32; None = not told.
  top_log_probs: `[n, k]` float32, descending; k may be 0.
  read, cached, written: tokens that are paid for.
  """

  text: str
  finish: str
  stopped_at: str | int | None
  token_ids: list[int] | None
  tokens: list[str] | None
  log_probs: np.ndarray | None
  top_log_probs: np.ndarray
  read: int
  cached: int
  written: int


def read_reply(response: Any, name: str, num_top: int) -> Reply:
  """Reads a response of either kind, completion or chat.

  Args:
    response: of the `openai` client.
    name: of the engine, for errors.
    num_top: k at most; servers may give one more, the token itself.

  Raises:
    engine_lib.Refused: if the answer was withheld (a content filter, say).
    ValueError: if the server does not say what was consumed.
  """
  choice, usage = response.choices[0], response.usage
  if usage is None:
    raise ValueError(
        f'The server of {name} reports no usage; costs cannot be known.'
    )
  if choice.finish_reason not in ('stop', 'length'):
    raise engine_lib.Refused(
        f'{name} ended an answer with {choice.finish_reason!r}; allowed: stop, '
        'length.'
    )
  details = usage.prompt_tokens_details
  cached = (details and details.cached_tokens) or 0
  message = getattr(choice, 'message', None)
  tokens, log_probs, tops = _read_log_probs(choice.logprobs, message is None)
  return Reply(
      text=(choice.text if message is None else message.content) or '',
      finish=choice.finish_reason,
      stopped_at=getattr(choice, 'stop_reason', None),
      token_ids=getattr(choice, 'token_ids', None),
      tokens=tokens,
      log_probs=log_probs,
      top_log_probs=_rectangle(tops, num_top),
      read=usage.prompt_tokens - cached,
      cached=cached,
      written=usage.completion_tokens,
  )


def to_written(
    reply: Reply, text: str, pieces: Sequence[str] | None, is_final: bool
) -> segmentation.Written:
  """The tokens of a reply, in pieces that do spell `text`.

  Args:
    reply: the reply.
    text: what it counts for; the caller may have cut or mended its own text.
    pieces: what each token adds, if the caller knows better than the server.
    is_final: the answer has come to its end.
  """
  pieces = pieces or reply.tokens or ()
  listed = len(reply.token_ids or pieces) or max(reply.written, 1)
  log_probs = reply.log_probs
  if log_probs is None or len(log_probs) != listed:
    log_probs = np.full(listed, np.nan, np.float32)
  tops = reply.top_log_probs
  if len(tops) != listed:
    tops = np.zeros((listed, 0), np.float32)
  return segmentation.Written(
      pieces=spread(text, pieces if len(pieces) == listed else ['.'] * listed),
      token_ids=reply.token_ids or [UNKNOWN_ID] * listed,
      log_probs=log_probs,
      top_log_probs=tops,
      is_final=is_final,
  )


def spread(text: str, pieces: Sequence[str]) -> list[str]:
  """Pieces that spell `text`: those given, or as many, as long in proportion.

  The pieces of half a character, or of a stop that was left out, do not spell
  it; each then stands for its share of the characters.
  """
  if ''.join(pieces) == text:
    return list(pieces)
  ends = np.cumsum([len(piece) for piece in pieces])
  total = max(int(ends[-1]), 1)
  bounds = [0, *(int(end) * len(text) // total for end in ends)]
  bounds[-1] = len(text)
  return [text[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def without_gaps(step: types.Step) -> types.Step:
  """The step; without log-probabilities if one of them was not told."""
  if np.isfinite(step.log_probs).all():
    return step
  return dataclasses.replace(
      step,
      log_probs=np.zeros(0, np.float32),
      top_log_probs=np.zeros((len(step.token_ids), 0), np.float32),
  )


def _read_log_probs(log_probs: Any, is_completion: bool):
  """Tokens, their log-probabilities and those of the alternatives, as lists."""
  if log_probs is None:
    return None, None, []
  if is_completion:
    tokens, own = log_probs.tokens, log_probs.token_logprobs
    tops = [list((x or {}).values()) for x in log_probs.top_logprobs or ()]
  else:
    content = log_probs.content or []
    tokens = [x.token for x in content]
    own = [x.logprob for x in content]
    tops = [[y.logprob for y in x.top_logprobs] for x in content]
  if not tokens or not own:
    return None, None, []
  known = np.array([np.nan if x is None else x for x in own], np.float32)
  return tokens, known, tops


def _rectangle(tops: Sequence[Sequence[float]], num_top: int) -> np.ndarray:
  """`[n, k]` float32, descending: as many columns as every token has."""
  width = min([num_top, *map(len, tops)])
  rows = [sorted(row, reverse=True)[:width] for row in tops]
  return np.array(rows, np.float32).reshape(len(tops), width)


def read_fault(error: Exception, name: str) -> Exception:
  """What a failed request to the engine `name` means."""
  import openai

  if not isinstance(error, openai.APIStatusError):
    return engine_lib.Unavailable(f'{name}: {type(error).__name__}: {error}')
  status = error.status_code
  message = f'{name}: HTTP {status}: {error.message}'
  if status in _PERMANENT or error.code == 'insufficient_quota':
    return engine_lib.Stop(message)
  if status in _RETRIABLE or status >= 500:
    return engine_lib.Unavailable(message, retry_after(error.response.headers))
  return engine_lib.Refused(message)


def retry_after(headers: Mapping[str, str]) -> float:
  """Seconds that a server asks to be left alone; 0 where it does not say.

  Source: RFC 9110, section 10.2.3 (seconds or a date); `retry-after-ms` is
  OpenAI's own.
  """
  value = headers.get('retry-after', '')
  try:
    if 'retry-after-ms' in headers:
      return max(float(headers['retry-after-ms']) / 1_000, 0.0)
    return max(float(value), 0.0)
  except ValueError:
    pass
  try:
    then = email.utils.parsedate_to_datetime(value)
  except ValueError:
    return 0.0
  now = datetime.datetime.now(datetime.UTC)
  return max((then - now).total_seconds(), 0.0)
