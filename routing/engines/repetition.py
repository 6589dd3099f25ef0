"""When an answer goes round in circles, it is given up."""

from collections.abc import Sequence
import dataclasses

from routing import types
from routing.engines import boundaries

NUM_EQUAL = 4  # Equal steps in a row, or blank ones, that are one too many.


def stuck_at(texts: Sequence[str], num_equal: int = NUM_EQUAL) -> int | None:
  """Where an answer has begun to go round in circles.

  Args:
    texts: the steps.
    num_equal: so many equal ones in a row are the sign of it; 0 = never.

  Returns:
    The number of steps up to and with the last of the first such run; None if
    there is none.
  """
  run = 0
  for index, text in enumerate(texts):
    run = run + 1 if index and text == texts[index - 1] else 1
    if run == num_equal:
      return index + 1
  return None


def is_blank(text: str, num_equal: int = NUM_EQUAL) -> bool:
  """Whether `text` ends in so many blank steps that more of them follow."""
  tail = types.DELIMITER * num_equal
  return num_equal > 0 and text.endswith(tail)


def give_up(
    steps: Sequence[types.Step], trace: str, num_equal: int = NUM_EQUAL
) -> tuple[types.Step, ...]:
  """The steps up to where the answer is stuck, which is then its end.

  Args:
    steps: what was written after `trace`.
    trace: the answer before it.
    num_equal: see `stuck_at`.
  """
  before = boundaries.split(trace)[-num_equal:] if num_equal else []
  end = stuck_at([*before, *(step.text for step in steps)], num_equal)
  if end is None:
    return tuple(steps)
  *kept, last = steps[: max(end - len(before), 1)]
  return (*kept, dataclasses.replace(last, is_final=True))
