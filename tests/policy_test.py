"""Tests of the networks: kinds, causality, padding, conditioning, dropout."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from routing.policy import layers
from routing.policy import networks

_CONFIG = dict(kind='mlp', hidden=(16,), dropout=0.1)


class NetworkTest(parameterized.TestCase):

  @parameterized.parameters(2, 3, 5)
  def test_initial_hand_over_probability(self, num_routes):
    # On average inputs: sigmoid(-1) = 0.269, shared by the larger routes.
    network = networks.make_network(_CONFIG, num_routes)
    features = np.random.default_rng(1).normal(size=(500, 20))

    @jax.jit
    def initial(key):
      params = network.init(key, features)
      return jax.nn.softmax(network.apply(params, features))

    probabilities = initial(jax.random.key(0))
    np.testing.assert_allclose(1 - probabilities[:, 0].mean(), 0.269, atol=0.03)
    np.testing.assert_allclose(
        probabilities[:, 1:].mean(axis=0), 0.269 / (num_routes - 1), atol=0.02
    )

  def test_no_hidden_layer_is_a_linear_policy(self):
    network = networks.make_network(dict(_CONFIG, hidden=()), 2)
    x = np.random.default_rng(1).normal(size=(1, 7)).astype(np.float32)
    params = jax.jit(network.init)(jax.random.key(0), x)
    outputs = lambda x: np.asarray(jax.jit(network.apply)(params, x))
    base = outputs(0 * x)
    np.testing.assert_allclose(
        outputs(2 * x) - base,
        2 * (outputs(x) - base),
        rtol=1e-4,
        atol=1e-6,
    )

  def test_unknown_kind_is_refused(self):
    with self.assertRaisesRegex(ValueError, "'rnn'; allowed: mlp, gru, att"):
      networks.make_network(dict(_CONFIG, kind='rnn'), 2)
    with self.assertRaisesRegex(ValueError, "'rnn'; allowed: mlp, gru, att"):
      networks.make_critics(dict(_CONFIG, kind='rnn'))


def _features(shape=(3, 6, 5)):
  return np.random.default_rng(2).normal(size=shape).astype(np.float32)


@functools.cache  # Compilation dominates the time.
def _build(kind, *, is_conditioned=False):
  """Returns a function to `[..., T, A + 2]` outputs of policy and critics."""
  config = dict(kind=kind, hidden=(8,), is_conditioned=is_conditioned)
  policy = networks.make_network(config, 3)
  critics = networks.make_critics(config)
  params = jax.eval_shape(
      lambda key: [networks.init_params(key, n, 5) for n in (policy, critics)],
      jax.random.key(0),
  )
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: 0.7 * rng.normal(size=x.shape), params)

  def outputs(features, condition=None):
    logits = policy.apply({'params': params[0]}, features, condition)
    values = critics.apply({'params': params[1]}, features, condition)
    return jnp.concatenate([logits, jnp.stack(values, axis=-1)], axis=-1)

  return jax.jit(outputs)


class HistoryTest(parameterized.TestCase):

  @parameterized.parameters('mlp', 'gru', 'attention')
  def test_shapes(self, kind):
    outputs = _build(kind)
    features = _features()
    self.assertEqual(outputs(features).shape, (3, 6, 5))
    # A single trace gives the same as in a batch.
    np.testing.assert_allclose(
        outputs(features[1]), outputs(features)[1], atol=1e-5
    )

  @parameterized.product(kind=networks.KINDS, step=(0, 2, 4))
  def test_outputs_do_not_depend_on_the_future(self, kind, step):
    outputs = _build(kind)
    features, later = _features(), _features()
    later[:, step + 1 :] = 7.0
    before, after = outputs(features), outputs(later)
    np.testing.assert_array_equal(before[:, : step + 1], after[:, : step + 1])
    self.assertFalse(np.allclose(before[:, step + 1 :], after[:, step + 1 :]))

  @parameterized.parameters(('mlp', False), ('gru', True), ('attention', True))
  def test_only_networks_with_memory_use_the_past(self, kind, is_seen):
    self.assertEqual(networks.has_memory(kind), is_seen)
    outputs = _build(kind)
    features, moved = _features(), _features()
    moved[:, 0] += 1.0
    before, after = np.asarray(outputs(features)), np.asarray(outputs(moved))
    for t in range(1, 6):
      changed = np.abs(before[:, t] - after[:, t]).max(axis=-1) > 1e-6
      np.testing.assert_array_equal(changed, is_seen)

  @parameterized.parameters('mlp', 'gru', 'attention')
  def test_padding_changes_nothing(self, kind):
    outputs = _build(kind)
    features = _features()
    padded = np.pad(features[:, :4], ((0, 0), (0, 5), (0, 0)))
    np.testing.assert_allclose(
        outputs(padded)[:, :4],
        outputs(features)[:, :4],
        atol=1e-5,
    )

  def test_attention_depends_on_the_order_of_steps(self):
    outputs = _build('attention')
    features = _features()
    swapped = features[:, [1, 0, 2, 3, 4, 5]]
    before, after = outputs(features), outputs(swapped)
    self.assertGreater(np.abs(before - after)[:, 5].min(), 1e-5)

  def test_wrong_shapes_are_refused(self):
    network = networks.make_network(dict(_CONFIG, kind='gru'), 2)
    with self.assertRaisesRegex(ValueError, r'shape \(5,\); .*\[..., T, F\]'):
      network.init(jax.random.key(0), jnp.zeros(5))
    network = networks.make_network(dict(kind='attention', hidden=(6,)), 2)
    with self.assertRaisesRegex(ValueError, 'has 6 .* a multiple of 4'):
      networks.init_params(jax.random.key(0), network, 5)

  def test_untrained_critics_return_zero(self):
    critics = networks.make_critics(_CONFIG)

    @jax.jit
    def initial(key):
      params = networks.init_params(key, critics, 5)
      return critics.apply({'params': params}, jnp.ones((2, 3, 5)))

    values = np.asarray(initial(jax.random.key(0)))
    np.testing.assert_array_equal(values, np.zeros((2, 2, 3)))


class ConditionTest(parameterized.TestCase):

  @parameterized.parameters('mlp', 'gru', 'attention')
  def test_condition_changes_the_outputs(self, kind):
    outputs = _build(kind, is_conditioned=True)
    features = _features()
    both = outputs(features, np.array([[0.0], [1.0], [1.0]], np.float32))
    zeros, ones = outputs(features, 0.0), outputs(features, 1.0)
    np.testing.assert_allclose(both[0], zeros[0], atol=1e-5)
    np.testing.assert_allclose(both[1:], ones[1:], atol=1e-5)
    self.assertGreater(np.abs(zeros - ones).min(), 1e-6)

  def test_untrained_policy_ignores_the_condition(self):
    features = _features()
    logits = []
    for is_conditioned in (False, True):
      network = networks.make_network(
          dict(_CONFIG, is_conditioned=is_conditioned), 3
      )
      init = functools.partial(
          networks.init_params, network=network, num_features=5
      )
      params = jax.jit(init)(jax.random.key(0))
      condition = 3.0 if is_conditioned else None
      logits.append(
          jax.jit(network.apply)({'params': params}, features, condition)
      )
    np.testing.assert_array_equal(*logits)

  @parameterized.parameters(
      (True, None, 'must be a number'), (False, 0.5, 'must be None')
  )
  def test_condition_is_required_exactly_where_it_is_used(
      self, is_conditioned, given, message
  ):
    network = networks.make_network(
        dict(_CONFIG, is_conditioned=is_conditioned), 2
    )
    with self.assertRaisesRegex(ValueError, message):
      network.init(jax.random.key(0), jnp.zeros((1, 5)), given)


def _observations(features, constant=slice(1, 3)):
  """Returns observations whose columns `constant` do not change."""
  features = np.array(features)
  features[..., constant] = features[:, :1, constant]
  return features, layers.split(features, constant)


class ObservationsTest(parameterized.TestCase):

  @parameterized.parameters(slice(0, 0), slice(0, 2), slice(1, 3), slice(2, 5))
  def test_whole_undoes_split(self, constant):
    features = _features()
    whole, parts = _observations(features, constant)
    np.testing.assert_array_equal(parts.whole(), whole)
    self.assertEqual((parts.size, parts.place), (5, constant))

  @parameterized.parameters(
      ('mlp', (), False),
      ('mlp', (), True),
      ('mlp', (8,), False),
      ('mlp', (8, 6), True),
      ('gru', (8,), False),
      ('attention', (8,), False),
  )
  def test_outputs_equal_those_of_the_whole_features(
      self, kind, hidden, conditioned
  ):
    config = dict(kind=kind, hidden=hidden, is_conditioned=conditioned)
    features = _features()
    whole, parts = _observations(features)
    for network in (
        networks.make_network(config, 3),
        networks.make_critics(config),
    ):
      init = functools.partial(
          networks.init_params, network=network, num_features=5
      )
      rng = np.random.default_rng(1)
      params = jax.tree.map(
          lambda x, rng=rng: 0.7 * rng.normal(size=x.shape).astype(np.float32),
          jax.eval_shape(init, jax.random.key(0)),
      )
      apply = jax.jit(networks.apply, static_argnums=0)
      chex.assert_trees_all_close(
          apply(network, params, parts, 0.4),
          apply(network, params, whole, 0.4),
          atol=1e-5,
      )


class DropInputsTest(parameterized.TestCase):

  def test_drops_the_same_features_at_every_step(self):
    _, ones = _observations(np.ones((50, 4, 40)), slice(5, 25))
    drop = jax.jit(networks.drop_inputs, static_argnums=2)
    got = np.asarray(drop(jax.random.key(0), ones, 0.25).whole())
    np.testing.assert_array_equal(got, np.broadcast_to(got[:, :1], got.shape))
    # Kept features are scaled by 4/3, so that the mean stays.
    np.testing.assert_allclose(np.unique(got), [0.0, 4 / 3], rtol=1e-6)
    # 2,000 draws at 0.25: standard error 0.0097.
    np.testing.assert_allclose((got[:, 0] == 0).mean(), 0.25, atol=0.04)
    self.assertGreater(len(np.unique(got[:, 0], axis=0)), 40)

  def test_the_mask_does_not_depend_on_the_split(self):
    features = _features()
    whole, parts = _observations(features)
    chex.assert_trees_all_equal(
        *(
            networks.drop_inputs(jax.random.key(0), x, 0.5).whole()
            for x in (parts, layers.split(whole, slice(0, 0)))
        )
    )

  def test_no_dropout_is_the_identity(self):
    _, ones = _observations(np.ones((2, 3, 4)))
    self.assertIs(networks.drop_inputs(jax.random.key(0), ones, 0.0), ones)

  @parameterized.parameters(-0.1, 1.0)
  def test_rate_out_of_range_is_refused(self, rate):
    _, ones = _observations(np.ones((1, 1, 3)))
    with self.assertRaisesRegex(ValueError, 'dropout'):
      networks.drop_inputs(jax.random.key(0), ones, rate)


if __name__ == '__main__':
  absltest.main()
