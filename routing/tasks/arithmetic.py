"""The task of the embedded pair: exercises in counter arithmetic.

Exercises are drawn at random, so that each split can have as many as wanted.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import random

from routing import types
from routing.tasks import counters
from routing.tasks import prompt as prompt_lib
from routing.tasks import splits
from routing.tasks import tables
from routing.tasks import task as task_lib

# Stream of random exercises -> the share of each split in it. Streams are drawn
# in this order. A stream's name seeds its random numbers: do not rename it.
_STREAMS = {
    'test': {'test': 1.0},
    'validation': {'select': 0.5, 'prove': 0.5},
    'train': {'train': 1.0},
}


class Drawn:
  """A source of random exercises."""

  def load(self, sizes: Mapping[str, int], seed: int) -> tables.Loaded:
    """Draws the exercises of each split; see `task.Source.load`."""
    return tables.Loaded(load(seed, **sizes))


def arithmetic() -> task_lib.Task:
  """Returns the task; the embedded models read a question as plain text."""
  return task_lib.Task(
      'arithmetic',
      Drawn(),
      prompt_lib.Prompt(is_chat=False),
      finders=('hash',),
      grader='exact',
      max_decisions=8,
      max_tokens=176,  # 8 steps of 22 tokens.
      example=(
          'a) Q loses 13\nb) P gets 14\nc) Q gets all P\nd) P loses 20\n? Q\n'
          'P=21 Q=38\n\n'
      ),
  )


def draw_distinct(
    seed: str, seen: set[str], num_clauses: int | None = None
) -> Iterator[counters.Exercise]:
  """Yields exercises endlessly, each with a new question.

  Args:
    seed: of the random numbers.
    seen: hashes of questions to skip; those of the yielded exercises are added.
    num_clauses: see `counters.draw_exercise`.
  """
  rng = random.Random(seed)
  while True:
    exercise = counters.draw_exercise(rng, num_clauses)
    digest = splits.question_hash(counters.question_text(exercise))
    if digest not in seen:
      seen.add(digest)
      yield exercise


def load(seed: int = 0, **sizes: int) -> dict[str, list[types.Problem]]:
  """Returns disjoint splits of the given sizes, e.g. `load(0, train=6_000)`.

  `test` and `train` have one stream of random exercises each. `select` and
  `prove` share a stream, whose exercises are assigned by the hash of their
  question. So a smaller size gives the first problems of a larger one, and the
  sizes of `select` and `prove` do not affect each other.

  A question that occurs in two streams stays in the earlier stream. The order
  is: `test`, then `select` and `prove`, then `train`.

  Args:
    seed: of the random numbers of all streams.
    **sizes: number of problems of each split, by its name in `splits.SPLITS`.

  Raises:
    ValueError: if a split is unknown or a size is negative.
  """
  splits.check_names(sizes)
  for name, size in sizes.items():
    if size < 0:
      raise ValueError(f'Split {name!r} has size {size}; allowed: >= 0.')
  seen: set[str] = set()
  drawn: dict[str, list[counters.Exercise]] = {}
  for stream, shares in _STREAMS.items():
    # `draw_distinct` adds to a copy of `seen`: an exercise that `_deal` dropped
    # because its split was full may still occur in a later stream.
    exercises = draw_distinct(f'arithmetic/{seed}/{stream}', set(seen))
    parts = _deal(exercises, shares, sizes)
    drawn |= parts
    seen |= {
        splits.question_hash(counters.question_text(exercise))
        for part in parts.values()
        for exercise in part
    }
  return {
      name: [
          counters.to_problem(exercise, f'arithmetic/{seed}/{name}/{i}')
          for i, exercise in enumerate(drawn[name])
      ]
      for name in sizes
  }


def _deal(
    exercises: Iterator[counters.Exercise],
    shares: Mapping[str, float],
    sizes: Mapping[str, int],
) -> dict[str, list[counters.Exercise]]:
  """Assigns the exercises of a stream to splits until each split has its size.

  Exercises are assigned by `splits.split_of`; a split without a size gets none.
  """
  parts: dict[str, list[counters.Exercise]] = {name: [] for name in shares}
  while any(len(part) < sizes.get(name, 0) for name, part in parts.items()):
    exercise = next(exercises)
    name = splits.split_of(counters.question_text(exercise), shares)
    # Exercises of a full split are dropped: the hash allows no other split.
    if len(parts[name]) < sizes.get(name, 0):
      parts[name].append(exercise)
  return parts
