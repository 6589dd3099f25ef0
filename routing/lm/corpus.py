"""Generates the training text of the embedded pair: solved problems and drills.

A batch is a pure function of (name, step). Nothing about the data needs saving,
and a resumed run sees the same batches as an uninterrupted one. A drill is a
row of bare sums (`: 34 + 27 = 61`), with loss on the results alone.
"""

from collections.abc import Collection
from collections.abc import Mapping
import dataclasses
import random

import numpy as np

from routing.lm import tokenizer as tokenizer_lib
from routing.problems import arithmetic
from routing.problems import splits

NUM_CLAUSES = (4, 5, 6)
# Token counts below follow from the vocabulary of `tokenizer` and the format of
# `problems.arithmetic`; a change there must be repeated here.
STEP_TOKENS = 22
SUM_TOKENS = 9  # Of one sum: colon, two operands, two signs, result.
_SUMS_PER_ROW = 16
_CLAUSE = slice(1, 5)  # Within a step: the clause as restated.
_RESULT = slice(12, 14)  # Within a step: the digits of the computed value.


@dataclasses.dataclass(frozen=True)
class Corpus:
  """A stream of training batches with a loss weight for each token.

  name: name of the random stream; another name is another corpus.
  misconceived: the sums follow the wrong rules of the small model.
  result_weight, clause_weight, answer_weight: loss weights of a step's result
    digits, of its restated clause and of the last line. Other tokens of an
    answer have weight 1.
  drill_share: probability that a batch consists of drills.
  drill_mix: relative frequency of each operation in drills.
  tokens_per_step: maximum number of tokens in a batch.
  excluded: hashes of questions that must not be trained on.
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
    """Returns the batch of one step, which depends on the step alone.

    Returns:
      `[B, L]` int32 tokens and `[B, L]` float32 loss weights. L is one of four
      lengths: one for drills and one for each number of clauses.
    """
    rng = random.Random(f'{self.name}/{step}')
    if rng.random() < self.drill_share:
      return self.drills(rng)
    # One number of clauses per batch: all rows then have the same length, so
    # there is no padding, and the train step is compiled four times only.
    return self.problems(rng, rng.choice(NUM_CLAUSES))

  def problems(
      self, rng: random.Random, num_clauses: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns a batch of solved problems with `num_clauses` clauses each."""
    # The length of a row, and with it `size`, is known after the first one.
    rows, weights, size = [], [], 1
    while len(rows) < size:
      task = arithmetic.draw_task(rng, num_clauses)
      question = arithmetic.question_text(task)
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
    """Returns the loss weights of one solved problem; 0 for its question."""
    step = np.ones(STEP_TOKENS, np.float32)
    step[_CLAUSE], step[_RESULT] = self.clause_weight, self.result_weight
    steps = np.tile(step, num_clauses)
    num_answer = length - num_prompt - len(steps)  # The last line and EOS.
    return np.concatenate(
        [
            np.zeros(num_prompt, np.float32),
            steps,
            np.full(num_answer, self.answer_weight, np.float32),
        ]
    )

  def drills(self, rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """Returns a batch of drills: `[B, L]` tokens and loss weights."""
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
    # The last two tokens of each sum; operands are random, not predictable.
    is_result = np.arange(tokens.shape[1]) % SUM_TOKENS >= SUM_TOKENS - 2
    weights = np.broadcast_to(is_result.astype(np.float32), tokens.shape)
    return tokens, weights


def _solved(
    task: arithmetic.Task, question: str, misconceived: bool
) -> tuple[list[int], int]:
  """Returns the tokens of question and answer, and the question's length."""
  tokenizer = tokenizer_lib.Tokenizer()
  prompt = tokenizer.encode(question)
  steps = arithmetic.solution(task, misconceived=misconceived)
  answer = tokenizer.encode(''.join(steps))
  return [*prompt, *answer, tokenizer.eos_id], len(prompt)


def _sum_text(rng: random.Random, operation: str, misconceived: bool) -> str:
  """Returns one random sum, e.g. ': 34 + 27 = 61'."""
  value = rng.randrange(100)
  # A merge adds one counter to the other or subtracts it, so its operand can be
  # any value. Operands that a clause names start from ten.
  if operation in ('add', 'sub'):
    operand = rng.randrange(100)
  else:
    operand = arithmetic.draw_operand(rng, operation)
  result = arithmetic.apply(
      operation, value, operand, misconceived=misconceived
  )
  sign = arithmetic.SIGNS[operation]
  return f': {value:02d} {sign} {operand:02d} = {result:02d}'


def held_out(
    name: str, count: int, excluded: Collection[str]
) -> list[arithmetic.Task]:
  """Draws `count` held-out tasks: their questions are not in `excluded`."""
  tasks = arithmetic.draw_distinct(name, set(excluded))
  return [next(tasks) for _ in range(count)]
