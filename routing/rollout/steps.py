"""Steps back to text, and what one call consumed.

Where a step ends is for the engines to say; see `routing.engines.boundaries`.
"""

from collections.abc import Sequence

from routing import types
from routing.engines import boundaries


def is_cut(step: types.Step, delimiter: str = types.DELIMITER) -> bool:
  """The writer ran out of tokens inside this step: nobody can go on from it."""
  ends = step.text.endswith(delimiter) and not boundaries.open_block(step.text)
  return not step.is_final and not ends


def join(steps: Sequence[types.Step]) -> str:
  """The text of the steps."""
  return ''.join(step.text for step in steps)


def count_written(steps: Sequence[types.Step]) -> int:
  """Tokens generated for the steps, each by its own writer's count."""
  return sum(int(step.usage.written) for step in steps)


def call_usage(steps: Sequence[types.Step]) -> types.Usage:
  """The usage of the one call that wrote all of `steps`.

  Raises:
    ValueError: if there are no steps, or several writers.
  """
  if not steps:
    raise ValueError('A call that wrote no step has no usage.')
  routes = {step.route for step in steps}
  if len(routes) > 1:
    raise ValueError(f'One call has one writer, got routes {sorted(routes)}.')
  first = steps[0].usage
  return types.Usage(
      route=first.route,
      read=first.read,
      cached=first.cached,
      written=count_written(steps),
      seconds=sum(step.usage.seconds for step in steps),
      in_context=first.in_context,
  )
