"""The time of each step, and what of a failed attempt is shown, by hand."""

from absl.testing import absltest
import numpy as np

from routing import types
from routing.rollout import steps as steps_lib
from routing.serving import back_ends
from routing.serving import record as record_lib
from tests import scripted_pair

_SPECS = scripted_pair.SPECS[:2]


def _step(text, route=0, read=0, **fields):
  return types.Step(
      text=text,
      token_ids=(1,) * len(text),
      log_probs=np.zeros(len(text), np.float32),
      top_log_probs=np.zeros((len(text), 0), np.float32),
      is_final=False,
      usage=types.Usage(route, read, 0, len(text)),
      **fields,
  )


def _call(steps):
  return steps_lib.as_call('hand_over', steps_lib.call_usage(steps))


class RecordTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.now, self.paid, self.shown = 1.0, [], []
    self.record = record_lib.Record(
        _SPECS,
        lambda step: 0.5,
        pay=self.paid.append,
        on_step=self.shown.append,
        arrived=0.0,
        clock=lambda: self.now,
    )

  def call(self, kind, steps, start, end):
    """Lets a back end write from one moment to another."""
    self.now = start
    self.record.asked(kind, steps[0].route)
    self.now = end
    usage = steps_lib.call_usage(steps)
    self.record.called(steps_lib.as_call(kind, usage))

  def test_without_a_queue_the_time_until_its_turn_is_ours(self):
    step = _step('a')
    self.now = 3.0
    self.record.begin(has_waited=False)
    self.call('draft', [step], 4.0, 10.0)
    self.record.accepted([step])
    self.record.close()
    (row,) = self.record.rows()
    self.assertEqual(row['overhead_ms'], 4_000)  # From 0 to 4.
    self.assertEqual(row['seconds'], 6)
    self.assertEqual(self.record.seconds, 7)

  def test_the_time_of_each_step(self):
    first, *rest = [_step(x, i > 0) for i, x in enumerate(('a', 'b', 'c'))]
    self.now = 3.0  # The two seconds in the queue are nobody's.
    self.record.begin()
    self.call('draft', [first], 4.0, 10.0)
    self.now = 11.0
    self.record.accepted([first])
    self.call('hand_over', rest, 12.0, 32.0)
    self.now = 33.0
    self.record.accepted(rest)
    with self.record.writing([1]):
      self.now = 37.0
    with self.record.writing([1, 2]):
      self.now = 39.0
    self.now = 40.0
    self.record.close()
    rows = self.record.rows()
    # 6 of the 8 seconds from 3 to 11; 20 of the 22 to 33, for two steps.
    self.assertEqual([x['seconds'] for x in rows], [6.0, 10.0, 10.0])
    # Ours: 1 second before the queue and 2 of the first step; 2 of the others
    # together, 4 to write the second, 2 to write both, 7 from 33 to the end.
    self.assertEqual(
        [x['overhead_ms'] for x in rows], [3_000.0, 6_000.0, 9_000.0]
    )
    self.assertEqual(self.record.overhead, 18.0)

  def test_a_call_that_was_given_up_is_no_time_of_ours(self):
    self.record.begin()
    self.record.asked('hand_over', 1)
    self.record.told(0, _step('a\n\n', 1, read=5))
    self.now = 8.0
    self.record.close()
    self.assertEqual(self.record.overhead, 1.0)  # Before it began.
    (row,) = self.record.rows()
    self.assertEqual((row['seconds'], row['overhead_ms']), (7.0, 1_000.0))

  def test_a_step_that_was_cut_off_is_paid_and_not_shown(self):
    self.record.begin()
    self.record.asked('hand_over', 1)
    self.record.told(0, _step('a\n\n', 1, read=5))
    self.record.told(1, _step('b', 1, is_complete=False))
    # The attempt has failed; the next one tells both again.
    self.record.told(0, _step('a\n\n', 1, read=5))
    self.record.told(1, _step('b c\n\n', 1))
    self.assertEqual([x.text for x in self.shown], ['a\n\n', 'b c\n\n'])
    self.assertEqual([x.written for x in self.paid], [3, 1, 3, 5])

  def test_a_failed_attempt_that_was_billed_is_paid(self):
    self.record.begin()
    self.record.asked('draft', 0)
    self.record.billed(types.Usage(0, 7, 0, 2))
    step = _step('a', read=7)
    self.record.called(steps_lib.as_call('draft', steps_lib.call_usage([step])))
    self.record.accepted([step])
    self.record.close()
    self.assertEqual([(x.read, x.written) for x in self.paid], [(7, 2), (7, 1)])
    (row,) = self.record.rows()
    self.assertEqual((row['tokens'], row['wasted_tokens']), (1, 2))
    self.assertEqual(row['cost'], self.record.cost())


class RepeatedTest(absltest.TestCase):
  """A back end fails in the middle of a hand-over, and writes it again."""

  def setUp(self):
    super().setUp()
    self.paid, self.shown = [], []

  def record(self, **fields):
    found = record_lib.Record(
        _SPECS,
        lambda step: None,
        pay=self.paid.append,
        on_step=lambda step: self.shown.append(step.text),
        **fields,
    )
    found.asked('hand_over', 1)
    found.told(0, _step('a\n\n', 1, read=5))
    found.told(1, _step('b\n\n', 1))
    return found

  def written(self):
    return sum(usage.written for usage in self.paid)

  def test_the_same_steps_are_shown_once_and_paid_twice(self):
    record = self.record(is_seen=True)
    again = [_step('a\n\n', 1, read=5), _step('b\n\n', 1), _step('c', 1)]
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
    record.told(0, _step('a\n\n', 1, read=5))
    with self.assertRaisesRegex(back_ends.BackEndDown, 'medium'):
      record.told(1, _step('other\n\n', 1))

  def test_other_steps_take_the_place_of_those_that_nobody_has_seen(self):
    record = self.record()
    again = [_step('x\n\n', 1, read=5), _step('y', 1)]
    record.told(0, again[0])
    record.called(_call(again))
    record.accepted(again)
    self.assertEqual(record.text, 'x\n\ny')
    self.assertEqual([step.text for step in record.steps], ['x\n\n', 'y'])

  def test_a_repetition_that_is_given_up_keeps_what_was_shown(self):
    record = self.record(is_seen=True)
    record.told(0, _step('a\n\n', 1, read=5))
    record.close()
    self.assertEqual([step.text for step in record.steps], ['a\n\n'])
    self.assertEqual(self.written(), 9)
    self.assertAlmostEqual(record.cost()['price'] * 1e6, 10 * 0.8 + 9 * 4)


if __name__ == '__main__':
  absltest.main()
