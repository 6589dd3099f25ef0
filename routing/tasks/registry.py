"""Lists the tasks, and makes one by its name and options."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import inspect
from typing import Any

from routing.tasks import arithmetic
from routing.tasks import delimiter as delimiter_lib
from routing.tasks import jsonl
from routing.tasks import kor_bench
from routing.tasks import math_sets
from routing.tasks import mixture as mixture_lib
from routing.tasks import reasoning_gym
from routing.tasks import task as task_lib


def mixture(
    parts: Sequence[Mapping[str, Any]] = (), path: str = ''
) -> task_lib.Task:
  """Returns a task that mixes others; it is put and graded as the first one.

  Args:
    parts: one entry per task, with its `name`, its `share` of the mixture and
      its options, e.g. (dict(name='gsm8k', share=0.5), ...).
    path: directory of local files, for the parts that read files.

  Raises:
    ValueError: if a part has no share, the shares do not sum to 1, or the parts
      are graded in different ways.
  """
  made, shares = [], []
  for part in parts:
    options = dict(part)
    if 'share' not in options or 'name' not in options:
      raise ValueError(
          f'A part of task.parts is {options}; it needs a name and a share.'
      )
    shares.append(options.pop('share'))
    if path and 'path' in inspect.signature(TASKS[options['name']]).parameters:
      options.setdefault('path', path)
    made.append(make(**options))
  source = mixture_lib.Mixture(
      [
          mixture_lib.Part(task.name, task.source, share)
          for task, share in zip(made, shares, strict=True)
      ]
  )
  graders = sorted({task.grader for task in made})
  if graders == ['generator', 'math_verify']:
    graders = ['generator']  # It grades other problems by the same rules.
  if len(graders) > 1:
    raise ValueError(
        f'The parts of task.parts have the graders {", ".join(graders)}; '
        'allowed: one.'
    )
  if len({task.delimiter for task in made}) > 1:
    raise ValueError(
        'The parts of task.parts have several delimiters; remove them, and set '
        'task.delimiter.'
    )
  return dataclasses.replace(
      made[0], name='mixture', source=source, grader=graders[0]
  )


# To add a task, add the function that makes it. Its parameters are the options
# that a configuration may set.
TASKS = {
    function.__name__: function
    for function in (
        arithmetic.arithmetic,
        math_sets.gsm8k,
        math_sets.math,
        math_sets.math500,
        math_sets.omni_math,
        math_sets.omni_math_rule,
        math_sets.aime24,
        math_sets.amc23,
        math_sets.minerva,
        math_sets.olympiad_bench,
        math_sets.svamp,
        math_sets.asdiv,
        kor_bench.kor_bench,
        reasoning_gym.reasoning_gym,
        jsonl.jsonl,
        mixture,
    )
}


def make(name: str, **options: Any) -> task_lib.Task:
  """Returns the task with the given name.

  Args:
    name: one of `TASKS`.
    **options: as the task allows, e.g. `path`, the directory of local files; of
      every task `delimiter`, see `delimiter.of`.

  Raises:
    ValueError: if the task or an option is unknown.
  """
  if name not in TASKS:
    raise ValueError(f'Unknown task {name!r}; allowed: {", ".join(TASKS)}.')
  delimiter = options.pop('delimiter', None)
  allowed = list(inspect.signature(TASKS[name]).parameters)
  unknown = [option for option in options if option not in allowed]
  if unknown:
    raise ValueError(
        f'Task {name!r} has no option {unknown[0]!r}; allowed: '
        f'{", ".join([*allowed, "delimiter"])}.'
    )
  task = TASKS[name](**options)
  if delimiter is None:
    return task
  return dataclasses.replace(task, delimiter=delimiter_lib.of(delimiter))
