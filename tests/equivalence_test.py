"""Tests of the graders."""

import concurrent.futures
import json
import os
import pathlib
import time

from absl.testing import absltest
from absl.testing import parameterized

from routing.grading import equivalence

_DATA = pathlib.Path(os.environ.get('ROUTING_DATA', '../shared/data'))
_PAIRS = _DATA / 'grading_pairs' / 'math_verify_pairs.dev70.jsonl'


class ExactTest(parameterized.TestCase):

  @parameterized.parameters(
      ('a = 1\n\n#### P = 19', 'P = 19', True),
      ('#### P  =\t19 ', 'P = 19', True),
      ('#### P = 19', ' P = 19\n', True),
      ('#### P = 9', 'P = 19', False),
      ('#### P=19', 'P = 19', False),
      ('#### Q = 19', 'P = 19', False),
      ('P = 19\n\n#### ', 'P = 19', False),
      ('', '', False),
  )
  def test_is_the_same_text_up_to_spaces(self, text, reference, expected):
    self.assertEqual(equivalence.exact(text, reference), expected)


class ByNameTest(absltest.TestCase):

  def test_unknown_name_lists_what_is_allowed(self):
    with self.assertRaisesRegex(ValueError, "'exct'.*exact, math_verify"):
      equivalence.by_name('exct')

  def test_known_name(self):
    self.assertIs(equivalence.by_name('exact'), equivalence.exact)


class MathVerifyTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.grade = equivalence.MathVerify(timeout=20.0)
    cls.addClassCleanup(cls.grade.close)

  @parameterized.parameters(
      (r'so \boxed{\frac{1}{2}}', '0.5', True),
      (r'\boxed{x^2 + 1}', '1 + x^2', True),
      # Without LaTeX delimiters only the number inside would be found.
      (r'\boxed{x^2 + 1}', 'x^3 + 1', False),
      ('#### 1,000', '1000', True),
      (r'\boxed{\{2, 1\}}', r'\{1, 2\}', True),
      (r'\boxed{(1, 2)}', '(2, 1)', False),
      (r'\boxed{\frac{1}{}}', '1', False),
      ('no answer', '1', False),
      (r'\boxed{@#!}', '1', False),
  )
  def test_grades(self, text, reference, expected):
    self.assertEqual(self.grade(text, reference), expected)

  def test_agrees_with_the_published_pairs(self):
    if not _PAIRS.exists():
      self.skipTest(f'{_PAIRS} is not there; set ROUTING_DATA to the data.')
    rows = [json.loads(line) for line in _PAIRS.read_text().splitlines()]
    wrong = [
        row['id']
        for row in rows
        if self.grade.is_equivalent(row['pred'], row['gold']) != row['expected']
    ]
    # The package itself differs from its own table in 6 of the 183.
    self.assertLessEqual(len(wrong), 7, wrong)

  def test_works_from_many_threads(self):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
      got = pool.map(
          lambda i: self.grade.is_equivalent(f'{i} + 1', f'{i // 2 * 2 + 1}'),
          range(16),
      )
    self.assertEqual(list(got), [i % 2 == 0 for i in range(16)])


class TimeLimitTest(absltest.TestCase):

  def test_a_late_verdict_is_wrong_and_the_next_one_is_right(self):
    grade = equivalence.MathVerify(timeout=1.0)
    self.addCleanup(grade.close)
    self.assertTrue(grade.is_equivalent('2/4', '1/2'))
    child = grade._child
    start = time.monotonic()
    # This power tower has too many digits for memory; no signal stops it.
    self.assertFalse(grade.is_equivalent('9^{9^{9^{9}}} + x', '7 + x'))
    self.assertLess(time.monotonic() - start, 5.0)
    self.assertIsNotNone(child.poll(), 'the late child must be dead')
    self.assertTrue(grade.is_equivalent('2/4', '1/2'))

  def test_a_dead_child_is_replaced(self):
    grade = equivalence.MathVerify(timeout=10.0)
    self.addCleanup(grade.close)
    self.assertTrue(grade.is_equivalent('2/4', '1/2'))
    grade._child.kill()
    grade._child.wait()
    self.assertTrue(grade.is_equivalent('3/6', '1/2'))

  def test_timeout_must_be_positive(self):
    with self.assertRaisesRegex(ValueError, 'timeout is 0'):
      equivalence.MathVerify(timeout=0)


if __name__ == '__main__':
  absltest.main()
