"""The threshold in service: its sign, its bound, and simulated streams."""

from absl.testing import absltest
from absl.testing import parameterized
from flax import serialization
import numpy as np
from scipy import optimize
from scipy import stats

from experiments.studies.coverage import streams
from routing.calibration import online


def serve(state, scores):
  """Returns the states after each row of `[n, S]` scores of `streams`."""
  for row in scores:
    state = online.update(state, row < state.kappa)
    yield state


def last(states):
  *_, state = states
  return state


class UpdateTest(parameterized.TestCase):

  def test_two_answers_by_hand(self):
    state = online.init(0.5, alpha=0.1, first_step=0.2, xi=0.5)
    state = online.update(state, 1)  # 0.5 - 0.2 * 0.9
    self.assertAlmostEqual(state.kappa, 0.32)
    state = online.update(state, 0)  # The second step is half as long.
    self.assertAlmostEqual(state.kappa, 0.33)
    self.assertEqual(online.mean_loss(state), 0.5)

  def test_a_miss_lowers_kappa_and_no_miss_raises_it(self):
    state = online.init(0.5, alpha=0.1, first_step=0.1)
    self.assertLess(online.update(state, 1).kappa, 0.5)
    self.assertGreater(online.update(state, 0).kappa, 0.5)
    self.assertEqual(online.update(state, 0.1).kappa, 0.5)

  def test_without_misses_kappa_stays_at_high(self):
    state = last(serve(online.init(0.5, alpha=0.1), np.full((1_000, 1), 2.0)))
    self.assertEqual(state.kappa, 1)
    # The first miss moves it back into the range.
    self.assertLess(online.update(state, 1).kappa, 1)

  def test_the_scale_of_scores_does_not_matter(self):
    scores = streams.iid(500, 3)
    plain = last(serve(online.init(0.5, alpha=0.1), scores))
    scaled = online.init(10 + 0.5 * 8, alpha=0.1, low=10.0, high=18.0)
    scaled = last(serve(scaled, 10 + 8 * scores))
    np.testing.assert_allclose(scaled.kappa, 10 + 8 * plain.kappa)
    np.testing.assert_allclose(
        online.guarantee(scaled), online.guarantee(plain)
    )

  def test_a_restored_state_continues_as_if_uninterrupted(self):
    scores = streams.iid(80, 3)
    whole = last(serve(online.init(np.full(3, 0.5), alpha=0.1), scores))
    half = last(serve(online.init(np.full(3, 0.5), alpha=0.1), scores[:40]))
    saved = serialization.to_bytes(half)
    # The state that is restored into only gives the structure.
    restored = serialization.from_bytes(online.init(0.1, alpha=0.7), saved)
    got = last(serve(restored, scores[40:]))
    for name, value in vars(whole).items():
      np.testing.assert_array_equal(getattr(got, name), value, name)

  @parameterized.parameters(
      (dict(alpha=0.0), 'alpha must be in'),
      (dict(alpha=0.1, xi=0.6), 'xi must be in'),
      (dict(alpha=0.1, low=0.6), r'\[low, high\] = \[0.6, 1.0\], got 0.5'),
      (dict(alpha=0.1, first_step=0.0), 'first_step must be in'),
  )
  def test_raises_on_bad_settings(self, settings, message):
    with self.assertRaisesRegex(ValueError, message):
      online.init(0.5, **settings)

  @parameterized.parameters(-0.1, 1.1, np.nan)
  def test_raises_on_bad_losses(self, loss):
    with self.assertRaisesRegex(ValueError, 'loss must be in'):
      online.update(online.init(0.5, alpha=0.1), loss)


class GuaranteeTest(parameterized.TestCase):

  @parameterized.product(
      adversary=('greedy', 'patient', 'random', 'whole'),
      alpha=(0.02, 0.2),
      first_step=(0.1, 2.0),
  )
  def test_holds_at_every_time_against_adversaries_who_see_kappa(
      self, adversary, alpha, first_step
  ):
    # The only assumption: nothing is lost at kappa <= low.
    rng = np.random.default_rng(0)
    state = online.init(1.0, alpha=alpha, first_step=first_step)
    for count in range(3_000):
      wants = {
          'greedy': True,  # Loses whenever it can.
          'patient': count > 2_000,  # Lets kappa rise, then loses all.
          'random': rng.random() < 0.5,
          'whole': state.kappa >= 1,  # Only where least is handed over.
      }[adversary]
      state = online.update(state, float(wants and state.kappa > 0))
      self.assertLessEqual(online.mean_loss(state), online.guarantee(state))

  def test_the_guarantee_is_nearly_reached(self):
    # An adversary keeps kappa at the top with a loss of alpha, then loses all
    # it can: more than half of what the bound allows.
    state, num = online.init(1.0, alpha=0.1, first_step=0.1), 2_000
    for count in range(num):
      is_awake = num - count < 1 / (0.9 * 0.1 * num**-0.6)
      loss = float(state.kappa > (0 if is_awake else 0.95))
      state = online.update(state, loss)
    excess = online.mean_loss(state) - 0.1
    self.assertGreater(excess, 0.5 * (online.guarantee(state) - 0.1))

  def test_shrinks_to_alpha(self):
    state = online.init(0.5, alpha=0.1)
    self.assertEqual(online.guarantee(state), np.inf)
    late = state.replace(count=np.float64(1e9))
    self.assertLess(online.guarantee(late) - 0.1, 0.001)


class StreamsTest(parameterized.TestCase):

  @parameterized.parameters(*streams.STREAMS)
  def test_long_run_loss_is_within_half_a_point(self, stream):
    alpha = np.array([[0.05], [0.1], [0.2]])
    scores = streams.STREAMS[stream](20_000, 10)
    start = online.init(np.full((3, 10), 0.5), alpha=alpha)
    # For each stream at each alpha, not for their mean.
    off = np.abs(online.mean_loss(last(serve(start, scores))) - alpha)
    self.assertLess(off.max(), 0.005)

  def test_the_loss_of_a_fixed_threshold_is_not(self):
    # The streams are hard: a threshold that is calibrated on the first half and
    # then fixed loses several points more than alpha.
    scores = streams.abrupt(20_000, 1).ravel()
    kappa = np.quantile(scores[:10_000], 0.1)
    self.assertGreater((scores < kappa).mean(), 0.13)

  def test_converges_where_the_expected_loss_is_alpha(self):
    scores = streams.iid(20_000, 50)
    loss_at = lambda kappa: 0.4 * stats.beta.cdf(kappa, 2, 2) - 0.1
    root = optimize.brentq(loss_at, 0, 1)
    early, late = [], []
    for state in serve(online.init(np.full(50, 0.9), alpha=0.1), scores):
      if state.count == 200:
        early = np.abs(state.kappa - root)
      late = np.abs(state.kappa - root)
    # The spread falls as the root of the step: 100^-0.3 = 1/4.
    self.assertLess(late.mean(), 0.5 * early.mean())
    self.assertLess(late.mean(), 0.03)


if __name__ == '__main__':
  absltest.main()
