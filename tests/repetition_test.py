"""Tests of ending an answer that repeats a step."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import types
from routing.engines import repetition


def _steps(letters):
  """Returns one step for each letter."""
  return [
      types.Step(
          text=letter + types.DELIMITER,
          token_ids=(0,),
          log_probs=np.zeros(1, np.float32),
          top_log_probs=np.zeros((1, 0), np.float32),
          is_final=False,
          usage=types.Usage(0, 0, 0, 1),
      )
      for letter in letters
  ]


class RepetitionTest(parameterized.TestCase):

  @parameterized.parameters(
      ('', 3, None),
      ('aa', 3, None),
      ('aaa', 3, 3),
      ('abaaab', 3, 5),
      ('ababab', 3, None),
      ('aaaaaa', 3, 3),
      ('aaaaaa', 0, None),
      ('a', 1, 1),
  )
  def test_finds_the_end_of_the_first_run(self, texts, num_equal, expected):
    self.assertEqual(repetition.find_repetition(texts, num_equal), expected)

  @parameterized.parameters(
      ('', 'abc', 'abc', False),
      ('', 'abbbc', 'abbb', True),
      ('b', 'bbbb', 'bb', True),  # Steps of the trace count.
      ('bb', 'ab', 'ab', False),
      ('ab', 'bc', 'bc', False),
      ('aabb', 'b', 'b', True),
  )
  def test_ends_the_answer_at_the_repetition(
      self, trace, written, kept, is_final
  ):
    before = ''.join(step.text for step in _steps(trace))
    got = repetition.truncate_repetition(_steps(written), before, 3)
    self.assertEqual([s.text[0] for s in got], list(kept))
    self.assertEqual(got[-1].is_final, is_final)
    self.assertFalse(any(s.is_final for s in got[:-1]))

  def test_never_ends_an_answer_without_a_limit(self):
    steps = _steps('aaaaaa')
    self.assertEqual(repetition.truncate_repetition(steps, '', 0), tuple(steps))
    self.assertFalse(repetition.ends_in_blank_steps('\n' * 99, 0))

  @parameterized.parameters(
      ('a' + '\n' * 6, True), ('a' + '\n' * 5, False), ('', False)
  )
  def test_blank_steps_end_an_answer(self, text, expected):
    self.assertEqual(repetition.ends_in_blank_steps(text, 3), expected)


if __name__ == '__main__':
  absltest.main()
