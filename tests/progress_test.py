"""Tests of the progress shown."""

import io
import time

from absl.testing import absltest
from absl.testing import parameterized

from routing import progress


class _Terminal(io.StringIO):

  def isatty(self):
    return True


class _Clock:

  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


def _make(total, **kwargs):
  """A progress that logs to a list, and its clock."""
  lines, clock = [], _Clock()
  made = progress.Progress(
      total,
      'collect',
      unit='problem',
      stream=io.StringIO(),
      clock=clock,
      log=lines.append,
      **kwargs,
  )
  return made, lines, clock


class LogLinesTest(parameterized.TestCase):

  def test_a_line_a_minute_with_rate_and_time_left(self):
    made, lines, clock = _make(200)
    for second in range(1, 121):
      clock.now = 100.0 + second
      made.update()
    # 60 of 200 in 60 s: 1/s, 140 s left; then 120 of 200, 80 s left.
    self.assertEqual(
        lines,
        [
            'collect: 60/200 problems, 1/s, 2 min 20 s left',
            'collect: 120/200 problems, 1/s, 1 min 20 s left',
        ],
    )

  def test_what_an_earlier_run_did_does_not_count_for_the_rate(self):
    made, _, clock = _make(100, done=80)
    clock.now += 5.0
    made.update(10)
    # 10 in 5 s: 2/s; 10 left: 5 s.
    self.assertEqual(made.line(), 'collect: 90/100 problems, 2/s, 5 s left')

  def test_figures_stay_until_changed(self):
    made, _, clock = _make(10)
    clock.now += 1.0
    made.update(loss=0.25, cost=0.5)
    made.update(loss=0.125)
    self.assertEndsWith(made.line(), ', loss 0.125, cost 0.5')

  def test_the_last_state_is_logged_once(self):
    made, lines, clock = _make(3)
    with made:
      clock.now += 1.0
      made.update(3)
    self.assertEqual(lines, ['collect: 3/3 problems, 3/s, 0 s left'])

  def test_what_is_under_way_counts_half(self):
    made, _, clock = _make(100)
    made.begin(40)
    clock.now += 10.0
    self.assertIsNone(made.seconds_left())
    made.update(20)
    # 20 done and 20 half done, as 30 done: 70 left at 3/s.
    self.assertAlmostEqual(made.seconds_left(), 70 / 3)

  def test_pauses_say_nothing_about_the_speed(self):
    paused = [5.0]  # Before the start.
    made, _, clock = _make(10, pauses=lambda: paused[0])
    clock.now += 12.0
    paused[0] += 10.0
    made.update(1)
    self.assertAlmostEqual(made.seconds_left(), 9 * 2.0)

  def test_no_estimate_where_units_differ(self):
    made, _, clock = _make(10, has_estimate=False)
    clock.now += 1.0
    made.update(5)
    self.assertIsNone(made.seconds_left())
    self.assertEqual(made.line(), 'collect: 5/10 problems')

  def test_what_is_brief_logs_only_if_it_is_not(self):
    made, lines, clock = _make(2, is_brief=True)
    with made:
      clock.now += 1.0
      made.update(1)
      self.assertEmpty(lines)
      clock.now += 60.0
      made.update(1)
    self.assertLen(lines, 1)

  def test_nothing_done_yet_has_no_rate(self):
    made, _, _ = _make(3)
    self.assertEqual(made.line(), 'collect: 0/3 problems')

  @parameterized.parameters(-1, 4)
  def test_done_must_be_within_the_total(self, done):
    with self.assertRaisesRegex(ValueError, f'done is {done}'):
      _make(3, done=done)


class BarTest(absltest.TestCase):

  def test_a_terminal_gets_a_bar_and_no_lines(self):
    lines, terminal = [], _Terminal()
    with progress.Progress(
        4, 'train', done=1, stream=terminal, log=lines.append
    ) as made:
      made.update(3, loss=0.5)
    self.assertEmpty(lines)
    self.assertIn('train', terminal.getvalue())
    self.assertIn('4/4', terminal.getvalue())
    self.assertIn('loss=0.5', terminal.getvalue())

  def test_the_clock_of_a_bar_moves_while_nothing_is_done(self):
    terminal = _Terminal()
    with progress.Progress(4, 'train', stream=terminal):
      before, deadline = terminal.getvalue(), time.monotonic() + 20
      while terminal.getvalue() == before and time.monotonic() < deadline:
        time.sleep(0.05)
    self.assertStartsWith(
        terminal.getvalue()[len(before) :].strip('\r'), 'train:   0%'
    )
    self.assertIn('[00:01]', terminal.getvalue())

  def test_the_time_left_of_a_bar_is_ours(self):
    terminal = _Terminal()
    clock = _Clock()
    with progress.Progress(4, 'train', stream=terminal, clock=clock) as made:
      clock.now += 100.0
      made.update(1)
      self.assertIn(
          '5 min 00 s left', made._bar.format_meter(**made._bar.format_dict)
      )


class FormatSecondsTest(parameterized.TestCase):

  @parameterized.parameters(
      (0.4, '0 s'),
      (59.4, '59 s'),
      (59.6, '1 min 00 s'),
      (125, '2 min 05 s'),
      (3 * 3600 + 4 * 60 + 59, '3 h 04 min'),
  )
  def test_format(self, seconds, expected):
    self.assertEqual(progress.format_seconds(seconds), expected)


if __name__ == '__main__':
  absltest.main()
