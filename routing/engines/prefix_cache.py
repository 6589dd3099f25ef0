"""Simulates an engine's prefix cache, to charge replies that are looked up.

A reply that is looked up in a memory or in a reply tree must cost as much as if
the engine had written it now. This cost depends on how many prompt tokens the
engine would have found in its cache. That number follows from the prompt and
from the sequences that the session has read and written at this engine before.
"""

from collections.abc import Sequence
import dataclasses

from routing import types


@dataclasses.dataclass(frozen=True)
class PrefixCache:
  """The rules by which a back end caches the sequences of a session.

  block: number of tokens in a block of the cache; only whole blocks are found.
    If it is larger than 1, the last token of a prompt is always read anew.
  keeps_all: True = every sequence of a session stays in the cache; False = only
    the latest sequence does.
  shared: number of tokens with which every prompt begins, e.g. those of solved
    examples, if they are in the cache from the start of each session.
  """

  block: int = 1
  keeps_all: bool = False
  shared: int = 0

  def found(self, common: int, count: int) -> int:
    """Returns how many tokens of a prompt are found in the cache.

    Args:
      common: tokens that the prompt has in common with a cached sequence.
      count: tokens of the prompt.
    """
    found = max(common, min(self.shared, count))
    # vLLM's rule: only full blocks are cached, and at least one prompt token
    # must pass through the model, to give the logits of the first new token.
    if self.block > 1:
      found = min(found, count - 1) // self.block * self.block
    return found


@dataclasses.dataclass(frozen=True)
class Text:
  """A text with its length in tokens of one model.

  text: the question, followed by the answer so far.
  count: number of tokens of the text, chat template included.
  ids: `[count]` token ids; None if the back end does not return token ids.
  """

  text: str
  count: int
  ids: tuple[int, ...] | None


# The sequences in a session's cache at one engine; empty before its first call.
Contents = tuple[Text, ...]


def prompt(
    question: str, trace: str, count: int, ids: Sequence[int] | None
) -> Text:
  """Bundles the prompt of one model call with its length in tokens.

  The length is exact if the token ids are known; otherwise it is the count that
  the back end reported.

  Args:
    question: the problem's text.
    trace: the answer so far, which the model continues.
    count: number of prompt tokens that the back end reported; ignored if `ids`
      is given.
    ids: token ids of the prompt, chat template included; None = not known.
  """
  # Token ids are exact, so the reported count is used only without them.
  if ids is None:
    return Text(question + trace, count, None)
  return Text(question + trace, len(ids), tuple(ids))


def num_read(step: types.Step) -> int:
  """Returns the number of tokens that preceded a step when it was written.

  These are the tokens of the question and of all earlier steps, chat template
  included.
  """
  usage = step.usage
  return int(usage.read + usage.cached + usage.in_context)


def charged(
    written: Sequence[types.Step],
    before: Text,
    contents: Contents,
    cache: PrefixCache,
) -> tuple[tuple[types.Step, ...], Contents]:
  """Returns the steps of one call with the prompt tokens that the call costs.

  The numbers of read and cached tokens are exact if token ids are known.

  Without ids, a prompt that begins with the whole text of an earlier sequence
  counts as cached to the end of that sequence. A common prefix that ends inside
  an earlier sequence cannot be located and counts as read anew.

  Without ids, too many tokens may count as cached. A prompt is tokenized as one
  text, but a step was written token by token. If a tokenizer merges across the
  end of a step, or a model wrote tokens that the tokenizer would have joined, a
  real cache matches only up to the first differing token. Text and counts do
  not say where that token is, and the only safe lower bound is 0. The cost is
  then too low by at most the price difference between read and cached tokens,
  for the tokens of the earlier sequence. An engine with a tokenizer gives ids.

  Args:
    written: one or more steps of the call. Their read, cached and in-context
      tokens are replaced, since they may stem from another session.
    before: the prompt.
    contents: the sequences in the session's cache at this engine.
    cache: the rules by which the engine caches.

  Returns:
    The steps with this session's usage, and the session's cache contents after
    the call.
  """
  common = max((num_common(x, before) for x in contents), default=0)
  cached = cache.found(common, before.count)
  steps, sequence = [], before
  for step in written:
    # The first step pays for reading the prompt. For a later step, the prompt
    # and the steps in between are already in the request's context.
    fields = dict(in_context=sequence.count)
    if not steps:
      fields = dict(read=before.count - cached, cached=cached, in_context=0)
    usage = dataclasses.replace(step.usage, **fields)
    steps.append(dataclasses.replace(step, usage=usage))
    sequence = _extended(sequence, step)
  return tuple(steps), (*contents, sequence) if cache.keeps_all else (sequence,)


class Ledger:
  """Charges the calls of one session as if it had a cache of its own.

  It is for back ends in which sessions share a cache, so that what a back end
  reports as cached depends on other sessions. Only `cache.shared` tokens of a
  prompt count as cached because of others.

  Args:
    cache: the rules by which the back end caches.
  """

  def __init__(self, cache: PrefixCache):
    self._cache = cache
    self._contents: Contents = ()

  def charge(
      self, written: Sequence[types.Step], prompt_ids: Sequence[int]
  ) -> tuple[types.Step, ...]:
    """Returns the steps of one call with this session's usage.

    Args:
      written: the steps of the call.
      prompt_ids: token ids of the call's prompt.
    """
    steps, self._contents = self._charged(written, prompt_ids)
    return steps

  def preview(
      self, written: Sequence[types.Step], prompt_ids: Sequence[int]
  ) -> tuple[types.Step, ...]:
    """Returns the steps of a call in progress, charged as in `charge`."""
    return self._charged(written, prompt_ids)[0]

  def _charged(
      self, written: Sequence[types.Step], prompt_ids: Sequence[int]
  ) -> tuple[tuple[types.Step, ...], Contents]:
    before = Text('', len(prompt_ids), tuple(prompt_ids))
    return charged(written, before, self._contents, self._cache)


def _extended(before: Text, step: types.Step) -> Text:
  """Returns the sequence `before` with the tokens of `step` appended."""
  ids = None if before.ids is None else (*before.ids, *step.token_ids)
  count = before.count + step.num_tokens
  return Text(before.text + step.text, count, ids)


def num_common(earlier: Text, later: Text) -> int:
  """Returns the length in tokens of the common prefix of two sequences.

  Without token ids it is an upper bound if `later` begins with the whole text
  of `earlier`, and 0 otherwise; `charged` says why.

  Args:
    earlier: a sequence in the cache.
    later: the prompt that is compared with it.
  """
  if earlier.ids is None or later.ids is None:
    if not later.text.startswith(earlier.text):
      return 0
    # A prompt tokenized as one text may have fewer tokens than the same text
    # written token by token, hence the minimum.
    return min(earlier.count, later.count)
  length = min(len(earlier.ids), len(later.ids))
  a, b = earlier.ids, later.ids
  return next((i for i in range(length) if a[i] != b[i]), length)
