"""A Llama-shaped decoder in Flax: one module for training and cached decoding.

RMSNorm, rotary positions (half-split, as Hugging Face's Llama), SwiGLU, no
biases, tied embeddings, grouped key/value heads and a head_dim of its own, so
that `transformers` and vLLM load the exported weights unchanged.
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
  """Shape of a decoder; hashable, so it may be a static argument.

  head_dim is at least 32: vLLM's CPU attention has no kernel for less.
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
          f'num_heads, {self.num_heads}, must be a multiple of num_kv_heads, '
          f'{self.num_kv_heads}.'
      )
    if self.head_dim < 32 or self.head_dim % 2:
      raise ValueError(
          f'head_dim is {self.head_dim}; allowed: even numbers from 32.'
      )


@flax.struct.dataclass
class KVCache:
  """Keys and values of S tokens, `[L, B, KVH, S, Dh]` float32 each.

  The order is the one in which attention reads them, so that no token that is
  written costs a transposed copy.
  """

  keys: jax.Array
  values: jax.Array


def init_cache(config: DecoderConfig, batch_size: int, length: int) -> KVCache:
  """An empty cache for `batch_size` rows of `length` positions."""
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
  mask: `[B, S]` bool, which of them a row may see.
  """

  cache: KVCache
  mask: jax.Array


def rotate(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
  """Rotary position embedding, half-split.

  Args:
    x: `[B, T, H, Dh]`, queries or keys.
    positions: `[B, T]` int32.
    theta: base of the frequencies.

  Returns:
    `[B, T, H, Dh]`.

  Source: Su et al. 2021, RoFormer, in the layout of Hugging Face's Llama.
  """
  half = x.shape[-1] // 2
  # Rounded once, on the host: at position 200 an error of the device's power
  # function would be 200 times as large in the angle.
  frequencies = np.float32(theta ** (-np.arange(half) / half))
  angles = positions[..., None].astype(jnp.float32) * frequencies
  cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
  left, right = x[..., :half], x[..., half:]
  return jnp.concatenate(
      [left * cos - right * sin, right * cos + left * sin], axis=-1
  )


class RMSNorm(nn.Module):
  """Root-mean-square layer norm with a learned scale."""

  eps: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    mean_square = jnp.mean(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(mean_square + self.eps) * scale


class Block(nn.Module):
  """Attention and MLP, each on the residual stream."""

  config: DecoderConfig

  @nn.compact
  def __call__(self, x, positions, masks, pasts):
    """Returns the stream and (keys, values) of the new tokens."""
    config = self.config
    batch_size, length, width = x.shape
    spread = 0.5 * width**-0.5
    # Residual branches start small, so that depth does not scale the stream.
    spread_out = spread / (2 * config.num_layers) ** 0.5

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
    query = dense(config.num_heads * config.head_dim, 'query', spread)(h)
    key = heads(dense(kv_width, 'key', spread)(h), config.num_kv_heads)
    value = heads(dense(kv_width, 'value', spread)(h), config.num_kv_heads)
    query = heads(query, config.num_heads)
    query = rotate(query, positions, config.rope_theta)
    key = rotate(key, positions, config.rope_theta)
    new = key.swapaxes(1, 2), value.swapaxes(1, 2)
    attended = _attend(query, [*pasts, new], masks)
    x = x + dense(width, 'output', spread_out)(attended)

    h = RMSNorm(config.norm_eps, name='mlp_norm')(x)
    gate = dense(config.mlp_size, 'gate', spread)(h)
    up = dense(config.mlp_size, 'up', spread)(h)
    x = x + dense(width, 'down', spread_out)(jax.nn.silu(gate) * up)
    return x, new


def _attend(query, memories, masks):
  """Grouped-query attention over several stretches of keys and values.

  Args:
    query: `[B, T, H, Dh]`.
    memories: keys and values, `[B, KVH, S, Dh]` each; S differs.
    masks: for each a bool that broadcasts to `[B, T, S]`.

  Returns:
    `[B, T, H * Dh]`.
  """
  batch_size, length, num_heads, head_dim = query.shape
  num_kv_heads = memories[0][0].shape[1]
  # Batch axes first and the contracted one last: plain matrix products, for
  # which nothing of the cache is transposed.
  query = query.reshape(batch_size, length, num_kv_heads, -1, head_dim)
  query = query.transpose(0, 2, 3, 1, 4)
  shape = query.shape[:4]
  query = query.reshape(batch_size, num_kv_heads, -1, head_dim)

  def score(key, mask):
    products = jnp.einsum('bkqd,bksd->bkqs', query, key) * head_dim**-0.5
    products = products.reshape(*shape, -1)
    return jnp.where(mask[:, None, None], products, -1e9)

  scores = [
      score(key, mask) for (key, _), mask in zip(memories, masks, strict=True)
  ]
  # Joining the scores, not the keys, spares a copy of the cache for each token.
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
    """Runs the model on new tokens, after what `pasts` hold.

    Args:
      tokens: `[B, T]` int32; attention among them is causal.
      positions: `[B, T]` int32, place of each token in its row, ascending.
      pasts: earlier tokens; all that their masks show is attended to.

    Returns:
      Logits `[B, T, V]`, the state that they were read from `[B, T, D]` (after
      the last norm), and the keys and values of the T new tokens.
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
    # One-hot: with a vocabulary of tens its gradient is a small matmul, where
    # a gather's is a slow scatter.
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
    return hidden @ embedding.T, hidden, cache


def init_params(config: DecoderConfig, key: jax.Array):
  """Fresh parameters; `key` is consumed."""
  tokens = jnp.zeros((1, 2), jnp.int32)
  return Decoder(config).init(key, tokens, tokens)['params']


def num_parameters(params) -> int:
  """Number of weights, the (tied) embedding counted once."""
  return sum(x.size for x in jax.tree.leaves(params))
