"""Ends answers that repeat the same step over and over.

Small models under greedy decoding can loop for ever; the text up to
`max_tokens` would then be paid for nothing.
"""

from collections.abc import Sequence
import dataclasses

from routing import types
from routing.engines import boundaries

NUM_EQUAL = 4  # So many equal or blank steps in a row end an answer.


def find_repetition(
    texts: Sequence[str], num_equal: int = NUM_EQUAL
) -> int | None:
  """Returns how many steps there are up to the end of the first repetition.

  A repetition is a run of `num_equal` equal steps.

  Args:
    texts: the steps.
    num_equal: length of a run that counts as a repetition; 0 = never.

  Returns:
    The number of steps up to and including the last of the first such run; None
    if there is no run.
  """
  run = 0
  for index, text in enumerate(texts):
    run = run + 1 if index and text == texts[index - 1] else 1
    # `run` is at least 1, so num_equal = 0 never matches.
    if run == num_equal:
      return index + 1
  return None


def ends_in_blank_steps(text: str, num_equal: int = NUM_EQUAL) -> bool:
  """Checks whether `text` ends in at least `num_equal` blank steps."""
  # A step is never blank (see `boundaries`), so a model that writes nothing but
  # newlines never completes one, and `find_repetition` cannot see it.
  tail = types.DELIMITER * num_equal
  return num_equal > 0 and text.endswith(tail)


def truncate_repetition(
    steps: Sequence[types.Step], trace: str, num_equal: int = NUM_EQUAL
) -> tuple[types.Step, ...]:
  """Ends an answer at its first repetition.

  Args:
    steps: what was written after `trace`, at least one step.
    trace: the answer before these steps; a repetition may begin in it.
    num_equal: see `find_repetition`.

  Returns:
    The steps up to the end of the repetition, the last marked as final; all
    steps unchanged if there is none.
  """
  # Earlier steps than these cannot be part of a run that is not over yet.
  before = boundaries.split(trace)[-num_equal:] if num_equal else []
  end = find_repetition([*before, *(step.text for step in steps)], num_equal)
  if end is None:
    return tuple(steps)
  # At least one step, to carry `is_final`, even if the run is all in the trace.
  *others, last = steps[: max(end - len(before), 1)]
  return (*others, dataclasses.replace(last, is_final=True))
