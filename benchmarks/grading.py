"""How far the graders agree with published flags, how fast and how robust.

Run: python -m benchmarks.grading [--data=DIR] [--mutants=N] [--answers=N]
Prints tables: the published pairs of answers on which we differ; for each set
of model outputs how its flags and ours agree, and why not; what becomes of
mutated answers; the time for grading many answers. 0 leaves a part out.
docs/grading.md discusses the numbers. The last line is a JSON object with them.
"""

import collections
from collections.abc import Iterator
from collections.abc import Sequence
import concurrent.futures
import csv
import dataclasses
import gzip
import importlib.metadata
import json
import os
import pathlib
import platform
import random
import sys
import time
from typing import Any

from absl import app
from absl import flags
import psutil
from rich import console as console_lib
from rich import table as table_lib
from rich import text as rich_text

from routing import progress as progress_lib
from routing.grading import answers
from routing.grading import equivalence
from routing.grading import verdicts

# Marked equal in the published table: 1 - 1/e and 1 + 1/e.
WRONG_PAIRS = ('mv263',)
# Of outputs in various forms: what each set was asked for comes first.
CONVENTION = ('hash', 'boxed', 'after_phrase', 'number')
_ROUTE_LLM = ('mistralai/Mixtral-8x7B-Instruct-v0.1', 'gpt-4-1106-preview')
_PAIRED = ('6b_finetuning', '6b_verification')
_PAIRED += ('175b_finetuning', '175b_verification')


@dataclasses.dataclass(frozen=True)
class Output:
  """A model's answer with the flag that was published with it.

  text: the whole answer.
  reference: the reference answer.
  is_correct: the flag.
  """

  text: str
  reference: str
  is_correct: bool


def pairs(data: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the published pairs: `gold`, `pred`, `expected` and `id`."""
  path = data / 'grading_pairs' / 'math_verify_pairs.dev70.jsonl'
  return [json.loads(x) for x in path.read_text('utf-8').splitlines()]


def outputs(
    data: pathlib.Path, grade: equivalence.MathVerify
) -> Iterator[tuple[str, list[Output]]]:
  """Yields the sets of model outputs: the name, and the outputs with flags.

  ToRA's files hold the answer found by its authors instead of a flag; the flag
  is whether that equals the reference, according to `grade`.
  """
  gold = {
      row['question']: row['answer'].rpartition('####')[2].strip()
      for row in _rows(data / 'gsm8k' / 'test.jsonl.gz')
  }
  path = data / 'routellm' / 'gsm8k_responses.dev70.csv.gz'
  with gzip.open(path, 'rt', encoding='utf-8', newline='') as file:
    rows = list(csv.DictReader(file))
  for model in _ROUTE_LLM:
    yield f'RouteLLM, {model.rpartition("/")[2]}', [
        Output(x[f'{model}_response'], gold[x['prompt']], x[model] == 'True')
        for x in rows
    ]
  name = 'gsm8k_openai_6b_175b/example_model_solutions.dev70.jsonl.gz'
  rows = _rows(data / name)
  for model in _PAIRED:
    yield f'OpenAI, {model}', [
        Output(
            row[model]['solution'],
            row['ground_truth'].rpartition('A:')[2].strip(),
            row[model]['is_correct'],
        )
        for row in rows
    ]
  for size in ('7b', '13b', '70b'):
    rows = _rows(data / 'gsm8k_abel' / f'{size}.dev70.jsonl.gz')
    yield f'Abel, {size}', [
        Output(x['response'], x['gold'], x['result']) for x in rows
    ]
  for path in sorted((data / 'gsm8k_tora').iterdir()):
    yield f'ToRA, {path.name.partition("_")[0]}', [
        Output(
            row['code'][0],
            row['gt'],
            grade.compare(row['pred'][0], row['gt']).is_correct,
        )
        for row in _rows(path)
    ]
  rows = _rows(data / 'qwen_rm_bon' / 'math_cot_100.dev70.jsonl.gz')
  yield 'Qwen2.5-Math, MATH', [
      Output(text, row['gt'], flag)
      for row in rows
      for text, flag in zip(row['code'], row['score'], strict=True)
  ]


def differing_pairs(
    rows: Sequence[dict[str, Any]], grade: equivalence.MathVerify
) -> list[tuple[dict[str, Any], verdicts.Verdict]]:
  """Returns the pairs on which `grade` and the published table differ."""
  graded = [(row, grade.compare(row['pred'], row['gold'])) for row in rows]
  return [(r, v) for r, v in graded if v.is_correct != r['expected']]


def mutant(text: str, rng: random.Random) -> str:
  """Returns a text with one to five random changes."""
  for _ in range(rng.randint(1, 5)):
    i = rng.randint(0, len(text))
    j = min(len(text), i + rng.randint(0, 6))
    text = rng.choice(
        (
            text[:i] + text[j:],
            text[:i] + text[i:j] * rng.randint(2, 5) + text[j:],
            text[:i] + rng.choice(_FRAGMENTS) + text[i:],
            text[:i] + rng.choice(_FRAGMENTS) + text[j:],
            text[:i],
            text[i:] + text[:i],
        )
    )
  return text


_FRAGMENTS = (
    *('{', '}', '\\', '$', '^', '_', '(', ')', '[', ']', '|', '&', '%', '#'),
    *('####', r'\boxed{', '[[', ']]', r'\frac{', r'\sqrt', r'\text{', r'\%'),
    *(r'\left(', r'\right)', r'\begin{pmatrix}', r'\end{pmatrix}', r'\\', '\n'),
    *('^{99}', '^{9^{9}}', '9' * 40, '0', '-', '/', '/0', '!', ',', '.', ' '),
    *(
        r'\infty',
        r'\int',
        r'\sum_{n=1}^{9}',
        r'\pm',
        '=',
        '<',
        '∪',
        'é',
        '\x00',
    ),
)


def mutants(
    texts: Sequence[tuple[str, str]], num: int, seed: int = 0
) -> Iterator[tuple[str, str]]:
  """Yields `num` mutated answers with their references.

  Args:
    texts: answers with their references, drawn with replacement.
    num: number of mutants; half of them are then put into a box.
    seed: determines them.
  """
  rng = random.Random(seed)
  for i in range(num):
    text, reference = rng.choice(texts)
    text = mutant(text, rng)
    yield f'So \\boxed{{{text}}}.' if i % 2 else text, reference


def texts_to_mutate(data: pathlib.Path) -> list[tuple[str, str]]:
  """Returns answers in many forms: those of MATH, whole texts on GSM8K."""
  found = []
  for row in _rows(data / 'math' / 'test.jsonl.gz'):
    answer = answers.find(row['solution'], ('boxed',))
    if answer:
      found.append((answer, answer))
  for row in _rows(data / 'gsm8k_abel' / '7b.dev70.jsonl.gz'):
    found.append((row['response'], row['gold']))
  return found


@dataclasses.dataclass(frozen=True)
class Survived:
  """What became of mutated answers.

  reasons: how often each method and reason occurred.
  seconds: of all, by the clock.
  slowest: seconds of the slowest answer, by the clock.
  own_mib, worker_mib: most memory of this process, and of a comparing one.
  """

  reasons: collections.Counter
  seconds: float
  slowest: float
  own_mib: float
  worker_mib: float


def survive(
    cases: Iterator[tuple[str, str]],
    grade: equivalence.MathVerify,
    num: int,
    threads: int = 4,
) -> Survived:
  """Grades `num` answers; an error in any of them is raised."""
  reasons, start = collections.Counter(), time.monotonic()
  slowest = own = worker = 0.0
  this_process = psutil.Process()

  def one(case: tuple[str, str]) -> tuple[verdicts.Verdict, float]:
    begin = time.monotonic()
    answers.end(case[0], ('boxed', 'number'))
    return grade(*case), time.monotonic() - begin

  with (
      concurrent.futures.ThreadPoolExecutor(threads) as pool,
      progress_lib.Progress(num, 'grading', unit='answer') as progress,
  ):
    # In groups, so that a hundred thousand are not held at once.
    while group := [x for _, x in zip(range(500), cases, strict=False)]:
      for verdict, seconds in pool.map(one, group):
        reasons[verdict.method, verdict.reason] += 1
        slowest = max(slowest, seconds)
        progress.update()
      own = max(own, this_process.memory_info().rss / 2**20)
      for child in this_process.children():
        try:
          worker = max(worker, child.memory_info().rss / 2**20)
        except psutil.NoSuchProcess:
          pass  # Killed at its limit.
  seconds = time.monotonic() - start
  return Survived(reasons, seconds, slowest, own, worker)


def _rows(path: pathlib.Path) -> list[dict[str, Any]]:
  with gzip.open(path, 'rt', encoding='utf-8') as file:
    return [json.loads(line) for line in file]


def _show(title: str, columns: Sequence[str], rows: Sequence[Sequence]) -> None:
  table = table_lib.Table(title=title, title_justify='left')
  for name in columns:
    table.add_column(name, overflow='fold')
  for row in rows:
    # As texts, since `rich` would take square brackets in answers for styles.
    table.add_row(*(rich_text.Text(str(x)) for x in row))
  console_lib.Console(width=120).print(table)


def _measure_pairs(data, grade) -> dict[str, Any]:
  rows = pairs(data)
  differing = differing_pairs(rows, grade)
  _show(
      f'Published pairs: we differ on {len(differing)} of {len(rows)}',
      ('id', 'reference', 'answer', 'published', 'ours', 'why'),
      [
          (r['id'], r['gold'], r['pred'], r['expected'], v.is_correct, v.reason)
          for r, v in differing
      ],
  )
  return {'pairs': len(rows), 'differing': [row['id'] for row, _ in differing]}


def _measure_outputs(data, grade) -> dict[str, Any]:
  rows, reasons = [], []
  for name, found in outputs(data, grade):
    ours = [grade(x.text, x.reference) for x in found]
    counts = verdicts.agreement(
        [x.is_correct for x in found], [x.is_correct for x in ours]
    )
    rows.append(
        (
            *(name, counts.both_right, counts.only_first, counts.only_second),
            *(counts.both_wrong, f'{counts.share:.4f}', f'{counts.kappa:.4f}'),
        )
    )
    reasons += [
        (name, x.is_correct, x.reference, v.answer, v.method, x.text[-60:])
        for x, v in zip(found, ours, strict=True)
        if x.is_correct != v.is_correct
    ]
  columns = ('both right', 'only the flag', 'only ours', 'both wrong')
  _show('Flags and ours', ('outputs', *columns, 'agree', 'kappa'), rows)
  columns = (
      'outputs',
      'flag',
      'reference',
      'answer',
      'method',
      'end of the text',
  )
  _show('Where they differ', columns, reasons)
  return {'outputs': {row[0]: row[1:5] for row in rows}}


def _measure_mutants(data, grade, num) -> dict[str, Any]:
  got = survive(mutants(texts_to_mutate(data), num), grade, num)
  _show(
      f'{num:,} mutated answers in {got.seconds:.0f} s, the slowest '
      f'{got.slowest:.1f} s; most memory {got.own_mib:.0f} MiB here, '
      f'{got.worker_mib:.0f} MiB in a comparing process',
      ('method', 'reason', 'answers'),
      [(*key, f'{n:,}') for key, n in got.reasons.most_common()],
  )
  return {'mutants': num, 'mutant_seconds': got.seconds}


def _measure_speed(data, grade, num) -> dict[str, Any]:
  found = [
      (x.text, x.reference)
      for name, rows in outputs(data, grade)
      if not name.startswith('Qwen')
      for x in rows
  ]
  cases = [found[i % len(found)] for i in range(num)]
  got = survive(iter(cases), grade, num)
  print(f'{num:,} answers to GSM8K in {got.seconds:.1f} s.')
  return {'answers': num, 'answer_seconds': got.seconds}


def main(argv: Sequence[str]) -> None:
  """Prints the tables, then the JSON line."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  data = pathlib.Path(flags.FLAGS.data)
  if not data.exists():
    raise app.UsageError(f'--data is {data}, which does not exist.')
  versions = ', '.join(
      f'{name} {importlib.metadata.version(name)}'
      for name in ('math-verify', 'latex2sympy2_extended', 'sympy')
  )
  print(
      f'{os.cpu_count()} processors ({platform.machine()}), '
      f'Python {sys.version.split()[0]}, {versions}'
  )
  record = {}
  grade = equivalence.MathVerify(CONVENTION)
  if flags.FLAGS.answers:
    record |= _measure_speed(data, grade, flags.FLAGS.answers)
  record |= _measure_pairs(data, grade) | _measure_outputs(data, grade)
  if flags.FLAGS.mutants:
    record |= _measure_mutants(data, grade, flags.FLAGS.mutants)
  grade.close()
  print(json.dumps(record))


if __name__ == '__main__':
  flags.DEFINE_string(
      'data',
      os.environ.get('ROUTING_DATA', '../shared/data'),
      'Directory of the public data sets.',
  )
  flags.DEFINE_integer('mutants', 0, 'Number of mutated answers.')
  flags.DEFINE_integer('answers', 10_000, 'Number of answers to time.')
  app.run(main)
