"""Tests of the metrics of a curve, by hand and by invariance."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.evaluation import metrics

ANCHORS = metrics.Anchors(
    small_accuracy=0.4, small_cost=0.2, large_accuracy=0.9
)
# From the small model over one good point to the large model.
COST = np.array([0.2, 0.5, 1.0])
ACCURACY = np.array([0.4, 0.8, 0.9])


class HullTest(parameterized.TestCase):

  def test_keeps_only_vertices(self):
    # (.4, .5) is under the line from (.2, .4) to (.5, .8); (.6, .7) is beaten.
    cost = np.array([0.6, 0.2, 0.4, 1.0, 0.5, 0.5])
    accuracy = np.array([0.7, 0.4, 0.5, 0.9, 0.8, 0.6])
    np.testing.assert_array_equal(metrics.upper_hull(cost, accuracy), [1, 4, 3])

  def test_no_mixture_of_two_points_is_above(self):
    rng = np.random.default_rng(0)
    cost, accuracy = rng.random((2, 40))
    hull = metrics.upper_hull(cost, accuracy)
    for first in range(40):
      for second in range(40):
        for share in (0.0, 0.3, 0.5, 0.9):
          x = share * cost[first] + (1 - share) * cost[second]
          y = share * accuracy[first] + (1 - share) * accuracy[second]
          (best,) = metrics.accuracy_at(cost[hull], accuracy[hull], [x])
          self.assertLessEqual(y, best + 1e-12)
    self.assertTrue((np.diff(cost[hull]) > 0).all())

  def test_equal_points_appear_once(self):
    hull = metrics.upper_hull(np.array([0.1, 0.1]), np.array([0.5, 0.5]))
    self.assertLen(hull, 1)


class InterpolateTest(parameterized.TestCase):

  def test_equals_numpy_row_by_row(self):
    rng = np.random.default_rng(1)
    cost, accuracy = rng.random((2, 30, 7))
    grid = np.linspace(-0.2, 1.2, 57)
    got = metrics.interpolate(cost, accuracy, grid)
    for row in range(30):
      order = np.argsort(cost[row])
      np.testing.assert_allclose(
          got[row], np.interp(grid, cost[row][order], accuracy[row][order])
      )

  def test_single_point_is_flat(self):
    got = metrics.accuracy_at(np.array([0.5]), np.array([0.7]), [0.1, 0.5, 2])
    np.testing.assert_array_equal(got, 0.7)

  def test_a_wrong_shape_raises(self):
    with self.assertRaisesRegex(ValueError, r'must be \[R, K\]'):
      metrics.interpolate(np.zeros((2, 3)), np.zeros((2, 4)), np.zeros(1))


class FiguresTest(parameterized.TestCase):

  def test_area_by_hand(self):
    # Straight from .4 at .2 to .8 at .5, 31 points of mean .6; then on to .86
    # at .8, 30 points of mean (.802 + .86) / 2.
    want = (31 * 0.6 + 30 * (0.802 + 0.86) / 2) / 61
    self.assertAlmostEqual(metrics.area(COST, ACCURACY), want)

  def test_area_does_not_depend_on_order_or_inner_points(self):
    want = metrics.area(COST, ACCURACY)
    self.assertAlmostEqual(metrics.area(COST[::-1], ACCURACY[::-1]), want)
    cost, accuracy = np.append(COST, 0.35), np.append(ACCURACY, 0.6)
    self.assertAlmostEqual(metrics.area(cost, accuracy), want)

  @parameterized.parameters(
      (0.4, 0.2),  # Already there.
      (0.6, 0.35),  # Half-way up the first line.
      (0.85, 0.75),  # Half-way up the second.
      (0.9, 1.0),
      (0.91, np.inf),
  )
  def test_cost_to_reach(self, target, want):
    self.assertAlmostEqual(metrics.cost_to_reach(COST, ACCURACY, target), want)

  def test_straight_line_recovers_half_the_gap(self):
    cost, accuracy = np.array([0.2, 1.0]), np.array([0.4, 0.9])
    got = metrics.mean_gap_recovered(cost, accuracy, ANCHORS)
    self.assertAlmostEqual(got, 0.5)
    np.testing.assert_allclose(
        metrics.relative_ibc_gain(cost, accuracy, ANCHORS, [0.3, 0.6]),
        0.0,
        atol=1e-12,
    )

  def test_summary_by_hand(self):
    # At .4: .4 + (.2 / .3) * .4 = .66667, PGR .53333.
    # IBC there (.26667 / .2) = 1.3333 against .5 / .8 = .625: gain 1.13333.
    # CPT50: .65 at .2 + .25 / .4 * .3 = .3875. CPT80 = .5. CPT95: .875 at .875.
    # 1 point lost: .89 at .95; .5 points: .895 at .975.
    # AIQ over .2 to 1: (.3 * .6 + .5 * .85) / .8 = .75625. APGR from it:
    # (.75625 - .4) / .5 = .7125.
    got = metrics.summary(COST, ACCURACY, ANCHORS)
    self.assertAlmostEqual(got['accuracy_at']['0.4'], 2 / 3)
    self.assertAlmostEqual(got['gap_recovered_at']['0.4'], 0.8 * 2 / 3)
    self.assertAlmostEqual(got['relative_ibc_gain_at']['0.4'], 1.13333, 5)
    self.assertTrue(np.isnan(got['relative_ibc_gain_at']['0.2']))
    self.assertAlmostEqual(got['cost_to_recover']['50'], 0.3875)
    self.assertAlmostEqual(got['cost_to_recover']['80'], 0.5)
    self.assertAlmostEqual(got['cost_to_recover']['95'], 0.875)
    self.assertAlmostEqual(got['cost_at_points_lost']['1'], 0.95)
    self.assertAlmostEqual(got['cost_at_points_lost']['0.5'], 0.975)
    self.assertAlmostEqual(got['average_quality'], 0.75625, 4)
    self.assertAlmostEqual(got['mean_gap_recovered'], 0.7125, 4)

  def test_equal_models_have_no_gap_to_recover(self):
    flat = metrics.Anchors(0.5, 0.2, 0.5)
    got = metrics.summary(COST, np.full(3, 0.5), flat)
    self.assertTrue(np.isnan(got['mean_gap_recovered']))

  def test_headroom_by_hand(self):
    # From the line at .5 to the oracle at .9, .7 is half of the way.
    self.assertAlmostEqual(metrics.headroom_share(0.7, 0.9, 0.5), 0.5)
    self.assertTrue(np.isnan(metrics.headroom_share(0.5, 0.5, 0.5)))

  def test_a_budget_below_the_cheapest_point_gives_nan(self):
    got = metrics.summary(COST + 0.1, ACCURACY, ANCHORS)
    self.assertTrue(np.isnan(got['accuracy_at']['0.2']))
    self.assertTrue(np.isnan(got['gap_recovered_at']['0.2']))
    self.assertFalse(np.isnan(got['accuracy_at']['0.4']))

  def test_below_its_cheapest_point_a_curve_is_mixed_with_the_small_model(self):
    # The small model alone, .4 at .2, then one point, .8 at .6, to .9 at 1:
    # heights .6 and .85, gaps recovered .4 and .9 of the way.
    cost, accuracy = np.array([0.6, 1.0]), np.array([0.8, 0.9])
    got = metrics.summary(cost, accuracy, ANCHORS)
    self.assertAlmostEqual(got['average_quality'], 0.725, 4)
    self.assertAlmostEqual(got['mean_gap_recovered'], 0.65, 4)
    self.assertTrue(np.isnan(got['relative_ibc_gain_at']['0.4']))
    self.assertFalse(np.isnan(got['relative_ibc_gain_at']['0.6']))

  def test_costs_below_the_curve_count_as_zero_in_tuning(self):
    self.assertAlmostEqual(
        metrics.area_for_tuning(COST, ACCURACY), metrics.area(COST, ACCURACY)
    )
    # 21 of the 61 costs, a third, are .6 or more.
    cost, accuracy = np.array([0.6, 1.0]), np.array([0.9, 0.9])
    self.assertAlmostEqual(
        metrics.area_for_tuning(cost, accuracy), 21 / 61 * 0.9
    )
    self.assertEqual(metrics.area_for_tuning(np.ones(1), np.ones(1)), 0.0)

  def test_models_of_equal_cost_have_no_slope(self):
    alike = metrics.Anchors(0.4, 1.0, 0.9)
    got = metrics.summary(COST, ACCURACY, alike)
    self.assertTrue(np.isnan(got['relative_ibc_gain_at']['0.6']))


if __name__ == '__main__':
  absltest.main()
