"""Tests of outcome tables against simulated paths and enumeration."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.outcomes import frontier as frontier_lib
from routing.outcomes import known
from routing.outcomes import points as points_lib
from routing.outcomes import stopping as stopping_lib
from routing.outcomes import table as table_lib
from tests import ladders
from tests import trees_test

NAMES = ('correct', 'cost', 'loss', 'gain')


def make_table(num_problems, **kwargs):
  """Returns an outcome table of ladders, and its `[M]` scores."""
  table = table_lib.from_batch(ladders.make_ladders(num_problems, **kwargs)[0])
  return table, table.decisions.features[:, 0].astype(np.float64)


def walked(table, scores, routes, threshold):
  """Returns `[N]` endings by following each path."""
  endings = []
  for place in table.roots:
    while place >= 0:
      is_named = scores[place] >= threshold
      place = table.children[place, routes[place] if is_named else 0]
    endings.append(-1 - place)
  return np.array(endings)


class ThresholdsTest(parameterized.TestCase):

  @parameterized.product(
      name=('ladders', 'switch', 'redraft'), num_routes=(2, 3)
  )
  def test_equals_following_each_path(self, name, num_routes):
    if name == 'ladders':
      table, _ = make_table(12, num_routes=num_routes, seed=1)
    else:
      table = trees_test.make_table(name, 12, num_routes)
    rng = np.random.default_rng(0)
    # Rounded, so that there are ties.
    scores = np.round(rng.normal(size=len(table.children)), 1)
    routes = rng.integers(1, num_routes, len(scores))
    thresholds = np.array([0.3, -np.inf, np.inf, *np.unique(scores)[::3]])
    got = known.at_thresholds(table, scores, thresholds, 'price', routes)
    for k, kappa in enumerate(thresholds):
      endings = walked(table, scores, routes, kappa)
      np.testing.assert_array_equal(
          got.cost[k], table.ending_cost['price'][endings]
      )
      np.testing.assert_array_equal(
          got.correct[k], table.ending_correct[endings]
      )

  def test_ladders_equal_their_dense_table(self):
    outcomes, scores = ladders.make_outcomes(60, seed=3)
    table, flat = make_table(60, seed=3)
    thresholds = np.quantile(scores, [0.1, 0.5, 0.9])
    got = known.at_thresholds(table, flat, thresholds, 'price')
    times = stopping_lib.stopping_times(scores, outcomes.mask, thresholds)
    want = stopping_lib.at_times(outcomes, times)
    for name in NAMES:
      np.testing.assert_allclose(getattr(got, name), want[name], atol=1e-6)

  def test_equal_thresholds_per_depth_equal_one_threshold(self):
    table, scores = make_table(40, seed=5)
    depth = table.decisions.max_depth
    thresholds = np.array([-np.inf, 0.2, np.inf])
    got = known.at_depth_thresholds(
        table, scores, np.tile(thresholds[:, None], (1, depth)), 'price'
    )
    want = known.at_thresholds(table, scores, thresholds, 'price')
    for name in NAMES:
      np.testing.assert_array_equal(getattr(got, name), getattr(want, name))

  @parameterized.parameters('ladders', 'redraft')
  def test_the_frontier_equals_all_thresholds(self, name):
    if name == 'ladders':
      table, scores = make_table(50, seed=2)
    else:
      table = trees_test.make_table(name, 10)
      scores = np.random.default_rng(1).normal(size=len(table.children))
    got = known.frontier(table, scores, 'price')
    frontier_lib.check_rising(got.thresholds)
    points = known.at_thresholds(table, scores, got.thresholds, 'price')
    np.testing.assert_allclose(got.accuracy, points.accuracy, atol=1e-12)
    np.testing.assert_allclose(got.cost, points.mean_cost, atol=1e-12)
    np.testing.assert_allclose(got.loss, points.loss.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(got.gain, points.gain.mean(axis=1), atol=1e-12)
    # Any other threshold does what the next one of the frontier does.
    between = (got.thresholds[1:-2] + got.thresholds[2:-1]) / 2
    more = known.at_thresholds(table, scores, between, 'price')
    np.testing.assert_array_equal(more.cost, points.cost[2:-1])

  def test_the_frontier_of_ladders_equals_that_of_their_dense_table(self):
    outcomes, scores = ladders.make_outcomes(80, seed=4)
    want = frontier_lib.frontier(scores, outcomes)
    table, flat = make_table(80, seed=4)
    got = known.frontier(table, flat, 'price')
    np.testing.assert_allclose(got.thresholds, want.thresholds)
    np.testing.assert_allclose(got.cost, want.cost, atol=1e-6)

  def test_bad_scores_and_routes_raise(self):
    table, scores = make_table(5)
    with self.assertRaisesRegex(ValueError, 'one per decision'):
      known.at_thresholds(table, scores[1:], [0.0], 'price')
    scores[3] = np.nan
    with self.assertRaisesRegex(ValueError, 'decision 3 .* is nan'):
      known.at_thresholds(table, scores, [0.0], 'price')
    with self.assertRaisesRegex(ValueError, 'Routes must have'):
      known.reached(table, np.zeros(len(scores)), np.full(len(scores), 2))


class PoliciesTest(parameterized.TestCase):

  def test_expected_by_hand(self):
    # One problem, two decisions; P(larger route) is .25, then .5:
    # P(first) = .25, P(second) = .75 * .5 = .375, P(never) = .375.
    # cost = .25 * 1 + .375 * .8 + .375 * .2 = .625; correct = .25 + .375.
    builder = table_lib.TableBuilder(['price'])
    builder.begin_problem(1.0)
    first = builder.add_decision(np.zeros(1), 0.0, 2)
    builder.add_ending((first, 1), 1.0, 0.0, [1.0])
    second = builder.add_decision(np.zeros(1), 0.0, 2, (first, 0))
    builder.add_ending((second, 1), 1.0, 0.0, [0.8])
    builder.add_ending((second, 0), 0.0, 1.0, [0.2])
    probabilities = np.array([[0.75, 0.25], [0.5, 0.5]])
    got = known.expected(builder.table(), probabilities, 'price')
    self.assertAlmostEqual(got.mean_cost[0], 0.625)
    self.assertAlmostEqual(got.accuracy[0], 0.625)
    self.assertAlmostEqual(got.loss[0, 0], 0.375)

  @parameterized.parameters(-np.inf, 0.3, np.inf)
  def test_deterministic_probabilities_equal_the_threshold(self, threshold):
    table, scores = make_table(100, seed=2)
    named = (scores >= threshold).astype(float)
    got = known.expected(table, np.stack([1 - named, named], axis=1), 'price')
    want = known.at_thresholds(table, scores, [threshold], 'price')
    for name in NAMES:
      np.testing.assert_allclose(getattr(got, name), getattr(want, name))

  def test_rates_of_zero_and_one_are_the_ends(self):
    table, scores = make_table(50, seed=5)
    got = known.at_rates(table, [0.0, 1.0], 'price')
    want = known.at_thresholds(table, scores, [np.inf, -np.inf], 'price')
    np.testing.assert_allclose(got.cost, want.cost)

  def test_points_that_are_looked_up_equal_stored_ones(self):
    source = ladders.make_known(30)
    thresholds = np.array([0.5, -np.inf, 0.1, np.inf])
    found = source.evaluate(ladders.Family(), thresholds, 'price')
    self.assertIsInstance(found, points_lib.LookedUp)
    stored = found.stored()
    self.assertNotIsInstance(stored, points_lib.LookedUp)
    chosen = np.array([2, 0])
    for one, other in (
        (found, stored),
        (found.take(chosen), stored.take(chosen)),
        (found.on(slice(3, 9)), stored.on(slice(3, 9))),
        (
            points_lib.concatenate([found, found.take(chosen)]),
            points_lib.concatenate([stored, stored.take(chosen)]),
        ),
    ):
      self.assertIsInstance(one, points_lib.LookedUp)
      for name in (*points_lib.NAMES, 'accuracy', 'mean_cost', 'cut_share'):
        np.testing.assert_array_equal(
            getattr(one, name), getattr(other, name), err_msg=name
        )
      self.assertEqual(list(one.values()), list(points_lib.NAMES))
      np.testing.assert_array_equal(one.values()['loss'], other.loss)
    other_table = ladders.make_known(30, seed=1)
    mixed = points_lib.concatenate(
        [found, other_table.evaluate(ladders.Family(), thresholds, 'price')]
    )
    self.assertNotIsInstance(mixed, points_lib.LookedUp)
    np.testing.assert_array_equal(mixed.correct[:4], stored.correct)
    with self.assertRaises(KeyError):
      _ = found.values()['price']

  @parameterized.parameters(2, 3)
  def test_no_ending_beats_the_oracle_at_its_price(self, num_routes):
    table, _ = make_table(40, num_routes=num_routes, seed=6)
    prices = [0.0, 0.4, 3.0]
    got = known.oracle(table, prices, 'price')
    for index, price in enumerate(prices):
      worth = table.ending_correct - price * table.ending_cost['price']
      for problem in range(40):
        self.assertAlmostEqual(
            got.correct[index, problem] - price * got.cost[index, problem],
            worth[table.ending_problem == problem].max(),
        )

  def test_an_ending_of_unknown_cost_is_not_the_oracles(self):
    table, _ = make_table(3, num_routes=2, seed=6)
    for problem in range(3):
      places = np.flatnonzero(table.ending_problem == problem)
      cost = table.ending_cost['price'].copy()
      cost[places[0]] = np.nan
      priced = dataclasses.replace(table, ending_cost={'price': cost})
      got = known.oracle(priced, [0.4], 'price')
      worth = (table.ending_correct - 0.4 * cost)[places]
      self.assertAlmostEqual(
          got.correct[0, problem] - 0.4 * got.cost[0, problem],
          np.nanmax(worth),
      )

  def test_probabilities_that_do_not_sum_to_one_raise(self):
    table, _ = make_table(5)
    with self.assertRaisesRegex(ValueError, 'sum to 1'):
      known.expected(table, np.full(table.children.shape, 0.6), 'price')

  def test_largest_alone_costs_one_and_loses_nothing(self):
    table, _ = make_table(50)
    got = known.largest_alone(table)
    np.testing.assert_array_equal(got.cost, 1.0)
    np.testing.assert_array_equal(got.loss, 0.0)
    np.testing.assert_array_equal(got.correct[0], table.large_correct)


if __name__ == '__main__':
  absltest.main()
