"""Computes text, token count and usage of a sequence of steps.

Engines decide where a step ends; see `routing.engines.boundaries`.
"""

from collections.abc import Sequence
import dataclasses

from routing import types
from routing.engines import segmentation
from routing.grading import answers


def join(steps: Sequence[types.Step]) -> str:
  """Returns the concatenated text of the steps."""
  return ''.join(step.text for step in steps)


def count_tokens(steps: Sequence[types.Step]) -> int:
  """Returns the length of the steps in tokens, each under its own tokenizer.

  This is the length of the text, not what was paid for it; see `call_usage`.
  """
  return sum(step.num_tokens for step in steps)


def call_usage(steps: Sequence[types.Step]) -> types.Usage:
  """Returns the usage of the single model call that wrote all of `steps`.

  Raises:
    ValueError: if there are no steps, or several models wrote them.
  """
  if not steps:
    raise ValueError('Got 0 steps; the usage of a call needs 1 or more.')
  routes = {step.route for step in steps}
  if len(routes) > 1:
    raise ValueError(
        f'Got steps by routes {sorted(routes)}; one call has one writer.'
    )
  # The first step's usage counts the prompt. The other steps have read and
  # cached 0 tokens: everything in their context was counted by the steps
  # before them.
  first = steps[0].usage
  return types.Usage(
      route=first.route,
      read=first.read,
      cached=first.cached,
      written=sum(step.usage.written for step in steps),
      seconds=sum(step.usage.seconds for step in steps),
      in_context=first.in_context,
  )


def until_answer(
    steps: Sequence[types.Step], trace: str, finders: Sequence[str]
) -> tuple[types.Step, ...]:
  """Drops the steps after the one with the first complete answer.

  Args:
    steps: the steps that a model wrote after `trace`, at least one.
    trace: the answer before these steps.
    finders: where an answer stands, see `grading.answers`; empty = drop none.

  Returns:
    The steps up to the answer, the last marked as final. It is charged with the
    tokens and seconds of those that are dropped: the model has written them.
  """
  text = trace
  for index, step in enumerate(steps if finders else ()):
    text += step.text
    if answers.end(text, finders) is not None:
      whole = call_usage(steps)
      *others, last = segmentation.charged(
          steps[: index + 1], int(whole.written), whole.seconds
      )
      return (*others, dataclasses.replace(last, is_final=True))
  return tuple(steps)


def as_call(kind: str, usage: types.Usage) -> types.Call:
  """Returns the call of a kind, one of `types.CALL_KINDS`, with this usage."""
  return types.Call(**vars(usage) | {'kind': kind})
