"""Tests of the set-valued rule by hand and by loops: ranks, sets, errors."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import stats

from routing.calibration import conformal
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from routing.outcomes import stopping as stopping_lib
from tests import conformal_test


def table(mask, loss, cost=None, correct=None):
  """Returns outcomes whose missing quantities equal the loss."""
  pick = lambda x: loss if x is None else x
  return stopping_lib.Outcomes(mask, pick(correct), pick(cost), loss, loss)


def plain_conformity(probabilities, tables, row):
  """Returns the minimum over open decisions of the best acceptable probability.

  Decisions are open until the first at which staying is not acceptable.
  """
  smallest = np.inf
  for step in np.flatnonzero(tables[0].mask[row]):
    later = [
        t.loss[row, s]
        for t in tables
        for s in np.flatnonzero(tables[0].mask[row])
        if s > step
    ]
    can_stay = 0 in [*later, tables[0].loss[row, -1]]
    acceptable = [probabilities[row, step, 0]] if can_stay else []
    acceptable += [
        probabilities[row, step, route]
        for route, t in enumerate(tables, start=1)
        if t.loss[row, step] == 0
    ]
    smallest = min(smallest, max(acceptable, default=-np.inf))
    if not can_stay:
      return smallest
  return smallest


def ranked(conformities):
  """Returns probabilities and a table with given conformities below 1/2.

  Each problem has one decision, and only handing over is acceptable. Its
  probability is the conformity.
  """
  leave = np.asarray(conformities, float)
  probabilities = np.stack([1 - leave, leave], axis=-1)[:, None]
  num = len(leave)
  loss = np.tile([0.0, 1.0], (num, 1))
  return probabilities, [table(np.ones((num, 1), bool), loss)]


class RuleTest(parameterized.TestCase):

  @parameterized.parameters(2, 3, 4)
  def test_conformity_equals_the_plain_loop(self, num_routes):
    probabilities, tables = conformal_test.make(120, num_routes, seed=5)
    got = conformal.conformity(probabilities, tables)
    want = [plain_conformity(probabilities, tables, k) for k in range(120)]
    np.testing.assert_allclose(got, want, rtol=0, atol=0)
    self.assertGreater(len(set(want)), 60)

  def test_acceptable_of_three_routes_by_hand(self):
    mask = np.array([[True, True], [True, True], [True, False]])
    small = np.array([[0, 1, 1.0], [0.5, 1, 1], [1, 0, 0]])
    large = np.array([[1, 0, 1.0], [0, 0.1, 1], [1, 0, 0]])
    got = conformal.acceptable([table(mask, small), table(mask, large)])
    want = [
        # The medium model is right at 0, the largest at 1, after staying at 0.
        [[True, True, False], [False, False, True]],
        # A loss between 0 and 1 counts as lost; after staying all are wrong.
        [[False, False, True], [False, False, False]],
        # There is one decision, after which the small model is right.
        [[True, False, False], [False, False, False]],
    ]
    self.assertEqual(got.tolist(), want)

  @parameterized.parameters(2, 4)
  def test_exits_of_many_kappas_equal_the_plain_walk(self, num_routes):
    probabilities, tables = conformal_test.make(60, num_routes, seed=7)
    # A probability equal to kappa is in the set.
    kappas = np.r_[0.0, 0.15, probabilities[3, 0], 0.6, 1.0, 2.0]
    times, channels = conformal.exits(probabilities, tables[0].mask, kappas)
    self.assertEqual(times.shape, (len(kappas), 60))
    for k, kappa in enumerate(kappas):
      for row in range(60):
        time, route = conformal_test.walk(probabilities, tables, row, kappa)
        self.assertEqual(
            (times[k, row], channels[k, row]), (time, max(route - 1, 0))
        )

  def test_a_set_of_one_route_is_taken_and_else_the_largest_model(self):
    rows = np.array([[0.2, 0.7, 0.1], [0.45, 0.45, 0.1], [0.6, 0.2, 0.2]])
    times, channels = conformal.exits(
        rows[:, None], np.ones((3, 1), bool), np.array([0.4, 0.65])
    )
    # {medium}, {small, medium}, {small}; then {medium}, {}, {}.
    self.assertEqual(times.tolist(), [[0, 0, 1], [0, 0, 0]])
    self.assertEqual(channels.tolist(), [[0, 1, 0], [0, 1, 1]])


class RankTest(parameterized.TestCase):

  def kappa(self, num, alpha, delta=None):
    """Returns the rank of kappa; conformities are 1, ..., n thousandths."""
    order = np.random.default_rng(0).permutation(num)
    probabilities, tables = ranked((1 + order) / 1_000)
    point = conformal.split_conformal(
        probabilities, tables, alpha=alpha, delta=delta
    )
    self.assertIsInstance(point, thresholds_lib.OperatingPoint)
    return round(1_000 * point.threshold)

  @parameterized.parameters(
      (9, 0.1, 1),
      (18, 0.1, 1),  # 1.9.
      (19, 0.1, 2),
      (3, 0.3, 1),  # 1.2.
      (99, 0.29, 29),  # The product is below 29 by rounding.
      (99, (29 - 4e-8) / 100, 29 - 1),
      (99, (29 - 4e-9) / 100, 29 - 1),
      (99, (29 - 4e-10) / 100, 29),
  )
  def test_without_a_delta(self, num, alpha, rank):
    self.assertEqual(self.kappa(num, alpha), rank)

  @parameterized.parameters((50, 0.2, 0.1), (200, 0.1, 0.05), (30, 0.5, 0.3))
  def test_with_a_delta(self, num, alpha, delta):
    # The rank is the largest k with P(Bin(n, alpha) < k) <= delta.
    rank = max(
        k for k in range(num + 1) if stats.binom.cdf(k - 1, num, alpha) <= delta
    )
    self.assertEqual(self.kappa(num, alpha, delta), rank)

  def test_a_probability_equal_to_delta_is_allowed(self):
    # P(Bin(2, 1/2) < 2) = 3/4.
    self.assertEqual(self.kappa(2, 0.5, 0.75), 2)
    self.assertEqual(self.kappa(2, 0.5, 0.74), 1)

  @parameterized.parameters(
      (2, 0.3, None, 3), (8, 0.1, None, 9), (4, 0.17, None, 5), (6, 0.3, 0.1, 7)
  )
  def test_the_error_for_too_few_problems_says_the_minimum(
      self, num, alpha, delta, minimum
  ):
    with self.assertRaises(risks_lib.Refusal) as caught:
      self.kappa(num, alpha, delta)
    self.assertEqual(caught.exception.needed, minimum)
    self.assertEqual(self.kappa(minimum, alpha, delta), 1)

  def test_as_many_problems_without_an_answer_as_the_rank_are_refused(self):
    # The rank is 2 of 19, so one problem that no route solves is allowed.
    leave = np.arange(1, 20) / 100
    for num_lost, is_refused in ((1, False), (2, True)):
      probabilities, tables = ranked(leave)
      tables[0].loss[:num_lost] = 1.0
      call = lambda x=probabilities, y=tables: conformal.split_conformal(
          x, y, alpha=0.1
      )
      if is_refused:
        with self.assertRaisesRegex(
            risks_lib.Refusal, 'at least 2 of 19 pro'
        ) as e:
          call()
        self.assertIsNone(e.exception.needed)
      else:
        self.assertEqual(call().threshold, 0.02)

  @parameterized.parameters(0.0, 1.0)
  def test_alpha_and_delta_must_be_in_range(self, edge):
    probabilities, tables = ranked(np.arange(1, 60) / 100)
    for args in (dict(alpha=edge), dict(alpha=0.1, delta=edge)):
      with self.assertRaisesRegex(ValueError, r'must be in \(0, 1\)'):
        conformal.split_conformal(probabilities, tables, **args)


class PointTest(parameterized.TestCase):

  @parameterized.parameters(2, 3)
  def test_all_means_and_the_promise(self, num_routes):
    probabilities, tables = conformal_test.make(80, num_routes, seed=9)
    point = conformal.split_conformal(
        probabilities, tables, alpha=0.2, delta=0.1
    )
    ends = [
        conformal_test.walk(probabilities, tables, k, point.threshold)
        for k in range(80)
    ]
    for name, field in (
        ('accuracy', 'correct'),
        ('cost', 'cost'),
        ('loss', 'loss'),
        ('gain', 'gain'),
    ):
      found = [
          getattr(tables[max(route - 1, 0)], field)[row, time]
          for row, (time, route) in enumerate(ends)
      ]
      self.assertAlmostEqual(getattr(point, name), np.mean(found), msg=name)
    (promise,) = point.promises
    self.assertEqual(
        (promise.quantity, promise.level, promise.delta, promise.num_problems),
        ('miscoverage', 0.2, 0.1, 80),
    )
    self.assertEqual((promise.test, promise.is_marginal), ('conformal', False))


if __name__ == '__main__':
  absltest.main()
