"""Ends answers that repeat the same step over and over.

Small models can repeat a step for ever under greedy decoding. Without a check,
they would write, and be paid for, useless text up to `max_tokens`.
"""

from collections.abc import Sequence
import dataclasses

from routing import types
from routing.engines import boundaries
from routing.tasks import delimiter as delimiter_lib

# An answer ends after this number of equal steps, or of delimiters, in a row.
NUM_EQUAL = 4


def find_repetition(
    texts: Sequence[str], num_equal: int = NUM_EQUAL
) -> int | None:
  """Returns the number of steps up to the end of the first repetition.

  A repetition is a run of `num_equal` equal steps.

  Args:
    texts: the texts of the steps.
    num_equal: number of equal steps in a row that count as a repetition; 0 = no
      run counts.

  Returns:
    The number of steps up to and including the last step of the first
    repetition; None if there is no repetition.
  """
  run = 0
  for index, text in enumerate(texts):
    run = run + 1 if index and text == texts[index - 1] else 1
    # `run` is at least 1, so num_equal = 0 never matches.
    if run == num_equal:
      return index + 1
  return None


def ends_in_blank_steps(
    text: str,
    num_equal: int = NUM_EQUAL,
    delimiter: delimiter_lib.Delimiter = boundaries.BLANK_LINE,
) -> bool:
  """Checks whether `text` ends in at least `num_equal` blank lines in a row.

  If the text of the delimiter is blank, twice as many of it count as well.
  """
  # A step is never blank (see `boundaries`). A model that writes only newlines
  # thus completes no step, and `find_repetition` cannot find the repetition.
  tails = [types.DELIMITER * num_equal]
  if delimiter.text.isspace():
    tails.append(delimiter.text * 2 * num_equal)
  return num_equal > 0 and text.endswith(tuple(tails))


def truncate_repetition(
    steps: Sequence[types.Step],
    trace: str,
    num_equal: int = NUM_EQUAL,
    delimiter: delimiter_lib.Delimiter = boundaries.BLANK_LINE,
) -> tuple[types.Step, ...]:
  """Drops the steps after the first repetition, which ends the answer.

  Args:
    steps: the steps written after `trace`, at least one.
    trace: the answer before these steps; a repetition may begin in the trace.
    num_equal: see `find_repetition`.
    delimiter: what ends a step.

  Returns:
    The steps up to the end of the repetition, the last marked as final; or all
    steps unchanged if there is no repetition.
  """
  # Only the last `num_equal` steps of the trace can be part of a repetition
  # that ends in `steps`.
  before = boundaries.split(trace, delimiter)[-num_equal:] if num_equal else []
  # A step that is much shorter than the limit may be the end of a longer one.
  if delimiter.max_tokens and 2 * steps[0].num_tokens >= delimiter.max_tokens:
    before = _copies(steps[0].text, trace, num_equal)
  end = find_repetition([*before, *(step.text for step in steps)], num_equal)
  if end is None:
    return tuple(steps)
  # If the repetition lies wholly within the trace, one step is kept all the
  # same, to be marked as final.
  *others, last = steps[: max(end - len(before), 1)]
  return (*others, dataclasses.replace(last, is_final=True))


def _copies(step: str, trace: str, num_equal: int) -> list[str]:
  """Returns the copies of a step with which a trace ends, at most `num_equal`.

  Where steps end at a length, a trace does not show where its steps ended, and
  only those equal to the next one matter.
  """
  copies = []
  while step and len(copies) < num_equal and trace.endswith(step):
    copies.append(step)
    trace = trace.removesuffix(step)
  return copies
