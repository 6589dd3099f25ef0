"""Tests of the policy's network and its dropout."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from routing.policy import networks

_CONFIG = dict(kind='mlp', hidden=(16,), dropout=0.1)


class NetworkTest(parameterized.TestCase):

  @parameterized.parameters(2, 3, 5)
  def test_untrained_policy_hands_over_now_and_then(self, num_routes):
    # On average inputs: chance sigmoid(-1) = 0.269, shared by larger routes.
    network = networks.make_network(_CONFIG, num_routes)
    features = jax.random.normal(jax.random.key(1), (500, 20))
    params = network.init(jax.random.key(0), features)
    chances = jax.nn.softmax(network.apply(params, features))
    np.testing.assert_allclose(1 - chances[:, 0].mean(), 0.269, atol=0.03)
    np.testing.assert_allclose(
        chances[:, 1:].mean(axis=0), 0.269 / (num_routes - 1), atol=0.02
    )

  def test_no_hidden_layer_is_a_linear_policy(self):
    network = networks.make_network(dict(_CONFIG, hidden=()), 2)
    x = jax.random.normal(jax.random.key(1), (1, 7))
    params = network.init(jax.random.key(0), x)
    base = network.apply(params, 0 * x)
    np.testing.assert_allclose(
        network.apply(params, 2 * x) - base,
        2 * (network.apply(params, x) - base),
        rtol=1e-4,
        atol=1e-6,
    )

  def test_unknown_kind_is_refused(self):
    with self.assertRaisesRegex(ValueError, "'rnn'; allowed: mlp"):
      networks.make_network(dict(_CONFIG, kind='rnn'), 2)


class DropInputsTest(parameterized.TestCase):

  def test_drops_the_same_features_at_every_step(self):
    got = networks.drop_inputs(jax.random.key(0), jnp.ones((50, 4, 40)), 0.25)
    np.testing.assert_array_equal(got, np.broadcast_to(got[:, :1], got.shape))
    # Kept ones are scaled by 4/3, so that the mean stays.
    np.testing.assert_allclose(np.unique(got), [0.0, 4 / 3], rtol=1e-6)
    # 2,000 draws at 0.25: standard error 0.0097.
    np.testing.assert_allclose((got[:, 0] == 0).mean(), 0.25, atol=0.04)
    self.assertGreater(len(np.unique(got[:, 0], axis=0)), 40)

  def test_no_dropout_is_the_identity(self):
    features = jnp.ones((2, 3, 4))
    self.assertIs(
        networks.drop_inputs(jax.random.key(0), features, 0.0), features
    )

  @parameterized.parameters(-0.1, 1.0)
  def test_rate_outside_is_refused(self, rate):
    with self.assertRaisesRegex(ValueError, 'dropout'):
      networks.drop_inputs(jax.random.key(0), jnp.ones((1, 1, 1)), rate)


if __name__ == '__main__':
  absltest.main()
