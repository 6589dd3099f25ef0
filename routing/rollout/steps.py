"""Text to steps and back: where a step ends, and what one call consumed.

A step ends with the delimiter, which belongs to it; joining the steps of a text
gives the text again, character for character.
"""

from collections.abc import Sequence

from routing import types


def split(text: str, delimiter: str = types.DELIMITER) -> list[str]:
  """Splits `text` into steps; only the last may lack the delimiter.

  Of a longer run of newlines the first two end the step; the others open the
  next one, as a model that writes token by token would have it.

  Raises:
    ValueError: if `delimiter` is empty.
  """
  if not delimiter:
    raise ValueError('The delimiter is empty; it must be 1 character or more.')
  pieces = text.split(delimiter)
  steps = [piece + delimiter for piece in pieces[:-1]]
  return [*steps, pieces[-1]] if pieces[-1] else steps


def split_tokens(
    pieces: Sequence[str], delimiter: str = types.DELIMITER
) -> list[slice]:
  """Slices of a token sequence, one per step of the text it spells.

  A token belongs to the step in which its first character stands; a token that
  spells nothing goes with the token before it. So each token is in exactly one
  slice, though one that straddles a boundary gives its tail to the wrong step.

  Args:
    pieces: n strings, the text of each token; joined, they are the text.
    delimiter: what ends a step.

  Returns:
    Slices that cover 0..n in order. A step none of whose tokens starts in it
    gets an empty slice, so there are as many slices as steps.
  """
  ends, end = [], 0
  for step in split(''.join(pieces), delimiter):
    end += len(step)
    ends.append(end)
  bounds, position, index = [0], 0, 0
  for step_end in ends:
    while index < len(pieces) and (position < step_end or not pieces[index]):
      position += len(pieces[index])
      index += 1
    bounds.append(index)
  return [slice(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def is_cut(step: types.Step, delimiter: str = types.DELIMITER) -> bool:
  """The writer ran out of tokens inside this step: nobody can go on from it."""
  return not step.is_final and not step.text.endswith(delimiter)


def join(steps: Sequence[types.Step]) -> str:
  """The text of the steps."""
  return ''.join(step.text for step in steps)


def count_written(steps: Sequence[types.Step]) -> int:
  """Tokens generated for the steps, each by its own writer's count."""
  return sum(int(step.usage.written) for step in steps)


def call_usage(steps: Sequence[types.Step]) -> types.Usage:
  """The usage of the one call that wrote all of `steps`.

  Charging the steps one by one would be wrong: the later ones carry no prompt,
  so the attention over it would be free.

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
  )
