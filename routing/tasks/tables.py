"""Reads problems from rows: JSON-lines files, or a data set of a hub.

A field map says which fields of a row make a problem. Rows that cannot be
graded, or that repeat a question, are left out and reported with the reason.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import gzip
import json
import pathlib
from typing import Any

from routing import types
from routing.grading import answers
from routing.tasks import splits

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Fields:
  """Which fields of a row make a problem.

  question: field with the question, or several, whose texts are joined by a
    space.
  answer: field with the reference answer, or with a worked solution.
  finder: how the reference is found in the field `answer`: '' = the whole field
    is the reference; otherwise a name of `grading.answers.FINDERS`, e.g. 'hash'
    for the solutions of GSM8K.
  id: field that identifies the row; '' = the row's position, from 0.
  subject: field with the group of the problem; '' = no groups.
  meta: further fields, which are kept in `Problem.meta`.
  """

  question: str | Sequence[str] = 'question'
  answer: str = 'answer'
  finder: str = ''
  id: str = ''
  subject: str = ''
  meta: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Dropped:
  """A row that was left out.

  id: the id that the problem would have had.
  reason: 'empty question', 'empty answer', 'repeated question', or
    'question also in <part>'.
  """

  id: str
  reason: str


@dataclasses.dataclass(frozen=True)
class Loaded:
  """The problems of a source, in the source's own parts.

  parts: name of the part, e.g. 'train' -> its problems, in the order of rows.
  dropped: the rows that were left out.
  """

  parts: Mapping[str, Sequence[types.Problem]]
  dropped: Sequence[Dropped] = ()


def read_rows(path: pathlib.Path | str) -> Iterator[dict[str, Any]]:
  """Yields the rows of a `.jsonl` file or a `.json` array, gzipped or not.

  Raises:
    ValueError: if the file does not exist, or a row is not a JSON object; the
      message names the file and the line.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(
        f'{path} does not exist; set task.path to the directory of the files.'
    )
  opened = gzip.open if path.suffix == '.gz' else open
  kind = path.name.removesuffix('.gz').rpartition('.')[-1]
  with opened(path, 'rt', encoding='utf-8') as file:
    if kind == 'json':
      rows = enumerate(_parse(path, 1, file.read()), 1)
    else:
      # Blank lines, common at the end of a file, mean nothing.
      rows = (
          (i, _parse(path, i, line))
          for i, line in enumerate(file, 1)
          if line.strip()
      )
    for number, row in rows:
      if not isinstance(row, dict):
        raise ValueError(
            f'{path}:{number} is not a JSON object: {str(row)[:60]!r}.'
        )
      yield row


def hub_rows(
    name: str, subset: str, split: str, revision: str
) -> Iterator[dict[str, Any]]:
  """Yields the rows of a data set on the Hugging Face hub.

  Args:
    name: of the data set, e.g. 'openai/gsm8k'.
    subset: of the data set; '' = the only one.
    split: of the data set.
    revision: commit or tag; '' = the newest.
  """
  import datasets  # The import takes seconds.

  rows: Any = datasets.load_dataset(
      name, subset or None, split=split, revision=revision or None
  )
  yield from rows


def to_problems(
    rows: Mapping[str, Iterable[Row]], fields: Fields, name: str
) -> Loaded:
  """Makes problems of rows, and leaves out what cannot be used.

  A row is left out if its question or its reference is empty, or if its
  question came before (case and white space do not count). Of a question that
  is in several parts, the one in the part called 'test' is kept, so that no
  test question is trained on; among other parts, the first.

  Args:
    rows: part of the source -> its rows.
    fields: which fields are used.
    name: name of the task, with which the ids of problems begin.

  Raises:
    ValueError: if a row lacks a field; the message names row and field.
  """
  part_of: dict[str, str] = {}  # Hash of a question -> the part that has it.
  parts: dict[str, list[types.Problem]] = {}
  dropped: list[Dropped] = []
  for part in sorted(rows, key=lambda x: x != 'test'):
    parts[part] = []
    for index, row in enumerate(rows[part]):
      problem = _problem(row, fields, f'{name}/{part}', index)
      digest = splits.question_hash(problem.question)
      if reason := _why_dropped(problem, part, part_of.get(digest)):
        dropped.append(Dropped(problem.id, reason))
      else:
        part_of[digest] = part
        parts[part].append(problem)
  return Loaded({part: parts[part] for part in rows}, dropped)


def _why_dropped(problem: types.Problem, part: str, before: str | None) -> str:
  """Returns why a row is left out; '' if it is kept.

  Args:
    problem: made of the row.
    part: the part of the row.
    before: the part that has the question already; None = no part.
  """
  if not problem.question:
    return 'empty question'
  if not problem.answer:
    return 'empty answer'
  if before is not None:
    return (
        'repeated question' if before == part else f'question also in {before}'
    )
  return ''


def _problem(
    row: Row, fields: Fields, prefix: str, index: int
) -> types.Problem:
  """Returns the problem of one row; question and answer may be empty."""
  asked = fields.question
  asked = [asked] if isinstance(asked, str) else list(asked)
  for field in (*asked, fields.answer, fields.id, fields.subject, *fields.meta):
    if field and field not in row:
      raise ValueError(
          f'Row {index} of {prefix} has no field {field!r}; it has '
          f'{", ".join(map(repr, row))}. See task.fields.'
      )
  reference = _text(row[fields.answer])
  if fields.finder:
    reference = answers.find(reference, (fields.finder,)) or ''
  return types.Problem(
      id=f'{prefix}/{row[fields.id] if fields.id else index}',
      question=' '.join(_text(row[field]) for field in asked).strip(),
      answer=reference,
      subject=_text(row[fields.subject]) if fields.subject else '',
      meta={field: row[field] for field in fields.meta},
  )


def _parse(path: pathlib.Path, number: int, text: str) -> Any:
  """Returns the JSON value of a text, or raises ValueError naming the line."""
  try:
    return json.loads(text)
  except json.JSONDecodeError as error:
    raise ValueError(f'{path}:{number} is not JSON: {error}.') from error


def _text(value: Any) -> str:
  """Returns a field's value as text; '' for None."""
  if value is None:
    return ''
  if isinstance(value, list):  # OlympiadBench keeps answers in a list.
    return ', '.join(map(_text, value))
  if isinstance(value, float) and value.is_integer():
    return str(int(value))  # AMC keeps the integer 27 as 27.0.
  return str(value).strip()
