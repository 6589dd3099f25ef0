"""Generates the embedded models' training text: solved problems and drills.

A solved problem is a question with its answer. A drill is a row of sums such as
`: 34 + 27 = 61` without a problem, with loss on the results only. A batch is a
pure function of the corpus and the training step. No state of the data is
saved: a resumed run sees the same batches as an uninterrupted one.
"""

from collections.abc import Collection
from collections.abc import Mapping
import dataclasses
import random

import numpy as np

from routing.lm import tokenizer as tokenizer_lib
from routing.tasks import arithmetic
from routing.tasks import counters
from routing.tasks import splits

# Numbers of clauses that a problem can have. Each clause gives one step.
NUM_CLAUSES = (4, 5, 6)
# The numbers of tokens follow from the vocabulary of `tokenizer` and the format
# of `tasks.counters`. If either changes, they must be changed as well.
STEP_TOKENS = 22  # Number of tokens in a step.
# Number of tokens in a sum: a colon, two signs, and two digits for each of the
# two operands and the result.
SUM_TOKENS = 9
_SUMS_PER_ROW = 16
_CLAUSE = slice(1, 5)  # The tokens of a step that restate the clause.
_RESULT = slice(12, 14)  # The tokens of a step that are the computed result.


@dataclasses.dataclass(frozen=True)
class Corpus:
  """A stream of training batches with a loss weight for each token.

  name: seeds the stream together with the training step.
  misconceived: whether the results contain the systematic errors that the small
    model is to learn.
  result_weight: loss weight of the digits of a step's result. Tokens of an
    answer for which no weight is given here have weight 1.
  clause_weight: loss weight of the clause that a step restates.
  answer_weight: loss weight of the answer's last line.
  drill_share: probability that a batch consists of drills.
  drill_mix: relative frequency of each operation in drills.
  tokens_per_step: number of tokens in a batch, at most; a batch has at least
    one row.
  excluded: hashes of the questions that must not occur in training.
  """

  name: str
  misconceived: bool
  result_weight: float
  clause_weight: float
  answer_weight: float
  drill_share: float
  drill_mix: Mapping[str, float]
  tokens_per_step: int
  excluded: Collection[str] = frozenset()

  def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the batch of one training step, a pure function of the step.

    Args:
      step: index of the training step.

    Returns:
      `[B, L]` int32 tokens and `[B, L]` float32 loss weights. L is one of four
      lengths: one for drills and one for each number of clauses.
    """
    rng = random.Random(f'{self.name}/{step}')
    if rng.random() < self.drill_share:
      return self.drills(rng)
    # All problems of a batch have the same number of clauses and thus the same
    # length. There is no padding, and the train step is compiled only for four
    # lengths.
    return self.problems(rng, rng.choice(NUM_CLAUSES))

  def problems(
      self, rng: random.Random, num_clauses: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns a batch of solved problems with `num_clauses` clauses each.

    Args:
      rng: the source of randomness.
      num_clauses: number of clauses of every problem.

    Returns:
      Tokens and loss weights, as `batch` does.
    """
    # The number of rows depends on their length, which is known after the first
    # row; until then it is 1.
    rows, weights, size = [], [], 1
    while len(rows) < size:
      task = counters.draw_exercise(rng, num_clauses)
      question = counters.question_text(task)
      if splits.question_hash(question) in self.excluded:
        continue
      row, num_prompt = _solved(task, question, self.misconceived)
      rows.append(row)
      weights.append(self._weights(len(row), num_prompt, num_clauses))
      size = max(1, self.tokens_per_step // len(row))
    return np.array(rows, np.int32), np.stack(weights)

  def _weights(
      self, length: int, num_prompt: int, num_clauses: int
  ) -> np.ndarray:
    """Returns the loss weights `[L]` of one solved problem.

    Args:
      length: L, number of tokens of question and answer.
      num_prompt: number of tokens of the question, which get weight 0.
      num_clauses: number of clauses, hence of steps.
    """
    step = np.ones(STEP_TOKENS, np.float32)
    step[_CLAUSE], step[_RESULT] = self.clause_weight, self.result_weight
    steps = np.tile(step, num_clauses)
    # The tokens after the steps are the last line and end-of-sequence.
    num_answer = length - num_prompt - len(steps)
    return np.concatenate(
        [
            np.zeros(num_prompt, np.float32),
            steps,
            np.full(num_answer, self.answer_weight, np.float32),
        ]
    )

  def drills(self, rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """Returns a batch of drills; tokens and loss weights as `batch` does."""
    size = max(1, self.tokens_per_step // (_SUMS_PER_ROW * SUM_TOKENS))
    kinds, often = list(self.drill_mix), list(self.drill_mix.values())
    rows = [
        ''.join(
            _sum_text(rng, kind, self.misconceived)
            for kind in rng.choices(kinds, often, k=_SUMS_PER_ROW)
        )
        for _ in range(size)
    ]
    encode = tokenizer_lib.Tokenizer().encode
    tokens = np.array([encode(row) for row in rows], np.int32)
    # Loss is only on the result, the last two tokens of each sum: the operands
    # are random and cannot be predicted.
    is_result = np.arange(tokens.shape[1]) % SUM_TOKENS >= SUM_TOKENS - 2
    weights = np.broadcast_to(is_result.astype(np.float32), tokens.shape)
    return tokens, weights


def _solved(
    task: counters.Exercise, question: str, misconceived: bool
) -> tuple[list[int], int]:
  """Returns the token ids of a solved problem, and how many are the question's.

  Args:
    task: the problem.
    question: text of the question.
    misconceived: whether the answer contains the small model's errors.
  """
  tokenizer = tokenizer_lib.Tokenizer()
  prompt = tokenizer.encode(question)
  steps = counters.solution(task, misconceived=misconceived)
  answer = tokenizer.encode(''.join(steps))
  return [*prompt, *answer, tokenizer.eos_id], len(prompt)


def _sum_text(rng: random.Random, operation: str, misconceived: bool) -> str:
  """Returns a random sum for a drill, e.g. ': 34 + 27 = 61'.

  Args:
    rng: the source of randomness.
    operation: name of the operation.
    misconceived: whether the result may have the small model's errors.
  """
  value = rng.randrange(100)
  # Operands of 'add' and 'sub' cover 0..99 here, although those that a clause
  # names start at 10: a merge adds or subtracts the other counter, which can
  # have any value.
  if operation in ('add', 'sub'):
    operand = rng.randrange(100)
  else:
    operand = counters.draw_operand(rng, operation)
  result = counters.apply(operation, value, operand, misconceived=misconceived)
  sign = counters.SIGNS[operation]
  return f': {value:02d} {sign} {operand:02d} = {result:02d}'


def held_out(
    name: str, count: int, excluded: Collection[str]
) -> list[counters.Exercise]:
  """Draws `count` distinct tasks whose questions are not in `excluded`.

  Args:
    name: seed of the draw.
    count: number of tasks.
    excluded: hashes of questions that must not be drawn.
  """
  tasks = arithmetic.draw_distinct(name, set(excluded))
  return [next(tasks) for _ in range(count)]
