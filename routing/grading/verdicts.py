"""What a grader says of an answer, and how far two graders agree."""

from collections.abc import Sequence
import dataclasses


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What a grader says of one text.

  is_correct: whether the final answer equals the reference.
  answer: the final answer as it is written in the text; None = not found.
  method: what decided: 'none' (there is no answer to compare), 'literal' (the
    same text), 'words', 'number' (both are plain numbers), 'math_verify',
    'generator' (its own score) or 'judge'.
  reason: 'equal', 'differs', or why the answer counts as wrong, e.g. 'no answer
    found', 'timed out', 'cannot be parsed'.
  """

  is_correct: bool
  answer: str | None
  method: str
  reason: str


NOT_FOUND = Verdict(False, None, 'none', 'no answer found')


@dataclasses.dataclass(frozen=True)
class Agreement:
  """Counts of two graders' verdicts on the same answers.

  both_right, both_wrong: both say so.
  only_first, only_second: only this grader says right.
  """

  both_right: int
  only_first: int
  only_second: int
  both_wrong: int

  @property
  def total(self) -> int:
    """Number of answers."""
    return (
        self.both_right + self.only_first + self.only_second + self.both_wrong
    )

  @property
  def share(self) -> float:
    """Share of the answers on which both say the same, in [0, 1]."""
    return (self.both_right + self.both_wrong) / self.total

  @property
  def kappa(self) -> float:
    """Cohen's kappa in [-1, 1]: agreement above chance; 1 = always the same.

    If both graders say the same of all answers, chance alone would agree, too;
    kappa is then 1 by convention.
    """
    first = (self.both_right + self.only_first) / self.total
    second = (self.both_right + self.only_second) / self.total
    chance = first * second + (1 - first) * (1 - second)
    return 1.0 if chance == 1 else (self.share - chance) / (1 - chance)


def agreement(first: Sequence[bool], second: Sequence[bool]) -> Agreement:
  """Compares two graders on the same answers.

  Args:
    first: `[N]`, whether the first grader says right.
    second: `[N]`, whether the second does, in the same order.

  Raises:
    ValueError: if there are no answers, or not as many of both.

  Source: Cohen 1960, "A Coefficient of Agreement for Nominal Scales".
  """
  if len(first) != len(second) or not first:
    raise ValueError(
        f'There are {len(first)} and {len(second)} verdicts; both graders must '
        'have as many, at least one.'
    )
  pairs = [(bool(a), bool(b)) for a, b in zip(first, second, strict=True)]
  return Agreement(
      *(
          pairs.count(x)
          for x in ((True, True), (True, False), (False, True), (False, False))
      )
  )
