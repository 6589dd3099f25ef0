"""Tests of a model as judge, and of the agreement of graders."""

from absl.testing import absltest
from absl.testing import parameterized

from routing.grading import judge
from routing.grading import verdicts


class JudgeTest(parameterized.TestCase):

  def grade(self, text, reference, reply='Correct'):
    self.prompts = []

    def ask(prompt):
      self.prompts.append(prompt)
      return reply

    return judge.Judge(ask, ('boxed',))(text, reference)

  @parameterized.parameters(
      ('Correct', True, 'equal'),
      ('**Incorrect**.', False, 'differs'),
      ('It is not correct.', False, 'differs'),
      ('Is it correct? No: incorrect', False, 'differs'),
      ('It may look incorrect, but it is CORRECT', True, 'equal'),
      ('I cannot say', False, "no verdict in the reply 'I cannot say'"),
      ('', False, "no verdict in the reply ''"),
  )
  def test_the_last_verdict_of_the_reply_counts(self, reply, expected, reason):
    verdict = self.grade(r'\boxed{a cat}', 'one cat', reply)
    self.assertEqual(
        verdict, verdicts.Verdict(expected, 'a cat', 'judge', reason)
    )
    (prompt,) = self.prompts
    self.assertIn('<<<\na cat\n>>>', prompt)
    self.assertIn('<<<\none cat\n>>>', prompt)

  def test_braces_in_an_answer_are_no_fields(self):
    self.assertTrue(self.grade(r'\boxed{\{x\}}', '{reference}').is_correct)
    self.assertIn('\\{x\\}', self.prompts[0])

  def test_without_a_mark_the_end_of_the_text_is_judged(self):
    verdict = self.grade('x' * 5_000 + ' so a cat', 'one cat')
    self.assertLen(verdict.answer, 2_000)
    self.assertEndsWith(verdict.answer, ' so a cat')

  @parameterized.parameters('', r'so \boxed{a', '  ')
  def test_no_answer_is_wrong_without_asking(self, text):
    self.assertEqual(self.grade(text, 'one cat'), verdicts.NOT_FOUND)
    self.assertEmpty(self.prompts)

  def test_the_same_text_is_right_without_asking(self):
    self.assertEqual(self.grade(r'\boxed{a  cat}', 'a cat').method, 'literal')
    self.assertEmpty(self.prompts)

  def test_errors_of_the_model_are_passed_on(self):
    def ask(prompt):
      raise ConnectionError(prompt[:0])

    with self.assertRaises(ConnectionError):
      judge.Judge(ask)('#### a cat', 'one cat')


class AgreementTest(absltest.TestCase):

  def test_counts_and_kappa_by_hand(self):
    # Both right 3, only the first 1, only the second 2, both wrong 4.
    first = [True] * 3 + [True] + [False] * 2 + [False] * 4
    second = [True] * 3 + [False] + [True] * 2 + [False] * 4
    got = verdicts.agreement(first, second)
    self.assertEqual(got, verdicts.Agreement(3, 1, 2, 4))
    self.assertEqual(got.total, 10)
    self.assertAlmostEqual(got.share, 0.7)
    # By chance 0.4 * 0.5 + 0.6 * 0.5 = 0.5; (0.7 - 0.5) / (1 - 0.5) = 0.4.
    self.assertAlmostEqual(got.kappa, 0.4)

  def test_limits(self):
    self.assertEqual(verdicts.agreement([True], [True]).kappa, 1.0)
    self.assertEqual(
        verdicts.agreement([True, False], [False, True]).kappa, -1.0
    )

  def test_graders_of_other_answers_are_refused(self):
    with self.assertRaisesRegex(ValueError, '1 and 2 verdicts'):
      verdicts.agreement([True], [True, False])
    with self.assertRaisesRegex(ValueError, 'at least one'):
      verdicts.agreement([], [])


if __name__ == '__main__':
  absltest.main()
