"""Reads the replies of OpenAI-compatible servers: tokens, usage and errors.

Servers differ in what they report about the tokens that they wrote. Missing
values stay missing: an id that is not reported is `UNKNOWN_ID`, and a
log-probability that is not reported is NaN. A step with a NaN loses all its
log-probabilities (`without_gaps`).
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
# HTTP status codes. Time-outs, conflicts, "too early" and rate limits may
# succeed later, as may all codes from 500.
_RETRIABLE = (408, 409, 425, 429)
_PERMANENT = (401, 404)  # A wrong key or model name fails for all problems.


@dataclasses.dataclass(frozen=True)
class Reply:
  """One reply of a server.

  text: what was written.
  finish: why it ended, 'stop' or 'length'.
  stopped_at: vLLM's reason for a 'stop': the stop string or token; None for the
    end of the answer, and on other servers.
  token_ids: the ids of the n tokens; None = not reported.
  tokens: the text of each token; None = not reported.
  log_probs: `[n]` float32; None = not reported.
  top_log_probs: `[n, k]` float32, descending; k may be 0.
  read, cached, written: billed tokens.
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
  """Reads a response to a completion or chat request.

  Args:
    response: from the `openai` client.
    name: the engine's name, for errors.
    num_top: maximum k; servers may return one more, the written token itself.

  Raises:
    engine_lib.Refused: if the answer was withheld, e.g. by a content filter.
    ValueError: if the server reports no usage.
  """
  choice, usage = response.choices[0], response.usage
  if usage is None:
    raise ValueError(
        f'The server of {name} reports no usage, so costs are unknown; use a '
        'server that reports prompt and completion tokens.'
    )
  if choice.finish_reason not in ('stop', 'length'):
    raise engine_lib.Refused(
        f'{name} ended an answer with finish reason {choice.finish_reason!r}; '
        "allowed: 'stop', 'length'."
    )
  details = usage.prompt_tokens_details
  # Without details, all is charged as read anew: an upper bound on the cost.
  cached = (details and details.cached_tokens) or 0
  message = getattr(choice, 'message', None)  # Chat replies only.
  tokens, log_probs, tops = _read_log_probs(choice.logprobs, message is None)
  return Reply(
      text=(choice.text if message is None else message.content) or '',
      finish=choice.finish_reason,
      stopped_at=getattr(choice, 'stop_reason', None),
      token_ids=getattr(choice, 'token_ids', None),
      tokens=tokens,
      log_probs=log_probs,
      top_log_probs=_rectangle(tops, num_top),
      read=usage.prompt_tokens - cached,  # prompt_tokens include cached ones.
      cached=cached,
      written=usage.completion_tokens,
  )


def to_written(
    reply: Reply, text: str, pieces: Sequence[str] | None, is_final: bool
) -> segmentation.Written:
  """Returns the tokens of a reply, with pieces that join to `text`.

  Args:
    reply: the reply.
    text: the text that counts; the caller may have cut or completed it.
    pieces: text that each token adds, if the caller knows it better than the
      server.
    is_final: the answer is complete.
  """
  pieces = pieces or reply.tokens or ()
  # n: from the ids or pieces if there are any, else from the usage. At least 1,
  # since a step needs a token to carry its cost.
  listed = len(reply.token_ids or pieces) or max(reply.written, 1)
  log_probs = reply.log_probs
  if log_probs is None or len(log_probs) != listed:
    log_probs = np.full(listed, np.nan, np.float32)
  tops = reply.top_log_probs
  if len(tops) != listed:
    tops = np.zeros((listed, 0), np.float32)
  return segmentation.Written(
      # ['.'] * n: pieces of equal length, so the text is spread evenly.
      pieces=spread(text, pieces if len(pieces) == listed else ['.'] * listed),
      token_ids=reply.token_ids or [UNKNOWN_ID] * listed,
      log_probs=log_probs,
      top_log_probs=tops,
      is_final=is_final,
  )


def spread(text: str, pieces: Sequence[str]) -> list[str]:
  """Returns as many pieces as given, but ones that join to `text`.

  Given pieces that join to it are returned unchanged. Others, such as halves of
  a character or a stop string that the server left out, are replaced by
  consecutive parts of the text. The parts have lengths in proportion to the
  given pieces.
  """
  if ''.join(pieces) == text:
    return list(pieces)
  # With E_i the end of piece i and E its last value, part i is
  # text[E_{i-1} |text| / E : E_i |text| / E], rounded down.
  ends = np.cumsum([len(piece) for piece in pieces])
  total = max(int(ends[-1]), 1)
  bounds = [0, *(int(end) * len(text) // total for end in ends)]
  bounds[-1] = len(text)  # Also if all pieces are empty.
  return [text[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def without_gaps(step: types.Step) -> types.Step:
  """Removes a step's log-probabilities if one of them is missing (NaN)."""
  if np.isfinite(step.log_probs).all():
    return step
  # Means and minima over the rest would look like those of a whole step.
  return dataclasses.replace(
      step,
      log_probs=np.zeros(0, np.float32),
      top_log_probs=np.zeros((len(step.token_ids), 0), np.float32),
  )


def _read_log_probs(log_probs: Any, is_completion: bool):
  """Returns tokens, their log-probabilities, and those of the alternatives."""
  if log_probs is None:
    return None, None, []
  # /completions has parallel lists, /chat/completions a list of tokens.
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
  """Returns `[n, k]` float32, descending; every row has at least k."""
  width = min([num_top, *map(len, tops)])
  rows = [sorted(row, reverse=True)[:width] for row in tops]
  return np.array(rows, np.float32).reshape(len(tops), width)


def read_fault(error: Exception, name: str) -> Exception:
  """Returns the engine error that a failed request to engine `name` means."""
  import openai

  # No status: the connection failed, timed out, or returned no JSON.
  if not isinstance(error, openai.APIStatusError):
    return engine_lib.Unavailable(f'{name}: {type(error).__name__}: {error}')
  status = error.status_code
  message = f'{name}: HTTP {status}: {error.message}'
  # An exhausted quota comes as 429 like a rate limit, but waiting is no help.
  if status in _PERMANENT or error.code == 'insufficient_quota':
    return engine_lib.Stop(message)
  if status in _RETRIABLE or status >= 500:
    return engine_lib.Unavailable(message, retry_after(error.response.headers))
  return engine_lib.Refused(message)


def retry_after(headers: Mapping[str, str]) -> float:
  """Returns the seconds that a server asks clients to wait; 0 = not given.

  Source: RFC 9110, section 10.2.3 (seconds or a date); `retry-after-ms` is
  OpenAI's own.
  """
  value = headers.get('retry-after', '')
  try:
    if 'retry-after-ms' in headers:
      return max(float(headers['retry-after-ms']) / 1_000, 0.0)
    return max(float(value), 0.0)
  except ValueError:
    pass  # Not a number: a date, or nothing.
  try:
    then = email.utils.parsedate_to_datetime(value)
  except ValueError:
    return 0.0
  now = datetime.datetime.now(datetime.UTC)
  return max((then - now).total_seconds(), 0.0)
