"""Tests of the usage of one call, and of steps that a limit cut off."""

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

  def test_the_prompt_counts_once_and_written_tokens_add_up(self):
    written = [
        _step('ab\n\n', route=1, read=7, cached=3, seconds=1.5),
        _step('c', route=1, seconds=0.25, is_final=True),
    ]
    self.assertEqual(
        steps.call_usage(written), types.Usage(1, 7, 3, 4 + 1, 1.75)
    )

  def test_tokens_in_context_are_those_of_the_first_step(self):
    first, last = _step('ab\n\n'), _step('c', is_final=True)
    written = [
        dataclasses.replace(
            step, usage=dataclasses.replace(step.usage, in_context=count)
        )
        for step, count in ((first, 9), (last, 9 + 4))
    ]
    self.assertEqual(
        steps.call_usage(written), types.Usage(0, 0, 0, 4 + 1, 2.0, 9)
    )

  def test_a_length_is_not_what_was_paid_for_it(self):
    step = _step('ab\n\n')
    paid = dataclasses.replace(step.usage, written=9)  # 5 were dropped.
    written = [dataclasses.replace(step, usage=paid), _step('c')]
    self.assertEqual(written[0].num_tokens, 4)
    self.assertEqual(steps.count_tokens(written), 4 + 1)
    self.assertEqual(steps.call_usage(written).written, 9 + 1)

  def test_a_call_has_a_kind(self):
    usage = types.Usage(1, 7, 3, 4, 1.5, 9)
    call = steps.as_call('draft', usage)
    self.assertEqual(call, types.Call(1, 7, 3, 4, 1.5, 9, 'draft'))
    self.assertEqual(steps.as_call('wasted', call).kind, 'wasted')
    with self.assertRaisesRegex(ValueError, "'guess'; allowed: .*'draft'"):
      steps.as_call('guess', usage)

  def test_two_writers_raise_an_error(self):
    with self.assertRaisesRegex(ValueError, r'routes \[0, 1\]'):
      steps.call_usage([_step('a'), _step('b', route=1)])

  def test_no_steps_raise_an_error(self):
    with self.assertRaisesRegex(ValueError, 'Got 0 steps'):
      steps.call_usage([])


class UntilAnswerTest(absltest.TestCase):

  def _write(self, *texts, trace='', finders=('hash',)):
    written = [
        _step(text, read=3 if not i else 0) for i, text in enumerate(texts)
    ]
    return written, steps.until_answer(written, trace, finders)

  def test_what_follows_the_answer_is_dropped_and_paid(self):
    written, kept = self._write('so\n\n', '#### 4\n\n', 'Q: 5+5\n\n', '#### 10')
    self.assertEqual(steps.join(kept), 'so\n\n#### 4\n\n')
    self.assertEqual([s.is_final for s in kept], [False, True])
    before, after = steps.call_usage(written), steps.call_usage(kept)
    self.assertEqual(before, after)
    self.assertEqual(kept[0], written[0])
    self.assertEqual(kept[1].num_tokens, len('#### 4\n\n'))

  def test_an_answer_that_begins_in_the_trace_ends_in_the_step(self):
    _, kept = self._write('4\n\n', 'more', trace='so\n\n#### ')
    self.assertEqual(steps.join(kept), '4\n\n')

  def test_an_incomplete_answer_drops_nothing(self):
    for texts in (('so\n\n', '#### 4'), ('#### Step 1\n\n', 'more\n\n')):
      written, kept = self._write(*texts)
      self.assertEqual(kept, tuple(written))

  def test_without_a_convention_only_the_model_ends(self):
    written, kept = self._write('#### 4\n\n', 'more', finders=())
    self.assertEqual(kept, tuple(written))


if __name__ == '__main__':
  absltest.main()
