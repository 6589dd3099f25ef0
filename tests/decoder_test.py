"""Tests of the decoder: a cache and padding change nothing."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from routing.lm import decoder

_CONFIG = decoder.DecoderConfig(
    vocab_size=11,
    hidden_size=16,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    mlp_size=24,
)
_TOKENS = np.random.default_rng(1).integers(0, 11, (3, 10))
_POSITIONS = np.broadcast_to(np.arange(10), (3, 10))


@functools.cache
def _params():
  """Weights that are made when first used, not when pytest collects."""
  params = jax.jit(decoder.init_params, static_argnums=0)
  params = jax.device_get(params(_CONFIG, jax.random.key(0)))
  return jax.tree.map(lambda x: 2.0 * x, params)


@functools.partial(jax.jit, static_argnums=0)
def _jitted(config, params, tokens, positions, pasts):
  return decoder.Decoder(config).apply(
      {'params': params}, tokens, positions, pasts
  )


def _apply(tokens, positions, pasts=()):
  """Returns NumPy arrays: slices of others are compiled, each by itself."""
  return jax.device_get(_jitted(_CONFIG, _params(), tokens, positions, pasts))


class DecoderTest(parameterized.TestCase):

  def test_shapes(self):
    logits, hidden, cache = _apply(_TOKENS, _POSITIONS)
    self.assertEqual(logits.shape, (3, 10, 11))
    self.assertEqual(hidden.shape, (3, 10, 16))
    self.assertEqual(cache.keys.shape, (2, 3, 2, 10, 32))
    empty = decoder.init_cache(_CONFIG, 3, 10)
    self.assertEqual(empty.values.shape, cache.values.shape)

  def test_logits_are_hidden_times_the_tied_embedding(self):
    logits, hidden, _ = _apply(_TOKENS, _POSITIONS)
    np.testing.assert_allclose(
        logits, hidden @ _params()['embedding'].T, atol=1e-5
    )

  def test_later_tokens_change_nothing(self):
    logits, _, _ = _apply(_TOKENS, _POSITIONS)
    changed = _TOKENS.copy()
    changed[:, 6:] = (changed[:, 6:] + 1) % 11
    other, _, _ = _apply(changed, _POSITIONS)
    np.testing.assert_allclose(logits[:, :6], other[:, :6], atol=1e-6)
    self.assertGreater(np.abs(logits[:, 6:] - other[:, 6:]).max(), 0.1)

  @parameterized.parameters(1, 4, 9)
  def test_with_a_cache_as_without(self, split):
    logits, hidden, _ = _apply(_TOKENS, _POSITIONS)
    _, _, cache = _apply(_TOKENS[:, :split], _POSITIONS[:, :split])
    past = decoder.Past(cache, np.ones((3, split), bool))
    after, hidden_after, _ = _apply(
        _TOKENS[:, split:], _POSITIONS[:, split:], [past]
    )
    # Up to eight float32 ulps, as logits reach 7.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-5)
    close(logits[:, split:], after)
    close(hidden[:, split:], hidden_after)

  def test_two_pasts_equal_one(self):
    _, _, whole = _apply(_TOKENS[:, :6], _POSITIONS[:, :6])
    _, _, first = _apply(_TOKENS[:, :2], _POSITIONS[:, :2])
    past = decoder.Past(first, np.ones((3, 2), bool))
    _, _, second = _apply(_TOKENS[:, 2:6], _POSITIONS[:, 2:6], [past])
    later = (_TOKENS[:, 6:], _POSITIONS[:, 6:])
    a, _, _ = _apply(*later, [decoder.Past(whole, np.ones((3, 6), bool))])
    b, _, _ = _apply(
        *later, [past, decoder.Past(second, np.ones((3, 4), bool))]
    )
    np.testing.assert_allclose(a, b, atol=1e-5)

  def test_masked_tokens_change_nothing(self):
    _, _, cache = _apply(_TOKENS[:, :4], _POSITIONS[:, :4])
    later = (_TOKENS[:, 4:], _POSITIONS[:, 4:])
    clean, _, _ = _apply(*later, [decoder.Past(cache, np.ones((3, 4), bool))])
    padded = jax.tree.map(
        lambda x: np.pad(
            x, [(0, 0)] * 3 + [(0, 5), (0, 0)], constant_values=7.0
        ),
        cache,
    )
    mask = np.broadcast_to(np.arange(9) < 4, (3, 9))
    masked, _, _ = _apply(*later, [decoder.Past(padded, mask)])
    np.testing.assert_allclose(clean, masked, atol=1e-5)

  def test_only_the_distance_of_positions_matters(self):
    near, _, _ = _apply(_TOKENS, _POSITIONS)
    far, _, _ = _apply(_TOKENS, _POSITIONS + 50)
    np.testing.assert_allclose(near, far, atol=1e-3)
    stretched, _, _ = _apply(_TOKENS, 2 * _POSITIONS)
    self.assertGreater(np.abs(near - stretched).max(), 1e-2)

  def test_rotation_by_hand(self):
    # Two dimensions, one frequency of 1: position p turns (1, 0) by p radians.
    x = jnp.array([1.0, 0.0]).reshape(1, 1, 1, 2)
    turned = decoder.rotate(x, jnp.array([[3]]), theta=10_000.0)
    np.testing.assert_allclose(
        turned.ravel(), [np.cos(3), np.sin(3)], atol=1e-6
    )

  def test_one_shared_key_head_equals_repeated_ones(self):
    # Grouped heads equal full heads whose keys and values are repeated.
    full = decoder.DecoderConfig(11, 16, 2, 4, 4, 32, 24)

    def repeat(path, x):
      if path[-2].key in ('key', 'value'):
        x = x.reshape(16, 2, 1, 32)
        return np.broadcast_to(x, (16, 2, 2, 32)).reshape(16, 128)
      return x

    params = jax.tree_util.tree_map_with_path(
        lambda path, x: repeat(path, x) if len(path) > 1 else x, _params()
    )
    logits, _, _ = _jitted(full, params, _TOKENS, _POSITIONS, ())
    grouped, _, _ = _apply(_TOKENS, _POSITIONS)
    np.testing.assert_allclose(logits, grouped, atol=1e-5)

  def test_parameters_by_hand(self):
    # Embedding 11 * 16; a layer: query 16 * 128, key and value 16 * 64 each,
    # output 128 * 16, MLP 3 * 16 * 24, norms 2 * 16; the last norm 16.
    layer = 2_048 + 2 * 1_024 + 2_048 + 1_152 + 32
    self.assertEqual(decoder.num_parameters(_params()), 176 + 2 * layer + 16)

  @parameterized.parameters(
      (dict(num_kv_heads=3), 'multiple of num_kv_heads, 3'),
      (dict(head_dim=16), 'head_dim is 16'),
      (dict(head_dim=33), 'head_dim is 33'),
  )
  def test_impossible_shapes_are_errors(self, fields, message):
    shape = dict(
        vocab_size=11,
        hidden_size=16,
        num_layers=1,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        mlp_size=8,
    )
    with self.assertRaisesRegex(ValueError, message):
      decoder.DecoderConfig(**(shape | fields))


if __name__ == '__main__':
  absltest.main()
