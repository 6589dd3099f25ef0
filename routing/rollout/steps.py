"""Computes text, token count and usage of a sequence of steps.

Engines decide where a step ends; see `routing.engines.boundaries`.
"""

from collections.abc import Sequence

from routing import types
from routing.engines import boundaries


def is_cut(step: types.Step, delimiter: str = types.DELIMITER) -> bool:
  """Returns whether the token limit cut this step off before its end.

  No model can continue after a step that was cut off, because a trace must end
  at a step boundary.
  """
  # A delimiter inside an open block, e.g. a formula, does not end a step.
  ends = step.text.endswith(delimiter) and not boundaries.open_block(step.text)
  return not step.is_final and not ends


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


def as_call(kind: str, usage: types.Usage) -> types.Call:
  """Returns the call of a kind, one of `types.CALL_KINDS`, with this usage."""
  return types.Call(**vars(usage) | {'kind': kind})
