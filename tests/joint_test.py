"""Joint thresholds: step-by-step twins, Pareto fronts, and validity."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import stats

from routing.calibration import joint
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from routing.outcomes import stopping as stopping_lib
from tests import ladders

Risk = risks_lib.Risk
INF = np.inf


def walk(scores, mask, thresholds):
  """Returns when and by which channel, computed step by step."""
  times, channels = [], []
  for row, exists in zip(scores, mask, strict=True):
    time, channel = len(row), 0
    for step in np.flatnonzero(exists):
      reached = [
          g
          for g, kappa in enumerate(thresholds)
          if row[step, g] > -INF and row[step, g] >= kappa
      ]
      if reached:
        time, channel = step, reached[-1]
        break
    times.append(time)
    channels.append(channel)
  return times, channels


def two_scales(num_problems, seed):
  """Returns ladders whose late scores have another scale than early ones."""
  outcomes, scores = ladders.make_outcomes(num_problems, seed=seed)
  scores = scores.astype(np.float64)
  scores[:, 3:] = 5 * scores[:, 3:] + 4
  return outcomes, np.where(outcomes.mask, scores, 0.0)


class ChannelsTest(parameterized.TestCase):

  def test_by_step_by_hand(self):
    got = joint.by_step(np.array([[1.0, 2.0, 3.0]]), (0, 2))
    want = [[[1, -INF], [2, -INF], [-INF, 3]]]
    np.testing.assert_array_equal(got, want)

  @parameterized.parameters(((1, 2),), ((0, 2, 2),))
  def test_starts_must_rise_from_zero(self, starts):
    with self.assertRaisesRegex(ValueError, 'must rise from 0'):
      joint.by_step(np.zeros((1, 3)), starts)

  @parameterized.parameters(None, 5)
  def test_exits_equal_a_walk_step_by_step(self, num_levels):
    outcomes, scores = ladders.make_outcomes(80, seed=1, num_levels=num_levels)
    rng = np.random.default_rng(0)
    both = np.stack([scores, rng.permuted(scores, axis=0)], axis=-1)
    both[rng.random(both.shape) < 0.2] = -INF
    thresholds = np.array(
        [[-INF, INF], [0.5, 1.0], [1.0, -INF], [INF, INF], [-INF, -INF]]
    )
    times, channels = joint.exits(both, outcomes.mask, thresholds)
    for k, row in enumerate(thresholds):
      want = walk(both, outcomes.mask, row)
      self.assertEqual((times[k].tolist(), channels[k].tolist()), want)

  def test_one_channel_is_the_plain_threshold(self):
    outcomes, scores = ladders.make_outcomes(100, seed=2, num_levels=9)
    grid = thresholds_lib.grid(scores, outcomes.mask, 20)
    want = thresholds_lib.values_at(scores, outcomes, grid)
    got = joint.values_at(scores[..., None], [outcomes], grid[:, None])
    for name, value in want.items():
      np.testing.assert_array_equal(got[name], value)

  def test_equal_thresholds_of_step_groups_are_one_threshold(self):
    outcomes, scores = ladders.make_outcomes(100, seed=3)
    kappas = np.array([-1.0, 0.3, 1.5])
    want = thresholds_lib.values_at(scores, outcomes, kappas)
    got = joint.values_at(
        joint.by_step(scores, (0, 2, 4)), [outcomes], np.stack([kappas] * 3, 1)
    )
    np.testing.assert_array_equal(got['cost'], want['cost'])

  def test_each_channel_uses_the_outcomes_of_its_route(self):
    batch, _ = ladders.make_ladders(60, num_routes=3, seed=4)
    tables = [
        stopping_lib.from_batch(batch, np.full(batch.mask.shape, route))
        for route in (1, 2)
    ]
    scores = np.broadcast_to([0.2, 0.7], (*batch.mask.shape, 2))
    for thresholds, table in (((0.1, 0.9), 0), ((0.1, 0.5), 1), ((9, 0.5), 1)):
      got = joint.values_at(scores, tables, np.array([thresholds]))
      np.testing.assert_array_equal(got['cost'][0], tables[table].cost[:, 0])

  def test_tables_must_match_channels(self):
    outcomes, scores = ladders.make_outcomes(10)
    with self.assertRaisesRegex(ValueError, '3 channels need 1 or 3 tables'):
      joint.values_at(
          joint.by_step(scores, (0, 2, 4)), [outcomes] * 2, np.zeros((1, 3))
      )


class ParetoTest(absltest.TestCase):

  def test_path_is_the_front_by_brute_force(self):
    rng = np.random.default_rng(0)
    loss, cost = rng.integers(12, size=(2, 60)) / 10  # Many ties.
    path = joint.pareto_path(loss, cost)
    self.assertTrue(np.all(np.diff(loss[path]) > 0))
    self.assertTrue(np.all(np.diff(cost[path]) < 0))
    for k in range(60):
      beats = (loss <= loss[k]) & (cost <= cost[k])
      is_beaten = np.any(beats & ((loss < loss[k]) | (cost < cost[k])))
      on_path = np.any((loss[path] == loss[k]) & (cost[path] == cost[k]))
      self.assertEqual(on_path, not is_beaten)

  def test_grid_names_a_channel_that_is_never_active(self):
    scores = np.full((2, 3, 2), -np.inf)
    scores[..., 0] = 0.5
    with self.assertRaisesRegex(ValueError, 'Channel 1 is active at no'):
      joint.grid(scores, np.ones((2, 3), bool))

  def test_grid_contains_every_pair_and_both_ends(self):
    outcomes, scores = ladders.make_outcomes(50, num_levels=4)
    got = joint.grid(joint.by_step(scores, (0, 3)), outcomes.mask, 5)
    rows = set(map(tuple, got))
    self.assertLen(rows, len(got))
    for row in ((-INF, -INF), (INF, INF), (-INF, INF)):
      self.assertIn(row, rows)


class SearchThenTestTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.outcomes, scores = two_scales(1_000, seed=5)
    self.scores = scores
    self.channels = joint.by_step(scores, (0, 3))
    self.is_searched = np.arange(1_000) % 2 == 0

  def point(self, risks, **kwargs):
    return joint.search_then_test(
        self.channels,
        [self.outcomes],
        risks,
        is_searched=self.is_searched,
        size=10,
        **kwargs,
    )

  def test_figures_are_means_of_the_tested_part(self):
    point = self.point([Risk('loss', 0.15, 0.1)])
    self.assertLen(point.threshold, 2)
    self.assertEqual(point.promise.num_problems, 500)
    values = joint.values_at(
        self.channels[1::2],
        [self.outcomes.take(~self.is_searched)],
        np.array([point.threshold]),
    )
    self.assertAlmostEqual(point.loss, values['loss'].mean())
    self.assertAlmostEqual(point.cost, values['cost'].mean())

  def test_candidates_do_not_depend_on_the_tested_part(self):
    wanted = []
    for tested in (self.outcomes.loss[1::2].copy(), 0.0):
      self.outcomes.loss[1::2] = tested
      point = self.point([Risk('loss', 0.9, 0.1)])
      wanted.append(point.threshold)
    # The whole path is proven in both cases, so the cheapest end is the same.
    self.assertEqual(wanted[0], wanted[1])

  def test_two_scales_are_cheaper_with_two_thresholds(self):
    risk = Risk('loss', 0.15, 0.1)
    both = self.point([risk])
    seen = self.outcomes.take(self.is_searched)
    grid = thresholds_lib.grid(self.scores[::2], seen.mask, 100)
    one = thresholds_lib.for_risks(
        self.scores[1::2],
        self.outcomes.take(~self.is_searched),
        [risk],
        thresholds=grid,
    )
    self.assertLess(both.cost, one.cost - 0.02)

  def test_refusal_says_how_many(self):
    with self.assertRaises(risks_lib.Refusal) as caught:
      self.point([Risk('loss', 0.002, 0.1)])
    self.assertEqual(caught.exception.needed, 1_151)  # log .1 / log .998.

  def test_an_empty_part_is_refused(self):
    self.is_searched = np.ones(1_000, bool)
    with self.assertRaisesRegex(ValueError, '1000 of 1000 are searched'):
      self.point([Risk('loss', 0.1, 0.1)])


class ValidityTest(absltest.TestCase):

  def test_promises_are_broken_in_at_most_delta_of_200_samples(self):
    num_splits, delta = 200, 0.1
    outcomes, scores = two_scales(3_000, seed=6)
    channels = joint.by_step(scores, (0, 3))
    is_searched = np.arange(500) < 200
    risks = [
        Risk('loss', 0.2, delta),
        Risk('cost', 0.9, delta, 2.0, 'betting'),
    ]
    rng = np.random.default_rng(0)
    broken, points = np.zeros(2), 0
    for _ in range(num_splits):
      rows = rng.integers(3_000, size=500)
      try:
        point = joint.search_then_test(
            channels[rows],
            [outcomes.take(rows)],
            risks,
            is_searched=is_searched,
            size=6,
        )
      except risks_lib.Refusal:
        continue
      truth = joint.values_at(channels, [outcomes], np.array([point.threshold]))
      points += 1
      broken += [truth[x.quantity].mean() > x.level for x in risks]
    most = stats.binom.ppf(0.999, num_splits, delta)
    self.assertLessEqual(broken.max(), most)
    self.assertGreater(points, num_splits // 2)


if __name__ == '__main__':
  absltest.main()
