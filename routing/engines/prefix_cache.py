"""Prefix caches: which prompt tokens a session reads anew, and which not.

A reply that is remembered, or that stands in a tree, must be charged as the
engine alone would have charged it. What that is follows from the tokens of the
prompt and from what the session has read and written at this engine before.
"""

from collections.abc import Sequence
import dataclasses

from routing import types


@dataclasses.dataclass(frozen=True)
class PrefixCache:
  """How a back end keeps what a session has read and written.

  block: cached tokens come in blocks of so many. With blocks, the last token of
    a prompt is always read anew.
  keeps_all: every sequence of a session is kept, not the latest alone.
  """

  block: int = 1
  keeps_all: bool = False


@dataclasses.dataclass(frozen=True)
class Text:
  """Text as one model reads it.

  text: question and answer so far.
  count: tokens of it.
  ids: `[count]`; None if the back end cannot tell.
  """

  text: str
  count: int
  ids: tuple[int, ...] | None


# What a session holds at one engine; empty before its first call.
Contents = tuple[Text, ...]


def prompt(
    question: str, trace: str, count: int, ids: Sequence[int] | None
) -> Text:
  """The prompt of one call.

  Args:
    question, trace: what it reads.
    count: its tokens, as the back end reported them; not read if there are ids.
    ids: of the prompt, template included; None if they are not known.
  """
  if ids is None:
    return Text(question + trace, count, None)
  return Text(question + trace, len(ids), tuple(ids))


def num_read(step: types.Step) -> int:
  """Tokens that stood before a step when it was written."""
  usage = step.usage
  return int(usage.read + usage.cached + usage.in_context)


def charged(
    written: Sequence[types.Step],
    before: Text,
    contents: Contents,
    cache: PrefixCache,
) -> tuple[tuple[types.Step, ...], Contents]:
  """Steps of one call with what reading its prompt costs in a session.

  With ids this is exact. Where they are not known, a prompt counts as cached as
  far as it extends the text of a whole earlier sequence; a common prefix that
  ends within one cannot be told, and counts as read.

  Without ids too much may count as cached. A prompt is split into tokens as one
  text, but a step was written token by token: where a tokenizer merges across
  the end of a step, or a model wrote tokens that the tokenizer would have
  joined, a real cache matches only up to the first token that differs, and
  reads the rest anew. Neither text nor counts say where that is, and the only
  sure lower bound is 0. The cost is then too low by at most the difference in
  price of reading and of finding in the cache, for the tokens of the earlier
  sequence. Give the engine its tokenizer to have ids.

  Args:
    written: one or more steps, whoever asked for them first.
    before: the prompt.
    contents: what the session holds at this engine.
    cache: of the engine.

  Returns:
    The steps, and what the session holds after the call.
  """
  cached = max((_common(x, before) for x in contents), default=0)
  if cache.block > 1:
    cached = min(cached, before.count - 1) // cache.block * cache.block
  paid, now = [], before
  for step in written:
    prompted = dict(in_context=now.count)
    if not paid:
      prompted = dict(read=before.count - cached, cached=cached, in_context=0)
    usage = dataclasses.replace(step.usage, **prompted)
    paid.append(dataclasses.replace(step, usage=usage))
    now = _extended(now, step)
  return tuple(paid), (*contents, now) if cache.keeps_all else (now,)


def _extended(before: Text, step: types.Step) -> Text:
  """A sequence and the step written after it."""
  ids = None if before.ids is None else (*before.ids, *step.token_ids)
  written = len(step.token_ids) if ids else int(step.usage.written)
  return Text(before.text + step.text, before.count + written, ids)


def _common(contents: Text, wanted: Text) -> int:
  """Tokens that two sequences have in common, from the first on."""
  if contents.ids is None or wanted.ids is None:
    if not wanted.text.startswith(contents.text):
      return 0
    # Read as one text, steps that were written apart may be fewer tokens. An
    # upper bound: see `charged`.
    return min(contents.count, wanted.count)
  length = min(len(contents.ids), len(wanted.ids))
  a, b = contents.ids, wanted.ids
  return next((i for i in range(length) if a[i] != b[i]), length)
