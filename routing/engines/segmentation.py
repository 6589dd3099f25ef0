"""Cuts the tokens that a model has written into steps, and sums up usages.

The back end reports the text that each token adds. A token belongs to the step
that its text continues or completes. The end-of-sequence token belongs to the
last step; after a delimiter it forms a step of its own, with empty text.
"""

import bisect
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import itertools
from typing import NamedTuple

import numpy as np

from routing import types
from routing.engines import boundaries
from routing.tasks import delimiter as delimiter_lib

# Tokens of one call while a step is to end at a pattern. Fewer would be more
# calls for one step, and more would be more wasted tokens.
_PATTERN_TOKENS = 16


@dataclasses.dataclass(frozen=True)
class Written:
  """The n tokens that a model wrote in one call.

  pieces: n strings, the text that each token adds; '' for a token that adds no
    text or only the first bytes of a character.
  token_ids: n token ids under the tokenizer of the model that wrote them.
  log_probs: `[n]` float32, the log-probability of each token; NaN = not
    reported. The array is empty if the back end reports none at all.
  top_log_probs: `[n, k]` float32, the k largest log-probabilities at each
    token, descending; k may be 0.
  is_final: the model ended its answer with these tokens.
  has_texts: whether the pieces are the texts of the tokens. Otherwise they are
    shares of the text, since the back end does not say what each token adds.
  """

  pieces: Sequence[str]
  token_ids: Sequence[int]
  log_probs: np.ndarray
  top_log_probs: np.ndarray
  is_final: bool
  has_texts: bool = True


class Slice(NamedTuple):
  """The part of a text that is one step.

  text: the text of the step.
  tokens: the tokens that belong to the step.
  is_complete: the step ends by the rule of the delimiter, and not because
    nothing more was written.
  """

  text: str
  tokens: slice
  is_complete: bool


def slices(
    pieces: Sequence[str],
    delimiter: delimiter_lib.Delimiter = boundaries.BLANK_LINE,
    *,
    is_final: bool = False,
    opening: str = '',
) -> list[Slice]:
  """Returns the steps of a text and the tokens that belong to each.

  The slices cover 0..n in order, and the texts join to the joined pieces. The
  texts are cut exactly where `boundaries` cuts, or where a step becomes too
  long. A token that contains the end of one step and the beginning of the next
  counts to the first step only.

  Args:
    pieces: n >= 1 strings, the text of each token.
    delimiter: what ends a step.
    is_final: the answer ends with these tokens.
    opening: text at the beginning that no model wrote; no step ends within it.
  """
  if delimiter.max_tokens:
    return _short_slices(pieces, delimiter, is_final, opening)
  text = ''.join(pieces)
  lengths = list(itertools.accumulate(map(len, pieces)))
  cut, first, start = [], 0, 0  # Next token, and next character.
  for end in boundaries.ends(text, delimiter):
    if end <= len(opening):
      continue
    # The token that completes the step is its last. A token may complete
    # several steps: the others get an empty slice.
    last = max(bisect.bisect_left(lengths, end) + 1, first)
    cut.append(Slice(text[start:end], slice(first, last), True))
    first, start = last, end
  # Tokens without text, such as end-of-sequence, must belong to a step as well,
  # so that they are charged.
  if start < len(text) or first < len(pieces):
    cut.append(Slice(text[start:], slice(first, len(pieces)), False))
  return cut


def _short_slices(
    pieces: Sequence[str],
    delimiter: delimiter_lib.Delimiter,
    is_final: bool,
    opening: str,
) -> list[Slice]:
  """As `slices`, for a delimiter that limits the length of a step."""
  pieces, first, cut = list(pieces), 0, []
  while first < len(pieces):
    # Text past the limit is not looked at, because a single step is requested
    # with this limit, and must be the same.
    head = pieces[first : first + delimiter.max_tokens]
    text, tokens, is_complete = slices(
        head, _without_limit(delimiter), opening='' if first else opening
    )[0]
    is_last = first + len(head) == len(pieces)
    is_short = len(head) < delimiter.max_tokens or is_final
    if not (is_complete or is_last and is_short):
      tokens, is_complete = slice(0, _last_word(head)), True
      text = ''.join(head[tokens])
    rest = ''.join(head[tokens])[len(text) :]
    end = first + tokens.stop
    cut.append(Slice(text, slice(first, end), is_complete))
    if rest and end < len(pieces):
      pieces[end] = rest + pieces[end]
    elif rest:
      cut.append(Slice(rest, slice(end, end), False))
    first = end
  return cut


def _without_limit(
    delimiter: delimiter_lib.Delimiter,
) -> delimiter_lib.Delimiter:
  """Returns the delimiter with steps of any length."""
  return dataclasses.replace(delimiter, max_tokens=0)


def _last_word(pieces: Sequence[str]) -> int:
  """Returns the number of tokens before the last word; all if it is the only.

  A text that ends within a word is split into other tokens when it is read.
  """
  begins = [i for i, x in enumerate(pieces) if i and x[:1].isspace()]
  # A step is never blank.
  if begins and ''.join(pieces[: begins[-1]]).strip():
    return begins[-1]
  return len(pieces)


def to_steps(
    written: Written,
    usage: types.Usage,
    delimiter: delimiter_lib.Delimiter = boundaries.BLANK_LINE,
    opening: str = '',
) -> tuple[types.Step, ...]:
  """Cuts the tokens of one call into steps, and splits the usage among them.

  Args:
    written: the tokens of the call, at least one.
    usage: usage of the whole call. The first step is charged with the prompt
      tokens, read anew or cached; later steps have them in context. Each step
      is charged with its own written tokens, and with a share of the seconds in
      proportion to these tokens.
    delimiter: what ends a step.
    opening: see `slices`.

  Raises:
    ValueError: if the call wrote no token.
  """
  if not written.pieces:
    raise ValueError(
        'The call wrote no token, so it cannot be cut into steps; it must have '
        'written at least 1 token.'
    )
  cut = slices(
      written.pieces, delimiter, is_final=written.is_final, opening=opening
  )
  prompt = usage.in_context + usage.cached + usage.read
  steps = []
  texts = _texts(written.pieces, cut) if written.has_texts else ()
  for i, (text, tokens, is_complete) in enumerate(cut):
    count = tokens.stop - tokens.start
    steps.append(
        types.Step(
            text=text,
            token_ids=tuple(written.token_ids[tokens]),
            log_probs=written.log_probs[tokens],
            top_log_probs=written.top_log_probs[tokens],
            is_final=written.is_final and i == len(cut) - 1,
            is_complete=is_complete,
            pieces=texts[i] if texts else None,
            usage=types.Usage(
                route=usage.route,
                read=0 if i else usage.read,
                cached=0 if i else usage.cached,
                written=count,
                seconds=usage.seconds * count / len(written.pieces),
                # A later step attends to the prompt and to all tokens that the
                # call wrote before the step. The FLOPs of the steps thus sum to
                # the FLOPs of the call.
                in_context=prompt + tokens.start if i else usage.in_context,
            ),
        )
    )
  return tuple(steps)


def _texts(
    pieces: Sequence[str], cut: Sequence[Slice]
) -> list[tuple[str, ...]]:
  """Returns for each step the texts of its tokens.

  What a token has beyond the end of its step belongs to the next token.
  """
  found, rest = [], ''
  for text, tokens, _ in cut:
    own = list(pieces[tokens])
    if not own:  # A token before has written this step as well.
      rest = rest[len(text) :]
    else:
      own[0] = rest + own[0]
      rest = ''.join(own)[len(text) :]
      own[-1] = own[-1][: len(own[-1]) - len(rest)]
    found.append(tuple(own))
  return found


# A function (text, stop, max_tokens) -> (new tokens, usage) that calls a back
# end once; see `write_steps`.
Call = Callable[[str, str | None, int], Awaitable[tuple[Written, types.Usage]]]


async def write_steps(
    call: Call,
    *,
    to_end: bool,
    max_tokens: int,
    opening: str = '',
    delimiter: delimiter_lib.Delimiter = boundaries.BLANK_LINE,
) -> tuple[types.Step, ...]:
  """Calls a back end until one step, or the whole answer, is complete.

  A back end can stop at a text, but not every occurrence of it ends a step (see
  `boundaries`), and it cannot stop at a pattern. While the step is not
  complete, the back end is called again.

  Args:
    call: function (text, stop, max_tokens) -> (new tokens, usage) that calls
      the back end. `text` is what the calls so far have written. The model
      continues `text` up to and including the string `stop`, or to the end of
      the answer if `stop` is None.
    to_end: True = write all steps of the answer; False = write one step.
    max_tokens: maximum number of tokens of all calls together, at least 1.
    opening: text before the first token that belongs to the answer and that no
      model wrote; see `prompts.Prompter.opening`.
    delimiter: what ends a step.

  Returns:
    The steps; the first is charged with the prompt tokens of all calls. If one
    step was asked for, the others are wasted.
  """
  parts, usages, text = [], [], ''
  if delimiter.max_tokens and not to_end:
    max_tokens = min(max_tokens, delimiter.max_tokens)
  while True:
    stop = None if to_end else boundaries.next_stop(text, delimiter)
    looks = bool(delimiter.pattern) and not to_end
    room = min(max_tokens, _PATTERN_TOKENS) if looks else max_tokens
    part, usage = await call(text, stop, room)
    if opening and not parts and part.pieces:
      first, *others = part.pieces
      part = dataclasses.replace(part, pieces=[opening + first, *others])
    parts.append(part)
    usages.append(usage)
    text += ''.join(part.pieces)
    max_tokens -= len(part.pieces)
    # Another call is needed only if the model stopped where it was told to and
    # the step is not complete. Otherwise the step or the answer is complete, or
    # the token limit is reached.
    if looks:
      stopped = usage.written >= room
    else:
      stopped = stop is not None and text.endswith(stop)
    ends = boundaries.ends(text, delimiter)
    is_complete = bool(ends) and ends[-1] > len(opening)
    if not stopped or is_complete or part.is_final or max_tokens <= 0:
      return to_steps(joined(parts), total(usages), delimiter, opening)


def charged(
    steps: Sequence[types.Step], written: int, seconds: float
) -> tuple[types.Step, ...]:
  """Charges the last step with all that was written and then dropped.

  Args:
    steps: the steps that were kept of a model's text, at least one.
    written: number of tokens of the whole text, dropped steps included.
    seconds: that the whole text took.

  Returns:
    The same steps, whose tokens and seconds now sum to these.
  """
  *others, last = steps
  # Dropped text was computed and must be paid for. Without this charge, steps
  # that a caller drops would be free.
  usage = dataclasses.replace(
      last.usage,
      written=written - sum(step.usage.written for step in others),
      seconds=seconds - sum(step.usage.seconds for step in others),
  )
  return (*others, dataclasses.replace(last, usage=usage))


def joined(parts: Sequence[Written]) -> Written:
  """Joins the tokens of one or more calls, each continuing the one before."""
  return Written(
      pieces=[piece for part in parts for piece in part.pieces],
      token_ids=[i for part in parts for i in part.token_ids],
      log_probs=np.concatenate([part.log_probs for part in parts]),
      top_log_probs=np.concatenate([part.top_log_probs for part in parts]),
      is_final=parts[-1].is_final,
      has_texts=all(part.has_texts for part in parts),
  )


def total(usages: Sequence[types.Usage]) -> types.Usage:
  """Returns the total usage of consecutive calls of one model.

  Each call continues the text of the call before. If a later call reads its
  prompt from the cache, the cached tokens of all calls are added up. The FLOPs
  of the total are then an upper bound on the FLOPs of the calls.

  Args:
    usages: the usage of each call, in order; at least one.
  """
  first, *others = usages
  # Tokens in the context of the first call are in the prompt of a later call as
  # well, and count there as cached. They are subtracted here, so as to count
  # once. The difference may be negative if a later call has a longer prompt.
  in_context = first.in_context - sum(usage.cached for usage in others)
  return types.Usage(
      route=usages[0].route,
      read=sum(usage.read for usage in usages),
      cached=sum(usage.cached for usage in usages),
      written=sum(usage.written for usage in usages),
      seconds=sum(usage.seconds for usage in usages),
      in_context=max(in_context, 0),
  )


def wasted(usages: Sequence[types.Usage]) -> types.Usage:
  """Returns the total usage of several pieces of discarded text of one model.

  The pieces were written after different prefixes. `in_context` of the total is
  the mean of the pieces' `in_context`, weighted by their written tokens.

  Args:
    usages: the usage of each piece, at least one. Their read and cached tokens
      are ignored, since discarded text does not pay for a prompt.
  """
  written = sum(usage.written for usage in usages)
  # The attention of a piece costs in_context x written FLOPs, up to a factor.
  # With the weighted mean, the total costs as much as the pieces together.
  weighted = sum(usage.in_context * usage.written for usage in usages)
  return types.Usage(
      route=usages[0].route,
      read=0,
      cached=0,
      written=written,
      seconds=sum(usage.seconds for usage in usages),
      in_context=round(weighted / written) if written else usages[0].in_context,
  )
