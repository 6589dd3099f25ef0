"""Tests of evaluating a model: one that recites, and hand-made figures."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.lm import corpus
from routing.lm import examination
from routing.lm import generation
from routing.lm import tokenizer as tokenizer_lib
from routing.tasks import counters

_TOKENIZER = tokenizer_lib.Tokenizer()
_TASKS = corpus.held_out('examination', 30, ())


def _reciting(texts, surprise=None):
  """Patches `generation.generate` to write `texts` with high confidence.

  surprise: (row, token) -> log-probability, where it is not -0.01.
  """
  written = []
  for i, text in enumerate(texts):
    ids = [*_TOKENIZER.encode(text), _TOKENIZER.eos_id]
    log_probs = np.full(len(ids), -0.01, np.float32)
    for (row, token), value in (surprise or {}).items():
      if row == i:
        log_probs[token] = value
    written.append((ids, log_probs))
  return mock.patch.object(generation, 'generate', return_value=written)


class ExamineTest(parameterized.TestCase):

  def test_right_solutions_are_all_right(self):
    texts = [''.join(counters.solution(task)) for task in _TASKS]
    with _reciting(texts):
      found = examination.examine(None, None, _TASKS)
      self.assertEqual(examination.accuracy(None, None, _TASKS), 1.0)
    self.assertTrue(found['is_right'].all())
    self.assertLen(
        found['is_right'], sum(len(task.clauses) + 1 for task in _TASKS)
    )

  def test_wrong_rules_are_wrong_in_blind_spots_only(self):
    texts = [
        ''.join(counters.solution(task, misconceived=True)) for task in _TASKS
    ]
    with _reciting(texts):
      found = examination.examine(None, None, _TASKS)
    np.testing.assert_array_equal(found['is_right'], ~found['in_blind_spot'])
    expected = [
        counters.solution(task, misconceived=True)[-1]
        == counters.solution(task)[-1]
        for task in _TASKS
    ]
    np.testing.assert_array_equal(found['is_correct'], expected)

  def test_the_smallest_log_probability_of_each_step(self):
    texts = [''.join(counters.solution(task)) for task in _TASKS[:2]]
    # Row 0: two tokens of step 1 (22..43) and the last; row 1: one of step 0.
    steps = len(_TASKS[0].clauses)
    surprise = {(0, 30): -2.0, (0, 31): -1.0, (1, 0): -3.0}
    surprise[0, steps * 22 + 5] = -4.0
    with _reciting(texts, surprise):
      found = examination.examine(None, None, _TASKS[:2])
    expected = np.full(len(found['is_right']), -0.01)
    expected[1], expected[steps + 1] = -2.0, -3.0
    # The token that ends the answer belongs to its last step.
    expected[steps] = -4.0
    np.testing.assert_allclose(found['min_log_prob'], expected, atol=1e-6)

  def test_an_answer_cut_short_is_wrong(self):
    text = ''.join(counters.solution(_TASKS[0]))
    ids = _TOKENIZER.encode(text)  # The model never ended it.
    written = [(ids, np.zeros(len(ids), np.float32))]
    with mock.patch.object(generation, 'generate', return_value=written):
      self.assertEqual(examination.accuracy(None, None, _TASKS[:1]), 0.0)

  def test_summary_by_hand(self):
    found = {
        'is_correct': np.array([True, False, False, False]),
        'is_right': np.array([True, True, False, False, False]),
        'is_relevant': np.array([True, True, True, True, False]),
        'in_blind_spot': np.array([False, False, True, False, False]),
        'min_log_prob': np.array([-0.1, -1.0, -0.5, -2.0, -3.0]),
    }
    # Right: 0.1, 1.0; wrong: 0.5, 2, 3. Pairs with wrong above right: 5 of 6.
    self.assertEqual(
        examination.summary(found),
        {
            'accuracy': 0.25,
            'step_error': 0.6,
            'auc_min_log_prob': 0.8333,
            'wrong_in_blind_spots': 0.3333,
            'relevant_steps': 0.8,
        },
    )


class AucTest(absltest.TestCase):

  def test_brute_force_twin_with_ties(self):
    rng = np.random.default_rng(0)
    for _ in range(50):
      scores = rng.integers(0, 5, 20)
      positive = rng.random(20) < 0.4
      if positive.all() or not positive.any():
        continue
      pairs = [
          (a > b) + 0.5 * (a == b)
          for a in scores[positive]
          for b in scores[~positive]
      ]
      self.assertAlmostEqual(examination.auc(scores, positive), np.mean(pairs))


if __name__ == '__main__':
  absltest.main()
