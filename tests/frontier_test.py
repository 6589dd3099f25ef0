"""Tests of the one-sort frontier against a plain loop."""

import time

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.outcomes import frontier as frontier_lib
from routing.outcomes import stopping as stopping_lib
from tests import ladders


def brute_force(scores, outcomes, thresholds):
  """Returns `[K, 4]` means, by simulating each problem and threshold."""
  rows = np.arange(outcomes.num_problems)
  figures = []
  for threshold in thresholds:
    times = ladders.walk(scores, outcomes.mask, threshold)
    figures.append(
        [
            getattr(outcomes, name)[rows, times].mean()
            for name in ('correct', 'cost', 'loss', 'gain')
        ]
    )
  return np.array(figures)


def figures_of(frontier):
  return np.stack(
      [frontier.accuracy, frontier.cost, frontier.loss, frontier.gain], axis=1
  )


class FrontierTest(parameterized.TestCase):

  def test_two_problems_by_hand(self):
    # Scores: problem 0 [1, 3], problem 1 [2, 2]; columns: step 0, 1, never.
    # inf: both never      -> correct (0 + 1) / 2, cost (.1 + .1) / 2
    # 3: 0 at step 1       -> correct (1 + 1) / 2, cost (.5 + .1) / 2
    # 2: 1 at step 0 too   -> correct (1 + 0) / 2, cost (.5 + .9) / 2
    # 1 (-inf): 0 at step 0 -> correct (0 + 0) / 2, cost (.9 + .9) / 2
    zeros = np.zeros((2, 3))
    outcomes = stopping_lib.Outcomes(
        mask=np.ones((2, 2), bool),
        correct=np.array([[0.0, 1, 0], [0, 0, 1]]),
        cost=np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1]]),
        loss=zeros,
        gain=zeros,
    )
    got = frontier_lib.frontier(np.array([[1, 3], [2, 2]]), outcomes)
    np.testing.assert_array_equal(got.thresholds, [-np.inf, 2, 3, np.inf])
    np.testing.assert_allclose(got.accuracy, [0, 0.5, 1, 0.5])
    np.testing.assert_allclose(got.cost, [0.9, 0.7, 0.3, 0.1])

  @parameterized.parameters(
      dict(num_levels=None), dict(num_levels=6), dict(num_samples=3)
  )
  def test_equals_brute_force(self, **kwargs):
    outcomes, scores = ladders.make_outcomes(60, seed=1, **kwargs)
    outcomes.mask[:5, 0] = False
    got = frontier_lib.frontier(scores, outcomes)
    np.testing.assert_allclose(
        figures_of(got),
        brute_force(scores, outcomes, got.thresholds),
        atol=1e-12,
    )
    # Every score that occurs gives one of the listed points: none is missing.
    everywhere = brute_force(scores, outcomes, np.unique(scores[outcomes.mask]))
    for point in everywhere:
      self.assertLess(np.abs(figures_of(got) - point).max(1).min(), 1e-9)

  def test_order_of_problems_and_rescaled_scores_change_nothing(self):
    outcomes, scores = ladders.make_outcomes(80, num_levels=10)
    want = figures_of(frontier_lib.frontier(scores, outcomes))
    order = np.random.default_rng(0).permutation(80)
    for other, table in (
        (scores[order], outcomes.take(order)),
        (np.exp(scores), outcomes),
        (np.tile(scores, (2, 1)), outcomes.take(np.tile(np.arange(80), 2))),
    ):
      got = figures_of(frontier_lib.frontier(other, table))
      np.testing.assert_allclose(got, want, atol=1e-12)

  def test_padding_changes_nothing(self):
    outcomes, scores = ladders.make_outcomes(40)
    wide = stopping_lib.Outcomes(
        mask=np.pad(outcomes.mask, [(0, 0), (0, 3)]),
        **{
            name: np.insert(getattr(outcomes, name), [6, 6, 6], 9.0, axis=1)
            for name in ('correct', 'cost', 'loss', 'gain')
        },
    )
    np.testing.assert_allclose(
        figures_of(
            frontier_lib.frontier(np.pad(scores, [(0, 0), (0, 3)]), wide)
        ),
        figures_of(frontier_lib.frontier(scores, outcomes)),
    )

  def test_ends_are_always_and_never(self):
    outcomes, scores = ladders.make_outcomes(50)
    got = frontier_lib.frontier(scores, outcomes)
    self.assertAlmostEqual(got.accuracy[0], outcomes.correct[:, 0].mean())
    self.assertAlmostEqual(got.cost[-1], outcomes.cost[:, -1].mean())
    self.assertEqual(got.loss[0], 0.0)

  @parameterized.parameters(np.float32, np.float64)
  def test_float32_and_float64_scores_of_any_sign_agree(self, dtype):
    # float32 is sorted as integers: signs, zeros of both signs, tiny and huge.
    ladder, _ = ladders.make_outcomes(200)
    values = np.array([-3e38, -1.5, -1e-40, -0.0, 0.0, 1e-40, 1.5, 3e38])
    rng = np.random.default_rng(0)
    scores = rng.choice(values, ladder.mask.shape).astype(dtype)
    got = frontier_lib.frontier(scores, ladder)
    np.testing.assert_allclose(
        figures_of(got),
        brute_force(scores, ladder, got.thresholds),
        atol=1e-12,
    )
    self.assertLen(got.thresholds, 8)  # -0 and 0 are one; -inf is the lowest.

  def test_several_blocks_equal_one_block(self):
    outcomes, scores = ladders.make_outcomes(9_000, num_levels=20)
    got = frontier_lib.frontier(scores, outcomes)
    times = stopping_lib.stopping_times(scores, outcomes.mask, got.thresholds)
    want = stopping_lib.at_times(outcomes, times)
    np.testing.assert_allclose(got.accuracy, want['correct'].mean(axis=1))
    np.testing.assert_allclose(got.cost, want['cost'].mean(axis=1))

  def test_a_score_that_is_not_finite_raises_with_its_problem(self):
    outcomes, scores = ladders.make_outcomes(9_000)
    scores[8_999, 0] = np.nan
    with self.assertRaisesRegex(ValueError, 'problem 8999 at step 0 is nan'):
      frontier_lib.frontier(scores, outcomes)

  def test_without_decisions_only_never_remains(self):
    outcomes, scores = ladders.make_outcomes(3)
    outcomes.mask[:] = False
    got = frontier_lib.frontier(scores, outcomes)
    np.testing.assert_array_equal(got.thresholds, [np.inf])

  @parameterized.parameters(1, 5)
  def test_rollouts_on_a_grid_agree_with_the_exact_frontier(self, num_levels):
    # Under `escalate` a rollout at kappa ends where the table says.
    outcomes, scores = ladders.make_outcomes(70, num_levels=num_levels)
    exact = frontier_lib.frontier(scores, outcomes)
    times = stopping_lib.stopping_times(scores, outcomes.mask, exact.thresholds)
    got = frontier_lib.from_rollouts(
        exact.thresholds, **stopping_lib.at_times(outcomes, times)
    )
    np.testing.assert_array_equal(got.thresholds, exact.thresholds)
    np.testing.assert_allclose(figures_of(got), figures_of(exact), atol=1e-12)

  @parameterized.parameters(
      (dict(thresholds=[0.5, 0.5]), 'rise strictly'),
      (dict(thresholds=[]), r'K > 0, got \(0,\)'),
      (dict(cost=np.ones((3, 4))), r'cost must be .* K = 2.* got \(3, 4\)'),
      (dict(loss=np.ones((2, 0))), r'loss must be .* N > 0, got \(2, 0\)'),
      (dict(gain=[[1.0], [np.nan]]), 'gain at threshold 0.7 is NaN'),
  )
  def test_rollouts_of_wrong_shape_raise(self, other, message):
    names = ('correct', 'cost', 'loss', 'gain')
    given = {'thresholds': [0.5, 0.7]} | {n: np.ones((2, 1)) for n in names}
    with self.assertRaisesRegex(ValueError, message):
      frontier_lib.from_rollouts(**given | other)

  def test_scales_to_many_problems(self):
    # 100,000 x 20 takes about 0.2 s; the loop would take minutes. The bound is
    # loose for slow machines and still tells n log n from one pass a threshold.
    rng = np.random.default_rng(0)
    shape = (100_000, 20)
    table = rng.random((shape[0], shape[1] + 1))
    outcomes = stopping_lib.Outcomes(
        np.ones(shape, bool), table, table, table, table
    )
    scores = rng.random(shape)
    start = time.perf_counter()
    got = frontier_lib.frontier(scores, outcomes)
    self.assertLess(time.perf_counter() - start, 5.0)
    self.assertGreater(len(got.thresholds), 300_000)


if __name__ == '__main__':
  absltest.main()
