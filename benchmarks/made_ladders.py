"""Makes up ladders of 20 steps, with all that a real collection records.

Nothing is learnt from them about models. They are as large as real ones and
have a structure that a router can learn: the small model errs at some steps,
which its log-probabilities tell in part, and the large model rarely recovers
from an error. A block of problems depends on its split and number alone.
"""

from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from routing import types

NUM_STEPS = 20
NUM_TOP = 5  # Log-probabilities per token.
_TOKENS = 4, 12  # Fewest and most tokens of a step.
_SEED = 0
_SPLITS = ('train', 'select', 'prove', 'test')
_WORDS = ('apples', 'books', 'coins', 'drums', 'eggs', 'forks', 'gloves')


def problem(split: str, index: int) -> types.Problem:
  """Returns problem `index` of a split; no two have the same question."""
  item = _WORDS[index % len(_WORDS)]
  return types.Problem(
      id=f'made/{split}/{index}',
      question=f'Shelf {index} of the {split} store has 17 {item}. How many?',
      answer=str(index % 97),
      subject=item,
  )


class Problems(Sequence):
  """The problems of a split, made when they are asked for."""

  def __init__(self, split: str, num: int):
    self._split, self._num = split, num

  def __len__(self) -> int:
    return self._num

  def __getitem__(self, index):
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(self._num))]
    if not 0 <= index < self._num:
      raise IndexError(index)
    return problem(self._split, index)


def ladders(split: str, first: int, num: int) -> list[types.Ladder]:
  """Returns the ladders of `num` consecutive problems of a split.

  Args:
    split: name of the split.
    first: index of the first problem; with the split, the seed of the block.
    num: how many.
  """
  rng = np.random.default_rng((_SEED, _SPLITS.index(split), first))
  shape = num, NUM_STEPS
  hard = rng.random(num)  # Hard problems have more errors.
  is_wrong = rng.random(shape) < 0.08 * hard[:, None]
  is_clean = np.cumsum(is_wrong, axis=1) - is_wrong == 0  # Before each step.
  draws = rng.random(shape)
  completed = draws < np.where(is_clean, 0.95 - 0.1 * hard[:, None], 0.1)
  small_right = ~is_wrong.any(axis=1)
  lengths = rng.integers(_TOKENS[0], _TOKENS[1] + 1, shape)
  large_lengths = rng.integers(_TOKENS[0], _TOKENS[1] + 1, shape)
  steps = _steps(rng, lengths, is_wrong)
  found = []
  for row in range(num):
    asked = problem(split, first + row)
    found.append(
        types.Ladder(
            asked,
            tuple(next(steps) for _ in range(NUM_STEPS)),
            bool(small_right[row]),
            _completions(
                asked, lengths[row], large_lengths[row], completed[row]
            ),
        )
    )
  return found


def _steps(
    rng: np.random.Generator, lengths: np.ndarray, is_wrong: np.ndarray
) -> Iterator[types.Step]:
  """Yields the small model's steps, row by row.

  Args:
    rng: of all numbers.
    lengths: `[N, T]` tokens of each step.
    is_wrong: `[N, T]` bool, whether the small model errs there.
  """
  flat, total = lengths.ravel(), int(lengths.sum())
  # An error shows as a step of lower log-probabilities, but not always.
  scale = np.where(is_wrong, 0.9, 0.3) * rng.lognormal(0.0, 0.5, lengths.shape)
  nats = rng.exponential(np.repeat(scale.ravel(), flat)).astype(np.float32)
  gaps = rng.exponential(1.5, (total, NUM_TOP - 1)).astype(np.float32)
  tops = -nats[:, None] - np.pad(np.cumsum(gaps, axis=1), [(0, 0), (1, 0)])
  # Where another token was likelier, the one that was written is not the first.
  log_probs = np.where(rng.random(total) < 0.9, tops[:, 0], tops[:, 1])
  tokens = rng.integers(0, 32_000, total).tolist()
  numbers = rng.integers(0, 1_000, (lengths.size, 2)).tolist()
  ends = np.cumsum(flat)
  prompt = 40
  for i, (start, end) in enumerate(
      zip((ends - flat).tolist(), ends.tolist(), strict=True)
  ):
    step = i % NUM_STEPS
    if step == 0:
      context = prompt
    num, (a, b) = end - start, numbers[i]
    yield types.Step(
        text=f'{a} and {b} are {a + b}.\n\n',
        token_ids=tuple(tokens[start:end]),
        log_probs=log_probs[start:end],
        top_log_probs=tops[start:end],
        is_final=step == NUM_STEPS - 1,
        usage=types.Usage(
            route=0,
            read=prompt if step == 0 else 0,
            cached=0,
            written=num,
            seconds=0.01 * num,
            in_context=0 if step == 0 else context,
        ),
        is_complete=True,
    )
    context += num


def _completions(
    asked: types.Problem,
    small: np.ndarray,
    large: np.ndarray,
    is_right: np.ndarray,
) -> tuple[types.Completion, ...]:
  """Returns the large model's ending from each prefix of one problem.

  Args:
    asked: the problem.
    small, large: `[T]` tokens that each model needs for each step.
    is_right: `[T]` bool, grade of the ending from each step.
  """
  read = (40 + np.cumsum(small) - small).tolist()
  written = np.cumsum(large[::-1])[::-1].tolist()
  return tuple(
      types.Completion(
          step=step,
          route=1,
          sample=0,
          text=f'The answer is {asked.answer if right else 98}.',
          read=read[step],
          written=written[step],
          seconds=0.03 * written[step],
          is_correct=right,
          is_cut=False,
      )
      for step, right in enumerate(is_right.tolist())
  )
