"""Tests of the figures of `benchmarks.device`, by hand."""

import dataclasses

from absl.testing import absltest

from benchmarks import device
from benchmarks import training_step


class WorkTest(absltest.TestCase):

  def test_a_step_counted_by_hand(self):
    size = training_step.Size(
        batch_size=2,
        num_steps=3,
        num_features=5,
        num_constant=1,
        hidden=7,
        num_levels=1,
        repeats=1,
    )
    flops, moved = device.step_work(size, 1, num_routes=2)
    # 2 trajectories with 1 + 3 * 4 features: 26 numbers. A product with them
    # takes 2 * 26 * 7 = 364, one of the last layer 2 * 2 * 3 * 7 * 2 = 168.
    # Three of the first, four of the last, of policies and of critics.
    self.assertEqual(flops, 2 * (3 * 364 + 4 * 168))
    # 6 * 7 + 8 * 2 = 58 weights, each read or written seven times.
    self.assertEqual(moved, 2 * 4 * (3 * 26 + 7 * 58))
    four = dataclasses.replace(size, num_levels=4)
    self.assertEqual(device.step_work(four, 1)[0], 4 * flops)

  def test_the_slower_of_both_peaks_counts(self):
    for flops, moved, expected in ((6.0, 1.0, 0.3), (1.0, 6.0, 0.6)):
      found = device.roofline(flops, moved, 2.0, (10.0, 5.0))
      self.assertAlmostEqual(found, expected)
    self.assertIsNone(device.roofline(1.0, 1.0, 1.0, (0.0, 5.0)))

  def test_the_largest_batch_that_pays(self):
    rates = {8: 100.0, 16: 180.0, 32: 185.0, 64: 170.0}
    self.assertEqual(device.largest_that_pays(rates), 16)
    self.assertEqual(device.largest_that_pays(rates | {64: 200.0}), 64)


if __name__ == '__main__':
  absltest.main()
