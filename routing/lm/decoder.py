"""A Llama-shaped decoder in Flax: one module for training and cached decoding.

RMSNorm, rotary positions (half-split, as Hugging Face's Llama), SwiGLU, no
biases, tied embeddings, grouped key/value heads and a head_dim of its own, so
that `transformers` and vLLM load the exported weights unchanged.
"""

import dataclasses

import chex
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp


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
  """Keys and values of S positions, `[L, B, S, KVH, Dh]` float32 each."""

  keys: jax.Array
  values: jax.Array


def init_cache(config: DecoderConfig, batch_size: int, length: int) -> KVCache:
  """An empty cache for `batch_size` rows of `length` positions."""
  shape = (
      config.num_layers,
      batch_size,
      length,
      config.num_kv_heads,
      config.head_dim,
  )
  return KVCache(jnp.zeros(shape), jnp.zeros(shape))


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
  frequencies = theta ** (-jnp.arange(half) / half)
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
  def __call__(self, x, positions, mask, cache):
    """Returns the stream and this layer's (keys, values), as cached or new."""
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
    if cache is not None:
      rows = jnp.arange(batch_size)[:, None]
      # Padding carries a position beyond the cache and is dropped.
      key = cache[0].at[rows, positions].set(key, mode='drop')
      value = cache[1].at[rows, positions].set(value, mode='drop')
    attended = _attend(query, key, value, mask)
    x = x + dense(width, 'output', spread_out)(attended)

    h = RMSNorm(config.norm_eps, name='mlp_norm')(x)
    gate = dense(config.mlp_size, 'gate', spread)(h)
    up = dense(config.mlp_size, 'up', spread)(h)
    x = x + dense(width, 'down', spread_out)(jax.nn.silu(gate) * up)
    return x, (key, value)


def _attend(query, key, value, mask):
  """Grouped-query attention: `[B, T, H, Dh]` on `[B, S, KVH, Dh]`."""
  batch_size, length, num_heads, head_dim = query.shape
  groups = num_heads // key.shape[2]
  query = query.reshape(batch_size, length, -1, groups, head_dim)
  scores = jnp.einsum('btkgd,bskd->bkgts', query, key) * head_dim**-0.5
  scores = jnp.where(mask[:, None, None], scores, -1e9)
  weights = jax.nn.softmax(scores, axis=-1)
  attended = jnp.einsum('bkgts,bskd->btkgd', weights, value)
  return attended.reshape(batch_size, length, num_heads * head_dim)


class Decoder(nn.Module):
  """The language model."""

  config: DecoderConfig

  @nn.compact
  def __call__(
      self,
      tokens: jax.Array,
      positions: jax.Array,
      cache: KVCache | None = None,
  ) -> tuple[jax.Array, jax.Array, KVCache | None]:
    """Runs the model on new tokens, after what the cache holds.

    Args:
      tokens: `[B, T]` int32.
      positions: `[B, T]` int32, place of each token in its row. With a cache,
        a position >= S marks padding: nothing is written for it.
      cache: keys and values at positions < S, or None: then the T tokens are
        the whole row, and attention is causal among them.

    Returns:
      Logits `[B, T, V]`, the state that they were read from `[B, T, D]` (after
      the last norm), and the cache with the new positions written.
    """
    config = self.config
    chex.assert_rank([tokens, positions], 2)
    chex.assert_equal_shape([tokens, positions])
    embedding = self.param(
        'embedding',
        nn.initializers.normal(config.hidden_size**-0.5),
        (config.vocab_size, config.hidden_size),
    )
    # One-hot: with a vocabulary of tens its gradient is a small matmul, where
    # a gather's is a slow scatter.
    x = jax.nn.one_hot(tokens, config.vocab_size) @ embedding
    num_keys = tokens.shape[1] if cache is None else cache.keys.shape[2]
    at = positions if cache is None else jnp.arange(num_keys)[None]
    mask = positions[:, :, None] >= at[:, None, :]
    layers = []
    for i in range(config.num_layers):
      layer = None if cache is None else (cache.keys[i], cache.values[i])
      x, written = Block(config, name=f'layer_{i}')(x, positions, mask, layer)
      layers.append(written)
    hidden = RMSNorm(config.norm_eps, name='norm')(x)
    if cache is not None:
      keys, values = zip(*layers, strict=True)
      cache = KVCache(jnp.stack(keys), jnp.stack(values))
    return hidden @ embedding.T, hidden, cache


def init_params(config: DecoderConfig, key: jax.Array):
  """Fresh parameters; `key` is consumed."""
  tokens = jnp.zeros((1, 2), jnp.int32)
  return Decoder(config).init(key, tokens, tokens)['params']


def num_parameters(params) -> int:
  """Number of weights, the (tied) embedding counted once."""
  return sum(x.size for x in jax.tree.leaves(params))
