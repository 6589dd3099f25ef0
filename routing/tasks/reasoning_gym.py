"""Problems of the package `reasoning-gym`: a hundred generators, without end.

Problem i of a generator is drawn from (seed, i), so any number of new problems
can be had. Where a generator scores answers itself, since several are right, it
grades them (see `grading.generator`).

Source: Stojanovski et al. 2025, arXiv 2505.24760.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import itertools
from typing import Any

import numpy as np

from routing.grading import generator as generator_lib
from routing.tasks import prompt as prompt_lib
from routing.tasks import splits
from routing.tasks import tables
from routing.tasks import task as task_lib

# How many problems more than needed are drawn at first: some questions repeat.
_SPARE = 1.1
# Stands for the reference answer of generators that give none.
_NO_REFERENCE = 'any answer that the generator accepts'
_SHARES = dict.fromkeys(splits.SPLITS, 1 / len(splits.SPLITS))


@dataclasses.dataclass(frozen=True)
class Generators:
  """Problems of one or more generators, in turn, as many from each.

  names: of the generators, e.g. ('gsm_symbolic',). A problem's `subject` is the
    name of its generator.
  settings: generator -> settings that differ from the generator's own, e.g.
    {'chain_sum': {'max_terms': 4}}.
  """

  names: tuple[str, ...]
  settings: Mapping[str, Mapping[str, Any]] = dataclasses.field(
      default_factory=dict
  )

  def load(self, sizes: Mapping[str, int], seed: int) -> tables.Loaded:
    """Draws problems until each split has its size; see `task.Source.load`.

    Raises:
      ValueError: if a size is `ALL`, or a generator does not have enough
        different problems, or there is no such generator or setting.
    """
    splits.check_names(sizes)
    endless = [name for name, size in sizes.items() if size < 0]
    if endless:
      raise ValueError(
          f'problems.{endless[0]} is {sizes[endless[0]]}; a generator has no '
          'end, so give a number of problems.'
      )
    number = round(_SPARE * max(sizes.values())) * len(splits.SPLITS)
    while True:
      loaded = tables.to_problems(
          self._rows(number, seed),
          tables.Fields(
              id='id', subject='generator', meta=(generator_lib.META,)
          ),
          f'reasoning_gym/{seed}',
      )
      short = [s for s, size in sizes.items() if len(loaded.parts[s]) < size]
      if not short:
        break
      if len(loaded.dropped) > number / 2:
        raise ValueError(
            f'problems.{short[0]} is {sizes[short[0]]}, but of {number} '
            f'problems of {", ".join(self.names)} more than half repeat a '
            'question. Ask for fewer, or for more generators.'
        )
      number *= 2
    return dataclasses.replace(
        loaded, parts={s: loaded.parts[s][:size] for s, size in sizes.items()}
    )

  def _rows(self, number: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Returns the rows of each split, of `number` problems in all."""
    rows = {name: [] for name in splits.SPLITS}
    streams = [
        self._stream(name, -(-number // len(self.names)), seed)
        for name in self.names
    ]
    # In turn, so that the first n problems of a split have all generators.
    for row in itertools.chain.from_iterable(zip(*streams, strict=True)):
      # By the hash of the question: a repeated question is in one split only,
      # and a split that grows keeps its problems.
      rows[splits.split_of(row['question'], _SHARES)].append(row)
    return rows

  def _stream(
      self, name: str, number: int, seed: int
  ) -> Iterator[dict[str, Any]]:
    """Yields the rows of one generator."""
    import reasoning_gym  # The import takes seconds.
    from reasoning_gym import dataset as dataset_lib

    settings = dict(self.settings.get(name, {}))
    try:
      dataset = reasoning_gym.create_dataset(
          name, seed=seed, size=number, **settings
      )
    except (ValueError, TypeError, AssertionError) as error:
      raise ValueError(
          f'reasoning_gym cannot make {name!r} with {settings}: {error}. See '
          'reasoning_gym.factory.DATASETS for the names.'
      ) from error
    base = dataset_lib.ProceduralDataset
    has_score = type(dataset).score_answer is not base.score_answer
    for index in range(number):
      entry = dataset[index]
      scored = {
          'generator': name,
          'settings': settings,
          'entry': repr(_plain(entry)),
      }
      has_reference = entry['answer'] is not None or not has_score
      yield {
          'id': f'{name}/{index}',
          'generator': name,
          'question': entry['question'],
          'answer': entry['answer'] if has_reference else _NO_REFERENCE,
          # Without a score of its own, rules compare with the reference.
          generator_lib.META: scored if has_score else None,
      }


def _plain(value: Any) -> Any:
  """Returns a value whose `repr` is a Python literal."""
  if isinstance(value, Mapping):
    return {_plain(key): _plain(x) for key, x in value.items()}
  if isinstance(value, list | tuple | set):
    return type(value)(map(_plain, value))
  if isinstance(value, np.generic):
    return value.item()
  return value


def reasoning_gym(
    generators: tuple[str, ...] = ('gsm_symbolic',),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> task_lib.Task:
  """Returns a task of one or more generators; see `Generators`."""
  return task_lib.Task(
      'reasoning_gym',
      Generators(tuple(generators), settings or {}),
      prompt_lib.Prompt(
          system=(
              'Reason step by step, with a blank line after each step, and end '
              'with the final answer between <answer> and </answer>.'
          )
      ),
      # Answers may have several lines, e.g. those of a sudoku.
      finders=('tag', 'hash', 'boxed', 'number'),
      grader='generator',
      max_tokens=512,
  )
