"""A Llama-shaped decoder in Flax: one module for training and cached decoding.

It has RMSNorm, rotary positions (half-split, as in Hugging Face's Llama),
SwiGLU, no biases, tied embeddings, grouped key/value heads and a head_dim of
its own. `transformers` and vLLM load the exported weights unchanged.
"""

from collections.abc import Sequence
import dataclasses

import chex
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """The shape of a decoder; hashable, so that it can be a static argument.

  num_heads is a multiple of num_kv_heads. head_dim is even and at least 32.
  """

  vocab_size: int
  hidden_size: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_size: int
  rope_theta: float = 10_000.0
  norm_eps: float = 1e-6

  def __post_init__(self):
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
          f'num_heads is {self.num_heads}; it must be a multiple of '
          f'num_kv_heads, {self.num_kv_heads}.'
      )
    # vLLM's CPU attention has no kernel below 32; rotation needs pairs.
    if self.head_dim < 32 or self.head_dim % 2:
      raise ValueError(
          f'head_dim is {self.head_dim}; allowed: even numbers >= 32.'
      )


@flax.struct.dataclass
class KVCache:
  """Keys and values of S tokens, `[L, B, KVH, S, Dh]` float32 each."""

  # Axes in the order in which attention reads them. With [..., S, KVH, Dh]
  # every written token would cost a transposed copy of the whole cache.
  keys: jax.Array
  values: jax.Array


def init_cache(config: DecoderConfig, batch_size: int, length: int) -> KVCache:
  """Returns an empty cache for `batch_size` rows of `length` positions."""
  shape = (
      config.num_layers,
      batch_size,
      config.num_kv_heads,
      length,
      config.head_dim,
  )
  return KVCache(jnp.zeros(shape), jnp.zeros(shape))


@flax.struct.dataclass
class Past:
  """Earlier tokens to attend to.

  cache: keys and values of S tokens.
  mask: `[B, S]` bool; True where a row may attend to a token.
  """

  cache: KVCache
  mask: jax.Array


def rotate(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
  """Applies rotary position embedding, half-split, to queries or keys.

  Args:
    x: `[B, T, H, Dh]`, queries or keys.
    positions: `[B, T]` int32.
    theta: base of the frequencies.

  Returns:
    `[B, T, H, Dh]`.

  Source: Su et al. 2021, RoFormer, in the layout of Hugging Face's Llama.
  """
  half = x.shape[-1] // 2
  # Computed in float64 on the host and rounded once: an error of the device's
  # power function would be 200 times as large in the angle of position 200.
  frequencies = np.float32(theta ** (-np.arange(half) / half))
  angles = positions[..., None].astype(jnp.float32) * frequencies
  cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
  # Half-split: dimension i is rotated with i + Dh/2 (RoFormer pairs 2i, 2i+1):
  #   y_i = x_i cos(p w_i) - x_{i+Dh/2} sin(p w_i),  w_i = theta^(-2i/Dh).
  left, right = x[..., :half], x[..., half:]
  return jnp.concatenate(
      [left * cos - right * sin, right * cos + left * sin], axis=-1
  )


class RMSNorm(nn.Module):
  """Root-mean-square layer norm with a learned scale."""

  eps: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalizes the last axis of `x`."""
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    mean_square = jnp.mean(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(mean_square + self.eps) * scale


class Block(nn.Module):
  """One decoder layer: attention, then MLP, both on the residual stream."""

  config: DecoderConfig

  @nn.compact
  def __call__(self, x, positions, masks, pasts):
    """Runs the layer on the new tokens.

    Args:
      x: `[B, T, D]`, the residual stream of the new tokens.
      positions: `[B, T]` int32.
      masks: one for each of `pasts`, and one for the new tokens; see `_attend`.
      pasts: (keys, values) of earlier tokens, `[B, KVH, S, Dh]` each.

    Returns:
      The stream `[B, T, D]`, and (keys, values) of the new tokens.
    """
    config = self.config
    batch_size, length, width = x.shape
    stddev_in = 0.5 * width**-0.5
    # 2L branches add to the stream; divided by sqrt(2L), their sum has the same
    # variance at any depth.
    stddev_out = stddev_in / (2 * config.num_layers) ** 0.5

    def dense(features, name, stddev):
      return nn.Dense(
          features,
          use_bias=False,
          name=name,
          kernel_init=nn.initializers.normal(stddev),
      )

    def heads(x, count):
      return x.reshape(batch_size, length, count, config.head_dim)

    h = RMSNorm(config.norm_eps, name='attention_norm')(x)
    kv_width = config.num_kv_heads * config.head_dim
    query = dense(config.num_heads * config.head_dim, 'query', stddev_in)(h)
    key = heads(dense(kv_width, 'key', stddev_in)(h), config.num_kv_heads)
    value = heads(dense(kv_width, 'value', stddev_in)(h), config.num_kv_heads)
    query = heads(query, config.num_heads)
    query = rotate(query, positions, config.rope_theta)
    key = rotate(key, positions, config.rope_theta)
    # Keys are cached rotated: their positions never change.
    new = key.swapaxes(1, 2), value.swapaxes(1, 2)  # [B, KVH, T, Dh].
    attended = _attend(query, [*pasts, new], masks)
    x = x + dense(width, 'output', stddev_out)(attended)

    h = RMSNorm(config.norm_eps, name='mlp_norm')(x)
    gate = dense(config.mlp_size, 'gate', stddev_in)(h)
    up = dense(config.mlp_size, 'up', stddev_in)(h)
    x = x + dense(width, 'down', stddev_out)(jax.nn.silu(gate) * up)
    return x, new


def _attend(query, memories, masks):
  """Computes grouped-query attention over several segments of keys and values.

  Args:
    query: `[B, T, H, Dh]`.
    memories: (keys, values) of each segment, `[B, KVH, S, Dh]`; S differs.
    masks: for each segment a bool array that broadcasts to `[B, T, S]`.

  Returns:
    `[B, T, H * Dh]`.
  """
  batch_size, length, num_heads, head_dim = query.shape
  num_kv_heads = memories[0][0].shape[1]
  # Batch axes first and the contracted axis last gives plain matrix products,
  # without a transposed copy of the cache. With G = H / KVH query heads for
  # each key head: [B, T, H, Dh] -> [B, KVH, G, T, Dh] -> [B, KVH, G * T, Dh].
  query = query.reshape(batch_size, length, num_kv_heads, -1, head_dim)
  query = query.transpose(0, 2, 3, 1, 4)
  shape = query.shape[:4]
  query = query.reshape(batch_size, num_kv_heads, -1, head_dim)

  def score(key, mask):
    products = jnp.einsum('bkqd,bksd->bkqs', query, key) * head_dim**-0.5
    products = products.reshape(*shape, -1)
    # -1e9 instead of -inf: a row that sees nothing gives no NaN.
    return jnp.where(mask[:, None, None], products, -1e9)

  scores = [
      score(key, mask) for (key, _), mask in zip(memories, masks, strict=True)
  ]
  # One softmax over all segments. Scores are concatenated instead of keys: that
  # would copy the cache for each token.
  weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1)
  ends = np.cumsum([score.shape[-1] for score in scores])[:-1]
  weights = weights.reshape(*query.shape[:3], -1)
  attended = sum(
      jnp.einsum('bkqs,bksd->bkqd', weight, value)
      for weight, (_, value) in zip(
          jnp.split(weights, ends, axis=-1), memories, strict=True
      )
  )
  attended = attended.reshape(*shape, head_dim).transpose(0, 3, 1, 2, 4)
  return attended.reshape(batch_size, length, num_heads * head_dim)


class Decoder(nn.Module):
  """The language model."""

  config: DecoderConfig

  @nn.compact
  def __call__(
      self,
      tokens: jax.Array,
      positions: jax.Array,
      pasts: Sequence[Past] = (),
  ) -> tuple[jax.Array, jax.Array, KVCache]:
    """Runs the model on new tokens that follow `pasts`.

    Args:
      tokens: `[B, T]` int32; attention among them is causal.
      positions: `[B, T]` int32, position of each token in its row, ascending.
      pasts: earlier tokens; a new token attends to all that their masks allow.

    Returns:
      Logits `[B, T, V]`, the hidden state `[B, T, D]` they are computed from
      (after the last norm), and the keys and values of the T new tokens.
    """
    config = self.config
    chex.assert_rank([tokens, positions], 2)
    chex.assert_equal_shape([tokens, positions])
    length = tokens.shape[1]
    embedding = self.param(
        'embedding',
        nn.initializers.normal(config.hidden_size**-0.5),
        (config.vocab_size, config.hidden_size),
    )
    # One-hot, as the vocabulary is tiny: its gradient is a small matrix
    # product, that of a gather a slow scatter.
    x = jax.nn.one_hot(tokens, config.vocab_size) @ embedding
    masks = [past.mask[:, None, :] for past in pasts]
    masks.append(jnp.tril(jnp.ones((1, length, length), bool)))
    keys, values = [], []
    for i in range(config.num_layers):
      layer = [(past.cache.keys[i], past.cache.values[i]) for past in pasts]
      block = Block(config, name=f'layer_{i}')
      x, (key, value) = block(x, positions, masks, layer)
      keys.append(key)
      values.append(value)
    hidden = RMSNorm(config.norm_eps, name='norm')(x)
    cache = KVCache(jnp.stack(keys), jnp.stack(values))
    return hidden @ embedding.T, hidden, cache  # Tied embeddings.


def init_params(config: DecoderConfig, key: jax.Array):
  """Returns fresh parameters; `key` is consumed."""
  tokens = jnp.zeros((1, 2), jnp.int32)
  return Decoder(config).init(key, tokens, tokens)['params']


def num_parameters(params) -> int:
  """Returns the number of weights; the tied embedding counts once."""
  return sum(x.size for x in jax.tree.leaves(params))
