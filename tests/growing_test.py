"""The growing sample: bets by hand, repeated tests, and validity."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import stats

from routing.calibration import bounds
from routing.calibration import growing
from routing.calibration import risks as risks_lib

LEVEL, DELTA = 0.05, 0.1
NUM_LOOKS, PER_LOOK, NUM_SAMPLES = 6, 200, 2_000


def plain_log_capital(values, level):
  """Returns the log-capital, computed stake by stake and draw by draw."""
  weights = 0.75 ** np.arange(8)
  parts = weights / weights.sum()
  capital = []
  for value in values:
    for j in range(8):
      stake = 0.95 * 0.6**j / (1 - level)
      parts[j] *= 1 - stake * (value - level)
    capital.append(parts.sum())
  return np.log(capital)


def most_broken(num):
  """Returns a number of broken promises exceeded with probability 0.001."""
  return stats.binom.ppf(0.999, num, DELTA)


class CapitalTest(parameterized.TestCase):

  @parameterized.parameters(0.05, 0.4)
  def test_equals_a_loop_over_stakes_and_draws(self, level):
    values = np.random.default_rng(0).beta(0.3, 1.7, size=(3, 40))
    got = growing.log_capital(values, level)
    for row, capital in zip(values, got, strict=True):
      np.testing.assert_allclose(capital, plain_log_capital(row, level))

  def test_one_draw_by_hand(self):
    # The stakes on a draw of 0 at level 1/2: 1 + 0.95 * 0.6^j, weighted.
    weights = 0.75 ** np.arange(8)
    want = np.average(1 + 0.95 * 0.6 ** np.arange(8), weights=weights)
    got = growing.log_capital(np.array([0.0]), 0.5)
    self.assertAlmostEqual(np.exp(got[0]), want)
    self.assertAlmostEqual(growing.p_value(np.array([0.0]), 0.5), 1 / want)
    self.assertEqual(growing.p_value(np.array([1.0]), 0.5), 1.0)

  @parameterized.parameters(0.05, 0.5, 0.9)
  def test_a_bet_at_the_level_is_fair_after_any_history(self, level):
    history = np.random.default_rng(1).random(30)
    here = growing.log_capital(history, level)[-1]
    up, down = (
        growing.log_capital(np.append(history, x), level)[-1] for x in (1, 0)
    )
    mean = np.logaddexp(np.log(level) + up, np.log1p(-level) + down)
    self.assertAlmostEqual(mean, here)

  def test_the_order_so_far_does_not_change_the_capital(self):
    rng = np.random.default_rng(2)
    values = rng.random(60)
    got = growing.log_capital(rng.permutation(values), 0.6)[-1]
    self.assertAlmostEqual(got, growing.log_capital(values, 0.6)[-1])

  @parameterized.parameters(
      ([0.2, 1.1], 0.5, 'values must be'),
      ([-0.1], 0.5, 'values must be'),
      ([], 0.5, 'values must be'),
      ([0.1], 1.0, 'level must be in'),
  )
  def test_raises_on_values_that_are_not_allowed(self, values, level, says):
    with self.assertRaisesRegex(ValueError, says):
      growing.log_capital(np.array(values), level)


class ProvenFromTest(parameterized.TestCase):

  def test_more_problems_never_change_earlier_decisions(self):
    rng = np.random.default_rng(3)
    values = (rng.random((5, 400)) < 0.02).astype(float)
    order = np.array([2, 0, 1, 4, 3])
    whole = growing.proven_from(values, LEVEL, order, DELTA)
    self.assertLess(whole.min(), 400)
    for n in (50, 150, 399):
      part = growing.proven_from(values[:, :n], LEVEL, order, DELTA)
      np.testing.assert_array_equal(part, np.minimum(whole, n + 1))

  def test_a_candidate_waits_for_those_before_it(self):
    none, all_lost = np.zeros(100), np.ones(100)
    late = np.append(np.ones(5), np.zeros(295))
    first = growing.num_needed(np.zeros(1), LEVEL, DELTA)
    prove = lambda rows, order: growing.proven_from(
        np.array(rows), LEVEL, np.array(order), DELTA
    ).tolist()
    self.assertEqual(prove([none, all_lost], [0, 1]), [first, 101])
    self.assertEqual(prove([none, all_lost], [1, 0]), [101, 101])
    both = prove([np.zeros(300), late], [1, 0])
    self.assertEqual(both[0], both[1])
    self.assertBetween(both[1], first + 1, 300)

  @parameterized.parameters(0.02, 0.05, 0.3)
  def test_needed_without_a_loss_is_the_minimum(self, level):
    n = growing.num_needed(np.zeros(1), level, DELTA)
    for num, is_proven in ((n, True), (n - 1, False)):
      got = growing.p_value(np.zeros(num), level)
      self.assertEqual(got <= DELTA, is_proven)
    # More than a sample of fixed size needs, but less than twice as many.
    fixed = bounds.trajectories_needed(0.0, level, DELTA)
    self.assertBetween(n, fixed + 1, 2 * fixed)

  def test_the_needed_number_is_enough_about_half_of_the_time(self):
    rng = np.random.default_rng(4)
    seen = (np.arange(1_000) < 25).astype(float)
    n = growing.num_needed(seen, LEVEL, DELTA)
    draws = (rng.random((300, n)) < 0.025).astype(float)
    self.assertGreater(np.mean(growing.p_value(draws, LEVEL) <= DELTA), 0.4)
    few = growing.p_value(draws[:, : n // 4], LEVEL)
    self.assertLess(np.mean(few <= DELTA), 0.4)
    self.assertIsNone(growing.num_needed(seen, 0.02, DELTA))


class ProcedureTest(absltest.TestCase):
  """`risks.prove` with procedure 'growing'."""

  def test_proves_what_proven_from_says(self):
    rng = np.random.default_rng(5)
    rates = np.array([0.01, 0.02, 0.03, 0.2])
    values = (rng.random((4, 900)) < rates[:, None]).astype(float)
    order = np.arange(4)
    start = growing.proven_from(values, LEVEL, order, DELTA)
    self.assertEqual(start[-1], 901)
    risk = risks_lib.Risk('loss', LEVEL, DELTA)
    for n in (int(start[0]), 300, 900):
      got = risks_lib.prove(values[:, :n], risk, order, 'growing')
      np.testing.assert_array_equal(got.is_proven, start <= n)
      self.assertEqual(got.test, 'growing')

  def test_refusal_says_how_many_and_that_the_sample_may_grow(self):
    risk = risks_lib.Risk('loss', LEVEL, DELTA)
    least = growing.num_needed(np.zeros(1), LEVEL, DELTA)
    some = (np.arange(300) < 11).astype(float)
    for values, needed in (
        (np.zeros(least - 1), least),
        (some, growing.num_needed(some, LEVEL, DELTA)),
        (np.ones(300), None),
    ):
      with self.assertRaisesRegex(risks_lib.Refusal, 'sample may grow') as e:
        risks_lib.prove(values[None], risk, np.zeros(1, int), 'growing')
      self.assertEqual(e.exception.needed, needed)
    self.assertGreater(growing.num_needed(some, LEVEL, DELTA), 300)

  def test_other_procedures_say_that_a_fresh_sample_is_needed(self):
    risk = risks_lib.Risk('loss', LEVEL, DELTA)
    for procedure in ('fixed_sequence', 'bonferroni'):
      for num_lost, num in ((0, 44), (14, 300), (300, 300)):
        values = (np.arange(num) < num_lost).astype(float)[None]
        with self.assertRaisesRegex(risks_lib.Refusal, 'fresh sample'):
          risks_lib.prove(values, risk, np.zeros(1, int), procedure)

  def test_costs_are_capped_and_scaled(self):
    cost = np.random.default_rng(6).exponential(0.5, size=(1, 300))
    risk = risks_lib.Risk('cost', 0.7, DELTA, cap=2.0)
    got = risks_lib.p_values(cost, risk, 'growing')
    want = growing.p_value(np.minimum(cost, 2) / 2, 0.35)
    np.testing.assert_allclose(got, want)


class LooksTest(parameterized.TestCase):
  """Problems are added until the promise is granted, six looks at most.

  The risk is at its level, so that every promise that is granted is broken, or
  at least as bad as a broken one.
  """

  def setUp(self):
    super().setUp()
    self.rng = np.random.default_rng(7)
    self.num = NUM_LOOKS * PER_LOOK
    self.looks = PER_LOOK * np.arange(1, NUM_LOOKS + 1)

  def granted(self, values, level):
    """Returns `[S]` bool, whether `growing` proves it at any of the looks."""
    found = [growing.p_value(values[:, :n], level) <= DELTA for n in self.looks]
    return np.any(found, axis=0)

  def test_naive_looks_break_more_than_allowed_and_growing_ones_do_not(self):
    losses = (self.rng.random((NUM_SAMPLES, self.num)) < LEVEL).astype(float)
    counts = np.cumsum(losses, axis=1)[:, self.looks - 1]
    p_values = bounds.binomial_p_value(counts, self.looks, LEVEL)
    naive = np.any(p_values <= DELTA, axis=1)
    # One test at a fixed size keeps the promise; six such tests do not.
    self.assertLessEqual(
        np.sum(p_values[:, 0] <= DELTA), most_broken(NUM_SAMPLES)
    )
    self.assertGreater(naive.sum(), most_broken(NUM_SAMPLES))
    got = self.granted(losses, LEVEL)
    self.assertLessEqual(got.sum(), most_broken(NUM_SAMPLES))
    self.assertGreater(got.sum(), 0.02 * NUM_SAMPLES)  # The test has power.

  @parameterized.parameters(0.1, 0.3, 0.6)
  def test_capped_costs(self, level):
    # Zeros, and values spread evenly up to the cap, or at the cap.
    size = NUM_SAMPLES // 2, self.num
    spread = self.rng.random(size) * (self.rng.random(size) < 2 * level)
    at_cap = (self.rng.random(size) < level).astype(float)
    for values in (spread, at_cap) if level <= 0.5 else (at_cap,):
      got = self.granted(values, level)
      self.assertLessEqual(got.sum(), most_broken(size[0]))

  def test_a_sequence_of_candidates_some_of_which_break_it(self):
    # Nested losses, as rising thresholds have: 2, 4, 5, 6 %. The last two do
    # not keep 'below 5 %'. The test is repeated after every problem.
    rates = np.array([0.02, 0.04, 0.05, 0.06])
    draws = self.rng.random((500, 1, self.num))
    values = (draws < rates[:, None]).astype(float)
    start = growing.proven_from(values, LEVEL, np.arange(4), DELTA)
    broken = (start[:, 2:] <= self.num).any(axis=1)
    self.assertLessEqual(broken.sum(), most_broken(500))
    self.assertGreater(np.mean(start[:, 0] <= self.num), 0.9)


if __name__ == '__main__':
  absltest.main()
