"""Bounds against SciPy, against hand arithmetic and by simulation."""

import math

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import stats

from routing.calibration import bounds


def plain_bet(values, level, delta):
  """Returns the betting p-value, computed draw by draw."""
  capital = highest = 1.0
  total, squares, variance = 0.5, 0.25, 0.25
  for i, value in enumerate(values, start=1):
    stake = math.sqrt(2 * math.log(1 / delta) / (len(values) * variance))
    capital *= 1 - min(1.0, stake) * (value - level)
    highest = max(highest, capital)
    total += value
    squares += (value - total / (i + 1)) ** 2
    variance = squares / (i + 1)
  return 1 / highest


class BoundsTest(parameterized.TestCase):

  @parameterized.parameters((0, 45), (3, 50), (17, 17), (199, 200))
  def test_clopper_pearson_equals_scipy(self, count, n):
    # SciPy's two-sided interval at 1 - 2 delta has delta in each tail.
    want = stats.binomtest(count, n).proportion_ci(0.8, method='exact')
    self.assertAlmostEqual(
        float(bounds.clopper_pearson_lower(count, n, 0.1)), want.low
    )
    self.assertAlmostEqual(
        float(bounds.clopper_pearson_upper(count, n, 0.1)), want.high
    )

  @parameterized.parameters((0, 45, 0.05), (3, 200, 0.02), (30, 100, 0.2))
  def test_binomial_p_value_equals_scipy(self, count, n, level):
    want = stats.binomtest(count, n, level, alternative='less').pvalue
    self.assertAlmostEqual(
        float(bounds.binomial_p_value(count, n, level)), want
    )

  def test_hoeffding_bentkus_by_hand(self):
    # mean 0, n 10, level .2: KL(0 | .2) = -log(.8), so Hoeffding gives
    # .8 ** 10 = .1074; Bentkus e * .8 ** 10 is larger.
    self.assertAlmostEqual(
        float(bounds.hoeffding_bentkus_p_value(0.0, 10, 0.2)), 0.8**10
    )
    # mean .25, n 8, level .5: 2 of 8. Bentkus e * (1 + 8 + 28) / 256 = .3929;
    # Hoeffding exp(-8 * (.25 log .5 + .75 log 1.5)) = .3512 is smaller.
    want = np.exp(-8 * (0.25 * np.log(0.5) + 0.75 * np.log(1.5)))
    self.assertAlmostEqual(
        float(bounds.hoeffding_bentkus_p_value(0.25, 8, 0.5)), want
    )
    # Far out Bentkus wins: n 1000, level .3, mean .25.
    want = np.e * stats.binom.cdf(250, 1000, 0.3)
    self.assertAlmostEqual(
        float(bounds.hoeffding_bentkus_p_value(0.25, 1000, 0.3)), want
    )

  def test_hoeffding_bentkus_is_one_at_or_above_the_level(self):
    p_values = bounds.hoeffding_bentkus_p_value(
        np.array([0.3, 0.6, 1.0]), 20, 0.3
    )
    np.testing.assert_array_equal(p_values, 1.0)

  @parameterized.parameters('binomial', 'hoeffding_bentkus')
  def test_p_values_are_valid_at_the_level(self, kind):
    # True mean = level, so P(p <= delta) must be <= delta for every delta.
    rng = np.random.default_rng(0)
    n, level = 60, 0.15
    if kind == 'binomial':
      count = rng.binomial(n, level, size=20_000)
      p_values = bounds.binomial_p_value(count, n, level)
    else:  # Bounded, not binary: Beta(.3, 1.7) has mean .15.
      mean = rng.beta(0.3, 1.7, size=(20_000, n)).mean(axis=1)
      p_values = bounds.hoeffding_bentkus_p_value(mean, n, level)
    for delta in (0.05, 0.1, 0.3):
      noise = 3 * np.sqrt(delta * (1 - delta) / 20_000)
      self.assertLessEqual(np.mean(p_values <= delta), delta + noise)

  @parameterized.parameters(0.0, 0.07, 0.5)
  def test_upper_bound_inverts_the_p_value(self, mean):
    upper = bounds.hoeffding_bentkus_upper(mean, 300, 0.1)
    self.assertGreater(upper, mean)
    p_value = bounds.hoeffding_bentkus_p_value(mean, 300, upper + 1e-6)
    self.assertLessEqual(p_value, 0.1 + 1e-9)
    p_value = bounds.hoeffding_bentkus_p_value(mean, 300, upper - 1e-3)
    self.assertGreater(p_value, 0.1)

  def test_upper_bound_is_one_if_every_value_is_one(self):
    self.assertEqual(bounds.hoeffding_bentkus_upper(1.0, 50, 0.1), 1.0)
    self.assertEqual(float(bounds.clopper_pearson_upper(50, 50, 0.1)), 1.0)
    self.assertEqual(float(bounds.clopper_pearson_lower(0, 50, 0.1)), 0.0)

  def test_interval_is_exact_for_zeros_and_ones_and_wider_otherwise(self):
    exact = bounds.interval(np.repeat([0.0, 1.0], [40, 10]), 0.05)
    want = stats.binomtest(10, 50).proportion_ci(0.95, method='exact')
    np.testing.assert_allclose(exact, [want.low, want.high])
    low, high = bounds.interval(np.repeat([0.1, 0.6], [40, 10]), 0.05)
    self.assertBetween(0.2, low, high)
    self.assertGreater(high - low, exact[1] - exact[0])

  @parameterized.parameters((1.0, 0.05), (0.1, 0.05), (3.0, 0.3))
  def test_betting_equals_a_loop_over_draws(self, spread, level):
    values = np.random.default_rng(0).beta(spread, 12 * spread, size=(3, 80))
    got = bounds.betting_p_value(values, level, 0.1)
    for row, p_value in zip(values, got, strict=True):
      self.assertAlmostEqual(p_value, plain_bet(row, level, 0.1), 12)

  def test_betting_by_hand(self):
    # Variance 1/4 before the first draw, so nu = min(1, sqrt(2 log(10) / (2 /
    # 4))) = 1: at level .4 a draw of 0 multiplies the capital by 1.4. The
    # second stake uses mean .25 and variance (.25 + .0625) / 2 = .15625: nu = 1
    # again.
    values = np.array([0.0, 0.0])
    self.assertAlmostEqual(bounds.betting_p_value(values, 0.4, 0.1), 1.4**-2)
    # The highest capital counts: after 0 and 1 it is 1.4, then 1.4 * .4.
    values = np.array([0.0, 1.0])
    self.assertAlmostEqual(bounds.betting_p_value(values, 0.4, 0.1), 1 / 1.4)
    self.assertEqual(bounds.betting_p_value(values[::-1], 0.4, 0.1), 1.0)

  @parameterized.parameters('bernoulli', 'thirds', 'beta')
  def test_betting_is_valid_at_the_level(self, kind):
    # True mean = level .15. The p-value is valid at every delta, not only at
    # the one that the stakes are sized for.
    rng = np.random.default_rng(1)
    size = (4_000, 150)
    draws = {
        'bernoulli': lambda: rng.random(size) < 0.15,
        'thirds': lambda: rng.binomial(3, 0.15, size) / 3,
        'beta': lambda: rng.beta(0.3, 1.7, size),
    }[kind]()
    p_values = bounds.betting_p_value(draws, 0.15, 0.1)
    for delta in (0.01, 0.05, 0.1, 0.3):
      noise = 3 * np.sqrt(delta * (1 - delta) / 4_000)
      self.assertLessEqual(np.mean(p_values <= delta), delta + noise)
    self.assertGreater(np.mean(p_values <= 0.1), 0.02)  # The test has power.

  @parameterized.parameters(0.05, 0.1)
  def test_betting_upper_covers_and_is_tighter_where_variance_is_small(
      self, delta
  ):
    rng = np.random.default_rng(2)
    draws = rng.beta(3, 12, size=(300, 200))  # Mean .2, deviation .1.
    upper = np.array([bounds.betting_upper(row, delta) for row in draws])
    noise = 3 * np.sqrt(delta * (1 - delta) / 300)
    self.assertLessEqual(np.mean(upper < 0.2), delta + noise)
    hoeffding = [
        bounds.hoeffding_bentkus_upper(row.mean(), 200, delta) for row in draws
    ]
    self.assertLess(np.mean(upper) - 0.2, (np.mean(hoeffding) - 0.2) / 2)

  def test_betting_upper_inverts_the_p_value(self):
    values = np.random.default_rng(3).beta(1, 9, size=100)
    upper = bounds.betting_upper(values, 0.1)
    self.assertAlmostEqual(bounds.betting_p_value(values, upper, 0.1), 0.1, 9)
    p_values = [
        bounds.betting_p_value(values, level, 0.1)
        for level in np.linspace(0.01, 0.99, 50)
    ]
    self.assertTrue(np.all(np.diff(p_values) <= 0))
    self.assertEqual(bounds.betting_upper(np.ones(20), 0.1), 1.0)

  def test_betting_trajectories_needed_are_mostly_enough(self):
    # X = .1 or .3 with mean .2; the tested level is .25. The number assumes the
    # best constant stake. Learning it takes about 1.5 times as many draws.
    rng = np.random.default_rng(4)
    seen = rng.choice([0.1, 0.3], size=5_000)
    n = bounds.betting_trajectories_needed(seen, 0.25, 0.1)
    draws = rng.choice([0.1, 0.3], size=(200, int(1.5 * n)))
    passed = np.mean(bounds.betting_p_value(draws, 0.25, 0.1) <= 0.1)
    self.assertGreater(passed, 0.5)
    draws = draws[:, : n // 4]
    passed = np.mean(bounds.betting_p_value(draws, 0.25, 0.1) <= 0.1)
    self.assertLess(passed, 0.5)
    self.assertIsNone(bounds.betting_trajectories_needed(seen, 0.15, 0.1))
    # Zeros only: the best stake is 1, and the capital is (1 + level)^n.
    n = bounds.betting_trajectories_needed(np.zeros(5), 0.05, 0.1)
    self.assertEqual(n, int(np.ceil(np.log(10) / np.log(1.05))))

  @parameterized.parameters(([0.2, 1.1],), ([-0.1],), ([],))
  def test_betting_rejects_values_outside_the_range(self, values):
    with self.assertRaisesRegex(ValueError, 'values must be'):
      bounds.betting_p_value(np.array(values), 0.5, 0.1)

  @parameterized.parameters((0.05, 0.1, 45), (0.02, 0.1, 114), (0.5, 0.5, 1))
  def test_trajectories_needed_without_a_loss(self, level, delta, n):
    # (1 - .05) ** 44 = .105 > .1 >= (1 - .05) ** 45 = .0994.
    self.assertEqual(bounds.trajectories_needed(0.0, level, delta), n)
    self.assertLessEqual((1 - level) ** n, delta)
    self.assertGreater((1 - level) ** (n - 1), delta)

  def test_trajectories_needed_are_enough_and_may_not_exist(self):
    n = bounds.trajectories_needed(0.03, 0.05, 0.1)
    self.assertLessEqual(bounds.hoeffding_bentkus_p_value(0.03, n, 0.05), 0.1)
    self.assertIsNone(bounds.trajectories_needed(0.05, 0.05, 0.1))

  @parameterized.parameters(0.0, 1.0, -0.1)
  def test_level_outside_is_refused(self, level):
    with self.assertRaisesRegex(ValueError, r'level must be in \(0, 1\)'):
      bounds.binomial_p_value(1, 10, level)
    with self.assertRaisesRegex(ValueError, r'delta must be in \(0, 1\)'):
      bounds.clopper_pearson_upper(1, 10, level)


if __name__ == '__main__':
  absltest.main()
