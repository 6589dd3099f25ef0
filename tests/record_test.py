"""The record of an answer, told by hand: what is paid, shown and repeated."""

from absl.testing import absltest
import numpy as np

from routing import types
from routing.rollout import steps as steps_lib
from routing.serving import record as record_lib
from routing.serving import refusals
from tests import scripted_pair


def _step(text, read=0):
  """Returns a step of the larger model with a token per character."""
  return types.Step(
      text=text,
      token_ids=(0,) * len(text),
      log_probs=np.zeros(0, np.float32),
      top_log_probs=np.zeros((len(text), 0), np.float32),
      is_final=False,
      usage=types.Usage(1, read, 0, len(text)),
  )


def _call(steps):
  return steps_lib.as_call('hand_over', steps_lib.call_usage(steps))


class RepeatedTest(absltest.TestCase):
  """A back end fails in the middle of a hand-over, and writes it again."""

  def setUp(self):
    super().setUp()
    self.paid, self.shown = [], []

  def record(self, **fields):
    found = record_lib.Record(
        scripted_pair.SPECS[:2],
        lambda step: None,
        pay=self.paid.append,
        on_step=lambda step: self.shown.append(step.text),
        **fields,
    )
    found.asked('hand_over', 1)
    found.told(0, _step('a\n\n', read=5))
    found.told(1, _step('b\n\n'))
    return found

  def written(self):
    return sum(usage.written for usage in self.paid)

  def test_the_same_steps_are_shown_once_and_paid_twice(self):
    record = self.record(is_seen=True)
    again = [_step('a\n\n', read=5), _step('b\n\n'), _step('c')]
    record.told(0, again[0])
    record.called(_call(again))
    record.accepted(again)
    record.close()
    self.assertEqual(self.shown, ['a\n\n', 'b\n\n', 'c'])
    # 3 + 3 tokens that were lost, and 3 + 3 + 1 of the answer.
    self.assertEqual(self.written(), 13)
    self.assertEqual(sum(usage.read for usage in self.paid), 10)
    rows = record.rows()
    self.assertEqual([row['wasted_tokens'] for row in rows], [6, 0, 0])
    price = sum(row['cost']['price'] for row in rows)
    # .8 per million read, 4 per million written.
    self.assertAlmostEqual(price * 1e6, 10 * 0.8 + 13 * 4)
    self.assertAlmostEqual(record.cost()['price'], price)

  def test_other_steps_end_a_stream(self):
    record = self.record(is_seen=True)
    record.told(0, _step('a\n\n', read=5))
    with self.assertRaisesRegex(refusals.Refusal, 'medium.*Ask again'):
      record.told(1, _step('other\n\n'))

  def test_other_steps_take_the_place_of_those_that_nobody_has_seen(self):
    record = self.record()
    again = [_step('x\n\n', read=5), _step('y')]
    record.told(0, again[0])
    record.called(_call(again))
    record.accepted(again)
    self.assertEqual(record.text, 'x\n\ny')
    self.assertEqual([step.text for step in record.steps], ['x\n\n', 'y'])

  def test_a_repetition_that_is_given_up_keeps_what_was_shown(self):
    record = self.record(is_seen=True)
    record.told(0, _step('a\n\n', read=5))
    record.close()
    self.assertEqual([step.text for step in record.steps], ['a\n\n'])
    self.assertEqual(self.written(), 9)
    self.assertAlmostEqual(record.cost()['price'] * 1e6, 10 * 0.8 + 9 * 4)


if __name__ == '__main__':
  absltest.main()
