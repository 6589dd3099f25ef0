"""Tests of risks, growing samples and sample sizes at edge cases."""

import itertools

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import stats

from routing.calibration import bounds
from routing.calibration import growing
from routing.calibration import risks as risks_lib
from routing.calibration import sample_size
from routing.outcomes import refusal

Risk = risks_lib.Risk


def losses(counts, n=100):
  """`[K, n]` values of 0 and 1 with the given numbers of losses."""
  return (np.arange(n) < np.array(counts)[:, None]).astype(float)


class RiskTest(parameterized.TestCase):

  @parameterized.parameters(
      dict(level=0.0),
      dict(level=1.0),
      dict(level=-0.1),
      dict(level=2.0, cap=2.0),
      dict(cap=np.inf),
      dict(cap=np.nan),
      dict(delta=0.0),
      dict(delta=1.0),
      dict(num_joint=0),
      dict(num_joint=1.0),
      dict(num_choices=0),
      dict(num_choices=True + 0.5),
      dict(quantity='gain'),
      dict(p_value='growing'),
  )
  def test_invalid_risks_are_refused(self, **changes):
    with self.assertRaises(ValueError):
      Risk(**{'quantity': 'loss', 'level': 0.1, 'delta': 0.1, **changes})

  def test_a_level_above_one_needs_a_cap_above_it(self):
    self.assertEqual(Risk('cost', 1.5, 0.1, cap=1.6).level, 1.5)
    self.assertEqual(
        Risk('cost', 1.5, 0.1, cap=2.0, num_choices=np.int64(3)).num_choices, 3
    )

  def test_defaults(self):
    risk = Risk('loss', 0.1, 0.2)
    self.assertEqual(
        (risk.cap, risk.p_value, risk.num_joint, risk.num_choices),
        (1.0, 'auto', 1, 1),
    )
    self.assertEqual(
        risk.to_json(), {'what': 'loss', 'level': 0.1, 'delta': 0.2}
    )
    cost = Risk('cost', 0.6, 0.2, 2.0).to_json()
    self.assertEqual(cost['cost_cap'], 2.0)

  def test_scaled_is_a_share_of_the_cap(self):
    got = Risk('cost', 0.6, 0.1, cap=2.0).scaled(np.array([0, 0.5, 2, 7]))
    self.assertEqual(got.tolist(), [0, 0.25, 1, 1])

  def test_auto_is_binomial_if_all_values_are_zero_or_reach_the_cap(self):
    risk = Risk('cost', 0.6, 0.1, cap=2.0)
    for values, test in (
        ([[0.0, 2.0], [3.0, 0.0]], 'binomial'),
        ([[0.0, 2.0], [1.0, 0.0]], 'hoeffding_bentkus'),
        ([[0.5, 0.5]], 'hoeffding_bentkus'),
    ):
      self.assertEqual(risk.settled(np.array(values)).p_value, test)

  def test_shared_and_corrected_divide_by_the_number_of_choices(self):
    risk = Risk('loss', 0.1, 0.2, num_choices=3)
    one, other = risks_lib.shared([risk, Risk('cost', 0.6, 0.2, 2.0)], 0.12)
    self.assertAlmostEqual(one.delta, 0.12 / 2 / 3)
    self.assertAlmostEqual(other.delta, 0.12 / 2)
    self.assertEqual((one.num_joint, other.num_joint), (2, 2))
    twice = risks_lib.corrected(risks_lib.corrected(risk, 2), 5)
    self.assertAlmostEqual(twice.delta, 0.02)
    self.assertEqual(twice.num_choices, 30)


class PValuesTest(parameterized.TestCase):

  def test_betting_uses_one_order_for_all_rows_and_its_own_delta(self):
    values = np.random.default_rng(1).random((3, 40)) * 2
    risk = Risk('cost', 1.1, 0.03, cap=2.0, p_value='betting')
    order = np.random.default_rng(0).permutation(40)
    want = bounds.betting_p_value(values[:, order] / 2, 0.55, 0.03)
    np.testing.assert_array_equal(risks_lib.p_values(values, risk), want)
    self.assertNotAlmostEqual(
        bounds.betting_p_value(values[:, order] / 2, 0.55, 0.1)[0], want[0]
    )

  def test_values_above_the_cap_count_as_the_cap(self):
    risk = Risk('loss', 0.1, 0.1, p_value='hoeffding_bentkus')
    self.assertEqual(risks_lib.p_values(np.full((1, 10), 3.0), risk), 1.0)

  def test_binomial_counts_values_at_the_cap(self):
    risk = Risk('cost', 0.6, 0.1, cap=2.0, p_value='binomial')
    got = risks_lib.p_values(np.array([[0.0] * 18 + [5.0, 2.0]]), risk)
    np.testing.assert_allclose(got, stats.binom.cdf(2, 20, 0.3))


class SequenceTest(parameterized.TestCase):

  @parameterized.parameters(
      ([0.1], 1), ([0.1 + 1e-9], 0), ([], 0), ([0.0] * 4, 4), ([0, 1, 0, 1], 1)
  )
  def test_a_p_value_equal_to_delta_is_enough(self, p_values, num):
    self.assertEqual(risks_lib.fixed_sequence(np.array(p_values), 0.1), num)


class ProveTest(parameterized.TestCase):

  def test_bonferroni_by_hand(self):
    # P(Bin(100, .1) <= 3, 2, 20) = .0078, .0019 and 1; a third of .024 is .008.
    got = risks_lib.prove(
        losses([3, 20, 2]), Risk('loss', 0.1, 0.024), np.arange(3), 'bonferroni'
    )
    self.assertEqual(got.is_proven.tolist(), [True, False, True])
    self.assertAlmostEqual(got.delta, 0.008)
    self.assertEqual((got.test, got.procedure), ('binomial', 'bonferroni'))
    np.testing.assert_allclose(
        got.p_values, stats.binom.cdf([3, 20, 2], 100, 0.1)
    )

  def test_bonferroni_bets_at_its_share_of_delta(self):
    risk = Risk('loss', 0.3, 0.1, p_value='betting')
    values = losses([3, 5])
    got = risks_lib.prove(values, risk, np.arange(2), 'bonferroni')
    part = Risk('loss', 0.3, 0.05, p_value='betting')
    np.testing.assert_array_equal(
        got.p_values, risks_lib.p_values(values, part)
    )

  def test_the_error_names_the_safest_or_the_best_candidate(self):
    risk = Risk('loss', 0.1, 0.05)
    values = losses([9, 8, 20])
    for procedure, mean in (
        ('fixed_sequence', '0.2000'),
        ('bonferroni', '.08'),
    ):
      with self.assertRaisesRegex(risks_lib.Refusal, f'mean loss .*{mean}'):
        risks_lib.prove(values, risk, np.array([2, 1, 0]), procedure)

  def test_a_capped_mean_is_reported_in_its_own_unit(self):
    risk = Risk('cost', 0.6, 0.05, cap=2.0, p_value='hoeffding_bentkus')
    cost = np.full((1, 100), 0.55)
    with self.assertRaisesRegex(risks_lib.Refusal, 'mean cost 0.5500') as e:
      risks_lib.prove(cost, risk, np.zeros(1, int))
    self.assertEqual(
        e.exception.needed, bounds.trajectories_needed(0.275, 0.3, 0.05)
    )

  def test_just_enough_problems_are_not_refused(self):
    risk = Risk('cost', 0.6, 0.05, cap=2.0, p_value='binomial')
    minimum = bounds.trajectories_needed(0.0, 0.3, 0.05)
    self.assertIsNone(risks_lib.check_size(risk, 0.05, minimum))
    with self.assertRaisesRegex(
        risks_lib.Refusal, f'at least {minimum} .* got {minimum - 1}'
    ) as caught:
      risks_lib.check_size(risk, 0.05, minimum - 1)
    self.assertEqual(caught.exception.needed, minimum)


class TogetherTest(parameterized.TestCase):
  """Each risk is proven for some candidate, but no candidate for both."""

  def number_in_error(self, loss, cost, budget=0.6):
    """Returns the number of problems that the error says is needed."""
    risks = [
        Risk('loss', 0.05, 0.1),
        Risk('cost', budget, 0.1, 2.0, 'hoeffding_bentkus'),
    ]
    values = {'loss': losses(loss, 200), 'cost': np.repeat(cost, 200, axis=1)}
    order = np.arange(len(loss))
    with self.assertRaisesRegex(
        risks_lib.Refusal,
        'from 200 trajectories, but no single threshold keeps them all',
    ) as caught:
      risks_lib.prove_all(values, risks, {'loss': order, 'cost': order[::-1]})
    return caught.exception.needed

  def test_the_minimum_over_candidates_of_the_maximum_over_risks(self):
    # The first candidate keeps the loss, the last the cost. Those between are
    # below both levels, but too near to be proven.
    loss, cost = [0, 8, 9, 60], np.array([[1.5], [0.5], [0.59], [0.2]])
    number = lambda k: max(
        bounds.trajectories_needed(loss[k] / 200, 0.05, 0.1),
        bounds.trajectories_needed(cost[k, 0] / 2, 0.3, 0.1),
    )
    self.assertLess(number(1), number(2))
    self.assertEqual(self.number_in_error(loss, cost), number(1))

  def test_none_if_no_candidate_is_below_both_levels(self):
    # A mean equal to the level is not below it.
    for middle in ((10, 0.4), (8, 0.5), (10, 0.5)):
      loss = [0, middle[0], 60]
      cost = np.array([[1.5], [middle[1]], [0.2]])
      self.assertIsNone(self.number_in_error(loss, cost, budget=0.5))


class SampleSizeTest(parameterized.TestCase):

  @parameterized.parameters('growing', 'betting', 'binomial', 'auto')
  def test_each_test_has_its_own_number(self, test):
    values = (np.arange(100) < 4).astype(float)
    want = {
        'growing': growing.num_needed(values, 0.1, 0.05),
        'betting': bounds.betting_trajectories_needed(values, 0.1, 0.05),
    }.get(test, bounds.trajectories_needed(0.04, 0.1, 0.05))
    self.assertEqual(sample_size.needed(values, 0.1, 0.05, test), want)

  @parameterized.parameters('growing', 'betting', 'hoeffding_bentkus')
  def test_a_mean_below_the_level_by_rounding_has_no_number(self, test):
    # By rounding, the mean of many values of .3 is below .3.
    values = np.full(200, 0.6)
    risk = Risk('cost', 0.6, 0.1, 2.0, 'auto' if test == 'growing' else test)
    procedure = 'growing' if test == 'growing' else 'fixed_sequence'
    self.assertLess(risk.scaled(values).mean(), 0.3)
    self.assertIsNone(risks_lib.num_needed(values, risk, 0.1, procedure))
    with self.assertRaisesRegex(risks_lib.Refusal, 'no number'):
      risks_lib.prove(values[None], risk, np.zeros(1, int), procedure)
    # Differences up to 1e-9 count as rounding.
    edge = np.array([0.3 - 1e-9])
    self.assertIsNone(sample_size.needed(edge, 0.3, 0.1, test))
    # A mean that is 1e-6 below the level has a number, a large one.
    number = risks_lib.num_needed(values - 2e-6, risk, 0.1, procedure)
    self.assertGreater(number, 100_000)

  def test_minimum_and_sentences(self):
    zeros = np.zeros(1)
    self.assertEqual(
        sample_size.minimum(0.1, 0.05, 'growing'),
        growing.num_needed(zeros, 0.1, 0.05),
    )
    for procedure in ('fixed_sequence', 'bonferroni'):
      self.assertEqual(sample_size.minimum(0.1, 0.05, procedure), 29)
      self.assertEqual(sample_size.note(procedure), refusal.FRESH)
    self.assertEqual(sample_size.note('growing'), refusal.GROWING)
    self.assertIn('no number', sample_size.advice(None))
    self.assertIn('about 29 ', sample_size.advice(29))


class GrowingTest(parameterized.TestCase):

  @parameterized.parameters(0.0, 1.0, -0.1)
  def test_level_and_delta_must_be_in_range(self, edge):
    zeros = np.zeros((1, 3))
    for call in (
        lambda: growing.log_capital(zeros, edge),
        lambda: growing.p_value(zeros, edge),
        lambda: growing.num_needed(zeros[0], edge, 0.1),
    ):
      with self.assertRaisesRegex(ValueError, r'level must be in \(0, 1\)'):
        call()
    with self.assertRaisesRegex(ValueError, r'delta must be in \(0, 1\)'):
      growing.proven_from(zeros, 0.5, np.zeros(1, int), edge)

  @parameterized.parameters(([[0.5, 1.1]],), ([[-0.1, 0.5]],), ([[np.nan, 0]],))
  def test_each_value_is_checked(self, values):
    with self.assertRaisesRegex(ValueError, 'values must be'):
      growing.num_needed(np.array(values), 0.5, 0.1)

  def test_rows_without_values_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'n > 0'):
      growing.log_capital(np.zeros((3, 0)), 0.5)
    self.assertEqual(growing.log_capital(np.zeros((3, 1)), 0.5).shape, (3, 1))

  @parameterized.parameters(1, 2, 7, 30)
  def test_number_needed_is_exact(self, n):
    # n draws of .1 reach exactly 1 / delta; a smaller delta needs one more.
    values = np.full(40, 0.1)
    reached = growing.log_capital(values, 0.3)[n - 1]
    delta = np.exp(-reached)
    self.assertEqual(growing.num_needed(values, 0.3, delta), n)
    self.assertEqual(growing.num_needed(values, 0.3, delta * (1 - 1e-7)), n + 1)

  @parameterized.parameters(0, 10, 30, 45, 49)
  def test_number_needed_is_where_the_mixture_reaches_its_goal(self, num_lost):
    # The nearer the mean is to the level, the smaller is the best stake.
    values = (np.arange(1_000) < num_lost).astype(float)
    stakes = 0.95 * 0.6 ** np.arange(8) / 0.95
    weights = 0.75 ** np.arange(8) / np.sum(0.75 ** np.arange(8))
    rates = np.log1p(-stakes[:, None] * (values - 0.05)).mean(axis=1)
    capital = lambda n: np.sum(weights * np.exp(n * rates))
    n = growing.num_needed(values, 0.05, 0.1)
    self.assertGreaterEqual(capital(n), 10)
    self.assertLess(capital(n - 1), 10)

  def test_number_needed_where_only_the_smallest_stake_wins(self):
    # At 1.5 % below the level all other stakes lose and add almost nothing.
    values = (np.arange(100_000) < 4_925).astype(float)
    rates = np.log1p(-(0.6**7) * (values - 0.05)).mean()
    log_weight = np.log(0.75**7 / np.sum(0.75 ** np.arange(8)))
    want = (np.log(10) - log_weight) / rates
    got = growing.num_needed(values, 0.05, 0.1)
    self.assertAlmostEqual(got / want, 1.0, places=5)

  def test_a_capital_of_exactly_one_over_delta_is_enough(self):
    values = np.zeros((1, 200))
    capital = growing.log_capital(values, 0.05)[0]
    # Sizes at which log(1 / delta) equals the log capital in floats.
    exact = [
        n
        for n in range(1, 201)
        if np.log(1 / np.exp(-capital[n - 1])) == capital[n - 1]
    ]
    self.assertNotEmpty(exact)
    for n in exact:
      delta = np.exp(-capital[n - 1])
      got = growing.proven_from(values, 0.05, np.zeros(1, int), delta)
      self.assertEqual(got.tolist(), [n])

  def test_number_needed_is_at_least_one(self):
    # Less than one problem would be enough for a capital of 1 / .99.
    self.assertEqual(growing.num_needed(np.zeros(3), 0.3, 0.99), 1)

  def test_number_needed_is_none_at_or_above_the_level(self):
    self.assertIsNone(growing.num_needed(np.full(5, 0.3), 0.3, 0.1))
    self.assertIsNone(growing.num_needed(np.full(5, 0.31), 0.3, 0.1))
    self.assertGreater(growing.num_needed(np.full(5, 0.29), 0.3, 0.1), 100)

  def test_samples_in_one_array_are_independent(self):
    rng = np.random.default_rng(0)
    values = (rng.random((2, 3, 4, 80)) < 0.05).astype(float)
    order = np.array([2, 0, 3, 1])
    got = growing.proven_from(values, 0.2, order, 0.1)
    self.assertEqual(got.shape, (2, 3, 4))
    for where in itertools.product(range(2), range(3)):
      one = growing.proven_from(values[where], 0.2, order, 0.1)
      np.testing.assert_array_equal(got[where], one)
      # By a loop: the first n at which this one and all before are proven.
      latest = 0
      for k in order:
        is_proven = growing.log_capital(values[where][k], 0.2) >= np.log(10)
        first = int(np.argmax(is_proven)) + 1 if is_proven.any() else 81
        latest = max(latest, first)
        self.assertEqual(one[k], latest)
    self.assertGreater(len(np.unique(got)), 3)


if __name__ == '__main__':
  absltest.main()
