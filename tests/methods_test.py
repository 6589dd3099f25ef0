"""Candidates: chosen on validation, seen on test."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.evaluation import methods
from routing.evaluation import metrics
from routing.outcomes import points as points_lib
from tests import ladders


def splits(num_problems=1_500):
  validation, seen = ladders.make_outcomes(num_problems, seed=1)
  test, unseen = ladders.make_outcomes(num_problems, seed=2)
  return validation, seen, test, unseen


def area(points):
  return metrics.area(points.mean_cost, points.accuracy)


class MethodsTest(parameterized.TestCase):

  def test_test_outcomes_have_no_say(self):
    validation, seen, test, unseen = splits(200)
    got = methods.thresholded(validation, seen, test, unseen)
    hull = metrics.upper_hull(got.validation.mean_cost, got.validation.accuracy)
    # Other test outcomes, same policies chosen.
    other = methods.Candidates(
        got.validation,
        points_lib.Points(
            got.test.cost, got.test.correct, got.test.gain, got.test.loss
        ),
    )
    np.testing.assert_array_equal(other.points().cost, got.test.correct[hull])
    np.testing.assert_array_equal(other.at_budget(0.5).cost.shape, (1, 200))

  def test_evidence_beats_chance_and_the_oracle_beats_all(self):
    validation, seen, test, unseen = splits()
    by_score = methods.thresholded(validation, seen, test, unseen)
    areas = [
        area(points)
        for points in (
            methods.random_hazard(validation, test).test,
            methods.fixed_step(validation, test).points(),
            by_score.points(),
            replay.oracle([test], methods.PRICES),
        )
    ]
    self.assertEqual(areas, sorted(areas))
    self.assertGreater(areas[2] - areas[1], 0.02)

  def test_a_useless_member_does_not_hurt_the_pool(self):
    validation, seen, test, unseen = splits()
    noise = np.random.default_rng(0)
    alone = methods.thresholded(validation, seen, test, unseen)
    useless = methods.thresholded(
        validation,
        noise.normal(size=seen.shape),
        test,
        noise.normal(size=unseen.shape),
    )
    pooled = methods.pooled([alone, useless])
    self.assertAlmostEqual(
        area(pooled.points()), area(alone.points()), delta=0.01
    )

  @parameterized.parameters(0.25, 0.6)
  def test_budget_is_kept_on_validation(self, budget):
    validation, seen, test, unseen = splits(300)
    got = methods.thresholded(validation, seen, test, unseen)
    cost, accuracy = got.validation.mean_cost, got.validation.accuracy
    best = max(a for a, c in zip(accuracy, cost, strict=True) if c <= budget)
    (index,) = [
        k
        for k in range(len(cost))
        if (got.test.correct[k] == got.at_budget(budget).correct[0]).all()
        and accuracy[k] == best
    ][:1]
    self.assertLessEqual(cost[index], budget)

  def test_nothing_within_budget_gives_the_cheapest(self):
    validation, _, test, _ = splits(50)
    got = methods.fixed_step(validation, test).at_budget(0.01)
    np.testing.assert_array_equal(got.cost[0], test.cost[:, -1])

  def test_coin_is_the_line_between_the_models(self):
    validation, _, test, _ = splits(50)
    got = methods.coin_per_question(validation, test).points()
    np.testing.assert_allclose(got.mean_cost, [0.1875, 1.0])


if __name__ == '__main__':
  absltest.main()
