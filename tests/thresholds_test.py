"""Thresholds: brute-force twins, refusals, and validity by simulation."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import hypothesis
from hypothesis import strategies as st
import numpy as np
from scipy import stats

from routing.calibration import bounds
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from routing.outcomes import stopping as stopping_lib
from tests import ladders

ALPHA, DELTA = 0.05, 0.1


def figures(scores, outcomes, threshold):
  """Returns accuracy, cost and loss at one threshold, step by step."""
  rows = np.arange(outcomes.num_problems)
  times = ladders.walk(scores, outcomes.mask, threshold)
  return tuple(
      getattr(outcomes, name)[rows, times].mean()
      for name in ('correct', 'cost', 'loss')
  )


def fixed_grid():
  outcomes, scores = ladders.make_outcomes(2_000, seed=99)
  return thresholds_lib.grid(scores, outcomes.mask, 100)


class PickTest(parameterized.TestCase):

  @parameterized.product(
      budget=(0.19, 0.25, 0.4, 0.7, 1.0), num_levels=(None, 7)
  )
  def test_within_budget_and_no_threshold_is_more_accurate(
      self, budget, num_levels
  ):
    outcomes, scores = ladders.make_outcomes(50, seed=2, num_levels=num_levels)
    got = thresholds_lib.for_budget(scores, outcomes, budget)
    accuracy, cost, loss = figures(scores, outcomes, got.threshold)
    self.assertAlmostEqual(got.accuracy, accuracy)
    self.assertAlmostEqual(got.cost, cost)
    self.assertAlmostEqual(got.loss, loss)
    self.assertLessEqual(cost, budget)
    for threshold in [-np.inf, *np.unique(scores[outcomes.mask]), np.inf]:
      other, price, _ = figures(scores, outcomes, threshold)
      if price <= budget:
        self.assertLessEqual(other, accuracy + 1e-12)

  @parameterized.parameters(0.01, 0.05, 0.2)
  def test_within_loss_and_no_threshold_is_cheaper(self, alpha):
    outcomes, scores = ladders.make_outcomes(60, seed=3)
    got = thresholds_lib.for_loss(scores, outcomes, alpha)
    _, cost, loss = figures(scores, outcomes, got.threshold)
    self.assertLessEqual(loss, alpha)
    for threshold in [-np.inf, *np.unique(scores[outcomes.mask]), np.inf]:
      _, price, other = figures(scores, outcomes, threshold)
      if other <= alpha:
        self.assertLessEqual(cost, price + 1e-12)

  @parameterized.parameters(0.0, 0.18, 1.01)
  def test_budget_outside_says_what_is_allowed(self, budget):
    # The small model alone costs .03 / .16.
    outcomes, scores = ladders.make_outcomes(50)
    with self.assertRaisesRegex(ValueError, r'is outside \[0\.188, 1\]'):
      thresholds_lib.for_budget(scores, outcomes, budget)

  def test_unreachable_loss_reports_the_lowest(self):
    outcomes, scores = ladders.make_outcomes(20)
    outcomes.loss[:] = 0.3
    with self.assertRaisesRegex(ValueError, 'the lowest is 0.300'):
      thresholds_lib.for_loss(scores, outcomes, 0.1)


class FixedSequenceTest(parameterized.TestCase):

  @parameterized.parameters(
      ([0.01, 0.1, 0.11, 0.0], 2),  # The last one is not reached.
      ([0.2, 0.0], 0),
      ([0.0, 0.05], 2),
  )
  def test_stops_at_the_first_hypothesis_not_rejected(self, p_values, num):
    self.assertEqual(
        thresholds_lib.fixed_sequence(np.array(p_values), 0.1), num
    )

  def test_grid_goes_from_always_to_never_over_existing_scores(self):
    outcomes, scores = ladders.make_outcomes(100, num_levels=9)
    got = thresholds_lib.grid(scores, outcomes.mask, 50)
    self.assertEqual((got[0], got[-1]), (-np.inf, np.inf))
    self.assertTrue(np.isin(got[1:-1], scores[outcomes.mask]).all())
    self.assertTrue((np.diff(got) > 0).all())


class LearnThenTestTest(parameterized.TestCase):

  @parameterized.parameters(1, 3)
  def test_equals_testing_one_threshold_at_a_time(self, num_samples):
    outcomes, scores = ladders.make_outcomes(
        300, seed=4, num_samples=num_samples
    )
    grid = fixed_grid()
    passed = []
    for threshold in grid:
      _, cost, loss = figures(scores, outcomes, threshold)
      if num_samples == 1:
        p_value = stats.binom.cdf(round(300 * loss), 300, 0.1)
      else:
        low = min(loss, 0.1)
        kl = stats.entropy([low, 1 - low], [0.1, 0.9])
        p_value = min(
            np.exp(-300 * kl),
            np.e * stats.binom.cdf(np.ceil(300 * loss - 1e-9), 300, 0.1),
        )
      if p_value > DELTA:
        break
      passed.append((cost, threshold))
    got = thresholds_lib.learn_then_test(
        scores, outcomes, alpha=0.1, delta=DELTA, thresholds=grid
    )
    self.assertEqual(got.threshold, min(passed)[1])
    self.assertAlmostEqual(got.cost, min(passed)[0])
    self.assertGreater(len(passed), 3)
    self.assertLess(len(passed), len(grid))

  def test_too_few_problems_says_how_many(self):
    outcomes, scores = ladders.make_outcomes(44)
    with self.assertRaisesRegex(ValueError, 'needs at least 45 trajectories'):
      thresholds_lib.learn_then_test(
          scores, outcomes, alpha=0.05, delta=0.1, thresholds=fixed_grid()
      )

  def test_forty_five_without_a_loss_are_enough(self):
    outcomes, scores = ladders.make_outcomes(45)
    got = thresholds_lib.learn_then_test(
        scores,
        outcomes,
        alpha=0.05,
        delta=0.1,
        thresholds=fixed_grid(),
        max_cost=np.inf,
    )
    self.assertEqual(got.promise.num_problems, 45)
    self.assertEqual(got.loss, 0.0)

  def test_a_safest_threshold_that_loses_is_refused(self):
    outcomes, scores = ladders.make_outcomes(200)
    outcomes.loss[:, 0] = np.repeat([0.0, 1.0], [188, 12])  # 6 % at 'always'.
    # KL(.06 | .08) = .06 log .75 + .94 log (.94 / .92) = .00295, and
    # log(10) / .00295 = 780.
    for alpha, says in ((0.05, 'no number'), (0.08, 'about 780 traj')):
      with self.assertRaisesRegex(ValueError, says):
        thresholds_lib.learn_then_test(
            scores, outcomes, alpha=alpha, delta=0.1, thresholds=fixed_grid()
        )

  def test_thresholds_must_rise(self):
    outcomes, scores = ladders.make_outcomes(100)
    with self.assertRaisesRegex(ValueError, 'rise strictly'):
      thresholds_lib.learn_then_test(
          scores, outcomes, alpha=0.1, delta=0.1, thresholds=np.array([1, 1])
      )

  def test_promise_is_broken_in_at_most_delta_of_1000_samples(self):
    # Samples are drawn with replacement from one labelled set, so the set's own
    # risk is the true one. A threshold chosen on the sample exceeds the level
    # in about half of them. The bound is the promise itself, without a
    # tolerance.
    outcomes, scores = ladders.make_outcomes(8_000, seed=5)
    grid = fixed_grid()
    times = stopping_lib.stopping_times(scores, outcomes.mask, grid)
    truth = stopping_lib.at_times(outcomes, times)['loss'].mean(axis=1)
    risk = dict(zip(grid, truth, strict=True))
    rng = np.random.default_rng(0)
    broken, picks_broken = 0, 0
    for _ in range(1_000):
      rows = rng.integers(8_000, size=500)
      sample, sample_scores = outcomes.take(rows), scores[rows]
      got = thresholds_lib.learn_then_test(
          sample_scores,
          sample,
          alpha=ALPHA,
          delta=DELTA,
          thresholds=grid,
          max_cost=np.inf,
      )
      broken += risk[got.threshold] > ALPHA
      loss = stopping_lib.at_times(sample, times[:, rows])['loss'].mean(axis=1)
      picks_broken += truth[np.flatnonzero(loss <= ALPHA)[-1]] > ALPHA
    self.assertLessEqual(broken, 100)
    self.assertGreater(broken, 10)  # The test has power.
    self.assertGreater(picks_broken, 300)


class BudgetWithConfidenceTest(parameterized.TestCase):

  def test_equals_testing_one_threshold_at_a_time(self):
    outcomes, scores = ladders.make_outcomes(400, seed=7)
    grid, budget, cap = fixed_grid(), 0.6, 1.5
    rows = np.arange(400)
    passed = []
    for threshold in grid[::-1]:
      times = ladders.walk(scores, outcomes.mask, threshold)
      mean = np.minimum(outcomes.cost[rows, times], cap).mean() / cap
      p_value = bounds.hoeffding_bentkus_p_value(mean, 400, budget / cap)
      if p_value > DELTA:
        break
      passed.append((outcomes.correct[rows, times].mean(), threshold))
    got = thresholds_lib.for_budget_with_confidence(
        scores,
        outcomes,
        budget=budget,
        delta=DELTA,
        thresholds=grid,
        cost_cap=cap,
    )
    self.assertAlmostEqual(got.accuracy, max(passed)[0])
    self.assertEqual(got.threshold, max(passed)[1])
    self.assertBetween(len(passed), 4, len(grid) - 4)

  def test_promise_is_broken_in_at_most_delta_of_300_samples(self):
    outcomes, scores = ladders.make_outcomes(5_000, seed=6)
    grid = fixed_grid()
    times = stopping_lib.stopping_times(scores, outcomes.mask, grid)
    truth = stopping_lib.at_times(outcomes, times)['cost'].mean(axis=1)
    cost = dict(zip(grid, truth, strict=True))
    rng = np.random.default_rng(0)
    got, picked = [], []
    for _ in range(300):
      rows = rng.integers(5_000, size=400)
      point = thresholds_lib.for_budget_with_confidence(
          scores[rows],
          outcomes.take(rows),
          budget=0.6,
          delta=DELTA,
          thresholds=grid,
      )
      got.append(cost[point.threshold])
      picked.append(
          figures_cost(times[:, rows], outcomes.take(rows), truth, 0.6)
      )
    self.assertLessEqual(np.mean(np.array(got) > 0.6), DELTA)
    self.assertGreater(np.mean(np.array(picked) > 0.6), 0.3)
    self.assertGreater(np.mean(got), 0.5)  # It uses most of its budget.

  def test_unprovable_budget_says_how_many_are_needed(self):
    outcomes, scores = ladders.make_outcomes(50)  # Small alone costs .1875.
    with self.assertRaisesRegex(ValueError, r'about \d+ trajectories are'):
      thresholds_lib.for_budget_with_confidence(
          scores, outcomes, budget=0.19, delta=0.1, thresholds=fixed_grid()
      )

  def test_cap_below_the_budget_is_refused(self):
    outcomes, scores = ladders.make_outcomes(50)
    with self.assertRaisesRegex(ValueError, r'of cost must be in \(0, 0.5\)'):
      thresholds_lib.for_budget_with_confidence(
          scores,
          outcomes,
          budget=0.5,
          delta=0.1,
          thresholds=fixed_grid(),
          cost_cap=0.5,
      )


class MaxCostTest(parameterized.TestCase):
  """Three candidates that lose none, none and a fifth of 200 problems."""

  def point(self, costs, risks, **kwargs):
    loss = np.zeros((3, 200))
    loss[2, :40] = 1
    values = {
        'correct': 1 - loss,
        'loss': loss,
        'cost': np.repeat(np.array(costs)[:, None], 200, axis=1),
        'gain': np.zeros((3, 200)),
    }
    return thresholds_lib.from_values(values, np.arange(3.0), risks, **kwargs)

  @parameterized.parameters((1.04, 1.01), (1.0, 1.0))
  def test_a_point_as_expensive_as_the_large_model_is_refused(self, *costs):
    risk = risks_lib.Risk('loss', 0.05, 0.1)
    with self.assertRaisesRegex(
        risks_lib.Refusal,
        r'^loss<=0.05@0.9 .* Use the large model alone, .*\.$',
    ) as refusal:
      self.point([*costs, 0.3], [risk])
    self.assertIsNone(refusal.exception.needed)
    got = self.point([*costs, 0.3], [risk], max_cost=np.inf)
    self.assertEqual(got.cost, min(costs))
    self.assertEqual(self.point([1.04, 0.875, 0.3], [risk]).cost, 0.875)

  def test_an_equally_accurate_but_cheaper_point_remains(self):
    # The first two have a capped cost below 1.1; only one costs less than 1.
    risks = [
        risks_lib.Risk('loss', 0.05, 0.1),
        risks_lib.Risk('cost', 1.1, 0.1, 2.0, 'betting'),
    ]
    self.assertEqual(self.point([1.0, 0.875, 0.3], risks).cost, 0.875)
    with self.assertRaisesRegex(risks_lib.Refusal, 'which keeps this promise'):
      self.point([1.0, 1.0, 0.3], risks)

  def test_the_large_model_does_not_keep_a_cost_below_its_own(self):
    # One problem in ten costs 9.1, so the mean is 1; capped at 2 it is 0.29.
    values = dict.fromkeys(('correct', 'loss', 'gain'), np.zeros((1, 400)))
    cost = np.where(np.arange(400) % 10, 0.1, 9.1)[None]
    risk = risks_lib.Risk('cost', 0.6, 0.1, 2.0, 'betting')
    with self.assertRaises(risks_lib.Refusal) as refusal:
      thresholds_lib.from_values(values | {'cost': cost}, np.zeros(1), [risk])
    self.assertNotIn('keeps this promise', str(refusal.exception))


class PropertyTest(parameterized.TestCase):
  """Invariances that hold for any data."""

  def point(self, scores, outcomes, grid):
    risks = [
        risks_lib.Risk('loss', 0.3, 0.2),
        risks_lib.Risk('cost', 0.9, 0.2, 2),
    ]
    try:
      return thresholds_lib.for_risks(scores, outcomes, risks, thresholds=grid)
    except risks_lib.Refusal as refusal:
      return str(refusal)

  @hypothesis.settings(max_examples=25, deadline=None)
  @hypothesis.given(st.integers(0, 10**6), st.sampled_from((None, 3, 8)))
  def test_order_rescaling_and_padding_change_nothing(self, seed, num_levels):
    outcomes, scores = ladders.make_outcomes(
        120, seed=seed, num_levels=num_levels
    )
    grid = np.array([-np.inf, -1.0, 0.0, 0.5, 1.0, 2.0, np.inf])
    want = self.point(scores, outcomes, grid)
    rows = np.random.default_rng(seed).permutation(120)
    self.assert_same(self.point(scores[rows], outcomes.take(rows), grid), want)
    # Exact in float64, and it keeps the ties of scores and thresholds.
    normalize_advantages = lambda x: 8 * np.float64(x) - 4
    got = self.point(
        normalize_advantages(scores), outcomes, normalize_advantages(grid)
    )
    if not isinstance(want, str):
      want = dataclasses.replace(
          want, threshold=normalize_advantages(want.threshold)
      )
    self.assert_same(got, want)

  def assert_same(self, got, want):
    if isinstance(want, str):
      self.assertEqual(got, want)
      return
    self.assertEqual(got.threshold, want.threshold)
    for name in ('accuracy', 'cost', 'loss', 'gain'):
      self.assertAlmostEqual(getattr(got, name), getattr(want, name))
    for one, other in zip(got.promises, want.promises, strict=True):
      self.assertAlmostEqual(one.p_value, other.p_value)

  @hypothesis.settings(max_examples=25, deadline=None)
  @hypothesis.given(st.integers(0, 10**6))
  def test_bonferroni_counts_a_repeated_threshold_twice(self, seed):
    # More candidates never help: each is tested at a smaller delta.
    outcomes, scores = ladders.make_outcomes(150, seed=seed)
    risk = risks_lib.Risk('loss', 0.2, 0.1)
    grid = np.array([-np.inf, 0.0, 1.0, np.inf])
    proofs = [
        risks_lib.prove(
            thresholds_lib.values_at(scores, outcomes, x)['loss'],
            risk,
            np.arange(len(x)),
            'bonferroni',
        )
        for x in (grid, np.repeat(grid, 2))
    ]
    self.assertTrue(np.all(proofs[1].is_proven[::2] <= proofs[0].is_proven))
    np.testing.assert_allclose(proofs[1].p_values[::2], proofs[0].p_values)


def figures_cost(times, sample, truth, budget):
  """Returns the true cost of the lowest threshold within budget."""
  cost = stopping_lib.at_times(sample, times)['cost'].mean(axis=1)
  return truth[np.flatnonzero(cost <= budget)[0]]


if __name__ == '__main__':
  absltest.main()
