"""Risks: tests by hand, refusals, and validity by simulation."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import stats

from routing.calibration import bounds
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from tests import ladders

Risk = risks_lib.Risk
NUM_SPLITS = 400


def losses(counts, n=100):
  """Returns `[K, n]` values of 0 and 1 with the given numbers of losses."""
  return (np.arange(n) < np.array(counts)[:, None]).astype(float)


def most_broken(delta):
  """Returns a number of broken promises exceeded with probability 0.001."""
  return stats.binom.ppf(0.999, NUM_SPLITS, delta)


class RiskTest(parameterized.TestCase):

  def test_name_says_level_and_confidence(self):
    self.assertEqual(Risk('loss', 0.05, 0.1).name, 'loss<=0.05@0.9')
    self.assertEqual(Risk('cost', 0.6, 0.05, 2.0).name, 'cost<=0.6@0.95')

  @parameterized.parameters(
      (dict(quantity='gain'), "quantity 'gain'; allowed: loss, cost"),
      (dict(level=0.0), r'level of loss must be in \(0, 1.0\), got 0.0'),
      (dict(level=1.0), r'level of loss must be in'),
      (dict(cap=np.inf), r'level of loss must be in \(0, inf\)'),
      (dict(delta=1.0), r'delta must be in \(0, 1\), got 1.0'),
      (dict(p_value='wsr'), 'allowed: auto, binomial, hoeff'),
  )
  def test_raises_on_values_that_are_not_allowed(self, changes, says):
    with self.assertRaisesRegex(ValueError, says):
      Risk(**{'quantity': 'loss', 'level': 0.1, 'delta': 0.1, **changes})

  def test_auto_is_settled_by_the_table(self):
    risk = Risk('loss', 0.1, 0.1)
    self.assertEqual(risk.settled(np.array([0.0, 1.0])).p_value, 'binomial')
    thirds = risk.settled(np.array([0.0, 1 / 3]))
    self.assertEqual(thirds.p_value, 'hoeffding_bentkus')
    named = Risk('loss', 0.1, 0.1, p_value='betting')
    self.assertIs(named.settled(np.array([0.0])), named)


class PValuesTest(parameterized.TestCase):

  def test_each_test_equals_its_bound(self):
    values = losses([2, 5])
    for name, want in (
        ('binomial', stats.binom.cdf([2, 5], 100, 0.1)),
        (
            'hoeffding_bentkus',
            bounds.hoeffding_bentkus_p_value(np.array([0.02, 0.05]), 100, 0.1),
        ),
    ):
      got = risks_lib.p_values(values, Risk('loss', 0.1, 0.1, p_value=name))
      np.testing.assert_allclose(got, want)

  def test_a_cap_scales_values_and_level(self):
    cost = np.array([[0.3, 0.5, 7.0, 0.1] * 50])
    got = risks_lib.p_values(cost, Risk('cost', 1.2, 0.1, cap=2.0))
    want = bounds.hoeffding_bentkus_p_value((0.9 + 2) / 4 / 2, 200, 0.6)
    self.assertAlmostEqual(float(got[0]), float(want))

  def test_sorted_problems_do_not_inflate_the_betting_capital(self):
    # All losses last: in this order the capital grows before the first loss.
    values = np.sort(losses([15]), axis=1)
    naive = bounds.betting_p_value(values, 0.1, 0.1)
    self.assertLess(naive[0], 0.1)
    risk = Risk('loss', 0.1, 0.1, p_value='betting')
    self.assertGreater(risks_lib.p_values(values, risk)[0], 0.1)

  def test_binomial_of_fractions_is_refused(self):
    risk = Risk('loss', 0.1, 0.1, p_value='binomial')
    with self.assertRaisesRegex(ValueError, 'use hoeffding_bentkus or bett'):
      risks_lib.p_values(np.full((1, 50), 0.5), risk)


class ProveTest(parameterized.TestCase):

  def test_fixed_sequence_stops_at_a_bump_and_bonferroni_does_not(self):
    # P(Bin(100, .1) <= 2) = .0019, of <= 9 .45; .1 / 4 = .025 each.
    values = losses([0, 2, 9, 1])
    risk = Risk('loss', 0.1, 0.1)
    order = np.arange(4)
    got = risks_lib.prove(values, risk, order)
    self.assertEqual(got.is_proven.tolist(), [True, True, False, False])
    got = risks_lib.prove(values, risk, order, 'bonferroni')
    self.assertEqual(got.is_proven.tolist(), [True, True, False, True])
    self.assertAlmostEqual(got.delta, 0.025)

  def test_candidates_are_tested_in_the_given_order(self):
    values = losses([9, 2, 0])
    order = np.array([2, 1, 0])
    got = risks_lib.prove(values, Risk('loss', 0.1, 0.1), order)
    self.assertEqual(got.is_proven.tolist(), [False, True, True])

  def test_bonferroni_divides_delta_by_the_candidates(self):
    # P(Bin(100, .1) <= 4) = .0237: enough for one, not for a third of .05.
    risk = Risk('loss', 0.1, 0.05)
    order = np.zeros(1, int)
    got = risks_lib.prove(losses([4]), risk, order, 'bonferroni')
    self.assertEqual(got.is_proven.tolist(), [True])
    self.assertEqual(got.delta, 0.05)
    with self.assertRaisesRegex(risks_lib.Refusal, 'safest .* mean loss 0.04'):
      risks_lib.prove(losses([4, 4, 4]), risk, np.arange(3), 'bonferroni')

  def test_refusal_says_how_many(self):
    risk = Risk('loss', 0.05, 0.1)
    for values, needed in (
        (losses([0], 44), 45),  # (1 - .05)^45 <= .1.
        (losses([8]), None),  # 8 % are lost already.
        (losses([4]), bounds.trajectories_needed(0.04, 0.05, 0.1)),
    ):
      with self.assertRaises(risks_lib.Refusal) as caught:
        risks_lib.prove(values, risk, np.zeros(1, int))
      self.assertEqual(caught.exception.needed, needed)

  def test_the_needed_number_is_enough(self):
    risk = Risk('loss', 0.1, 0.1)
    needed = risks_lib.num_needed(losses([7])[0], risk, 0.1)
    self.assertGreater(needed, 100)
    count = int(0.07 * needed)
    got = risks_lib.prove(losses([count], needed), risk, np.zeros(1, int))
    self.assertEqual(got.is_proven.tolist(), [True])
    # An eighth of the problems with the same share of losses is too few.
    with self.assertRaises(risks_lib.Refusal):
      count = int(0.07 * (needed // 8))
      risks_lib.prove(losses([count], needed // 8), risk, np.zeros(1, int))

  def test_unknown_procedure_is_refused(self):
    with self.assertRaisesRegex(ValueError, "procedure 'holm'; allowed: fixed"):
      risks_lib.prove(losses([0]), Risk('loss', 0.1, 0.1), [0], 'holm')


class ProveAllTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.loss = losses([0, 2, 3, 20], 200)
    self.cost = np.repeat([[1.0], [0.55], [0.3], [0.1]], 200, axis=1)
    self.orders = {'loss': np.arange(4), 'cost': np.arange(4)[::-1]}

  def prove(self, alpha, budget):
    return risks_lib.prove_all(
        {'loss': self.loss, 'cost': self.cost},
        [Risk('loss', alpha, 0.1), Risk('cost', budget, 0.1, 2.0, 'betting')],
        self.orders,
    )

  def test_candidates_are_proven_for_both(self):
    proven, proofs = self.prove(0.05, 0.7)
    # Loss allows 0, 1 and 2, cost 3, 2 and 1.
    self.assertEqual(proven.tolist(), [1, 2])
    self.assertEqual([x.risk.quantity for x in proofs], ['loss', 'cost'])

  def test_two_risks_kept_only_separately_are_refused_with_a_number(self):
    # Candidate 2 is within both levels, with 3 of 200 lost; at .0149 none is.
    with self.assertRaisesRegex(risks_lib.Refusal, 'no single thresh') as seen:
      self.prove(0.018, 0.4)
    self.assertGreater(seen.exception.needed, 200)
    with self.assertRaises(risks_lib.Refusal) as seen:
      self.prove(0.0149, 0.4)
    self.assertIsNone(seen.exception.needed)


class ValidityTest(parameterized.TestCase):
  """Samples with replacement from one set, whose own risk is the true one."""

  def setUp(self):
    super().setUp()
    self.rng = np.random.default_rng(0)

  def table(self, num_samples=1):
    outcomes, scores = ladders.make_outcomes(
        6_000, seed=5, num_samples=num_samples
    )
    other, other_scores = ladders.make_outcomes(2_000, seed=99)
    grid = thresholds_lib.grid(other_scores, other.mask, 60)
    return thresholds_lib.values_at(scores, outcomes, grid), grid

  def broken(self, values, grid, risks, n, procedure='fixed_sequence'):
    """Returns how often each promise is broken; a refusal breaks none."""
    truth = {name: x.mean(axis=1) for name, x in values.items()}
    counts, points = np.zeros(len(risks), int), 0
    for _ in range(NUM_SPLITS):
      rows = self.rng.integers(values['loss'].shape[1], size=n)
      sample = {name: x[:, rows] for name, x in values.items()}
      try:
        point = thresholds_lib.from_values(
            sample, grid, risks, procedure=procedure
        )
      except risks_lib.Refusal:
        continue
      index = np.searchsorted(grid, point.threshold)
      points += 1
      counts += [truth[x.quantity][index] > x.level for x in risks]
    return counts, points

  @parameterized.product(
      p_value=('binomial', 'hoeffding_bentkus', 'betting'),
      procedure=risks_lib.PROCEDURES,
  )
  def test_loss(self, p_value, procedure):
    values, grid = self.table()
    risk = Risk('loss', 0.1, 0.1, p_value=p_value)
    (broken,), points = self.broken(values, grid, [risk], 200, procedure)
    self.assertLessEqual(broken, most_broken(0.1))
    if procedure == 'fixed_sequence':
      self.assertGreater(points, NUM_SPLITS // 2)

  @parameterized.parameters('hoeffding_bentkus', 'betting')
  def test_loss_of_several_answers(self, p_value):
    values, grid = self.table(num_samples=3)
    risk = Risk('loss', 0.1, 0.1, p_value=p_value)
    (broken,), points = self.broken(values, grid, [risk], 300)
    self.assertLessEqual(broken, most_broken(0.1))
    self.assertGreater(points, NUM_SPLITS // 2)

  def test_loss_and_cost_each_keep_their_own_delta(self):
    values, grid = self.table()
    risks = [
        Risk('loss', 0.2, 0.05),
        Risk('cost', 0.75, 0.2, cap=2.0, p_value='betting'),
    ]
    counts, points = self.broken(values, grid, risks, 800)
    self.assertLessEqual(counts[0], most_broken(0.05))
    self.assertLessEqual(counts[1], most_broken(0.2))
    self.assertGreater(points, NUM_SPLITS // 2)

  def test_a_risk_exactly_at_its_level_is_proven_about_delta_often(self):
    # The worst case of the bound: about delta, not zero, are broken.
    values = (np.arange(10_000) < 1_001).astype(float)[None]
    values = {name: values for name in ('correct', 'cost', 'loss', 'gain')}
    risk = Risk('loss', 0.1, 0.1, p_value='binomial')
    counts, _ = self.broken(values, np.zeros(1), [risk], 500)
    self.assertBetween(counts[0], 0.04 * NUM_SPLITS, most_broken(0.1))


if __name__ == '__main__':
  absltest.main()
