"""Tests of the training text: weights, wrong rules, excluded questions."""

import random

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.lm import corpus as corpus_lib
from routing.lm import tokenizer as tokenizer_lib
from routing.tasks import counters
from routing.tasks import splits

_TOKENIZER = tokenizer_lib.Tokenizer()
_FIELDS = dict(
    misconceived=False,
    result_weight=6,
    clause_weight=3,
    answer_weight=4,
    drill_share=0.4,
    drill_mix=dict(add=1.0, sub=1.0, mul=1.0, div=1.0),
    tokens_per_step=700,
)


def _corpus(name='a', **fields):
  return corpus_lib.Corpus(name, **(_FIELDS | fields))


def _questions(tokens):
  """Returns the question of each row."""
  texts = [_TOKENIZER.decode(row) for row in tokens]
  return [text[: text.index('\n\n') + 2] for text in texts]


class CorpusTest(parameterized.TestCase):

  def test_a_batch_follows_from_name_and_step_alone(self):
    first, again = _corpus(), _corpus()
    for step in (7, 3):
      np.testing.assert_array_equal(first.batch(step)[0], again.batch(step)[0])
    batches = [
        tuple(corpus.batch(step)[0].ravel().tolist())
        for corpus in (_corpus('a'), _corpus('b'))
        for step in range(20)
    ]
    self.assertLen(set(batches), 40)

  def test_weights_by_hand(self):
    tokens, weights = _corpus().problems(random.Random(0), 4)
    text = [_TOKENIZER.decode([i]) for i in tokens[0]]
    prompt = text.index('\n\n') + 1
    np.testing.assert_array_equal(weights[0, :prompt], 0)
    # 'a) ' | 'P' ' gets ' '2' '7' | ': ' '1' '2' ' + ' '2' '7' ' = ' |
    # '3' '9' | '. ' 'P=' '3' '9' ' Q=' '9' '3' '\n\n'
    step = [1] + [3] * 4 + [1] * 7 + [6] * 2 + [1] * 8
    np.testing.assert_array_equal(weights[0, prompt : prompt + 22], step)
    # '#### ' 'P' ' = ' '1' '9' <eos>
    np.testing.assert_array_equal(weights[0, -6:], 4)
    self.assertEqual(weights.shape[1], prompt + 4 * 22 + 6)

  @parameterized.parameters(False, True)
  def test_rows_are_solved_as_taught(self, misconceived):
    corpus = _corpus(misconceived=misconceived, tokens_per_step=5_000)
    tokens, _ = corpus.problems(random.Random(0), 5)
    rng, wrong = random.Random(0), 0
    for row in tokens:
      task = counters.draw_exercise(rng, 5)
      steps = counters.solution(task, misconceived=misconceived)
      text = counters.question_text(task) + ''.join(steps)
      self.assertEqual(_TOKENIZER.decode(row[:-1]), text)
      self.assertEqual(row[-1], _TOKENIZER.eos_id)
      wrong += steps != counters.solution(task)
    self.assertEqual(wrong > 0, misconceived)

  @parameterized.parameters(False, True)
  def test_drills_are_sums_as_taught(self, misconceived):
    corpus = _corpus(misconceived=misconceived)
    tokens, weights = corpus.drills(random.Random(0))
    signs = {sign: name for name, sign in counters.SIGNS.items()}
    blind = 0
    for row in tokens:
      for part in _TOKENIZER.decode(row).split(': ')[1:]:
        value, sign, operand, _, result = part.split()
        task = signs[sign], int(value), int(operand)
        self.assertEqual(
            int(result), counters.apply(*task, misconceived=misconceived)
        )
        blind += counters.in_blind_spot(*task)
    self.assertGreater(blind, 0)
    # ': ' '3' '4' ' + ' '2' '7' ' = ' '6' '1': loss on the last two.
    np.testing.assert_array_equal(weights[0, :9], [0] * 7 + [1] * 2)
    self.assertEqual(weights[0].sum(), 16 * 2)

  def test_batches_are_as_large_as_allowed(self):
    for step in range(30):
      tokens, weights = _corpus(tokens_per_step=1_000).batch(step)
      self.assertEqual(tokens.shape, weights.shape)
      self.assertLessEqual(tokens.size, 1_000)
      self.assertGreater(tokens.size + tokens.shape[1], 1_000)

  def test_share_of_drills(self):
    for share in (0.0, 1.0):
      corpus = _corpus(drill_share=share)
      lengths = {corpus.batch(step)[0].shape[1] for step in range(30)}
      self.assertEqual(lengths == {16 * 9}, share == 1.0)

  def test_excluded_questions_are_not_trained_on(self):
    tokens, _ = _corpus().problems(random.Random(0), 4)
    first = _questions(tokens)
    excluded = {splits.question_hash(first[1]), splits.question_hash(first[3])}
    others = _corpus(excluded=excluded).problems(random.Random(0), 4)[0]
    self.assertEqual(_questions(others)[:3], [first[0], first[2], first[4]])


class HeldOutTest(absltest.TestCase):

  def test_seeded_and_apart(self):
    tasks = corpus_lib.held_out('x', 20, ())
    self.assertEqual(tasks, corpus_lib.held_out('x', 20, ()))
    hashes = [
        splits.question_hash(counters.question_text(task)) for task in tasks
    ]
    excluded = set(hashes[:5])
    rest = corpus_lib.held_out('x', 15, excluded)
    self.assertEqual(rest, tasks[5:])
    self.assertLen(excluded, 5)  # The caller's set is not changed.


if __name__ == '__main__':
  absltest.main()
