"""Tests of steps as text, and of what one call consumed."""

import dataclasses

from absl.testing import absltest
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


class CallUsageTest(absltest.TestCase):

  def test_is_read_once_and_written_in_all(self):
    written = [
        _step('ab\n\n', route=1, read=7, cached=3, seconds=1.5),
        _step('c', route=1, seconds=0.25, is_final=True),
    ]
    self.assertEqual(
        steps.call_usage(written), types.Usage(1, 7, 3, 4 + 1, 1.75)
    )

  def test_a_call_holds_what_its_first_step_held(self):
    first, last = _step('ab\n\n'), _step('c', is_final=True)
    written = [
        dataclasses.replace(
            step, usage=dataclasses.replace(step.usage, in_context=held)
        )
        for step, held in ((first, 9), (last, 9 + 4))
    ]
    self.assertEqual(
        steps.call_usage(written), types.Usage(0, 0, 0, 4 + 1, 2.0, 9)
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
    self.assertTrue(steps.is_cut(_step('$$ a\n\n')))  # Inside a formula.
    self.assertFalse(steps.is_cut(_step('a\n\n')))
    self.assertFalse(steps.is_cut(_step('a', is_final=True)))


if __name__ == '__main__':
  absltest.main()
