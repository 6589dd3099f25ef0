"""Defines the embedded models' decoder, for training and decoding with a cache.

The architecture is Llama's: RMSNorm, rotary position embedding (half-split, as
in Hugging Face's Llama), SwiGLU, no biases, tied embeddings, grouped key/value
heads, and a head_dim independent of hidden_size. `transformers` and vLLM can
therefore load the exported weights.
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
  """The shape of a decoder; hashable, so that it can be static under jit.

  vocab_size: V, number of tokens in the vocabulary.
  hidden_size: D, width of the residual stream.
  num_layers: L, number of layers.
  num_heads: H, number of query heads; a multiple of num_kv_heads.
  num_kv_heads: KVH, number of key and value heads.
  head_dim: Dh, length of a query, key or value; even and at least 32.
  mlp_size: width of the MLP's hidden layer.
  rope_theta: base of the rotary frequencies.
  norm_eps: constant added to the mean square in RMSNorm.
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
    # vLLM's attention on CPUs has no kernel for a head_dim below 32, and the
    # rotary embedding rotates pairs of dimensions.
    if self.head_dim < 32 or self.head_dim % 2:
      raise ValueError(
          f'head_dim is {self.head_dim}; allowed: even numbers >= 32.'
      )


@flax.struct.dataclass
class KVCache:
  """The keys and values of S tokens in each of B rows.

  keys, values: `[L, B, KVH, S, Dh]` float32.
  """

  # The axes are in the order in which attention reads them. With the order
  # [..., S, KVH, Dh], every new token would cost a transposed copy of the whole
  # cache.
  keys: jax.Array
  values: jax.Array


def init_cache(config: DecoderConfig, batch_size: int, length: int) -> KVCache:
  """Returns a cache of zeros for `batch_size` rows of `length` tokens."""
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
  """Tokens before the new ones, to which the new tokens attend.

  cache: keys and values of S tokens in each of B rows.
  mask: `[B, S]` bool; True where the new tokens of a row may attend to a token.
  """

  cache: KVCache
  mask: jax.Array


@flax.struct.dataclass
class Growing:
  """Earlier tokens among which one new token of each row takes its place.

  In a loop over tokens the arrays are updated in place. A `Past` and the new
  tokens beside it would be copied for every token.

  cache: keys and values of S tokens in each of B rows, as tuples of L separate
    arrays `[B, KVH, S, Dh]`.
  mask: `[B, S]` bool; True where a row's new token may attend to a token. The
    new token itself is one of them.
  column: [] int32, place of the new tokens among the S.
  """

  cache: KVCache
  mask: jax.Array
  column: jax.Array


def rotate(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
  """Applies rotary position embedding, half-split, to queries or keys.

  Args:
    x: `[B, T, H, Dh]`, queries or keys.
    positions: `[B, T]` int32, position of each token in its row.
    theta: base of the frequencies.

  Returns:
    `[B, T, H, Dh]`, the rotated queries or keys.

  Source: Su et al. 2021, RoFormer, in the layout of Hugging Face's Llama.
  """
  half = x.shape[-1] // 2
  # The frequencies are computed in float64 on the host and rounded once. An
  # error of the device's power function would be multiplied by the position: by
  # 200 in the angle of position 200.
  frequencies = np.float32(theta ** (-np.arange(half) / half))
  angles = positions[..., None].astype(jnp.float32) * frequencies
  cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
  # Half-split: dimensions i and i + Dh/2 form a pair (in RoFormer 2i and 2i+1).
  # At position p, with w_i = theta^(-2i/Dh):
  #   y_i        = x_i cos(p w_i) - x_{i+Dh/2} sin(p w_i),
  #   y_{i+Dh/2} = x_{i+Dh/2} cos(p w_i) + x_i sin(p w_i).
  left, right = x[..., :half], x[..., half:]
  return jnp.concatenate(
      [left * cos - right * sin, right * cos + left * sin], axis=-1
  )


class RMSNorm(nn.Module):
  """Root-mean-square layer norm with a learned scale.

  eps: constant added to the mean square, against division by zero.
  """

  eps: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns `x` with its last axis normalized and scaled."""
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    mean_square = jnp.mean(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(mean_square + self.eps) * scale


class Block(nn.Module):
  """A decoder layer, which adds attention and an MLP to the residual stream."""

  config: DecoderConfig

  @nn.compact
  def __call__(self, x, positions, masks, pasts, column=None):
    """Runs the layer on T new tokens in each of B rows.

    Args:
      x: `[B, T, D]`, the residual stream of the new tokens.
      positions: `[B, T]` int32, position of each new token in its row.
      masks: the tokens that may be attended to: a mask for each of `pasts`, and
        one for the new tokens; see `_attend`.
      pasts: a list of (keys, values) of earlier tokens, `[B, KVH, S, Dh]` each.
      column: where the keys and values of the new tokens are put in the only
        one of `pasts`; None = they are attended to beside it. See `Growing`.

    Returns:
      The residual stream `[B, T, D]` after the layer, and the (keys, values) of
      the new tokens, `[B, KVH, T, Dh]` each; with `column`, of all tokens.
    """
    config = self.config
    batch_size, length, width = x.shape
    stddev_in = 0.5 * width**-0.5
    # The L layers add 2L outputs to the stream. With their standard deviations
    # divided by sqrt(2L), the sum has the same variance for every L.
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
    # Keys are cached after rotation: the position of a token never changes.
    new = key.swapaxes(1, 2), value.swapaxes(1, 2)  # [B, KVH, T, Dh].
    if column is not None:
      (past,), pasts = pasts, ()
      # Put before they are read: after, XLA would copy the whole array.
      new = tuple(
          jax.lax.dynamic_update_slice_in_dim(old, x, column, axis=2)
          for old, x in zip(past, new, strict=True)
      )
    attended = _attend(query, [*pasts, new], masks)
    x = x + dense(width, 'output', stddev_out)(attended)

    h = RMSNorm(config.norm_eps, name='mlp_norm')(x)
    gate = dense(config.mlp_size, 'gate', stddev_in)(h)
    up = dense(config.mlp_size, 'up', stddev_in)(h)
    x = x + dense(width, 'down', stddev_out)(jax.nn.silu(gate) * up)
    return x, new


def _attend(query, memories, masks):
  """Computes grouped-query attention over several segments of tokens.

  The segments are the cached tokens and the new ones. Their arrays are not
  joined, because that would copy the cache.

  Args:
    query: `[B, T, H, Dh]`, the queries of the new tokens.
    memories: (keys, values) of each segment, `[B, KVH, S, Dh]` each; S differs
      between segments.
    masks: for each segment a bool array that broadcasts to `[B, T, S]`; True
      where a new token may attend to a token of the segment.

  Returns:
    `[B, T, H * Dh]`, the attended values of all heads.
  """
  batch_size, length, num_heads, head_dim = query.shape
  num_kv_heads = memories[0][0].shape[1]
  # The queries are brought into the axis order of the keys, with batch axes
  # first and the contracted axis last. The products below are then plain matrix
  # products, without a transposed copy of the cache. With G = H / KVH query
  # heads for each key head, the shapes are
  #   [B, T, H, Dh] -> [B, KVH, G, T, Dh] -> [B, KVH, G * T, Dh].
  query = query.reshape(batch_size, length, num_kv_heads, -1, head_dim)
  query = query.transpose(0, 2, 3, 1, 4)
  shape = query.shape[:4]
  query = query.reshape(batch_size, num_kv_heads, -1, head_dim)

  def score(key, mask):
    products = jnp.einsum('bkqd,bksd->bkqs', query, key) * head_dim**-0.5
    products = products.reshape(*shape, -1)
    # -1e9 is used instead of -inf, with which the softmax of a row that may
    # attend to no token would be NaN.
    return jnp.where(mask[:, None, None], products, -1e9)

  scores = [
      score(key, mask) for (key, _), mask in zip(memories, masks, strict=True)
  ]
  # The softmax runs over the tokens of all segments together. To this end the
  # scores are concatenated, not the keys, which are much larger.
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
  """A language model that predicts the next token at each new position.

  config: the decoder's shape.
  """

  config: DecoderConfig

  @nn.compact
  def __call__(
      self,
      tokens: jax.Array,
      positions: jax.Array,
      pasts: Sequence[Past] | Growing = (),
  ) -> tuple[jax.Array, jax.Array, KVCache]:
    """Runs the model on T new tokens in each of B rows.

    Args:
      tokens: `[B, T]` int32, the new tokens. Each attends to itself and to the
        new tokens before it.
      positions: `[B, T]` int32, position of each token in its row, ascending.
      pasts: earlier tokens, to which new tokens attend where the mask is True.
        With a `Growing`, T is 1.

    Returns:
      Logits `[B, T, V]` of the token after each new token; the hidden states
      `[B, T, D]` after the last norm, from which the logits are computed; and
      the keys and values of the new tokens; or the cache of the `Growing`, with
      the new tokens in it.
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
    # Embeddings are looked up by a product with one-hot vectors, because the
    # vocabulary is tiny. The gradient of this product is a small matrix
    # product, whereas the gradient of a gather is a slow scatter.
    x = jax.nn.one_hot(tokens, config.vocab_size) @ embedding
    column = pasts.column if isinstance(pasts, Growing) else None
    if column is not None:
      chex.assert_axis_dimension(tokens, 1, 1)
    pasts = [pasts] if isinstance(pasts, Growing) else pasts
    masks = [past.mask[:, None, :] for past in pasts]
    if column is None:
      masks.append(jnp.tril(jnp.ones((1, length, length), bool)))
    keys, values = [], []
    for i in range(config.num_layers):
      layer = [(past.cache.keys[i], past.cache.values[i]) for past in pasts]
      block = Block(config, name=f'layer_{i}')
      x, (key, value) = block(x, positions, masks, layer, column)
      keys.append(key)
      values.append(value)
    hidden = RMSNorm(config.norm_eps, name='norm')(x)
    # Stacked, the arrays of a `Growing` would be copied.
    joined = jnp.stack if column is None else tuple
    cache = KVCache(joined(keys), joined(values))
    # The embedding is tied: the same matrix maps hidden states to logits.
    return hidden @ embedding.T, hidden, cache


def init_params(config: DecoderConfig, key: jax.Array):
  """Returns randomly initialized parameters of a decoder.

  Args:
    config: the decoder's shape.
    key: a PRNG key, which must not be used again.
  """
  tokens = jnp.zeros((1, 2), jnp.int32)
  return Decoder(config).init(key, tokens, tokens)['params']


def num_parameters(params) -> int:
  """Returns the number of weights, with the tied embedding counted once."""
  return sum(x.size for x in jax.tree.leaves(params))
