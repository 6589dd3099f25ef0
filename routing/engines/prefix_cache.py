"""Computes how many prompt tokens a session reads anew or from its cache.

A reply taken from a memory or from a reply tree must be charged as if the
engine itself had written it now. The charge follows from the tokens of the
prompt and from what the session has read and written at this engine before.
"""

from collections.abc import Sequence
import dataclasses

from routing import types


@dataclasses.dataclass(frozen=True)
class PrefixCache:
  """How a back end caches what a session has read and written.

  block: cached tokens come in blocks of this many tokens. With blocks > 1, the
    last token of a prompt is always read anew.
  keeps_all: every sequence of a session is cached, not only the latest.
  """

  block: int = 1
  keeps_all: bool = False


@dataclasses.dataclass(frozen=True)
class Text:
  """A text as one model reads it.

  text: question and answer so far.
  count: number of its tokens.
  ids: `[count]` token ids; None if the back end does not give them.
  """

  text: str
  count: int
  ids: tuple[int, ...] | None


# The sequences in a session's cache at one engine; empty before its first call.
Contents = tuple[Text, ...]


def prompt(
    question: str, trace: str, count: int, ids: Sequence[int] | None
) -> Text:
  """Returns the prompt of one call as a `Text`.

  Args:
    question, trace: what the call reads.
    count: number of prompt tokens that the back end reported; ignored if there
      are ids.
    ids: prompt ids, chat template included; None if they are not known.
  """
  # Ids are exact, so the reported count is the fallback only.
  if ids is None:
    return Text(question + trace, count, None)
  return Text(question + trace, len(ids), tuple(ids))


def num_read(step: types.Step) -> int:
  """Returns the number of tokens before a step when it was written."""
  usage = step.usage
  return int(usage.read + usage.cached + usage.in_context)


def charged(
    written: Sequence[types.Step],
    before: Text,
    contents: Contents,
    cache: PrefixCache,
) -> tuple[tuple[types.Step, ...], Contents]:
  """Charges the steps of one call with the cost of reading its prompt.

  With token ids this is exact. Without ids, a prompt counts as cached as far as
  it extends the text of a whole earlier sequence. A common prefix that ends
  inside an earlier sequence cannot be located and counts as read anew.

  Without ids too many tokens may count as cached. A prompt is tokenized as one
  text, but a step was written token by token. If a tokenizer merges across the
  end of a step, or a model wrote tokens that the tokenizer would have joined, a
  real cache matches only up to the first differing token. Text and counts do
  not say where that is, and the only safe lower bound is 0. The cost is then
  too low by at most the price difference between read and cached tokens, for
  the tokens of the earlier sequence. Give the engine its tokenizer to get ids.

  Args:
    written: one or more steps, whichever session asked for them first.
    before: the prompt.
    contents: the sequences in the session's cache at this engine.
    cache: how the engine caches.

  Returns:
    The steps, and the session's cache contents after the call.
  """
  cached = max((_common(x, before) for x in contents), default=0)
  # Only full blocks are cached, and at least one token must pass through the
  # model to give the logits of the next one: vLLM's rule.
  if cache.block > 1:
    cached = min(cached, before.count - 1) // cache.block * cache.block
  steps, sequence = [], before
  for step in written:
    # The first step pays for reading the prompt; for the later ones it is
    # already in the request's context.
    fields = dict(in_context=sequence.count)
    if not steps:
      fields = dict(read=before.count - cached, cached=cached, in_context=0)
    usage = dataclasses.replace(step.usage, **fields)
    steps.append(dataclasses.replace(step, usage=usage))
    sequence = _extended(sequence, step)
  return tuple(steps), (*contents, sequence) if cache.keeps_all else (sequence,)


def _extended(before: Text, step: types.Step) -> Text:
  """Returns a sequence extended by the step written after it."""
  ids = None if before.ids is None else (*before.ids, *step.token_ids)
  # With ids, count ids: `usage.written` may include discarded tokens, which are
  # not part of the sequence.
  written = len(step.token_ids) if ids else int(step.usage.written)
  return Text(before.text + step.text, before.count + written, ids)


def _common(earlier: Text, later: Text) -> int:
  """Returns the number of leading tokens that two sequences share."""
  if earlier.ids is None or later.ids is None:
    if not later.text.startswith(earlier.text):
      return 0
    # Tokenized as one text, the prompt may have fewer tokens than the steps
    # that were written one by one. An upper bound: see `charged`.
    return min(earlier.count, later.count)
  length = min(len(earlier.ids), len(later.ids))
  a, b = earlier.ids, later.ids
  return next((i for i in range(length) if a[i] != b[i]), length)
