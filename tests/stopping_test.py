"""Tests of outcomes by stopping time."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.outcomes import stopping as stopping_lib
from tests import ladders


class OutcomesTest(parameterized.TestCase):

  def test_gain_minus_loss_is_the_difference_to_the_largest_model(self):
    # Problem 0: the largest model is wrong at step 0; waiting one step makes it
    # right: gain 1 there. Staying is right too: gain 1.
    # Problem 1: largest right at step 0, wrong after: loss 1, gain 0.
    batch = ladders.ladder_batch(
        features=np.zeros((2, 2, 1)),
        mask=np.ones((2, 2), bool),
        handover_cost=np.ones((2, 2, 1)),
        stay_cost=np.ones(2),
        handover_correct=np.array([[[0.0], [1.0]], [[1.0], [0.0]]]),
        handover_loss=np.array([[[0.0], [0.0]], [[0.0], [1.0]]]),
        stay_correct=np.array([1.0, 0.0]),
        stay_loss=np.array([0.0, 1.0]),
    )
    table = stopping_lib.from_batch(batch)
    np.testing.assert_array_equal(table.gain, [[0, 1, 1], [0, 0, 0]])

  def test_gain_with_two_samples_of_each_prefix(self):
    # Largest alone: right, wrong. From step 1: wrong, right. One of two pairs
    # is lost and the other gained: correct .5, loss .5, gain .5.
    batch = ladders.ladder_batch(
        features=np.zeros((1, 2, 1)),
        mask=np.ones((1, 2), bool),
        handover_cost=np.ones((1, 2, 1)),
        stay_cost=np.ones(1),
        stay_correct=np.zeros(1),
        stay_loss=np.zeros(1),
        handover_correct=np.array([[[0.5], [0.5]]]),
        handover_loss=np.array([[[0.0], [0.5]]]),
    )
    gain = stopping_lib.from_batch(batch).gain
    np.testing.assert_allclose(gain[0, :2], [0.0, 0.5])

  @parameterized.parameters((2, 1), (3, 1), (2, 4))
  def test_gain_equals_pairing_by_sample(self, num_routes, num_samples):
    batch, _ = ladders.make_ladders(
        200, num_routes=num_routes, num_samples=num_samples
    )
    table = stopping_lib.from_batch(batch)
    largest = batch.correct[..., 1:][:, 0, -1]
    np.testing.assert_allclose(
        table.gain[:, -1],
        batch.correct[..., 0].sum(axis=1) * (1 - largest),
        atol=1e-6,
    )

  def test_routes_choose_the_column(self):
    batch, _ = ladders.make_ladders(5, num_routes=3)
    routes = np.ones(batch.mask.shape, int)
    routes[2] = 2
    table = stopping_lib.from_batch(batch, routes)
    np.testing.assert_allclose(table.cost[0, 0], batch.cost[..., 1:][0, 0, 0])
    np.testing.assert_allclose(table.cost[2, 0], batch.cost[..., 1:][2, 0, 1])

  def test_a_route_out_of_range_raises(self):
    batch, _ = ladders.make_ladders(5)
    with self.assertRaisesRegex(ValueError, r'Routes must be in 1\.\.1'):
      stopping_lib.from_batch(batch, np.zeros(batch.mask.shape, int))

  def test_an_outcome_that_is_not_finite_raises(self):
    batch, _ = ladders.make_ladders(5)
    batch.cost[3, 0, 1] = np.nan
    with self.assertRaisesRegex(ValueError, 'must be finite'):
      stopping_lib.from_batch(batch)

  @parameterized.parameters(-np.inf, -0.5, 0.0, 1.0, np.inf)
  def test_stopping_times_equal_a_loop(self, threshold):
    outcomes, scores = ladders.make_outcomes(300, num_levels=8)
    outcomes.mask[:20, 0] = False  # Decisions may be missing anywhere.
    outcomes.mask[10:30, 2] = False
    (times,) = stopping_lib.stopping_times(
        scores, outcomes.mask, np.array([threshold])
    )
    np.testing.assert_array_equal(
        times, ladders.walk(scores, outcomes.mask, threshold)
    )

  def test_a_score_that_is_not_finite_raises(self):
    outcomes, scores = ladders.make_outcomes(5)
    scores[3, 1] = np.nan
    with self.assertRaisesRegex(ValueError, 'problem 3 at step 1 is nan'):
      stopping_lib.running_maximum(scores, outcomes.mask)

  def test_exits_look_up_the_given_table(self):
    batch, _ = ladders.make_ladders(5, num_routes=3)
    tables = [
        stopping_lib.from_batch(batch, np.full(batch.mask.shape, route))
        for route in (1, 2)
    ]
    times = np.array([[0, 1, 2, 6, 0]])
    channels = np.array([[0, 1, 0, 1, 1]])
    got = stopping_lib.at_exits(tables, times, channels)
    self.assertEqual(set(got), {'correct', 'cost', 'loss', 'gain'})
    for name, values in got.items():
      want = [
          getattr(tables[g], name)[row, t]
          for row, (t, g) in enumerate(zip(times[0], channels[0], strict=True))
      ]
      self.assertEqual(values[0].tolist(), want)


if __name__ == '__main__':
  absltest.main()
