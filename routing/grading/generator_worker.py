"""Asks a puzzle's generator about an answer; `worker.py` runs this script.

The reference is a JSON object: the name of the `generator`, its `settings`, and
the `entry`, the problem as the generator made it, as a Python literal (JSON has
no tuples, which some scores compare). It is not made again from its seed: the
problems of some generators depend on the order of sets, and so on the process.
The script imports nothing from this package, so that it starts without JAX.
"""

import ast
import functools
import json


def prepare() -> None:
  """Loads the generators."""


def check() -> bool:
  """Makes a first problem; returns whether its own answer is right."""
  entry = _data('countdown', '{}')[0]
  problem = dict(generator='countdown', settings={}, entry=repr(entry))
  return compare(entry['answer'], json.dumps(problem))[0]


@functools.lru_cache(maxsize=256)
def _data(generator: str, settings: str):
  import reasoning_gym

  # Scores depend on the settings and the entry, not on seed and size.
  return reasoning_gym.create_dataset(
      generator, seed=0, size=1, **json.loads(settings)
  )


def compare(answer: str, reference: str) -> tuple[bool, str]:
  """Returns whether the generator gives an answer the full score, and why."""
  problem = json.loads(reference)
  settings = json.dumps(problem['settings'], sort_keys=True)
  data = _data(problem['generator'], settings)
  entry = ast.literal_eval(problem['entry'])
  try:
    score = data.score_answer(answer, entry)
  except MemoryError:
    raise
  except Exception:  # Some generators raise for what they cannot read.
    return False, 'cannot be parsed'
  return (True, 'equal') if score >= 1 else (False, 'differs')
