"""Tests of the splitting into steps."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import types
from routing.rollout import steps


def _step(text, *, route=0, is_final=False, read=0, cached=0, seconds=1.0):
  return types.Step(
      text=text,
      token_ids=tuple(map(ord, text)),
      log_probs=np.zeros(len(text), np.float32),
      top_log_probs=np.zeros((len(text), 0), np.float32),
      is_final=is_final,
      usage=types.Usage(route, read, cached, len(text), seconds),
  )


class SplitTest(parameterized.TestCase):

  @parameterized.parameters(
      ('', []),
      ('a', ['a']),
      ('a\n\n', ['a\n\n']),
      ('a\n\nb', ['a\n\n', 'b']),
      ('a\n\n\nb', ['a\n\n', '\nb']),
      ('\n\n\n\n', ['\n\n', '\n\n']),
      ('a\nb', ['a\nb']),
  )
  def test_ends_each_step_with_the_delimiter(self, text, expected):
    self.assertEqual(steps.split(text), expected)

  def test_loses_no_character_and_leaves_no_boundary_inside(self):
    rng = np.random.default_rng(0)
    for _ in range(500):
      text = ''.join(rng.choice(list('ab\n'), size=rng.integers(0, 20)))
      got = steps.split(text)
      self.assertEqual(''.join(got), text)
      for step in got:
        self.assertIn(step.find('\n\n'), (-1, len(step) - 2))
      self.assertTrue(all(step.endswith('\n\n') for step in got[:-1]))

  def test_empty_delimiter_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'delimiter is empty'):
      steps.split('a', '')


class SplitTokensTest(parameterized.TestCase):

  @parameterized.parameters(
      ([], []),
      (['a', '\n\n', 'b'], [(0, 2), (2, 3)]),
      (['a', '\n', '\n', 'b'], [(0, 3), (3, 4)]),
      # The token '\n\nb' begins in step 0; step 1 has no token of its own.
      (['a', '\n\nb'], [(0, 2), (2, 2)]),
      # A token without text goes with the token before it.
      (['a\n\n', '', 'b', ''], [(0, 2), (2, 4)]),
  )
  def test_slices(self, pieces, expected):
    got = steps.split_tokens(pieces)
    self.assertEqual([(s.start, s.stop) for s in got], expected)

  def test_covers_every_token_once_in_as_many_slices_as_steps(self):
    rng = np.random.default_rng(1)
    for _ in range(500):
      pieces = rng.choice(
          ['a', '\n', '\n\n', 'b\n', '', '\n\nc'], size=rng.integers(0, 9)
      ).tolist()
      got = steps.split_tokens(pieces)
      if not ''.join(pieces):
        continue
      covered = [i for s in got for i in range(len(pieces))[s]]
      self.assertEqual(covered, list(range(len(pieces))))
      self.assertLen(got, len(steps.split(''.join(pieces))))


class CallUsageTest(absltest.TestCase):

  def test_is_read_once_and_written_in_all(self):
    written = [
        _step('ab\n\n', route=1, read=7, cached=3, seconds=1.5),
        _step('c', route=1, seconds=0.25, is_final=True),
    ]
    self.assertEqual(
        steps.call_usage(written), types.Usage(1, 7, 3, 4 + 1, 1.75)
    )

  def test_two_writers_are_refused(self):
    with self.assertRaisesRegex(ValueError, r'routes \[0, 1\]'):
      steps.call_usage([_step('a'), _step('b', route=1)])

  def test_nothing_written_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'no step'):
      steps.call_usage([])


class IsCutTest(absltest.TestCase):

  def test_only_a_step_without_any_end_is_cut(self):
    self.assertTrue(steps.is_cut(_step('a')))
    self.assertFalse(steps.is_cut(_step('a\n\n')))
    self.assertFalse(steps.is_cut(_step('a', is_final=True)))


if __name__ == '__main__':
  absltest.main()
