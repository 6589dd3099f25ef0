"""Tests of thresholds and alarms in service: edge cases, defaults, loops."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import stats

from routing.calibration import drift
from routing.calibration import online


class OnlineTest(parameterized.TestCase):

  @parameterized.parameters(
      dict(alpha=0.0),
      dict(alpha=1.0),
      dict(alpha=np.array([0.1, 1.0])),
      dict(alpha=np.nan),
      dict(xi=-0.01),
      dict(xi=0.51),
      dict(low=0.5, high=0.5),
      dict(low=0.51),
      dict(high=0.49),
      dict(first_step=0.0),
      dict(first_step=-1.0),
      dict(first_step=np.inf),
  )
  def test_settings_out_of_range_are_refused(self, **settings):
    with self.assertRaisesRegex(ValueError, 'must be'):
      online.init(0.5, **{'alpha': 0.1, **settings})

  @parameterized.parameters(
      dict(xi=0.0), dict(xi=0.5), dict(low=0.5), dict(high=0.5)
  )
  def test_settings_at_the_ends_of_the_range_are_allowed(self, **settings):
    state = online.init(0.5, **{'alpha': 0.1, **settings})
    self.assertEqual(state.kappa, 0.5)

  def test_each_kappa_must_be_in_range(self):
    with self.assertRaisesRegex(ValueError, r'got \[0.5 1.5\]'):
      online.init(np.array([0.5, 1.5]), alpha=0.1)

  def test_defaults(self):
    state = online.init(np.array([3.0, 4.0]), alpha=0.2, low=2.0, high=5.0)
    self.assertEqual(state.first_step, 6.0)  # Twice the range.
    self.assertEqual((state.xi, state.count), (0.1, 0.0))
    self.assertEqual((state.low, state.high), (2.0, 5.0))
    np.testing.assert_array_equal(state.loss, [0.0, 0.0])
    state = online.init(0.5, alpha=0.2)
    self.assertEqual((state.low, state.high, state.first_step), (0, 1, 2))

  def test_equals_the_plain_loop(self):
    rng = np.random.default_rng(0)
    kappa, total, alpha, first, xi, high = 0.4, 0.0, 0.15, 0.7, 0.2, 0.7
    state = online.init(
        0.4, alpha=alpha, low=0.2, high=high, first_step=first, xi=xi
    )
    self.assertEqual(online.step_size(state), first)  # Before any update.
    for k in range(1, 60):
      loss = rng.random() ** 3 if k > 20 else 0.0
      state = online.update(state, loss)
      eta = first * k ** -(0.5 + xi)
      kappa = min(high, kappa - eta * (loss - alpha))
      total += loss
      self.assertAlmostEqual(float(state.kappa), kappa)
      self.assertAlmostEqual(float(online.step_size(state)), eta)
      self.assertAlmostEqual(float(online.mean_loss(state)), total / k)
      reach = (high - 0.2) + (1 - alpha) * first
      self.assertAlmostEqual(
          float(online.guarantee(state)), alpha + reach / (k * eta)
      )
      if 6 <= k <= 20:
        self.assertEqual(state.kappa, high)

  def test_before_the_first_answer(self):
    state = online.init(0.5, alpha=0.1)
    with np.errstate(all='raise'):
      self.assertTrue(np.isnan(online.mean_loss(state)))
      self.assertEqual(online.guarantee(state), np.inf)

  def test_losses_of_zero_and_one_are_allowed_and_each_is_checked(self):
    state = online.init(np.array([0.5, 0.5]), alpha=0.1)
    online.update(state, np.array([0.0, 1.0]))
    for loss in ([0.5, 1.01], [-0.01, 0.5]):
      with self.assertRaisesRegex(ValueError, r'in \[0, 1\]'):
        online.update(state, np.array(loss))


class DriftTest(parameterized.TestCase):

  @parameterized.parameters(
      dict(alpha=0.0),
      dict(alpha=1.0),
      dict(half_life=0.0),
      dict(half_life=np.inf),
      dict(shifts={}),
      dict(shifts={0.9: 1}),
      dict(shifts={0.0: 1}),
      dict(shifts={0.1: 1, -0.05: 1}),
      dict(shifts={0.1: 0}),
      dict(shifts={0.1: 1, 0.2: -1}),
      dict(shifts={0.1: 1, 0.2: np.inf}),
  )
  def test_settings_out_of_range_are_refused(self, **settings):
    says = {
        'shifts': r'^shifts must be in \(0, 1 - alpha\)'
        r'|^The weights of shifts must be in \(0, inf\)'
    }
    (name,) = settings
    with self.assertRaisesRegex(ValueError, says.get(name, f'^{name} must be')):
      drift.init(**{'alpha': 0.1, **settings})

  def test_rates_that_reach_one_are_left_out_with_their_weights(self):
    state = drift.init(0.1, shifts={0.2: 1.0, 0.9: 5.0, 0.5: 3.0})
    np.testing.assert_allclose(state.rates, [0.3, 0.6])
    np.testing.assert_allclose(state.shares, [0.25, 0.75])

  def test_defaults(self):
    state = drift.init(0.2)
    np.testing.assert_allclose(state.rates, [0.22, 0.25, 0.3, 0.5])
    np.testing.assert_allclose(state.shares, np.array([1, 2, 4, 1]) / 8)
    self.assertEqual((state.half_life, state.count), (3_000, 0))
    self.assertEqual(state.table.shape, (4,))
    self.assertEqual(drift.p_value(state), 1.0)
    state = drift.init(0.2, streams=(2, 3))
    self.assertEqual(state.table.shape, (2, 3, 4))
    self.assertEqual(state.highest.shape, (2, 3))
    self.assertEqual(drift.log_capital(state).shape, (2, 3))

  def test_losses_of_zero_and_one_are_allowed_and_each_is_checked(self):
    state = drift.init(0.1, streams=(2,))
    drift.update(state, np.array([0.0, 1.0]))
    for loss in ([0.5, 1.01], [-0.01, 0.5]):
      with self.assertRaisesRegex(ValueError, r'in \[0, 1\]'):
        drift.update(state, np.array(loss))

  @parameterized.parameters(0.0, 1.0)
  def test_delta_must_be_in_range(self, delta):
    with self.assertRaisesRegex(ValueError, r'delta must be in \(0, 1\)'):
      drift.is_alarm(drift.init(0.1), delta)

  def test_the_alarm_is_raised_at_one_over_delta(self):
    state = drift.init(0.25).replace(highest=-np.log(0.1))
    self.assertTrue(drift.is_alarm(state, 0.1))
    self.assertTrue(drift.is_alarm(state, 0.11))
    self.assertFalse(drift.is_alarm(state, 0.09))

  @parameterized.parameters(
      (0.1, 0.2, 20, 0.05, 100), (0.3, 0.1, 7, 0.2, 50), (0.2, 0.4, 3, 0.9, 3)
  )
  def test_the_best_test_by_enumeration(
      self, alpha, shift, answers, delta, horizon
  ):
    # The test rejects the largest numbers of misses until its size is used up,
    # and the last of these numbers with the probability `part`.
    size = min(delta / (1 - delta) / (horizon // answers), 1.0)
    power = 0.0
    for count in range(answers, -1, -1):
      probability = stats.binom.pmf(count, answers, alpha)
      part = min(1.0, size / probability)
      power += part * stats.binom.pmf(count, answers, alpha + shift)
      size -= part * probability
      if size <= 0:
        break
    got = drift.most_within(alpha, shift, answers, delta=delta, horizon=horizon)
    self.assertAlmostEqual(got, power)


if __name__ == '__main__':
  absltest.main()
