"""Tests of the bounds at edge cases: closed forms, rounding, arrays, errors."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import stats

from routing.calibration import bounds


class RefusedTest(parameterized.TestCase):

  def test_every_level_of_an_array_must_be_in_range(self):
    for levels in ([0.5, 1.0], [0.0, 0.5], [0.5, np.nan]):
      with self.assertRaisesRegex(ValueError, r'level must be in \(0, 1\)'):
        bounds.binomial_p_value(1, 10, np.array(levels))
    got = bounds.binomial_p_value(1, 10, np.array([0.1, 0.999]))
    np.testing.assert_allclose(got, stats.binom.cdf(1, 10, [0.1, 0.999]))

  @parameterized.parameters(-1e-3, 1.001, np.nan)
  def test_one_mean_out_of_range_in_an_array_is_refused(self, mean):
    with self.assertRaisesRegex(ValueError, r'mean must be in \[0, 1\]'):
      bounds.hoeffding_bentkus_p_value(np.array([0.5, mean]), 10, 0.5)

  @parameterized.parameters(0.0, 1.0)
  def test_means_of_zero_and_one_are_allowed(self, mean):
    got = bounds.hoeffding_bentkus_p_value(mean, 10, 0.5)
    self.assertAlmostEqual(float(got), 0.5**10 if mean == 0 else 1.0)

  @parameterized.parameters(0.0, 1.0)
  def test_each_bound_checks_its_level_and_delta(self, edge):
    values, good = np.array([0.1, 0.2]), 0.5
    for call in (
        lambda: bounds.hoeffding_bentkus_p_value(0.1, 10, edge),
        lambda: bounds.betting_p_value(values, edge, good),
        lambda: bounds.betting_trajectories_needed(values, edge, good),
        lambda: bounds.trajectories_needed(0.1, edge, good),
    ):
      with self.assertRaisesRegex(ValueError, 'level must be in'):
        call()
    for call in (
        lambda: bounds.hoeffding_bentkus_upper(0.1, 10, edge),
        lambda: bounds.betting_p_value(values, good, edge),
        lambda: bounds.betting_upper(values, edge),
        lambda: bounds.betting_trajectories_needed(values, good, edge),
        lambda: bounds.trajectories_needed(0.1, good, edge),
        lambda: bounds.clopper_pearson_lower(1, 10, edge),
    ):
      with self.assertRaisesRegex(ValueError, 'delta must be in'):
        call()

  @parameterized.parameters(([0.2, 1.1],), ([-0.1, 0.2],), ([],))
  def test_every_betting_bound_checks_its_values(self, values):
    values = np.array(values)
    for call in (
        lambda: bounds.betting_p_value(values, 0.5, 0.1),
        lambda: bounds.betting_upper(values, 0.1),
        lambda: bounds.betting_trajectories_needed(values, 0.5, 0.1),
    ):
      with self.assertRaisesRegex(ValueError, 'values must be'):
        call()

  def test_rows_without_values_are_refused(self):
    # Only the last axis must not be empty; one value is enough.
    for shape in ((3, 0), (1, 2, 0)):
      with self.assertRaisesRegex(ValueError, r'n > 0, got'):
        bounds.betting_p_value(np.zeros(shape), 0.5, 0.1)
    self.assertEqual(bounds.betting_p_value(np.zeros((2, 1)), 0.5, 0.1).size, 2)

  def test_values_of_zero_and_one_are_allowed(self):
    self.assertAlmostEqual(
        float(bounds.betting_p_value(np.array([0.0]), 0.5, 0.1)), 1 / 1.5
    )
    self.assertEqual(bounds.betting_p_value(np.array([1.0]), 0.5, 0.1), 1.0)


class ArrayTest(absltest.TestCase):

  def test_counts_may_be_arrays(self):
    count, n = np.array([0, 3, 10]), 10
    upper = bounds.clopper_pearson_upper(count, n, 0.1)
    lower = bounds.clopper_pearson_lower(count, n, 0.1)
    np.testing.assert_allclose(upper[:2], stats.beta.ppf(0.9, [1, 4], [10, 7]))
    np.testing.assert_allclose(lower[1:], stats.beta.ppf(0.1, [3, 10], [8, 1]))
    self.assertEqual((lower[0], upper[2]), (0.0, 1.0))

  def test_each_row_is_tested_independently(self):
    values = np.random.default_rng(0).random((2, 3, 20))
    got = bounds.betting_p_value(values, 0.7, 0.1)
    self.assertEqual(got.shape, (2, 3))
    for where in np.ndindex(2, 3):
      one = bounds.betting_p_value(values[where], 0.7, 0.1)
      self.assertAlmostEqual(got[where], one, places=12)
    self.assertLess(got.min(), got.max() - 0.1)


class RoundingTest(parameterized.TestCase):

  @parameterized.parameters((25, 7, 0.5), (41, 7, 0.3), (43, 14, 0.5))
  def test_a_product_above_a_count_by_rounding_is_the_count(
      self, n, count, level
  ):
    mean = count / n
    self.assertGreater(n * mean, count)  # Because of rounding only.
    want = np.e * stats.binom.cdf(count, n, level)
    got = bounds.hoeffding_bentkus_p_value(mean, n, level)
    self.assertAlmostEqual(float(got / want), 1.0, places=9)

  @parameterized.parameters((7 + 4e-9, 8), (7 + 3e-10, 7))
  def test_only_differences_below_1e_9_count_as_rounding(self, product, count):
    got = bounds.hoeffding_bentkus_p_value(product / 25, 25, 0.5)
    want = np.e * stats.binom.cdf(count, 25, 0.5)
    want = min(want, np.exp(-25 * stats.entropy([0.28, 0.72], [0.5, 0.5])))
    self.assertAlmostEqual(float(got / want), 1.0, places=6)

  def test_a_mean_between_two_counts_takes_the_higher_count(self):
    # 100 * .295 = 29.5, so Bentkus takes 30; here it beats Hoeffding.
    want = np.e * stats.binom.cdf(30, 100, 0.5)
    got = bounds.hoeffding_bentkus_p_value(0.295, 100, 0.5)
    self.assertLess(
        want, np.exp(-100 * stats.entropy([0.295, 0.705], [0.5] * 2))
    )
    self.assertAlmostEqual(float(got / want), 1.0, places=9)

  @parameterized.parameters((0.1, 4), (0.02, 10), (0.25, 17))
  def test_a_power_equal_to_delta_needs_no_further_problem(self, level, n):
    # log(1 / delta) / log(1 / (1 - level)) is n and a rounding error.
    delta = (1 - level) ** n
    self.assertEqual(bounds.trajectories_needed(0.0, level, delta), n)
    self.assertEqual(
        bounds.trajectories_needed(0.0, level, delta * (1 - 1e-6)), n + 1
    )


class ClosedFormTest(parameterized.TestCase):

  @parameterized.parameters((300, 0.1), (20, 0.05), (1, 0.5))
  def test_upper_bound_without_a_loss(self, n, delta):
    # (1 - bound)^n = delta.
    got = bounds.hoeffding_bentkus_upper(0.0, n, delta)
    self.assertAlmostEqual(got, 1 - delta ** (1 / n), places=8)

  def test_upper_bound_is_one_if_no_level_is_rejected(self):
    # One draw of .9: the p-value at 1 - 1e-12 is exp(-KL) = .087.
    self.assertEqual(bounds.hoeffding_bentkus_upper(0.9, 1, 0.05), 1.0)
    self.assertLess(bounds.hoeffding_bentkus_upper(0.9, 1, 0.1), 1.0)

  def test_betting_upper_bound_of_one_draw(self):
    # The first stake on n = 1 draw is min(1, sqrt(2 log(1 / delta) * 4)) = 1,
    # so a draw of x gives the capital 1 + level - x. At delta .8 it must reach
    # 1 / delta = 1.25, which it does at the level x + .25.
    got = bounds.betting_upper(np.array([0.3]), 0.8)
    self.assertAlmostEqual(got, 0.55, places=10)
    # With 10 draws the first stake is below 1: sqrt(2 log(1 / .9) * .4) = .290.
    stake = np.sqrt(2 * np.log(1 / 0.9) / (10 * 0.25))
    got = bounds.betting_p_value(np.r_[0.0, np.ones(9)], 0.5, 0.9)
    self.assertAlmostEqual(float(got), 1 / (1 + stake * 0.5), places=12)

  @parameterized.parameters((0.4, 0.5, 115), (0.1, 0.2, 63), (0.25, 0.5, 18))
  def test_number_needed_by_betting_on_zeros_and_ones(self, mean, level, n):
    # With the best stake, the log capital grows by KL(mean | level) a draw, as
    # in the exact test: log(10) / .02014 = 114.4, / .03669 = 62.8 and
    # / .13081 = 17.6.
    values = (np.arange(100) < 100 * mean).astype(float)
    kl = stats.entropy([mean, 1 - mean], [level, 1 - level])
    self.assertEqual(n, int(np.ceil(np.log(10) / kl)))
    self.assertEqual(bounds.betting_trajectories_needed(values, level, 0.1), n)
    self.assertEqual(bounds.trajectories_needed(mean, level, 0.1), n)

  def test_a_mean_at_the_level_is_never_proven(self):
    for values in (np.array([0.5, 0.5]), np.array([0.0, 1.0])):
      self.assertIsNone(bounds.betting_trajectories_needed(values, 0.5, 0.1))
    # Nor is a mean that differs from the level only by rounding.
    values = np.array([0.0, 1.0])
    self.assertIsNone(
        bounds.betting_trajectories_needed(values, 0.5 + 1e-13, 0.1)
    )
    self.assertIsNone(bounds.trajectories_needed(0.5, 0.5, 0.1))
    self.assertIsNone(bounds.trajectories_needed(0.6, 0.5, 0.1))

  def test_interval_ends_are_bounds_at_half_of_delta(self):
    values = np.array([0.1] * 40 + [0.6] * 10)  # Mean .2.
    low, high = bounds.interval(values, 0.1)
    self.assertAlmostEqual(
        high, bounds.hoeffding_bentkus_upper(0.2, 50, 0.05), places=8
    )
    self.assertAlmostEqual(
        low, 1 - bounds.hoeffding_bentkus_upper(0.8, 50, 0.05), places=8
    )
    # One value other than 0 and 1 rules out the exact, narrower interval.
    mixed = np.r_[np.ones(10), np.zeros(39), 1e-3]
    self.assertLess(bounds.interval(mixed, 0.1)[0], 0.11)
    low, high = bounds.interval(np.r_[np.ones(10), np.zeros(40)], 0.1)
    np.testing.assert_allclose(
        (low, high), stats.beta.ppf([0.05, 0.95], [10, 11], [41, 40])
    )


if __name__ == '__main__':
  absltest.main()
