"""Tests of distributions over available routes: by hand, limits, samples."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from routing.policy import categorical


class LogSoftmaxTest(parameterized.TestCase):

  def test_by_hand(self):
    # Weights 1, 3, 4 without the second: 1/5, 0, 4/5.
    logits = jnp.log(jnp.array([1.0, 3.0, 4.0]))
    got = categorical.log_softmax(logits, jnp.array([True, False, True]))
    np.testing.assert_allclose(jnp.exp(got), [0.2, 0.0, 0.8], rtol=1e-6)

  def test_masking_equals_removing_the_route(self):
    logits = jax.random.normal(jax.random.key(0), (2, 7, 5))
    available = jnp.array([True, False, True, True, False])
    got = categorical.log_softmax(logits, available)
    np.testing.assert_allclose(
        got[..., available],
        categorical.log_softmax(logits[..., available]),
        rtol=1e-6,
    )

  @parameterized.parameters(np.nan, np.inf, -np.inf, 1e30)
  def test_masked_logits_may_be_anything(self, value):
    available = jnp.array([[True, True, False], [False, False, False]])

    def entropy(logits):
      logits = jnp.where(available, logits, value)
      log_probs = categorical.log_softmax(logits, available)
      return categorical.entropy(log_probs).sum()

    logits = jnp.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    gradient = jax.grad(entropy)(logits)
    np.testing.assert_array_equal(gradient[0, 2], 0.0)
    np.testing.assert_array_equal(gradient[1], 0.0)
    self.assertGreater(abs(gradient[0, 0]), 0.1)

  def test_one_route_left_is_certain(self):
    got = categorical.log_softmax(
        jnp.array([-40.0, 50.0]), jnp.array([True, False])
    )
    self.assertEqual(got[0], 0.0)
    self.assertEqual(categorical.entropy(got), 0.0)


class FunctionsTest(parameterized.TestCase):

  def test_log_prob_is_that_of_the_action(self):
    log_probs = jnp.arange(12.0).reshape(2, 2, 3)
    got = categorical.log_prob(log_probs, jnp.array([[0, 2], [1, 1]]))
    np.testing.assert_array_equal(got, [[0.0, 5.0], [7.0, 10.0]])

  def test_entropy_by_hand(self):
    # Probabilities 1/2, 1/4, 1/4: 1/2 log 2 + 2 * 1/4 log 4 = 1.5 log 2.
    log_probs = jnp.log(jnp.array([0.5, 0.25, 0.25]))
    np.testing.assert_allclose(
        categorical.entropy(log_probs), 1.5 * np.log(2), rtol=1e-6
    )

  def test_divergence_by_hand(self):
    # KL((1/2, 1/2) || (1/4, 3/4)) = 1/2 log 2 + 1/2 log 2/3 = 1/2 log 4/3,
    # KL((1/4, 3/4) || (1/2, 1/2)) = 1/4 log 1/2 + 3/4 log 3/2.
    p, q = jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]]))
    np.testing.assert_allclose(
        categorical.kl_divergence(p, q), 0.5 * np.log(4 / 3), rtol=1e-6
    )
    np.testing.assert_allclose(
        categorical.kl_divergence(q, p),
        0.25 * np.log(0.5) + 0.75 * np.log(1.5),
        rtol=1e-6,
    )
    np.testing.assert_array_equal(categorical.kl_divergence(p, p), 0.0)

  def test_divergence_ignores_routes_masked_in_both(self):
    available = jnp.array([True, True, False])
    logits = jax.random.normal(jax.random.key(0), (2, 3))
    p, q = categorical.log_softmax(logits, available)
    np.testing.assert_allclose(
        categorical.kl_divergence(p, q),
        categorical.kl_divergence(p[:2], q[:2]),
        rtol=1e-6,
    )

  def test_samples_have_the_probabilities(self):
    available = jnp.array([True, False, True])
    log_probs = categorical.log_softmax(
        jnp.log(jnp.array([1.0, 3.0, 4.0])), available
    )
    draws = categorical.sample(
        jax.random.key(0), jnp.broadcast_to(log_probs, (4000, 3))
    )
    self.assertEqual(draws.dtype, jnp.int32)
    # 4,000 draws at 0.2: standard error 0.0063.
    shares = np.bincount(draws, minlength=3) / 4000
    np.testing.assert_allclose(shares, [0.2, 0.0, 0.8], atol=0.025)
    self.assertEqual(shares[1], 0.0)


if __name__ == '__main__':
  absltest.main()
