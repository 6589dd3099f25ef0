"""KOR-Bench: made-up rules, each with ten questions; not mathematics.

Source: Ma et al. 2024, "KOR-Bench: Benchmarking Language Models on
Knowledge-Orthogonal Reasoning Tasks". Answers stand in double square brackets.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

from routing.tasks import prompt as prompt_lib
from routing.tasks import tables
from routing.tasks import task as task_lib

CATEGORIES = ('operation', 'logic', 'cipher', 'puzzle', 'counterfactual')
_FIELDS = tables.Fields(
    finder='brackets', id='id', subject='category', meta=('rule_id',)
)
_SYSTEM = (
    'Apply the rule to the question. Reason step by step, with a blank line '
    'after each step, and end with the answer in double square brackets.'
)


@dataclasses.dataclass(frozen=True)
class RulesAndQuestions:
  """The questions of all categories, each with the text of its rule.

  path: directory that holds `kor_bench/data/`, as in the public repository.
  """

  path: str

  def load(self, sizes: Mapping[str, int], seed: int) -> tables.Loaded:
    """Reads all questions and divides them; see `task.Source.load`."""
    return task_lib.divided(self.all(), sizes, seed)

  def all(self) -> tables.Loaded:
    """Reads all questions."""
    if not self.path:
      raise ValueError(
          'Task kor_bench reads the files of the KOR-Bench repository; set '
          'task.path to a directory that holds kor_bench/data/.'
      )
    rows = {'all': _rows(pathlib.Path(self.path) / 'kor_bench' / 'data')}
    return tables.to_problems(rows, _FIELDS, 'kor_bench')


def kor_bench(path: str = '') -> task_lib.Task:
  """Returns the task."""
  return task_lib.Task(
      'kor_bench',
      RulesAndQuestions(path),
      prompt_lib.Prompt(system=_SYSTEM),
      finders=('brackets',),
      grader='same_text',
  )


def _rows(directory: pathlib.Path) -> Iterator[dict[str, Any]]:
  """Yields the questions of each category with the text of their rule."""
  for category in CATEGORIES:
    rules = {
        row['idx']: row['rule_content']
        for row in tables.read_rows(directory / category / 'rule.jsonl.gz')
    }
    for row in tables.read_rows(directory / category / 'sample.jsonl.gz'):
      yield row | {
          'id': f'{category}/{row["idx"]}',
          'category': category,
          'question': (
              f'Rule:\n{rules[row["rule_id"]]}\n\nQuestion:\n{row["question"]}'
          ),
      }
