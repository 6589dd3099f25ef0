"""The task of a user's own: any JSON-lines file, or data set of the hub.

The four fields that most need to be set: where the rows are (`files` or `hub`),
which fields of a row are question and reference (`fields`), where the answer
stands in a model's text (`finders`), and how it is compared (`grader`).
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

from routing.tasks import prompt as prompt_lib
from routing.tasks import tables
from routing.tasks import task as task_lib

_SYSTEM = (
    'Reason step by step, with a blank line after each step, and put your '
    'final answer within \\boxed{}.'
)


def jsonl(
    path: str = '',
    files: Mapping[str, str] | None = None,
    hub: Mapping[str, Any] | None = None,
    fields: Mapping[str, Any] | None = None,
    finders: Sequence[str] = ('boxed', 'hash', 'number'),
    grader: str = 'math_verify',
    system: str = _SYSTEM,
    user: str = '{question}',
    shots: Sequence[tuple[str, str]] = (),
    max_decisions: int = 16,
    max_tokens: int = 1_024,
) -> task_lib.Task:
  """Returns a task of rows that have a question and a reference answer.

  Args:
    path: directory of the files.
    files: part -> file, e.g. {'train': 'train.jsonl', 'test': 'test.jsonl'}. A
      single part with any other name, e.g. {'all': 'mine.jsonl'}, is divided
      into the four splits.
    hub: fields of `task.Hub` other than `fields`: name, parts, subset,
      revision. Used if there are no files.
    fields: fields of `tables.Fields`, e.g. {'question': 'problem'}.
    finders: names of `grading.answers.FINDERS`, in the order they are tried.
    grader: name of the grader.
    system, user, shots: see `prompt.Prompt`.
    max_decisions, max_tokens: see `task.Task`.

  Raises:
    ValueError: if neither files nor hub are given, or a field is unknown.
  """
  if not files and not hub:
    raise ValueError(
        "Task 'jsonl' needs task.files, e.g. {'all': 'mine.jsonl'}, or "
        'task.hub.'
    )
  return task_lib.Task(
      'jsonl',
      task_lib.Rows(
          'jsonl',
          _made(tables.Fields, fields or {}, 'task.fields'),
          files or {},
          path,
          _made(task_lib.Hub, hub, 'task.hub') if hub and not files else None,
      ),
      prompt_lib.Prompt(user=user, system=system, shots=tuple(shots)),
      tuple(finders),
      grader,
      max_decisions,
      max_tokens,
  )


def _made(kind: type, values: Mapping[str, Any], where: str) -> Any:
  """Returns a dataclass with these values; names a field that it lacks."""
  allowed = [field.name for field in dataclasses.fields(kind)]
  unknown = [name for name in values if name not in allowed]
  if unknown:
    raise ValueError(
        f'{where} has {unknown[0]!r}; allowed: {", ".join(allowed)}.'
    )
  return kind(**values)
