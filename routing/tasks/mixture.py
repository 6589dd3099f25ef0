"""Mixes the problems of several tasks in given shares.

Each part keeps its splits, so a problem that is a test problem of its own task
is a test problem here. Results are reported by part, see `Problem.subject`.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

from routing import types
from routing.tasks import splits
from routing.tasks import tables
from routing.tasks import task as task_lib


@dataclasses.dataclass(frozen=True)
class Part:
  """One of the tasks that are mixed.

  name: of the task; the `subject` of its problems that have none.
  source: of its problems.
  share: of the mixture, in (0, 1].
  """

  name: str
  source: task_lib.Source
  share: float


@dataclasses.dataclass(frozen=True)
class Mixture:
  """A source that takes from several others.

  Raises:
    ValueError: if there is no part, or the shares do not sum to 1.
  """

  parts: Sequence[Part]

  def __post_init__(self):
    shares = [part.share for part in self.parts]
    if not shares or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
      raise ValueError(
          f'task.parts has the shares {shares}; allowed: > 0, with the sum 1.'
      )

  def load(self, sizes: Mapping[str, int], seed: int) -> tables.Loaded:
    """Returns the problems of each split; see `task.Source.load`.

    A smaller split is the beginning of a larger one, as in other tasks.

    Raises:
      ValueError: if a size is `ALL`, a part has too few problems, or a question
        is in two parts.
    """
    splits.check_names(sizes)
    for name, size in sizes.items():
      if size < 0:
        raise ValueError(
            f'problems.{name} is {size}; a mixture needs a number of problems.'
        )
    turns = {name: self._turns(size) for name, size in sizes.items()}
    loaded = [
        part.source.load({name: turns[name].count(i) for name in sizes}, seed)
        for i, part in enumerate(self.parts)
    ]
    parts = {}
    for name in sizes:
      left = [iter(x.parts[name]) for x in loaded]
      parts[name] = [self._named(next(left[i]), i) for i in turns[name]]
    _check_distinct(parts)
    return tables.Loaded(parts, [row for x in loaded for row in x.dropped])

  def _turns(self, size: int) -> list[int]:
    """Returns from which part each problem of a split comes."""
    counts, turns = [0] * len(self.parts), []
    for total in range(1, size + 1):
      # The part that is furthest behind its share; so every beginning of a
      # split has the parts in their shares.
      behind = [
          part.share * total - count
          for part, count in zip(self.parts, counts, strict=True)
      ]
      turns.append(behind.index(max(behind)))
      counts[turns[-1]] += 1
    return turns

  def _named(self, problem: types.Problem, index: int) -> types.Problem:
    """Returns a problem that says from which part it is."""
    subject = problem.subject or self.parts[index].name
    return dataclasses.replace(problem, subject=subject)


def _check_distinct(parts: Mapping[str, Sequence[types.Problem]]) -> None:
  """Raises ValueError if a question occurs twice."""
  seen: dict[str, str] = {}
  for problems in parts.values():
    for problem in problems:
      digest = splits.question_hash(problem.question)
      if digest in seen:
        raise ValueError(
            f'The problems {seen[digest]} and {problem.id} have the same '
            'question; allowed in task.parts: tasks without common questions.'
        )
      seen[digest] = problem.id
