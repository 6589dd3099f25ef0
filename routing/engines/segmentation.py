"""Cuts the tokens that one call has written into steps.

The back end says what text each token adds. A token belongs to the step that it
completes or continues. The end-of-sequence token belongs to the last step;
after a delimiter it forms a step of its own, with empty text.
"""

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Sequence
import dataclasses

import numpy as np

from routing import types
from routing.engines import boundaries


@dataclasses.dataclass(frozen=True)
class Written:
  """The tokens that one call has written.

  pieces: n strings, the text that each token adds; '' for a token that adds no
    text or only the first bytes of a character.
  token_ids: n ids under the writer's tokenizer.
  log_probs: `[n]` float32; empty if there are none.
  top_log_probs: `[n, k]` float32, descending; k may be 0.
  is_final: the model ended its answer.
  """

  pieces: Sequence[str]
  token_ids: Sequence[int]
  log_probs: np.ndarray
  top_log_probs: np.ndarray
  is_final: bool


def slices(
    pieces: Sequence[str], delimiter: str = types.DELIMITER
) -> list[tuple[str, slice]]:
  """Returns each step's text and the slice of the tokens that wrote it.

  The slices cover 0..n in order, and the texts join to the joined pieces. A
  token that spells the end of one step and the beginning of the next belongs to
  the first alone. The texts are still cut exactly where `boundaries` cuts.

  Args:
    pieces: n >= 1 strings, the text of each token.
    delimiter: what ends a step; it belongs to the step.
  """
  # `text` is what has been spelled since the last cut, `start` the first token
  # after it.
  cut, text, start = [], '', 0
  for end, piece in enumerate(pieces, 1):
    text += piece
    # One token may complete several steps. The first of them takes the token;
    # the others get the empty slice [end, end).
    while steps := _ended(text, delimiter):
      cut.append((steps[0], slice(start, end)))
      text, start = ''.join(steps[1:]), end
  # Tokens without text, such as end-of-sequence, must not be lost: they were
  # paid for.
  if text or start < len(pieces):
    cut.append((text, slice(start, len(pieces))))
  return cut


def _ended(text: str, delimiter: str) -> list[str]:
  """Returns the steps of `text`, or [] if not even the first has ended."""
  # Most tokens complete nothing; skip the block search for them.
  if delimiter not in text:
    return []
  steps = boundaries.split(text, delimiter)
  is_open = len(steps) == 1 and not boundaries.ends_step(text, delimiter)
  return [] if is_open else steps


def to_steps(written: Written, usage: types.Usage) -> tuple[types.Step, ...]:
  """Returns the steps of one call.

  Args:
    written: the tokens, at least one.
    usage: usage of the whole call. The first step is charged with the tokens
      read anew and from the cache; the later steps have them in context. Each
      step is charged with its own tokens and, by tokens, its share of the
      seconds.

  Raises:
    ValueError: if nothing was written.
  """
  if not written.pieces:
    raise ValueError(
        'The call wrote no token, so it has no step; at least 1 is needed.'
    )
  cut = slices(written.pieces)
  prompt = usage.in_context + usage.cached + usage.read
  steps = []
  for i, (text, tokens) in enumerate(cut):
    count = tokens.stop - tokens.start
    steps.append(
        types.Step(
            text=text,
            token_ids=tuple(written.token_ids[tokens]),
            log_probs=written.log_probs[tokens],
            top_log_probs=written.top_log_probs[tokens],
            is_final=written.is_final and i == len(cut) - 1,
            usage=types.Usage(
                route=usage.route,
                read=0 if i else usage.read,
                cached=0 if i else usage.cached,
                written=count,
                seconds=usage.seconds * count / len(written.pieces),
                # Later steps attend to the prompt and to all tokens of this
                # call before them, so that the FLOPs of the steps sum to those
                # of the call.
                in_context=prompt + tokens.start if i else usage.in_context,
            ),
        )
    )
  return tuple(steps)


# (text, stop, max_tokens) -> (new tokens, usage); see `write_steps`.
Call = Callable[[str, str | None, int], Awaitable[tuple[Written, types.Usage]]]


async def write_steps(
    call: Call, *, to_end: bool, max_tokens: int
) -> tuple[types.Step, ...]:
  """Calls a back end until one step, or the whole answer, is complete.

  A back end stops at a string, but not every delimiter ends a step (see
  `boundaries`). If a step is not complete, the back end is called again.

  Args:
    call: (text, stop, max_tokens) -> what the model writes after `text`, which
      is what these calls have written so far. It stops after the string `stop`,
      or at the end of the answer if `stop` is None.
    to_end: write all steps, not one.
    max_tokens: maximum number of tokens of all calls together, at least 1.

  Returns:
    The steps; the first is charged with what all calls read.
  """
  parts, usages, text = [], [], ''
  while True:
    stop = None if to_end else boundaries.next_stop(text)
    part, usage = await call(text, stop, max_tokens)
    parts.append(part)
    usages.append(usage)
    text += ''.join(part.pieces)
    max_tokens -= len(part.pieces)
    # Another call is needed only if the model stopped at the stop string inside
    # an unfinished step. Anything else is the end of the answer, of the budget,
    # or of a step.
    needs_more = (
        stop is not None
        and text.endswith(stop)
        and not part.is_final
        and not boundaries.ends_step(text)
        and max_tokens > 0
    )
    if not needs_more:
      return to_steps(_joined(parts), total(usages))


def charged(
    steps: Sequence[types.Step], written: int
) -> tuple[types.Step, ...]:
  """Adds tokens that were written but belong to no step to the last step.

  Args:
    steps: the kept steps of what one model wrote, at least one.
    written: number of tokens that the model wrote in all.

  Returns:
    The same steps; their written tokens now sum to `written`.
  """
  *others, last = steps
  # Discarded text is paid for as well; without this, steps that a caller drops
  # would be free.
  remaining = written - sum(step.usage.written for step in others)
  usage = dataclasses.replace(last.usage, written=remaining)
  return (*others, dataclasses.replace(last, usage=usage))


def _joined(parts: Sequence[Written]) -> Written:
  """Joins the tokens of consecutive calls, each continuing the one before."""
  return Written(
      pieces=[piece for part in parts for piece in part.pieces],
      token_ids=[i for part in parts for i in part.token_ids],
      log_probs=np.concatenate([part.log_probs for part in parts]),
      top_log_probs=np.concatenate([part.top_log_probs for part in parts]),
      is_final=parts[-1].is_final,
  )


def total(usages: Sequence[types.Usage]) -> types.Usage:
  """Returns the total usage of consecutive calls of one model.

  Each call continues the text of the one before. If several of them read a
  prompt, all their cached tokens are counted, so FLOPs are an upper bound.
  """
  first, *others = usages
  # Tokens in the first call's context may be counted again among the cached
  # tokens of a later call. Count them once, but never below 0.
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
  """Returns the total usage of one model's tokens that belong to no step.

  The tokens were written at several places of a trace. `in_context` is the mean
  over the tokens, weighted by how many were written at each place.

  Args:
    usages: at least one; only written tokens, seconds and context are used.
  """
  written = sum(usage.written for usage in usages)
  # Attention costs context x tokens per usage; the mean keeps their sum.
  weighted = sum(usage.in_context * usage.written for usage in usages)
  return types.Usage(
      route=usages[0].route,
      read=0,
      cached=0,
      written=written,
      seconds=sum(usage.seconds for usage in usages),
      in_context=round(weighted / written) if written else usages[0].in_context,
  )
