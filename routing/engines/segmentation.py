"""What one call has written, cut into steps.

A back end that writes token by token gives the text that each token spells. A
token belongs to the step that it completes or goes on with; the last step holds
the end-of-sequence token, alone if it follows a delimiter.
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
  """The tokens of one call.

  pieces: n strings, what each token spells; '' for a token that spells nothing
    or only the beginning of a character.
  token_ids: n of the writer's own tokens.
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
  """Each step's text, and the slice of the tokens that wrote it.

  The slices cover 0..n in order. Where one token spells the end of a step and
  the beginning of the next, it belongs to the former alone; the text is cut
  where `boundaries` has it all the same. Joined, the texts are the joined
  pieces.

  Args:
    pieces: n >= 1 strings, the text of each token.
    delimiter: what ends a step; it belongs to the step.
  """
  cut, text, start = [], '', 0
  for end, piece in enumerate(pieces, 1):
    text += piece
    while steps := _ended(text, delimiter):
      cut.append((steps[0], slice(start, end)))
      text, start = ''.join(steps[1:]), end
  if text or start < len(pieces):
    cut.append((text, slice(start, len(pieces))))
  return cut


def _ended(text: str, delimiter: str) -> list[str]:
  """The steps of `text`; none if not even the first has come to its end."""
  if delimiter not in text:
    return []
  steps = boundaries.split(text, delimiter)
  is_open = len(steps) == 1 and not boundaries.ends_step(text, delimiter)
  return [] if is_open else steps


def to_steps(written: Written, usage: types.Usage) -> tuple[types.Step, ...]:
  """The steps of one call.

  Args:
    written: the tokens, at least one.
    usage: of the whole call. The first step carries what was read and cached,
      which the later ones hold, each its own tokens and, by tokens, its share
      of the seconds.

  Raises:
    ValueError: if nothing was written.
  """
  if not written.pieces:
    raise ValueError('A call that wrote no token has no step.')
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
                in_context=prompt + tokens.start if i else usage.in_context,
            ),
        )
    )
  return tuple(steps)


Call = Callable[[str, str | None, int], Awaitable[tuple[Written, types.Usage]]]


async def write_steps(
    call: Call, *, to_end: bool, max_tokens: int
) -> tuple[types.Step, ...]:
  """Asks a back end until one step, or the answer, has come to its end.

  A back end stops at a string, and not every delimiter ends a step (see
  `boundaries`): it is then asked to go on from there.

  Args:
    call: (text, stop, max_tokens) to what is written after `text`, which is
      what these steps read so far, up to and with the string `stop`; None = to
      the end of the answer.
    to_end: write all steps, not one.
    max_tokens: of all calls together, at least 1.

  Returns:
    The steps; the first carries what all calls read.
  """
  parts, usages, text = [], [], ''
  while True:
    stop = None if to_end else boundaries.next_stop(text)
    part, usage = await call(text, stop, max_tokens)
    parts.append(part)
    usages.append(usage)
    text += ''.join(part.pieces)
    max_tokens -= len(part.pieces)
    may_speculate = (
        stop is not None
        and text.endswith(stop)
        and not part.is_final
        and not boundaries.ends_step(text)
        and max_tokens > 0
    )
    if not may_speculate:
      return to_steps(_joined(parts), total(usages))


def charged(
    steps: Sequence[types.Step], written: int
) -> tuple[types.Step, ...]:
  """The steps, the last charged with what was paid for but is in none.

  Args:
    steps: those that are kept of what one model wrote, at least one.
    written: tokens that it wrote in all.
  """
  *others, last = steps
  rest = written - sum(step.usage.written for step in others)
  usage = dataclasses.replace(last.usage, written=rest)
  return (*others, dataclasses.replace(last, usage=usage))


def _joined(parts: Sequence[Written]) -> Written:
  """The tokens of several calls, each of which went on from the one before."""
  return Written(
      pieces=[piece for part in parts for piece in part.pieces],
      token_ids=[i for part in parts for i in part.token_ids],
      log_probs=np.concatenate([part.log_probs for part in parts]),
      top_log_probs=np.concatenate([part.top_log_probs for part in parts]),
      is_final=parts[-1].is_final,
  )


def total(usages: Sequence[types.Usage]) -> types.Usage:
  """What calls of one model, one after the other, consumed together.

  Each goes on from where the one before ended. Where several of them read, all
  that they found in caches is counted, so FLOPs are an upper bound.
  """
  first, *others = usages
  # What the first held, a later one may have found in a cache.
  held = first.in_context - sum(usage.cached for usage in others)
  return types.Usage(
      route=usages[0].route,
      read=sum(usage.read for usage in usages),
      cached=sum(usage.cached for usage in usages),
      written=sum(usage.written for usage in usages),
      seconds=sum(usage.seconds for usage in usages),
      in_context=max(held, 0),
  )


def wasted(usages: Sequence[types.Usage]) -> types.Usage:
  """What pieces of one model that stand in no step consumed together.

  They were written at several places of a trace; `held` is the mean of a token.
  """
  written = sum(usage.written for usage in usages)
  held = sum(usage.in_context * usage.written for usage in usages)
  return types.Usage(
      route=usages[0].route,
      read=0,
      cached=0,
      written=written,
      seconds=sum(usage.seconds for usage in usages),
      in_context=round(held / written) if written else usages[0].in_context,
  )
