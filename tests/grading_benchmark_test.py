"""Tests of the graders on published answers, and on mutated ones."""

import os
import pathlib
import random

from absl.testing import absltest

from benchmarks import grading
from routing.grading import equivalence
from routing.grading import verdicts

_DATA = pathlib.Path(os.environ.get('ROUTING_DATA', '../shared/data'))
# Answers to mutate where the data are missing.
_TEXTS = [
    (r'\frac{3}{4} + \sqrt{2}', r'\sqrt{2} + 0.75'),
    (r'\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}', '1'),
    (r'x \in [-2, 7)', r'[-2, 7)'),
    ('2 + 3 = 5\n#### 5 apples', '5'),
]


class PublishedTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.grade = equivalence.MathVerify(grading.CONVENTION, timeout=20.0)
    cls.addClassCleanup(cls.grade.close)

  def setUp(self):
    super().setUp()
    if not (_DATA / 'grading_pairs').exists():
      self.skipTest(f'{_DATA} is not there; set ROUTING_DATA to the data.')

  def test_agrees_with_the_published_pairs(self):
    rows = [
        row
        for row in grading.pairs(_DATA)
        if row['id'] not in grading.WRONG_PAIRS
    ]
    self.assertGreater(len(rows), 180)
    differing = grading.differing_pairs(rows, self.grade)
    names = [(row['id'], verdict.reason) for row, verdict in differing]
    self.assertLessEqual(len(names), 0.02 * len(rows), names)

  def test_pairs_that_are_left_out_are_wrong(self):
    rows = {row['id']: row for row in grading.pairs(_DATA)}
    for name in grading.WRONG_PAIRS:
      # 1 - 1/e against 1 + 1/e.
      self.assertTrue(rows[name]['expected'])
      self.assertEqual(rows[name]['gold'].replace('-', '+'), rows[name]['pred'])

  def test_agrees_with_the_flags_of_model_outputs(self):
    least = {'RouteLLM': 0.95, 'OpenAI': 1.0, 'Abel': 0.998, 'ToRA': 0.996}
    seen = set()
    for name, found in grading.outputs(_DATA, self.grade):
      got = verdicts.agreement(
          [x.is_correct for x in found],
          [self.grade(x.text, x.reference).is_correct for x in found],
      )
      seen.add(name.partition(',')[0])
      self.assertGreaterEqual(
          got.share, least.get(name.partition(',')[0], 0.998), name
      )
      # GPT-4's flags are noisy in one direction only.
      if 'gpt-4' in name:
        self.assertEqual(got.only_first, 0)
    self.assertContainsSubset(least, seen)


class MutantsTest(absltest.TestCase):

  def test_mutated_answers_neither_crash_nor_hang(self):
    texts = _TEXTS
    if (_DATA / 'math').exists():
      texts = texts + grading.texts_to_mutate(_DATA)
    grade = equivalence.MathVerify(grading.CONVENTION, workers=2, timeout=2.0)
    self.addCleanup(grade.close)
    got = grading.survive(grading.mutants(texts, 400), grade, 400)
    self.assertEqual(got.reasons.total(), 400)
    self.assertGreater(got.reasons['math_verify', 'cannot be parsed'], 10)
    self.assertGreater(got.reasons['none', 'no answer found'], 10)
    self.assertLess(got.worker_mib, 1024)

  def test_mutants_differ_and_can_be_repeated(self):
    first = list(grading.mutants(_TEXTS, 50, seed=1))
    self.assertEqual(first, list(grading.mutants(_TEXTS, 50, seed=1)))
    self.assertNotEqual(first, list(grading.mutants(_TEXTS, 50, seed=2)))
    self.assertGreater(len(set(first)), 45)
    self.assertNotEqual(
        grading.mutant('#### 5', random.Random(0)),
        grading.mutant('#### 5', random.Random(1)),
    )


if __name__ == '__main__':
  absltest.main()
