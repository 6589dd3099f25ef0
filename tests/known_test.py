"""Replay against simulated paths and enumeration."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.outcomes import frontier as frontier_lib
from routing.outcomes import stopping as stopping_lib
from tests import ladders


def all_tables(batch):
  """One table of stopping times per larger route."""
  shape = batch.mask.shape
  return [
      stopping_lib.from_batch(batch, np.full(shape, route + 1))
      for route in range(batch.handover_correct.shape[-1])
  ]


class ReplayTest(parameterized.TestCase):

  def test_expected_by_hand(self):
    # One problem, two steps, one larger route. Chances .25 and .5 of leaving:
    # P(step 0) = .25, P(step 1) = .75 * .5 = .375, P(never) = .375.
    # cost = .25 * 1 + .375 * .8 + .375 * .2 = .625; correct = .25 + .375.
    values = dict(
        correct=np.array([[1.0, 1.0, 0.0]]), cost=np.array([[1.0, 0.8, 0.2]])
    )
    zeros = np.zeros((1, 3))
    table = stopping_lib.Outcomes(
        mask=np.ones((1, 2), bool), loss=zeros, gain=zeros, **values
    )
    got = replay.expected([table], np.array([[[0.25], [0.5]]]))
    self.assertAlmostEqual(got.mean_cost[0], 0.625)
    self.assertAlmostEqual(got.accuracy[0], 0.625)

  @parameterized.parameters(2, 3)
  def test_expected_equals_simulated_paths(self, num_routes):
    batch, _ = ladders.make_ladders(30, num_routes=num_routes, seed=1)
    rng = np.random.default_rng(0)
    chances = rng.dirichlet(np.ones(num_routes), size=batch.mask.shape)
    handover = chances[..., 1:]
    tables = all_tables(batch)
    want = replay.expected(tables, handover)
    runs = 4_000
    total = np.zeros((30, 2))
    for problem in range(30):
      for coins in rng.random((runs, batch.mask.shape[1])):
        table, column = tables[0], tables[0].num_steps
        for step in np.flatnonzero(batch.mask[problem]):
          edges = np.cumsum(handover[problem, step])
          if coins[step] < edges[-1]:
            table = tables[int(np.searchsorted(edges, coins[step], 'right'))]
            column = step
            break
        total[problem] += (
            table.correct[problem, column],
            table.cost[problem, column],
        )
    mean = total / runs
    # Five standard errors of a mean of values in [0, 1] and about [0, 1.2].
    np.testing.assert_allclose(want.correct[0], mean[:, 0], atol=0.04)
    np.testing.assert_allclose(want.cost[0], mean[:, 1], atol=0.03)

  @parameterized.parameters(-np.inf, 0.3, np.inf)
  def test_certain_hand_over_equals_the_threshold(self, threshold):
    batch, scores = ladders.make_ladders(100, seed=2)
    (table,) = all_tables(batch)
    handover = (scores >= threshold).astype(float)[..., None]
    want = replay.at_thresholds(scores, table, [threshold])
    got = replay.expected([table], handover)
    for name in ('correct', 'cost', 'loss', 'gain'):
      np.testing.assert_allclose(getattr(got, name), getattr(want, name))

  def test_thresholds_agree_with_the_frontier(self):
    outcomes, scores = ladders.make_outcomes(100, seed=3)
    frontier = frontier_lib.frontier(scores, outcomes)
    got = replay.at_thresholds(scores, outcomes, frontier.thresholds)
    np.testing.assert_allclose(got.accuracy, frontier.accuracy)
    np.testing.assert_allclose(got.mean_cost, frontier.cost)

  def test_fixed_step_beyond_the_trace_is_never(self):
    outcomes, _ = ladders.make_outcomes(50, seed=4)
    got = replay.at_steps(outcomes, [0, 5, 6])
    np.testing.assert_array_equal(got.cost[0], outcomes.cost[:, 0])
    np.testing.assert_array_equal(got.cost[2], outcomes.cost[:, -1])
    short = ~outcomes.mask[:, 5]
    np.testing.assert_array_equal(got.cost[1, short], outcomes.cost[short, -1])
    np.testing.assert_array_equal(got.cost[1, ~short], outcomes.cost[~short, 5])

  def test_hazard_zero_is_never_and_one_is_at_once(self):
    outcomes, _ = ladders.make_outcomes(50, seed=5)
    got = replay.at_hazards(outcomes, [0.0, 1.0])
    np.testing.assert_allclose(got.correct[0], outcomes.correct[:, -1])
    np.testing.assert_allclose(got.correct[1], outcomes.correct[:, 0])

  @parameterized.parameters(2, 3)
  def test_no_way_out_beats_the_oracle_at_its_price(self, num_routes):
    batch, _ = ladders.make_ladders(40, num_routes=num_routes, seed=6)
    tables = all_tables(batch)
    prices = [0.0, 0.4, 3.0]
    got = replay.oracle(tables, prices)
    for index, price in enumerate(prices):
      for problem in range(40):
        ways = [(0, tables[0].num_steps)] + [
            (route, step)
            for route in range(num_routes - 1)
            for step in np.flatnonzero(batch.mask[problem])
        ]
        best = max(
            tables[r].correct[problem, t] - price * tables[r].cost[problem, t]
            for r, t in ways
        )
        self.assertAlmostEqual(
            got.correct[index, problem] - price * got.cost[index, problem],
            best,
        )

  def test_chances_above_one_are_refused(self):
    batch, _ = ladders.make_ladders(5)
    with self.assertRaisesRegex(ValueError, 'sum to at most 1'):
      replay.expected(all_tables(batch), np.full((5, 6, 1), 1.2))

  def test_largest_alone_costs_one_and_loses_nothing(self):
    outcomes, _ = ladders.make_outcomes(50)
    got = replay.largest_alone(outcomes)
    np.testing.assert_array_equal(got.cost, 1.0)
    np.testing.assert_array_equal(got.correct[0], outcomes.correct[:, 0])


if __name__ == '__main__':
  absltest.main()
