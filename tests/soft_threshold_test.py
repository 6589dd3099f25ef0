"""Tests of the soft threshold and of kappa: limits, sign, convergence."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from routing.objectives import soft_threshold
from routing.policy import categorical


def _log_probs(*probabilities):
  return jnp.log(jnp.array(probabilities))


class ThresholdedTest(parameterized.TestCase):

  @parameterized.parameters(0.29, 0.3, 0.31)
  def test_two_routes_equal_the_formula(self, kappa):
    got = soft_threshold.thresholded(_log_probs(0.7, 0.3), kappa)
    chance = 1 / (1 + np.exp(-(0.3 - kappa) / 0.01))
    np.testing.assert_allclose(
        jnp.exp(got), [1 - chance, chance], rtol=1e-4, atol=1e-6
    )

  def test_larger_routes_share_as_the_policy_does(self):
    # p = 0.5 = kappa, hence a hand-over with probability 1/2, in the ratio 2:3.
    got = soft_threshold.thresholded(_log_probs(0.5, 0.2, 0.3), 0.5)
    np.testing.assert_allclose(jnp.exp(got), [0.5, 0.2, 0.3], rtol=1e-4)

  def test_small_epsilon_is_the_threshold(self):
    logits = jax.random.normal(jax.random.key(0), (200, 3))
    log_probs = categorical.log_softmax(logits)
    leave = np.exp(log_probs[:, 1:]).sum(axis=-1)
    got = soft_threshold.thresholded(log_probs, 0.6, epsilon=1e-7)
    np.testing.assert_allclose(
        jnp.exp(got[:, 1:]).sum(axis=-1), leave >= 0.6, atol=1e-6
    )

  def test_each_problem_may_have_a_kappa(self):
    log_probs = jnp.broadcast_to(_log_probs(0.7, 0.3), (2, 4, 2))
    got = soft_threshold.thresholded(log_probs, jnp.array([[0.2], [0.4]]))
    for n, kappa in enumerate((0.2, 0.4)):
      np.testing.assert_array_equal(
          got[n], soft_threshold.thresholded(log_probs[n], kappa)
      )

  def test_masked_routes_stay_masked(self):
    available = jnp.array([[True, True, False], [True, False, False]])
    log_probs = categorical.log_softmax(jnp.zeros((2, 3)), available)
    got = categorical.log_softmax(
        soft_threshold.thresholded(log_probs, 0.5), available
    )
    np.testing.assert_allclose(
        jnp.exp(got), [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], atol=1e-6
    )

  def test_gradient_far_from_the_threshold_is_finite(self):
    def log_leave(logit, kappa):
      log_probs = categorical.log_softmax(jnp.array([0.0, logit]))
      return soft_threshold.thresholded(log_probs, kappa)[1]

    # Below it, log sigmoid is a line: slope p (1 - p) / epsilon in the logit.
    # At logit log(1/3), p = 1/4: 3/16 / 0.01 = 18.75.
    gradient = jax.grad(log_leave)(-jnp.log(3.0), 0.9)
    np.testing.assert_allclose(gradient, 18.75, rtol=1e-4)
    np.testing.assert_allclose(jax.grad(log_leave)(5.0, 0.1), 0.0, atol=1e-6)


class KappaTest(parameterized.TestCase):

  def test_a_miss_lowers_kappa(self):
    # eta_1 = 1: a miss moves by -(1 - 0.1), its absence by +0.1.
    update = lambda miss, step: soft_threshold.update_kappa(
        0.5, miss, step, alpha=0.1
    )
    np.testing.assert_allclose(update(1.0, 1), -0.4, rtol=1e-5)
    np.testing.assert_allclose(update(0.0, 1), 0.6, rtol=1e-5)
    # eta_32 = 32^-0.6 = 1/8.
    np.testing.assert_allclose(update(1.0, 32), 0.5 - 0.9 / 8, rtol=1e-5)
    # If the share alpha of a batch misses, kappa stays.
    self.assertEqual(update(0.1, 7), 0.5)

  def test_lower_kappa_hands_over_more(self):
    log_probs = _log_probs(0.7, 0.3)
    leave = [
        soft_threshold.thresholded(log_probs, kappa)[1]
        for kappa in (0.28, 0.3, 0.32)
    ]
    self.assertGreater(leave[0], leave[1])
    self.assertGreater(leave[1], leave[2])

  @parameterized.product(alpha=(0.05, 0.2), drift=(False, True))
  def test_miss_rate_converges_to_alpha(self, alpha, drift):
    # A problem is missed if it is kept by the small model (its score is below
    # kappa) and the small model fails. Drift: after half of the stream the
    # scores are less informative and the small model fails more often.
    num_problems = 40_000
    rng = np.random.default_rng(0)
    is_late = drift * (np.arange(num_problems) >= num_problems // 2)
    scores = rng.random(num_problems) ** (1 + is_late)
    fails = rng.random(num_problems) < 0.6 + 0.3 * is_late

    def serve(kappa, problem):
      step, score, fails = problem
      miss = (fails & (score < kappa)).astype(jnp.float32)
      kappa = soft_threshold.update_kappa(kappa, miss, step, alpha=alpha)
      return kappa, (miss, kappa)

    steps = jnp.arange(1, num_problems + 1)
    _, (misses, kappas) = jax.lax.scan(serve, 0.9, (steps, scores, fails))
    # kappa stays within [-1, 2], so the mean is off by at most its range over
    # eta times n: 3 n^0.6 / n = 0.043; here it is off by far less.
    self.assertBetween(kappas.min(), -1.0, 0.5)
    np.testing.assert_allclose(misses.mean(), alpha, atol=0.01)


if __name__ == '__main__':
  absltest.main()
