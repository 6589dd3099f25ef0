"""Counts the answers that the token limit cut off.

An answer is cut off if its writer did not end it. Its final answer is then
usually missing, so it grades wrong whatever the model knows: where many answers
are cut off, the limit decides the accuracy and not the models.
"""

import dataclasses
from typing import Any

from routing import types

# A larger share of cut answers is worth a warning.
MUCH = 0.05


def of_steps(steps: tuple[types.Step, ...]) -> bool:
  """Returns whether an answer that consists of `steps` was cut off."""
  return not steps[-1].is_final


@dataclasses.dataclass(frozen=True)
class Told:
  """What is told of a record that another process has collected and keeps.

  cut: as `of_record` returns it there.
  """

  cut: tuple[bool | None, ...]


def of_record(record: Any) -> list[bool]:
  """Returns for each answer in a record whether it was cut off.

  Answers of which this is not known are left out. Replies hold no answers: a
  step that was cut off is not recorded.

  Args:
    record: of one problem, e.g. a `types.Ladder` or a `types.Rollouts`; or what
      is told of it.
  """
  if isinstance(record, types.Ladder):
    found = [of_steps(record.steps), *(x.is_cut for x in record.completions)]
  elif isinstance(record, types.Rollouts):
    found = [of_steps(x.steps) for x in record.trajectories]
    found.append(record.reference.is_cut)
  elif isinstance(record, Told):
    found = list(record.cut)
  else:
    found = []
  return [x for x in found if x is not None]


@dataclasses.dataclass
class Count:
  """Counts answers, and those that were cut off.

  num_answers: answers so far.
  num_cut: those of them that were cut off.
  """

  num_answers: int = 0
  num_cut: int = 0

  def add(self, record: Any) -> None:
    """Adds the answers of a record; see `of_record`."""
    found = of_record(record)
    self.num_answers += len(found)
    self.num_cut += sum(found)

  @property
  def share(self) -> float:
    """The share of the answers that were cut off; 0 without an answer."""
    return self.num_cut / max(self.num_answers, 1)

  def in_words(self) -> str:
    """Returns a sentence on the share; '' without an answer."""
    if not self.num_answers:
      return ''
    line = (
        f'the token limit cut off {self.num_cut:,} of {self.num_answers:,} '
        f'answers, {self.share:.1%}.'
    )
    if self.share <= MUCH:
      return line
    return f'{line} It decides their grades; raise collect.max_tokens.'
