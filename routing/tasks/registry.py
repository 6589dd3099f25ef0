"""Lists the tasks, and makes one by its name and options."""

import inspect
from typing import Any

from routing.tasks import arithmetic
from routing.tasks import jsonl
from routing.tasks import kor_bench
from routing.tasks import math_sets
from routing.tasks import reasoning_gym
from routing.tasks import task as task_lib

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
    )
}


def make(name: str, **options: Any) -> task_lib.Task:
  """Returns the task with the given name.

  Args:
    name: one of `TASKS`.
    **options: as the task allows, e.g. `path`, the directory of local files.

  Raises:
    ValueError: if the task or an option is unknown.
  """
  if name not in TASKS:
    raise ValueError(f'Unknown task {name!r}; allowed: {", ".join(TASKS)}.')
  allowed = list(inspect.signature(TASKS[name]).parameters)
  unknown = [option for option in options if option not in allowed]
  if unknown:
    raise ValueError(
        f'Task {name!r} has no option {unknown[0]!r}; allowed: '
        f'{", ".join(allowed) or "none"}.'
    )
  return TASKS[name](**options)
