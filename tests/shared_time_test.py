"""Tests of sharing the time among concurrent requests."""

from absl.testing import absltest
import numpy as np

from routing.engines import shared_time


class SharedTimeTest(absltest.TestCase):

  def test_concurrent_calls_share_the_time(self):
    now = 0.0
    shared = shared_time.SharedTime(lambda: now)
    a = shared.enter()
    now = 1.0  # a alone: 1 second.
    b = shared.enter()
    now = 4.0  # a and b: 1.5 seconds each.
    self.assertAlmostEqual(shared.leave(a), 2.5)
    now = 6.0  # b alone: 2 seconds.
    self.assertAlmostEqual(shared.leave(b), 3.5)
    now = 9.0  # No request: charged to none.
    c = shared.enter()
    now = 9.5
    self.assertAlmostEqual(shared.leave(c), 0.5)

  def test_a_call_can_be_charged_in_parts(self):
    now = 0.0
    shared = shared_time.SharedTime(lambda: now)
    start = shared.enter()
    now = 1.0
    first = shared.since(start)
    other = shared.enter()
    now = 5.0  # Both: 2 seconds each.
    rest = shared.leave(start + first)
    self.assertEqual((first, rest, shared.leave(other)), (1.0, 2.0, 2.0))

  def test_shares_sum_to_the_busy_time(self):
    rng = np.random.default_rng(0)
    now, busy, total, started = 0.0, 0.0, 0.0, []
    shared = shared_time.SharedTime(lambda: now)
    for _ in range(300):
      wait = rng.exponential()
      now += wait
      busy += wait * bool(started)
      if started and rng.random() < 0.5:
        total += shared.leave(started.pop(rng.integers(len(started))))
      else:
        started.append(shared.enter())
    total += sum(map(shared.leave, started))
    self.assertAlmostEqual(total, busy)


if __name__ == '__main__':
  absltest.main()
