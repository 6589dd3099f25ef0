"""Tests of candidate thresholds by hand: grids, paths, choices, edge cases."""

import itertools

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.calibration import joint
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from routing.outcomes import stopping as stopping_lib
from tests import ladders

INF = np.inf
Risk = risks_lib.Risk


class GridTest(parameterized.TestCase):

  def test_quantiles_of_records_by_hand(self):
    # A record is a score above all earlier ones of its problem: 1 and 3 of the
    # first problem (2 follows 3, and the last entry is padding), 5 of the
    # second, 4 and 6 of the third.
    scores = np.array([[1.0, 3, 2, 9], [5, 5, 4, 9], [4, 6, 1, 9]])
    mask = np.arange(4) < np.array([[3], [3], [3]])
    for size, inner in (
        (5, [1, 3, 4, 5, 6]),
        (3, [1, 4, 6]),
        (2, [1, 6]),
        # Quantiles at 0, 1.33, 2.67 and 4 take the lower of two records.
        (4, [1, 3, 4, 6]),
    ):
      got = thresholds_lib.grid(scores, mask, size)
      self.assertEqual(got.tolist(), [-INF, *inner, INF])
    self.assertEqual(mask.sum(), 9)  # The mask is not changed.

  def test_a_score_before_the_first_decision_is_no_record(self):
    mask = np.array([[False, True, True]])
    got = thresholds_lib.grid(np.array([[7.0, 1.0, 2.0]]), mask, 2)
    self.assertEqual(got.tolist(), [-INF, 1, 2, INF])

  def test_default_sizes(self):
    scores = np.random.default_rng(0).random((500, 1))
    mask = np.ones((500, 1), bool)
    self.assertLen(thresholds_lib.grid(scores, mask), 202)
    self.assertLen(joint.grid(scores[..., None], mask), 17)
    found = joint.depth_grid(scores[:, 0], np.zeros(500, int), (0,), 1)
    self.assertLen(found, 17)

  def test_joint_grid_by_hand(self):
    # The first channel has scores at all decisions, the second only at the last
    # decision of the first two problems. Scores outside the mask are ignored.
    scores = np.array(
        [[[1.0, -INF], [2, 30]], [[3, -INF], [4, 10]], [[5, -INF], [99, 99]]]
    )
    mask = np.array([[True, True], [True, True], [True, False]])
    got = joint.grid(scores, mask, 3)
    axes = [[-INF, 1, 3, 5, INF], [-INF, 10, 30, INF]]
    self.assertEqual(got.tolist(), list(map(list, itertools.product(*axes))))

  def test_depth_grid_by_hand(self):
    # Depths 0 and 1 form one group, depths from 2 on another.
    scores = np.array([0.1, 0.2, 0.3, 0.9, 0.8])
    depth = np.array([0, 1, 0, 2, 5])
    got = joint.depth_grid(scores, depth, (0, 2), 4, 3)
    early, late = [-INF, 0.1, 0.2, 0.3, INF], [-INF, 0.8, 0.9, INF]
    want = [[a, a, b, b] for a, b in itertools.product(early, late)]
    self.assertEqual(got.tolist(), want)

  @parameterized.parameters(((1, 2),), ((0, 0),), ((0, 2, 2),), ((0, 3, 2),))
  def test_starts_must_rise_from_zero(self, starts):
    with self.assertRaisesRegex(ValueError, 'must rise from 0'):
      joint.depth_grid(np.zeros(5), np.arange(5), starts, 5)
    with self.assertRaisesRegex(ValueError, 'must rise from 0'):
      joint.by_step(np.zeros((1, 5)), starts)

  def test_a_group_without_a_decision_is_refused(self):
    with self.assertRaisesRegex(
        ValueError, 'No problem has a decision in the group that starts at 3'
    ):
      joint.depth_grid(np.zeros(4), np.array([0, 1, 2, 2]), (0, 3), 5)
    # One decision is enough.
    found = joint.depth_grid(np.arange(4.0), np.array([0, 1, 2, 3]), (0, 3), 5)
    self.assertEqual(set(found[:, 4]), {-INF, 3.0, INF})


class ChannelsTest(parameterized.TestCase):

  def test_groups_with_one_step_and_with_none(self):
    scores = np.array([[1.0, 2.0, 3.0]])
    got = joint.by_step(scores, (0, 1, 2, 9))
    want = np.full((1, 3, 4), -INF)
    for step in range(3):
      want[0, step, step] = step + 1
    np.testing.assert_array_equal(got, want)
    self.assertEqual(got.dtype, np.float64)

  @parameterized.parameters((1, False), (2, True), (3, True), (0, True))
  def test_one_table_or_one_per_channel(self, num, is_refused):
    outcomes, scores = ladders.make_outcomes(10)
    call = lambda: joint.values_at(
        joint.by_step(scores, (0, 2, 3, 4)), [outcomes] * num, np.zeros((1, 4))
    )
    if is_refused:
      with self.assertRaisesRegex(ValueError, f'4 tables, got {num}'):
        call()
    else:
      self.assertEqual(call()['cost'].shape, (1, 10))


class PathTest(absltest.TestCase):

  def test_by_hand(self):
    # 1 is better than 3 in both; 0 costs less than 4 at an equal loss.
    loss = np.array([0.1, 0.2, 0.0, 0.3, 0.1])
    cost = np.array([0.6, 0.4, 0.9, 0.5, 0.7])
    self.assertEqual(joint.pareto_path(loss, cost).tolist(), [2, 0, 1])

  def test_candidates_that_differ_by_rounding_are_equal(self):
    for shift in (1e-12, -1e-12, 3e-11):
      loss = np.array([0.1, 0.1 + shift])
      cost = np.array([0.5, 0.5 - shift])
      self.assertLen(joint.pareto_path(loss, cost), 1)
      cost = np.array([0.5, 0.4])
      self.assertEqual(joint.pareto_path(loss, cost).tolist(), [1])
      cost = np.array([0.4, 0.5])
      self.assertEqual(joint.pareto_path(loss, cost).tolist(), [0])
    loss = np.array([0.1, 0.2])
    for shift in (1e-12, 3e-11):
      cost = np.array([0.5, 0.5 - shift])
      self.assertEqual(joint.pareto_path(loss, cost).tolist(), [0])
    # Differences of 2e-10 and more are not rounding.
    for shift in (1e-7, 2e-10):
      loss, cost = np.array([0.1, 0.1 + shift]), np.array([0.5, 0.5 - shift])
      self.assertEqual(joint.pareto_path(loss, cost).tolist(), [0, 1])


class BestTest(absltest.TestCase):

  def test_the_highest_value_and_the_cheapest_of_equals(self):
    value = np.array([0.5, 0.9, 0.9, 0.9, 1.0])
    cost = np.array([0.1, 0.4, 0.2, 0.3, 0.9])
    best = lambda *x: thresholds_lib.best(np.array(x), value, cost)
    self.assertEqual(best(0, 1, 2, 3), 2)
    self.assertEqual(best(0, 1, 3), 3)
    self.assertEqual(best(0, 1, 2, 3, 4), 4)
    self.assertEqual(best(0), 0)

  def test_values_that_differ_by_rounding_are_equal(self):
    cost = np.array([0.4, 0.2])
    both = np.arange(2)
    for shift in (1e-12, 3e-11):
      value = np.array([0.9 + shift, 0.9])
      self.assertEqual(thresholds_lib.best(both, value, cost), 1)
    for shift in (1e-7, 2e-10):
      value = np.array([0.9 + shift, 0.9])
      self.assertEqual(thresholds_lib.best(both, value, cost), 0)


def values(losses, costs, n=400):
  """Returns `[K, n]` values by quantity, for numbers of losses and costs."""
  loss = (np.arange(n) < np.array(losses)[:, None]).astype(float)
  cost = np.repeat(np.array(costs, float)[:, None], n, axis=1)
  gain = np.full(loss.shape, 0.25)
  return {'correct': 1 - loss, 'loss': loss, 'cost': cost, 'gain': gain}


class FromValuesTest(parameterized.TestCase):

  def test_means_and_promise_by_hand(self):
    # P(Bin(400, .1) <= 0, 20, 60) = 5e-19, 2e-4 and 1: two are proven.
    risk = Risk('loss', 0.1, 0.05, p_value='binomial', num_choices=2)
    found = values([0, 20, 60], [0.9, 0.5, 0.2])
    point = thresholds_lib.from_values(found, np.array([1.0, 2, 3]), [risk])
    self.assertEqual(point.threshold, 2.0)
    self.assertEqual(
        (point.accuracy, point.loss, point.gain), (0.95, 0.05, 0.25)
    )
    self.assertAlmostEqual(point.cost, 0.5)
    promise = point.promise
    self.assertEqual(
        (promise.quantity, promise.level, promise.delta, promise.num_problems),
        ('loss', 0.1, 0.05, 400),
    )
    want = risks_lib.p_values(found['loss'], risk)[1]
    self.assertEqual(promise.p_value, want)
    self.assertEqual((promise.test, promise.cost_cap), ('binomial', None))
    self.assertEqual((promise.num_choices, promise.num_joint), (2, 1))

  def test_a_cost_promise_takes_the_most_accurate_and_records_its_cap(self):
    # As shares of the cap 2, the costs are .45, .25 and .1, and the level is
    # .35. The last two are proven.
    risk = Risk('cost', 0.7, 0.1, 2.0, 'hoeffding_bentkus')
    found = values([0, 20, 60], [0.9, 0.5, 0.2])
    point = thresholds_lib.from_values(found, np.arange(3.0), [risk])
    self.assertEqual(point.threshold, 1.0)
    self.assertEqual(point.promise.cost_cap, 2.0)
    self.assertEqual(point.promise.test, 'hoeffding_bentkus')

  def test_thresholds_of_one_candidate_stay_together(self):
    risk = Risk('loss', 0.1, 0.05)
    kappas = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    order = np.array([1, 2, 0])
    point = thresholds_lib.from_values(
        values([60, 0, 20], [0.2, 0.9, 0.5]),
        kappas,
        [risk],
        orders={'loss': order},
    )
    self.assertEqual(point.threshold, (3.0, 30.0))

  def test_risks_must_be_of_different_quantities(self):
    risk = Risk('loss', 0.1, 0.05)
    for risks in ([], [risk, Risk('loss', 0.2, 0.05)]):
      with self.assertRaisesRegex(ValueError, 'of different quantities'):
        thresholds_lib.from_values(values([0], [0.5]), np.zeros(1), risks)

  def test_thresholds_rise_unless_orders_are_given(self):
    risk, found = Risk('loss', 0.1, 0.05), values([0, 1], [0.9, 0.5])
    with self.assertRaisesRegex(ValueError, 'rise'):
      thresholds_lib.from_values(found, np.array([2.0, 1.0]), [risk])
    order = {'loss': np.array([0, 1])}
    point = thresholds_lib.from_values(
        found, np.array([2.0, 1.0]), [risk], orders=order
    )
    self.assertEqual(point.threshold, 1.0)


class MaxCostTest(parameterized.TestCase):

  @parameterized.parameters(
      (0.5, [2]), (0.5 + 1e-7, [1, 2]), (0.6, [1, 2]), (INF, [0, 1, 2])
  )
  def test_below_is_strictly_below(self, max_cost, want):
    cost = np.array([0.9, 0.5, 0.2])
    got = thresholds_lib.below(max_cost, np.arange(3), cost, [])
    self.assertEqual(got.tolist(), want)

  def test_a_cost_below_by_rounding_only_is_not_below(self):
    cost = np.array([0.9, 0.5 - 1e-12, 0.2])
    got = thresholds_lib.below(0.5, np.arange(3), cost, [])
    self.assertEqual(got.tolist(), [2])

  @parameterized.parameters(
      ([Risk('loss', 0.1, 0.1)], True),
      ([Risk('cost', 0.9, 0.1, 2.0)], False),
      ([Risk('cost', 1.0, 0.1, 2.0)], True),
      ([Risk('loss', 0.1, 0.1), Risk('cost', 0.9, 0.1, 2.0)], False),
  )
  def test_the_error_says_whether_the_large_model_keeps_the_promise(
      self, risks, is_kept
  ):
    cost = np.array([1.2, 1.1])
    with self.assertRaisesRegex(
        risks_lib.Refusal, r'that cost 1\.100 or more.* must be below 1\.'
    ) as caught:
      thresholds_lib.below(1.0, np.arange(2), cost, risks)
    says = 'the large model alone, which keeps this promise'
    self.assertEqual(says in str(caught.exception), is_kept)
    self.assertIsNone(caught.exception.needed)


class BudgetTest(absltest.TestCase):

  def test_a_budget_is_from_the_small_model_alone_to_the_large(self):
    for budget in (0.2, 0.5, 1.0):
      self.assertEqual(thresholds_lib.check_budget(budget, 0.2), budget)
    for budget in (0.2 - 1e-9, 1 + 1e-9, np.nan):
      with self.assertRaisesRegex(ValueError, r'outside \[0.200, 1\]'):
        thresholds_lib.check_budget(budget, 0.2)


class ChoiceTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    # Two problems with one decision each. Handing over costs 1 and is right;
    # staying costs .2 and is right on the first problem.
    mask = np.ones((2, 1), bool)
    table = lambda a, b: np.array([[a, b], [a, 0.0]], float)
    self.outcomes = stopping_lib.Outcomes(
        mask=mask,
        correct=table(1, 1),
        cost=np.array([[1, 0.2], [1, 0.2]]),
        loss=np.array([[0, 0], [0, 1.0]]),
        gain=np.zeros((2, 2)),
    )
    self.scores = np.array([[0.1], [0.7]])

  def test_a_cost_equal_to_the_budget_is_allowed(self):
    # At .7 one of two is handed over: cost .6, both right.
    got = thresholds_lib.for_budget(self.scores, self.outcomes, 0.6)
    self.assertEqual((got.accuracy, got.cost, got.loss), (1.0, 0.6, 0.0))
    got = thresholds_lib.for_budget(self.scores, self.outcomes, 0.59)
    self.assertEqual((got.accuracy, got.cost, got.loss), (0.5, 0.2, 0.5))
    self.assertEqual(got.promise.num_problems, 2)
    self.assertIsNone(got.promise.delta)
    got = thresholds_lib.for_budget(self.scores, self.outcomes, 0.2)
    self.assertEqual(got.cost, 0.2)

  def test_a_loss_equal_to_the_level_is_allowed(self):
    got = thresholds_lib.for_loss(self.scores, self.outcomes, 0.5)
    self.assertEqual((got.cost, got.promise.level), (0.2, 0.5))
    self.assertIsNone(got.promise.delta)
    got = thresholds_lib.for_loss(self.scores, self.outcomes, 0.49)
    self.assertEqual(got.cost, 0.6)


if __name__ == '__main__':
  absltest.main()
