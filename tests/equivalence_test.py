"""Tests of the graders, and of what they take for equal."""

import concurrent.futures

from absl.testing import absltest
from absl.testing import parameterized

from routing.grading import equivalence
from routing.grading import verdicts


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
    self.assertEqual(equivalence.exact(text, reference).is_correct, expected)

  def test_the_verdict_says_why(self):
    self.assertEqual(
        equivalence.exact('#### 5', '6'),
        verdicts.Verdict(False, '5', 'literal', 'differs'),
    )
    self.assertEqual(
        equivalence.exact('I do not know.', '6'),
        verdicts.Verdict(False, None, 'none', 'no answer found'),
    )


class SameTextTest(parameterized.TestCase):

  @parameterized.parameters(
      ('[[p ∨ ¬q]]', 'p∨¬q', True),
      (r'[[\text{Sun}]]', 'sun', True),
      ('[[q ∨ p]]', 'p ∨ q', False),
      ('p ∨ q', 'p ∨ q', False),
  )
  def test_ignores_spaces_and_case(self, text, reference, expected):
    grade = equivalence.SameText(('brackets',))
    self.assertEqual(grade(text, reference).is_correct, expected)


class ByNameTest(parameterized.TestCase):

  def test_unknown_name_lists_what_is_allowed(self):
    with self.assertRaisesRegex(ValueError, "'exct'.*exact, same_text, math"):
      equivalence.by_name('exct')

  def test_an_unknown_finder_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'box.*allowed: .*boxed'):
      equivalence.by_name('exact', ('box',))

  def test_a_judge_needs_a_model(self):
    with self.assertRaisesRegex(ValueError, '`ask`'):
      equivalence.by_name('judge')

  @parameterized.parameters('exact', 'same_text', 'math_verify', 'judge')
  def test_grades_by_the_convention_and_is_named_after_it(self, name):
    grade = equivalence.by_name(name, ('brackets', 'boxed'), ask=str.upper)
    self.assertTrue(grade('[[5]]\n#### 6', '5').is_correct)
    self.assertEqual(grade.name, f'{name}(brackets,boxed)')


class MathVerifyTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.grade = equivalence.MathVerify(workers=1, timeout=20.0)
    cls.addClassCleanup(cls.grade.close)

  def assert_equal(self, answer, reference, expected):
    verdict = self.grade.compare(answer, reference)
    self.assertEqual(verdict.is_correct, expected, verdict)

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
      (r'\boxed{\$9{,}500}', '9500', True),
      ('#### Step 1: add\nSo \\boxed{5}', '5', True),
      ('#### 5\n\nQuestion: 3 + 4?\n#### 7', '7', False),
      ('#### 5\n\nQuestion: 3 + 4?\n#### 7', '5', True),
      (r'\boxed{1} and \boxed{2}', '2, 1', True),
      (r'\boxed{1} and \boxed{2}', '1', False),
      (r'\boxed{0.5} or \boxed{\frac{1}{2}}', '0.5', True),
      (r'\boxed{1} or \boxed{2}', '1', False),
  )
  def test_grades(self, text, reference, expected):
    self.assertEqual(self.grade(text, reference).is_correct, expected)

  @parameterized.parameters(
      ('2/4', '2/4', 'literal', 'equal'),
      ('2/4', '1/2', 'number', 'equal'),
      ('Odd', r'\text{odd}', 'words', 'equal'),
      ('2x', 'x + x', 'math_verify', 'equal'),
      ('2x', 'x', 'math_verify', 'differs'),
      ('@#!', 'x', 'math_verify', 'cannot be parsed'),
      ('x', '@#!', 'math_verify', 'the reference cannot be parsed'),
  )
  def test_the_verdict_says_what_decided(self, answer, reference, *expected):
    verdict = self.grade.compare(answer, reference)
    self.assertEqual((verdict.method, verdict.reason), expected)

  @parameterized.parameters(
      # Math-Verify itself takes all of these for equal.
      ('2^{-90}', '2^{-91}', False),
      ('(2^{-90}, 1)', '(2^{-91}, 1)', False),
      ('2^{-90} x', '2^{-91} x', False),
      (r'\frac{\pi}{10^{30}}', r'\frac{\pi}{10^{31}}', False),
      ('2^{-90}', r'\frac{1}{2^{90}}', True),
      (r'\frac{\sqrt{8}}{10^{30}}', r'\frac{2\sqrt{2}}{10^{30}}', True),
      ('10^{100}', '10^{100} + 1', False),
      (r'\sqrt{2} \cdot 10^{40}', r'\sqrt{2} \cdot 10^{40} + 1', False),
      ('2^{100}', '1267650600228229401496703205376', True),
  )
  def test_very_small_and_very_large_numbers(self, answer, reference, expected):
    self.assert_equal(answer, reference, expected)

  @parameterized.parameters(
      ('1.41421', r'\sqrt{2}', True),  # The truncation to 6 digits.
      ('1.41422', r'\sqrt{2}', False),
      ('1.414', r'\sqrt{2}', False),  # Fewer than 5 digits.
      ('(0.6, 2.6667)', r'(\frac{3}{5}, \frac{8}{3})', True),
      ('(0.6, 2.67)', r'(\frac{3}{5}, \frac{8}{3})', False),
  )
  def test_decimals_inside_expressions(self, answer, reference, expected):
    self.assert_equal(answer, reference, expected)

  @parameterized.parameters(
      ('12:00', '2', False),  # Read as 12 / 0.
      ('12:00', '1:00', False),
      ('silent', 'listen', False),  # Products of the same letters.
      ('P Y H H A N A', 'HPNAYAH', False),
      ('ba', 'ab', True),
      (r'1 + \frac{1}{\mathrm{e}}', r'1 - \frac{1}{\mathrm{e}}', False),
      (r'1 + \frac{1}{\mathrm{e}}', '1 + e^{-1}', True),
      (r'3 + 4\mathrm{i}', '3 + 4i', True),
      (r'\$3x', '3x', True),
      ('1, 2', '2, 1', True),
      (r'7 \text{ and } 3', '3, 7', True),
      ('k = 5', '5', True),
      ('x^2 in step 9', '9', False),
      ('$x^2$ in step 9', '9', True),  # A number after the formula counts.
      ('step 9: $x^2$', '9', False),
  )
  def test_what_is_easily_misread(self, answer, reference, expected):
    self.assert_equal(answer, reference, expected)

  def test_works_from_many_threads(self):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
      got = pool.map(
          lambda i: self.grade.compare(f'{i}x + x', f'{i // 2 * 2 + 1}x'),
          range(16),
      )
    self.assertEqual(
        [x.is_correct for x in got], [i % 2 == 0 for i in range(16)]
    )

  @parameterized.parameters(
      ({'timeout': 0}, 'timeout is 0'),
      ({'workers': -1}, 'workers is -1'),
      ({'memory': 0}, 'memory is 0'),
      ({'finders': ()}, 'allowed'),
  )
  def test_wrong_settings_are_refused(self, settings, message):
    with self.assertRaisesRegex(ValueError, message):
      equivalence.MathVerify(**settings)


if __name__ == '__main__':
  absltest.main()
