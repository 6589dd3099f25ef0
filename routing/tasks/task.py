"""Defines a task: problems, how they are put, and how answers are graded."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import hashlib
import pathlib
from typing import Protocol

from routing import types
from routing.tasks import delimiter as delimiter_lib
from routing.tasks import prompt as prompt_lib
from routing.tasks import splits
from routing.tasks import tables

# The share of each split, where a source does not divide its problems itself.
# Relative to one another: GSM8K has a test split, and its other problems are
# divided 0.6 : 0.2 : 0.2.
_SHARES = {'train': 0.45, 'select': 0.15, 'prove': 0.15, 'test': 0.25}
ALL = -1  # As the size of a split: all its problems.


class Source(Protocol):
  """Where the problems of a task come from."""

  def load(self, sizes: Mapping[str, int], seed: int) -> tables.Loaded:
    """Returns the problems of each split.

    Args:
      sizes: split -> number of problems; `ALL` = as many as there are.
      seed: another seed draws other problems, where there is a choice.

    Raises:
      ValueError: if there are fewer problems than asked for.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Task:
  """A problem set, and all that a model and a grader must know about it.

  name: as a configuration names it.
  source: of the problems.
  prompt: how a question is put to a model that has no prompt of its own.
  finders: where the final answer stands in a text, names of
    `grading.answers.FINDERS`; the first that finds one counts.
  grader: name of the grader; see `grading.equivalence`.
  max_decisions: largest number of decisions in one answer.
  max_tokens: largest number of tokens of one answer.
  delimiter: what ends a step.
  example: a question of its kind, for whoever wants to try; it is in no set.
  """

  name: str
  source: Source
  prompt: prompt_lib.Prompt
  finders: Sequence[str] = ('boxed', 'hash', 'number')
  grader: str = 'math_verify'
  max_decisions: int = 16
  max_tokens: int = 1_024
  delimiter: delimiter_lib.Delimiter = delimiter_lib.BLANK_LINE
  example: str = ''


@dataclasses.dataclass(frozen=True)
class Hub:
  """A data set on the Hugging Face hub.

  name: e.g. 'openai/gsm8k'.
  parts: part of the source -> split of the data set.
  subset: of the data set; '' = the only one.
  revision: commit or tag, so that the problems stay the same; '' = the newest.
  fields: which fields make a problem; None = as in the local files.
  """

  name: str
  parts: Mapping[str, str]
  subset: str = ''
  revision: str = ''
  fields: tables.Fields | None = None


@dataclasses.dataclass(frozen=True)
class Rows:
  """A source of problems that are rows of files or of a data set on the hub.

  name: name of the task, with which the ids of problems begin.
  fields: which fields of a row make a problem.
  files: part of the source -> its file, below `path`.
  path: directory of the files; '' = read from the hub.
  hub: the data set; None = there are files only.
  """

  name: str
  fields: tables.Fields
  files: Mapping[str, str] = dataclasses.field(default_factory=dict)
  path: str = ''
  hub: Hub | None = None

  def load(self, sizes: Mapping[str, int], seed: int) -> tables.Loaded:
    """Reads all rows and divides them; see `Source.load`."""
    return divided(self.all(), sizes, seed)

  def all(self) -> tables.Loaded:
    """Reads all problems, in the source's own parts.

    Raises:
      ValueError: if a file is missing, or there is neither `path` nor `hub`.
    """
    if self.path or self.hub is None:
      if not self.files:
        raise ValueError(
            f'Task {self.name!r} names no files: set task.files, or task.hub.'
        )
      directory = pathlib.Path(self.path)
      rows = {
          part: tables.read_rows(directory / file)
          for part, file in self.files.items()
      }
      return tables.to_problems(rows, self.fields, self.name)
    rows = {
        part: tables.hub_rows(
            self.hub.name, self.hub.subset, split, self.hub.revision
        )
        for part, split in self.hub.parts.items()
    }
    return tables.to_problems(rows, self.hub.fields or self.fields, self.name)


def divided(
    loaded: tables.Loaded, sizes: Mapping[str, int], seed: int
) -> tables.Loaded:
  """Divides a source's problems into the four splits, and draws the sizes.

  Parts of the source that are called 'select', 'prove' or 'test' stay whole.
  The problems of all other parts are divided, by the hash of the question,
  among the splits that the source does not have.

  Args:
    loaded: the source's problems, in its own parts.
    sizes: split -> number of problems; `ALL` = as many as there are.
    seed: another seed draws other problems where fewer are asked for than there
      are; it never moves a problem to another split.

  Raises:
    ValueError: if a split has fewer problems than asked for.
  """
  splits.check_names(sizes)
  own = {
      name: list(problems)
      for name, problems in loaded.parts.items()
      if name in ('select', 'prove', 'test')
  }
  rest = [
      problem
      for name, problems in loaded.parts.items()
      if name not in own
      for problem in problems
  ]
  wanted = {k: v for k, v in _SHARES.items() if k not in own}
  total = sum(wanted.values())
  parts = own | splits.divide(rest, {k: v / total for k, v in wanted.items()})
  return dataclasses.replace(
      loaded,
      parts={
          name: _draw(parts[name], size, seed, name)
          for name, size in sizes.items()
      },
  )


def _draw(
    problems: Sequence[types.Problem], size: int, seed: int, split: str
) -> list[types.Problem]:
  """Returns `size` problems in an order that only seed and questions decide.

  A smaller sample is the beginning of a larger one, so a split may grow.
  """
  if size > len(problems):
    raise ValueError(
        f'problems.{split} is {size}, but this split has {len(problems)} '
        f'problems; allowed: 0 to {len(problems)}, or {ALL} for all.'
    )
  if size < ALL:
    raise ValueError(f'problems.{split} is {size}; allowed: >= {ALL}.')

  def key(problem: types.Problem) -> str:
    text = f'{seed}/{splits.question_hash(problem.question)}'
    return hashlib.sha256(text.encode()).hexdigest()

  return sorted(problems, key=key)[: None if size == ALL else size]


def why_dropped(dropped: Sequence[tables.Dropped]) -> str:
  """Returns how many rows were left out for each reason; '' if none was."""
  counts: dict[str, int] = {}
  for row in dropped:
    counts[row.reason] = counts.get(row.reason, 0) + 1
  return ', '.join(f'{count} {reason}' for reason, count in counts.items())
