"""Reads the replies of OpenAI-compatible servers: tokens and usage.

Servers differ in what they report about the tokens that they wrote. A token id
that a server does not report is `UNKNOWN_ID` here, and a log-probability that
it does not report is NaN. `without_gaps` removes all log-probabilities of a
step that has a NaN.
"""

from collections.abc import Sequence
import dataclasses
import re
from typing import Any

import numpy as np

from routing import types
from routing.engines import engine as engine_lib
from routing.engines import prompts
from routing.engines import repetition
from routing.engines import segmentation

UNKNOWN_ID = -1
# OpenAI's mark for a token that is too unlikely for a log-probability.
_NO_LOG_PROB = -9999.0


@dataclasses.dataclass(frozen=True)
class Reply:
  """The reply of a server to one request, with n written tokens.

  text: the text that the model wrote.
  finish: the reason why the text ended: 'stop' or 'length'.
  stopped_at: the stop string or token at which vLLM stopped, if `finish` is
    'stop'. None = the end of the answer, or not reported.
  token_ids: the ids of the n tokens; None = not reported.
  tokens: the text of each token; None = not reported.
  log_probs: `[n]` float32, the log-probability of each token; None = not
    reported.
  top_log_probs: `[n, k]` float32, the k largest log-probabilities at each
    token, descending; k may be 0.
  read, cached, written: billed numbers of prompt tokens read anew, of prompt
    tokens from the cache, and of new tokens.
  thought: how many of the `written` tokens are thoughts, which no text shows.
  model: the server's name of the model that replied; '' = not reported.
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
  thought: int
  model: str


def read_reply(response: Any, name: str, route: int, num_top: int) -> Reply:
  """Converts the client's response to a completion or chat request.

  Args:
    response: the response object of the `openai` client.
    name: the engine's name, for error messages.
    route: the engine's route, for the usage of a withheld text.
    num_top: maximum k, the number of top log-probabilities per token. A server
      may return one more if the written token is not among the top k.

  Raises:
    engine_lib.Refused: if the server withheld the text, e.g. by a content
      filter.
    ValueError: if the server reports no usage.
  """
  choice, usage = response.choices[0], response.usage
  if usage is None:
    raise ValueError(
        f'The server of {name} reports no token usage, so costs are unknown; '
        'use a server that reports prompt and completion tokens.'
    )
  details = usage.prompt_tokens_details
  # If the server gives no cache details, every prompt token counts as read
  # anew: an upper bound on the cost.
  cached = (details and details.cached_tokens) or 0
  # The server's prompt_tokens include the cached tokens, and its
  # completion_tokens include the thoughts.
  read, written = usage.prompt_tokens - cached, usage.completion_tokens
  details = getattr(usage, 'completion_tokens_details', None)
  thought = (details and details.reasoning_tokens) or 0
  if read < 0 or thought > written:
    raise ValueError(
        f'The server of {name} reports {usage.prompt_tokens} prompt tokens, '
        f'{cached} of them cached, and {written} new tokens, {thought} of them '
        'thoughts; a part must not exceed its whole.'
    )
  if choice.finish_reason not in ('stop', 'length'):
    error = engine_lib.Refused(
        f'The server of {name} ended a reply with finish reason '
        f"{choice.finish_reason!r}; allowed: 'stop', 'length'."
    )
    error.billed = (types.Usage(route, read, cached, written),)
    raise error
  # Only replies to chat requests have a message.
  message = getattr(choice, 'message', None)
  tokens, log_probs, tops, ids = _read_log_probs(choice.logprobs)
  return Reply(
      text=(choice.text if message is None else message.content) or '',
      finish=choice.finish_reason,
      stopped_at=getattr(choice, 'stop_reason', None),
      token_ids=getattr(choice, 'token_ids', None) or ids,
      tokens=tokens,
      log_probs=log_probs,
      top_log_probs=_rectangle(tops, num_top),
      read=read,
      cached=cached,
      written=written,
      thought=thought,
      model=getattr(response, 'model', None) or '',
  )


def is_same_model(asked: str, replied: str) -> bool:
  """Checks whether a reply comes from the model that was asked.

  Args:
    asked: the name in the request.
    replied: the name in the reply; '' = not reported. It may be the asked name
      and the date of a version, e.g. 'gpt-4.1-mini-2025-04-14'.
  """
  suffix = replied.removeprefix(asked)
  is_dated = re.fullmatch(r'-(\d{4}-\d{2}-\d{2}|\d{8})', suffix)
  return not suffix or bool(is_dated and suffix != replied)


def ends_answer(reply: Reply, stop: str, is_in_block: bool) -> bool:
  """Checks whether a reply that 'stop' ended is the end of the answer.

  For servers that remove the stop string and do not say whether they met it.

  Args:
    reply: the server's reply; `finish` is 'stop'.
    stop: the stop string of the request.
    is_in_block: the reply begins within a block, e.g. a formula, where an
      answer does not end.
  """
  whole = ''.join(reply.tokens or ())
  # The tokens go on after the text: with the stop string or end-of-sequence.
  if whole.startswith(reply.text) and len(whole) > len(reply.text):
    return stop not in whole
  # llama.cpp lists end-of-sequence as a token without text, and no stop string.
  if whole == reply.text and reply.tokens and not reply.tokens[-1]:
    return True
  # Some servers count the end-of-sequence token, so a single token without text
  # is taken for it. Another blank line would be as short, and is rarer. Another
  # line break is not rare.
  may_be_stop = is_in_block or len(stop) == 1
  return not reply.text and (
      not reply.written or reply.written == 1 and not may_be_stop
  )


def check_same_text(text: str, decoded: str, name: str) -> None:
  """Raises ValueError if a reply's token ids do not spell its text.

  Vocabularies of different lengths may be the same one, padded; vocabularies of
  one length may differ. Only the text tells.

  Args:
    text: the text of the reply, which may end before the tokens do.
    decoded: the text of the token ids.
    name: the engine's name, for the message.
  """

  def letters(string):
    # Incomplete characters and spaces may be decoded differently.
    return ''.join(string.replace('\ufffd', '').split())

  if letters(text) not in letters(decoded):
    raise ValueError(
        f'The server of {name} wrote {text[:40]!r}, but its token ids spell '
        f'{decoded[:40]!r}; name the weights of the model that it serves.'
    )


def to_written(
    reply: Reply, text: str, pieces: Sequence[str] | None, is_final: bool
) -> segmentation.Written:
  """Returns the tokens of a reply, with pieces of text that join to `text`.

  Args:
    reply: the server's reply.
    text: the text of the reply, which the caller may have cut or completed.
    pieces: the text that each token adds, decoded by the caller; None = use the
      texts that the server reports, if any.
    is_final: the answer is complete.
  """
  pieces = list(pieces or reply.tokens or ())
  # The number of tokens is that of the ids or pieces if there are any, and
  # otherwise the number in the usage, thoughts excluded. It is at least 1,
  # because a step needs a token.
  listed = len(reply.token_ids or pieces) or max(
      reply.written - reply.thought, 1
  )
  token_ids = reply.token_ids or [UNKNOWN_ID] * listed
  log_probs = reply.log_probs
  if log_probs is None or len(log_probs) != listed:
    log_probs = np.full(listed, np.nan, np.float32)
  tops = reply.top_log_probs
  if len(tops) != listed:
    tops = np.zeros((listed, 0), np.float32)
  # Without usable pieces, pieces of equal length ('.') make `spread` cut the
  # text into equal parts.
  has_texts = len(pieces) == listed and _stands_in(text, ''.join(pieces))
  if len(pieces) != listed:
    pieces = ['.'] * listed
  parts = spread(text, pieces)
  # Tokens of which nothing is left, e.g. those of a stop string that the server
  # removed, are no tokens of the text; their log-probabilities would be counted
  # among those of the last step.
  kept = [i for i in range(listed) if parts[i] or not pieces[i]] or [0]
  return segmentation.Written(
      pieces=[parts[i] for i in kept],
      token_ids=[token_ids[i] for i in kept],
      log_probs=log_probs[kept],
      top_log_probs=tops[kept],
      is_final=is_final,
      has_texts=has_texts,
  )


def spread(text: str, pieces: Sequence[str]) -> list[str]:
  """Returns pieces of `text`, as many as given, that join to `text`.

  If the text stands within the joined pieces, e.g. because the server left the
  stop string out of the text, the pieces are cut to the text; pieces outside
  become ''. If the text goes on after the pieces, e.g. with a stop string that
  the server does not list, the rest belongs to the last piece.
  The pieces of a server may not join to the text at all, e.g. if a piece is
  half a character. Each piece is then replaced by one of as many consecutive
  parts of the text. The lengths of the parts are in proportion to the lengths
  of the pieces.
  """
  whole = ''.join(pieces)
  if whole and text.startswith(whole):
    return [*pieces[:-1], pieces[-1] + text[len(whole) :]]
  start = whole.find(text)
  if text and start >= 0:
    stop, at, inside = start + len(text), 0, []
    for piece in pieces:
      inside.append(piece[max(start - at, 0) : max(stop - at, 0)])
      at += len(piece)
    return inside
  # With E_i the summed length of the pieces up to i, and E that of all pieces,
  # part i is text[E_{i-1} |text| / E : E_i |text| / E], bounds rounded down.
  ends = np.cumsum([len(piece) for piece in pieces])
  total = max(int(ends[-1]), 1)
  bounds = [0, *(int(end) * len(text) // total for end in ends)]
  bounds[-1] = len(text)  # If all pieces are empty, the last part is the text.
  return [text[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def _stands_in(text: str, whole: str) -> bool:
  """Returns whether `spread` leaves each piece its own text."""
  return bool(whole) and (text.startswith(whole) or text in whole)


def kept_steps(
    steps: Sequence[types.Step],
    request: engine_lib.Request,
    num_written: int,
    num_equal: int,
) -> tuple[types.Step, ...]:
  """Returns the steps that answer a request, charged with all that was written.

  Args:
    steps: what the model wrote, one step or more.
    request: the request; it asked for one step or for all.
    num_written: tokens of all calls. The back end computed and bills dropped
      steps as well, so their tokens are charged to the last step that is kept.
    num_equal: see `repetition.truncate_repetition`.
  """
  seconds = sum(step.usage.seconds for step in steps)
  kept = steps if request.to_end else steps[:1]
  kept = repetition.truncate_repetition(
      kept, request.trace, num_equal, request.delimiter
  )
  return segmentation.charged(
      list(map(without_gaps, kept)), num_written, seconds
  )


def without_gaps(step: types.Step) -> types.Step:
  """Removes a step's log-probabilities if one of them is missing (NaN)."""
  if np.isfinite(step.log_probs).all():
    return step
  # Features are means and minima over a step's tokens. Means and minima of the
  # remaining tokens would be wrong, and nothing would show it.
  return dataclasses.replace(
      step,
      log_probs=np.zeros(0, np.float32),
      top_log_probs=np.zeros((len(step.token_ids), 0), np.float32),
  )


def _read_log_probs(log_probs: Any):
  """Reads the log-probabilities in a server's reply.

  Args:
    log_probs: the field of the client's response; None if there is none.

  Returns:
    The text of each of n tokens, or None if not reported; their
    log-probabilities, `[n]` float32 or None; for each token a list of its top
    log-probabilities; and the token ids, or None if not reported.
  """
  if log_probs is None:
    return None, None, [], None
  fields = log_probs.to_dict()
  ids = None
  # /chat/completions has a list of tokens, and so has /completions of
  # llama.cpp's server, with their ids. Other servers have parallel lists there.
  if 'content' in fields:
    content = fields['content'] or []
    tokens = [x['token'] for x in content]
    own = [x['logprob'] for x in content]
    tops = [
        [y['logprob'] for y in x.get('top_logprobs') or ()] for x in content
    ]
    if all('id' in x for x in content):
      ids = [x['id'] for x in content]
  else:
    tokens, own = fields.get('tokens'), fields.get('token_logprobs')
    tops = [list((x or {}).values()) for x in fields.get('top_logprobs') or ()]
  if not tokens or not own:
    return None, None, [], None
  known = np.array([x if _is_known(x) else np.nan for x in own], np.float32)
  return tokens, known, [list(filter(_is_known, row)) for row in tops], ids


def _is_known(log_prob: float | None) -> bool:
  """Tells a log-probability from a mark that there is none."""
  return log_prob is not None and log_prob > _NO_LOG_PROB


def _rectangle(tops: Sequence[Sequence[float]], num_top: int) -> np.ndarray:
  """Returns the top log-probabilities of n tokens as an `[n, k]` float32 array.

  k is the largest number, up to `num_top`, that all tokens have. Each row has
  the k largest values of its token, descending.

  Args:
    tops: for each token a list of its top log-probabilities, in any order.
    num_top: maximum of k.
  """
  width = min([num_top, *map(len, tops)])
  rows = [sorted(row, reverse=True)[:width] for row in tops]
  return np.array(rows, np.float32).reshape(len(tops), width)


def complete(
    text: str,
    has_ended: bool,
    to_end: bool,
    trace: str = '',
    delimiter: str = types.DELIMITER,
) -> tuple[str, bool]:
  """Cleans up the reply of a model that was asked to continue an answer.

  The model was asked to end a step with the delimiter or with `prompts.DONE`.
  If the reply has neither, the delimiter is added.

  Args:
    text: the reply.
    has_ended: True if the model ended its reply, False if it ran out of tokens.
    to_end: True if the rest of the answer was requested, False for one step.
    trace: the answer before the reply.
    delimiter: the text that ends a step.

  Returns:
    The text up to `prompts.DONE`, and whether the answer is complete.
  """
  text, done, _ = text.partition(prompts.DONE)
  text = text.strip()
  if text and trace and not trace[-1:].isspace():
    text = ' ' + text  # Else two words or numbers would become one.
  if not has_ended or to_end or done:
    return text, has_ended and (to_end or bool(done))
  return text.removesuffix(delimiter) + delimiter, False
