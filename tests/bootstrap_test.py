"""Tests of the bootstrap against a loop, of pairing and of seeds."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.evaluation import bootstrap
from routing.evaluation import metrics
from routing.outcomes import points as points_lib
from tests import ladders


def method(num_problems=200, seed=0, shift=0.0):
  source = ladders.make_known(num_problems, seed=0)
  thresholds = [-np.inf, 0, 0.5, 1, 1.5, 2, np.inf]
  return source.evaluate(ladders.Family(shift, seed), thresholds, 'price')


class BootstrapTest(parameterized.TestCase):

  def test_curves_equal_resampling_by_hand(self):
    points = method(50)
    draws = bootstrap.draw(50, [1], 20, seed=0)
    grid = np.array([0.3, 0.5])
    got = bootstrap.curves([points], draws, grid)
    for row in range(21):
      # Repeat each problem as often as it was drawn.
      counts = np.round(draws.problems[row] * 50).astype(int)
      rows = np.repeat(np.arange(50), counts)
      self.assertLen(rows, 50)
      cost = points.cost[:, rows].mean(axis=1)
      accuracy = points.correct[:, rows].mean(axis=1)
      order = np.argsort(cost)
      want = np.interp(grid, cost[order], accuracy[order])
      np.testing.assert_allclose(got[row], want)

  def test_estimate_is_the_sample_itself(self):
    points = method()
    draws = bootstrap.draw(200, [1], 50, seed=0)
    got = bootstrap.curves([points], draws, metrics.AREA_GRID).mean(axis=1)
    want = metrics.area(points.mean_cost, points.accuracy)
    self.assertAlmostEqual(bootstrap.interval(got).mean, want)

  def test_difference_to_itself_is_exactly_zero(self):
    seeds = [method(seed=k, shift=1.0) for k in range(3)]
    draws = bootstrap.draw(200, [3], 100, seed=0)
    got = bootstrap.area_difference(seeds, seeds, draws)
    self.assertEqual((got.mean, got.low, got.high), (0.0, 0.0, 0.0))

  def test_pairing_narrows_the_interval(self):
    good, worse = method(), method(seed=1, shift=0.3)
    draws = bootstrap.draw(200, [1], 1_000, seed=0)
    paired = bootstrap.area_difference([good], [worse], draws)
    area = lambda x: bootstrap.curves([x], draws, metrics.AREA_GRID).mean(1)
    alone = bootstrap.interval(area(good)), bootstrap.interval(area(worse))
    apart = np.hypot(*[x.standard_error for x in alone])
    self.assertLess(paired.standard_error, 0.8 * apart)
    self.assertLess(paired.low, paired.mean)
    self.assertGreater(paired.high, paired.mean)

  def test_standard_error_of_a_mean(self):
    # One point per method: its curve is flat at its accuracy, so the standard
    # error must be sqrt(p (1 - p) / n) = sqrt(.25 / 400) = .025.
    correct = np.repeat([[0.0, 1.0]], 200, axis=0).reshape(1, -1)
    points = points_lib.Points(correct, correct, correct, correct)
    draws = bootstrap.draw(400, [1], 4_000, seed=0)
    got = bootstrap.interval(
        bootstrap.curves([points], draws, np.array([0.5]))[:, 0]
    )
    self.assertAlmostEqual(got.standard_error, 0.025, delta=0.001)
    self.assertAlmostEqual(got.high - got.low, 2 * 1.96 * 0.025, delta=0.005)

  def test_spread_over_seeds_by_hand(self):
    # Flat curves at .4, .5, .6 with no spread over problems: the mean of three
    # seeds drawn with replacement has s.e. sqrt(.02 / 3) / sqrt(3) = .0471.
    seeds = []
    for value in (0.4, 0.5, 0.6):
      same = np.full((1, 10), value)
      seeds.append(points_lib.Points(same, same, same, same))
    draws = bootstrap.draw(10, [1, 3], 4_000, seed=0)
    error = lambda x: bootstrap.interval(
        bootstrap.curves(x, draws, np.array([0.5]))[:, 0]
    ).standard_error
    self.assertAlmostEqual(error(seeds), 0.0471, delta=0.002)
    self.assertAlmostEqual(error(seeds[:1]), 0.0)

  def test_groups_of_problems_give_the_same_standard_error(self):
    rng = np.random.default_rng(5)
    # Sorted, as problems are by subject: groups must not be neighbours.
    correct = np.sort(rng.random((3, 4_000)) < 0.3, axis=1).astype(float)
    with mock.patch.object(bootstrap, 'MAX_DRAWN', 600):
      draws = bootstrap.draw(4_000, [1], 3_000, seed=0)
    self.assertEqual(draws.problems.shape, (3_001, 600))
    np.testing.assert_array_equal(
        np.unique(np.bincount(draws.groups)), [6, 7]  # 4,000 / 600.
    )
    means = draws.means(correct)
    np.testing.assert_allclose(means[0], correct.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(
        means[1:].std(axis=0), correct.std(axis=1) / 4_000**0.5, rtol=0.08
    )
    # High means show whether the size of a group counts as spread; half of the
    # groups have one problem, and half have two.
    correct = (rng.random((1, 900)) < 0.95).astype(float)
    with mock.patch.object(bootstrap, 'MAX_DRAWN', 600):
      draws = bootstrap.draw(900, [1], 3_000, seed=0)
    np.testing.assert_allclose(draws.means(np.ones((1, 900))), 1.0, rtol=1e-12)
    np.testing.assert_allclose(
        draws.means(correct)[1:].std(), correct.std() / 900**0.5, rtol=0.08
    )
    # Up to the limit each problem is drawn by itself.
    with mock.patch.object(bootstrap, 'MAX_DRAWN', 4_000):
      self.assertIsNone(bootstrap.draw(4_000, [1], 2, seed=0).groups)

  def test_same_seed_same_draws(self):
    first, second = (bootstrap.draw(30, [3], 5, seed=7) for _ in range(2))
    np.testing.assert_array_equal(first.problems, second.problems)
    np.testing.assert_allclose(first.problems.sum(axis=1), 1.0)
    np.testing.assert_allclose(first.seeds[3].sum(axis=1), 1.0)


if __name__ == '__main__':
  absltest.main()
