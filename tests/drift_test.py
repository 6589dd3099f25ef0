"""The drift alarm: by hand, false alarms, and delay."""

from absl.testing import absltest
from absl.testing import parameterized
from flax import serialization
import numpy as np

from routing.calibration import drift


def final_state(losses, alpha, **kwargs):
  """Returns the state after `[n, ...]` losses; one alarm per column."""
  state = drift.init(alpha, streams=losses.shape[1:], **kwargs)
  for loss in losses:
    state = drift.update(state, loss)
  return state


def misses(seed, num_streams, *pieces):
  """Returns `[n, S]` misses from (answers, rate) pieces."""
  rng = np.random.default_rng(seed)
  return np.concatenate(
      [rng.random((count, num_streams)) < rate for count, rate in pieces]
  ).astype(float)


class CapitalTest(parameterized.TestCase):

  def test_two_answers_by_hand(self):
    # alpha 1/4, one bet on 1/2: a miss pays 2, no miss pays 2/3. h = 1, so the
    # reserve is 1, 1/2, 1/3, and new bets are 1/2, then 1/6.
    state = drift.init(0.25, shifts={0.25: 1}, half_life=1)
    self.assertEqual(drift.log_capital(state), 0)
    state = drift.update(state, 1)  # 1/2 * 2 + 1/2
    self.assertAlmostEqual(np.exp(drift.log_capital(state)), 1.5)
    state = drift.update(state, 0)  # (1 + 1/6) * 2/3 + 1/3
    self.assertAlmostEqual(np.exp(drift.log_capital(state)), 7 / 9 + 1 / 3)
    self.assertAlmostEqual(drift.p_value(state), 1 / 1.5)  # Of the highest.

  def test_equals_the_plain_sum_over_starts_and_rates(self):
    alpha, half_life, shifts = 0.1, 7.0, {0.05: 3, 0.2: 1}
    losses = np.random.default_rng(0).random(40) ** 3  # Not only 0 and 1.
    total = half_life / (half_life + 40)
    for shift, weight in shifts.items():
      bet = shift / (alpha * (1 - alpha))
      for start in range(1, 41):
        share = half_life / (half_life + start - 1)
        share -= half_life / (half_life + start)
        growth = np.prod(1 + bet * (losses[start - 1 :] - alpha))
        total += share * weight / 4 * growth
    state = final_state(losses, alpha, shifts=shifts, half_life=half_life)
    np.testing.assert_allclose(drift.log_capital(state), np.log(total))

  @parameterized.parameters(0.02, 0.2)
  def test_the_expected_capital_is_constant_at_rate_alpha(self, alpha):
    # The martingale, exactly: after any history the mean of the capital after
    # either answer is the capital now.
    state = drift.init(alpha)
    for loss in misses(3, 1, (200, 0.3)).ravel():
      before = np.exp(drift.log_capital(state))
      miss, none = (
          np.exp(drift.log_capital(drift.update(state, x))) for x in (1, 0)
      )
      np.testing.assert_allclose(alpha * miss + (1 - alpha) * none, before)
      self.assertGreater(miss, none)  # So lower rates only lose.
      state = drift.update(state, loss)


class AlarmTest(parameterized.TestCase):

  @parameterized.parameters((0.05, 0.1, 1_000, 10_000), (0.2, 0.2, 300, 3_000))
  def test_quiet_streams_stay_quiet(self, alpha, delta, num_streams, num):
    # A rate of exactly alpha. By Ville at most delta of the streams ever raise
    # an alarm; 3 standard errors for this many draws.
    state = final_state(misses(1, num_streams, (num, alpha)), alpha)
    raised = drift.is_alarm(state, delta).mean()
    error = np.sqrt(delta * (1 - delta) / num_streams)
    self.assertLessEqual(raised, delta + 3 * error)
    self.assertGreater(raised, 0)  # Otherwise the bound would not be tested.

  def test_misses_that_depend_on_the_past_raise_no_more(self):
    # The promise is about the probability of the next miss, given all before.
    # Here it is alpha or 0, depending on the capital so far.
    alpha, delta = 0.1, 0.1
    rng = np.random.default_rng(2)
    state = drift.init(alpha, streams=(500,))
    for _ in range(2_000):
      is_winning = drift.log_capital(state) > -0.5
      loss = rng.random(500) < np.where(is_winning, alpha, 0.02)
      state = drift.update(state, loss)
    self.assertLessEqual(drift.is_alarm(state, delta).mean(), delta + 0.04)

  @parameterized.parameters(
      (0.02, 0, 0.99),
      (0.02, 5_000, 0.99),
      (0.05, 0, 0.95),
      (0.05, 5_000, 0.95),
      (0.1, 500, 0.9),
      (0.2, 500, 0.75),  # No alarm can reach 0.92; see `most_within`.
  )
  def test_ten_points_raise_it_within_300_answers(self, alpha, quiet, share):
    losses = misses(4, 300, (quiet, alpha), (300, alpha + 0.1))
    state = final_state(losses[:quiet], alpha)
    is_false = drift.is_alarm(state, 0.1)
    for loss in losses[quiet:]:
      state = drift.update(state, loss)
    raised = drift.is_alarm(state, 0.1)[~is_false]
    self.assertGreaterEqual(raised.mean(), share)

  def test_capital_bet_from_the_start_would_be_late(self):
    # Why most of the capital is kept in reserve: if all of it is bet within a
    # few answers, the same shift after 5,000 answers is seldom noticed within
    # 300.
    losses = misses(5, 200, (5_000, 0.1), (300, 0.2))
    seen = [
        drift.is_alarm(final_state(losses, 0.1, half_life=h), 0.1).mean()
        for h in (0.01, 3_000)
    ]
    self.assertLess(seen[0], seen[1] - 0.5)
    self.assertGreater(seen[1], 0.75)

  def test_no_alarm_can_be_sooner_than_the_best_test(self):
    # 2 answers, alpha 1/4, shift 1/4: P(both missed) is 1/16, and 1/4 after the
    # shift. The best test of size 1/16 rejects exactly then.
    delta = 1 / 17  # 1/16 given no alarm before.
    most = drift.most_within(0.25, 0.25, 2, delta=delta, horizon=2)
    self.assertAlmostEqual(most, 1 / 4)
    # Half the size: it rejects then with probability 1/2.
    most = drift.most_within(0.25, 0.25, 2, delta=delta, horizon=4)
    self.assertAlmostEqual(most, 1 / 8)
    wide = dict(delta=0.1, horizon=10_000)
    self.assertBetween(drift.most_within(0.2, 0.1, 300, **wide), 0.9, 0.95)
    self.assertGreater(drift.most_within(0.05, 0.1, 300, **wide), 0.999)

  def test_an_alarm_stays_raised(self):
    state = final_state(misses(6, 1, (100, 0.9), (3_000, 0.0)), 0.05)
    self.assertTrue(drift.is_alarm(state, 0.01)[0])
    self.assertLess(drift.log_capital(state)[0], 0)

  def test_a_lasting_shift_does_not_overflow(self):
    state = final_state(np.ones((5_000, 1)), 0.02)
    self.assertTrue(np.isfinite(state.highest).all())
    self.assertEqual(drift.p_value(state)[0], 0)


class StateTest(parameterized.TestCase):

  def test_a_restored_state_continues_as_if_uninterrupted(self):
    losses = misses(7, 3, (60, 0.2))
    saved = serialization.to_bytes(final_state(losses[:30], 0.1))
    # The state that is restored into only gives the structure.
    state = serialization.from_bytes(drift.init(0.5), saved)
    for loss in losses[30:]:
      state = drift.update(state, loss)
    whole = final_state(losses, 0.1)
    for name in (
        'count',
        'table',
        'highest',
        'alpha',
        'rates',
        'shares',
        'half_life',
    ):
      np.testing.assert_array_equal(getattr(state, name), getattr(whole, name))

  def test_streams_do_not_mix(self):
    losses = misses(8, 4, (50, 0.3))
    together = drift.log_capital(final_state(losses, 0.1))
    alone = [drift.log_capital(final_state(x, 0.1)) for x in losses.T]
    np.testing.assert_allclose(together, alone)

  @parameterized.parameters(
      (dict(alpha=0), 'alpha must be in'),
      (dict(alpha=0.1, half_life=0), 'half_life must be in'),
      (dict(alpha=0.9, shifts={0.1: 1}), '1 - alpha = 0.1'),
      (dict(alpha=0.1, shifts={0.0: 1, 0.1: 1}), 'shifts must be'),
      (dict(alpha=0.1, shifts={0.1: 0}), 'weights of shifts must be'),
  )
  def test_raises_on_bad_settings(self, settings, message):
    with self.assertRaisesRegex(ValueError, message):
      drift.init(**settings)

  @parameterized.parameters(-0.1, 1.1, np.nan)
  def test_raises_on_bad_losses(self, loss):
    with self.assertRaisesRegex(ValueError, 'loss must be in'):
      drift.update(drift.init(0.1), loss)

  def test_raises_on_a_bad_delta(self):
    with self.assertRaisesRegex(ValueError, 'delta must be in'):
      drift.is_alarm(drift.init(0.1), 1.0)


if __name__ == '__main__':
  absltest.main()
