"""Tests of candidates, which are chosen on `select` and shown on `test`."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.evaluation import methods
from routing.evaluation import metrics
from routing.outcomes import points as points_lib
from routing.routers import families
from tests import ladders


def pair(num_problems=1_500):
  return methods.Pair(
      ladders.make_known(num_problems, seed=1),
      ladders.make_known(num_problems, seed=2),
  )


def by_score(given, spread=0.0):
  return methods.thresholded([ladders.Family(spread)], given, 'price')


def area(points):
  return metrics.area(points.mean_cost, points.accuracy)


class MethodsTest(parameterized.TestCase):

  def test_test_outcomes_do_not_influence_the_choice(self):
    got = by_score(pair(200))
    hull = metrics.upper_hull(got.select.mean_cost, got.select.accuracy)
    # Other test outcomes, same policies chosen.
    other = methods.Candidates(
        got.select,
        points_lib.Points(
            got.test.cost, got.test.correct, got.test.gain, got.test.loss
        ),
    )
    np.testing.assert_array_equal(other.points().cost, got.test.correct[hull])
    np.testing.assert_array_equal(other.at_budget(0.5).cost.shape, (1, 200))

  def test_informative_scores_beat_random_and_the_oracle_beats_all(self):
    given = pair()
    steps = methods.thresholded([families.FixedStep()], given, 'price')
    areas = [
        area(points)
        for points in (
            methods.random_per_step(given, 'price').test,
            steps.points(),
            by_score(given).points(),
            given.test.oracle(methods.PRICES, 'price'),
        )
    ]
    self.assertEqual(areas, sorted(areas))
    self.assertGreater(areas[2] - areas[1], 0.02)

  def test_a_useless_policy_does_not_hurt_the_pool(self):
    given = pair()
    alone = by_score(given)
    pooled = methods.pooled([alone, by_score(given, spread=1e3)])
    self.assertAlmostEqual(
        area(pooled.points()), area(alone.points()), delta=0.01
    )

  @parameterized.parameters(0.25, 0.6)
  def test_the_budget_holds_on_select(self, budget):
    got = by_score(pair(300))
    cost, accuracy = got.select.mean_cost, got.select.accuracy
    best = max(a for a, c in zip(accuracy, cost, strict=True) if c <= budget)
    (index,) = [
        k
        for k in range(len(cost))
        if (got.test.correct[k] == got.at_budget(budget).correct[0]).all()
        and accuracy[k] == best
    ][:1]
    self.assertLessEqual(cost[index], budget)

  def test_nothing_within_budget_gives_the_cheapest(self):
    given = pair(50)
    got = by_score(given).at_budget(0.01)
    want = given.test.at_rates([0.0], 'price')
    np.testing.assert_array_equal(got.cost, want.cost)

  def test_random_per_question_is_the_line_between_the_models(self):
    got = methods.random_per_question(pair(50), 'price').points()
    np.testing.assert_allclose(got.mean_cost, [0.1875, 1.0])

  def test_the_area_leaves_out_costs_below_the_curve(self):
    # The cheapest point costs .5: from there to .8 the mean height of the line
    # from (.5, .6) to (1, 1) is .6 + .8 * .15 = .72.
    cost, accuracy = np.array([0.5, 1.0]), np.array([0.6, 1.0])
    self.assertAlmostEqual(metrics.area(cost, accuracy), 0.72)
    np.testing.assert_allclose(metrics.area_grid(0.5)[[0, -1]], [0.5, 0.8])
    self.assertTrue(np.isnan(metrics.area(np.array([0.9]), np.array([1.0]))))


if __name__ == '__main__':
  absltest.main()
