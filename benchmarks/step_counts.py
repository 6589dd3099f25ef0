"""How our cut of a text into steps agrees with the steps of public sources.

Run: python -m benchmarks.step_counts [--data=DIR]
Prints a table: for each source and delimiter the share of texts with as many
steps as the source says, the mean difference, and why the places differ.
docs/steps.md discusses the numbers. The last line is a JSON object with them.
"""

import collections
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import gzip
import json
import os
import pathlib
import re
from typing import Any

from absl import app
from absl import flags
from rich import console as console_lib
from rich import table as table_lib

from routing.engines import boundaries
from routing.tasks import delimiter as delimiter_lib

DELIMITERS = ('\n\n', '\n')
_PROCESS_BENCH = ('gsm8k', 'math', 'olympiadbench', 'omnimath')
_NUMBERED = re.compile(r'(?m)^\d+\. ')
_NEXT = re.compile(r'\S')

# Why a step of the source ends where none of ours does.
NO_DELIMITER = 'no delimiter'
IN_BLOCK = 'in a block'
OPEN_BLOCK = 'after an open block'
# Why one of ours ends where none of the source does.
ANSWER_LINE = 'answer line'
INSIDE_STEP = 'inside a step'
KINDS = (NO_DELIMITER, IN_BLOCK, OPEN_BLOCK, ANSWER_LINE, INSIDE_STEP)


@dataclasses.dataclass(frozen=True)
class Solution:
  """A text whose steps the source counts.

  text: the whole text.
  starts: index of the first character of each of the source's steps, ascending.
  """

  text: str
  starts: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Counts:
  """How our steps of several texts agree with those of the source.

  texts: number of texts.
  equal: texts with as many steps.
  same: texts with all steps at the same places.
  difference: mean of our number minus the source's.
  kinds: kind -> number of places at which only one of both begins a step.
  """

  texts: int
  equal: int
  same: int
  difference: float
  kinds: collections.Counter


# What `delimiter.of` takes.
Delimiter = str | Mapping[str, Any]


def cut(text: str, delimiter: Delimiter) -> list[str]:
  """Returns our steps of a text."""
  return boundaries.split(text, delimiter_lib.of(delimiter))


def sources(data: pathlib.Path) -> Iterator[tuple[str, list[Solution]]]:
  """Yields the sources: the name, and texts with the source's own steps.

  ProcessBench and MR-GSM8K publish lists of steps. They are joined here by the
  separator that each uses in its prompts: a blank line, a line break. Abel's
  steps are the numbered paragraphs, GSM8K's the lines before the answer.
  """
  for name in _PROCESS_BENCH:
    rows = _read(data / 'processbench' / f'{name}.dev70.json.gz')
    found = [_joined(row['steps'], '\n\n') for row in rows]
    yield f'ProcessBench, {name}', found
  rows = {
      row['uuid']: row  # A solution may be in several files.
      for path in sorted((data / 'mr_gsm8k').glob('*.json.gz'))
      for row in _read(path)
  }
  yield 'MR-GSM8K', [
      _joined(row['model_output_steps'], '\n') for row in rows.values()
  ]
  for size in ('7b', '13b', '70b'):
    texts = [
        row['response']
        for row in _read(data / 'gsm8k_abel' / f'{size}.dev70.jsonl.gz')
    ]
    yield f'Abel, {size}', [_numbered(x) for x in texts if _NUMBERED.search(x)]
  rows = _read(data / 'gsm8k' / 'test.jsonl.gz')
  yield 'GSM8K, solutions', [_lines(row['answer']) for row in rows]


def counts(solutions: Sequence[Solution], delimiter: Delimiter) -> Counts:
  """Compares our steps with the source's.

  Args:
    solutions: at least one.
    delimiter: that ends our steps.

  Raises:
    ValueError: if there is no solution.
  """
  if not solutions:
    raise ValueError('There are no solutions; at least one must be given.')
  equal = same = difference = 0
  kinds = collections.Counter()
  for solution in solutions:
    ours = starts(cut(solution.text, delimiter))
    equal += len(ours) == len(solution.starts)
    same += ours == solution.starts
    difference += len(ours) - len(solution.starts)
    kinds.update(reasons(solution, ours))
  total = len(solutions)
  return Counts(total, equal, same, difference / total, kinds)


def starts(steps: Sequence[str]) -> tuple[int, ...]:
  """Returns the index of the first character of each step that is not blank.

  The index is that in the joined steps. Blank steps have none.
  """
  found, position = [], 0
  for step in steps:
    if not step.isspace():
      found.append(position + _NEXT.search(step).start())
    position += len(step)
  return tuple(found)


def reasons(solution: Solution, ours: Sequence[int]) -> Iterator[str]:
  """Yields one of `KINDS` for each place at which only one begins a step.

  Args:
    solution: the text with the source's steps.
    ours: index of the first character of each of our steps, ascending.
  """
  text = solution.text
  for place in sorted(set(solution.starts) - set(ours)):
    begin = max((x for x in ours if x < place), default=0)
    closer = boundaries.open_block(text[begin:place])
    if closer is None:
      yield NO_DELIMITER
    else:
      yield IN_BLOCK if closer in text[place:] else OPEN_BLOCK
  for place in sorted(set(ours) - set(solution.starts)):
    yield ANSWER_LINE if text.startswith('####', place) else INSIDE_STEP


def _joined(steps: Sequence[str], separator: str) -> Solution:
  # White space at the ends would change where a step begins.
  kept = [step.strip() for step in steps if step.strip()]
  text = separator.join(kept)
  return Solution(text, starts([f'{step}{separator}' for step in kept]))


def _numbered(text: str) -> Solution:
  return Solution(text, tuple(x.start() for x in _NUMBERED.finditer(text)))


def _lines(text: str) -> Solution:
  before, _, _ = text.rpartition('####')
  return Solution(text, starts(before.splitlines(keepends=True)))


def _read(path: pathlib.Path) -> list[dict[str, Any]]:
  with gzip.open(path, 'rt', encoding='utf-8') as file:
    if '.jsonl' in path.suffixes:
      return [json.loads(line) for line in file]
    return json.load(file)


def main(argv: Sequence[str]) -> None:
  """Prints the table, then the JSON line."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  data = pathlib.Path(flags.FLAGS.data)
  if not data.exists():
    raise app.UsageError(f'--data is {data}, which does not exist.')
  table = table_lib.Table()
  columns = ('source', 'delimiter', 'texts', 'equal', 'same places')
  for name in (*columns, 'difference', 'differing places'):
    table.add_column(name)
  record = []
  for name, solutions in sources(data):
    for delimiter in DELIMITERS:
      got = counts(solutions, delimiter)
      kinds = {kind: got.kinds[kind] for kind in KINDS}
      shares = [f'{x / got.texts:.1%}' for x in (got.equal, got.same)]
      table.add_row(
          *(name, repr(delimiter), str(got.texts), *shares),
          f'{got.difference:+.2f}',
          ', '.join(f'{x} {kind}' for kind, x in kinds.items() if x),
      )
      record.append(dataclasses.asdict(got) | {'source': name, 'kinds': kinds})
      record[-1]['delimiter'] = delimiter
  console_lib.Console(width=140).print(table)
  print(json.dumps(record))


if __name__ == '__main__':
  flags.DEFINE_string(
      'data',
      os.environ.get('ROUTING_DATA', '../shared/data'),
      'Directory of the public data sets.',
  )
  app.run(main)
