"""Prefills and decodes with a KV cache, as pure functions.

The tokens of a row depend on its own prompt and seed alone. The noise of a
position comes from a key folded with the row's seed and that position, never
from the batch. The caller jits these functions, since it knows where the cache
lives and whether it may be donated.
"""

import chex
import flax.struct
import jax
import jax.numpy as jnp

from routing.lm import decoder


@flax.struct.dataclass
class Rows:
  """The state from which a batch of rows continues.

  last_token: `[B]` int32, the newest token, not yet passed through the model.
  position: `[B]` int32, its position.
  seed: `[B]` uint32; the token after position p depends on the prefix and
    (seed, p) alone.
  temperature: `[B]` float32 >= 0; 0 is greedy.
  active: `[B]` bool; other rows write nothing.
  limit: `[B]` int32, maximum number of new tokens; capped to fit the cache.
  slots: `[B]` int32, each row's index in the cache; None = its own index.
  """

  last_token: jax.Array
  position: jax.Array
  seed: jax.Array
  temperature: jax.Array
  active: jax.Array
  limit: jax.Array
  slots: jax.Array | None = None

  def checked(self, max_new: int, length: int) -> 'Rows':
    """Checks shapes; returns the rows with capped limits and slots set."""
    chex.assert_rank(self.last_token, 1)
    chex.assert_equal_shape(
        [self.last_token, self.position, self.seed]
        + [self.temperature, self.active, self.limit]
    )
    # Written tokens stand at position + 1, +2, ...; the last one must fit into
    # the cache as well, for its keys are stored when it is passed later.
    room = jnp.minimum(max_new, length - 1 - self.position)
    own = jnp.arange(len(self.last_token))
    return self.replace(
        limit=jnp.minimum(self.limit, room),
        slots=own if self.slots is None else self.slots,
    )

  def writes(self, out: 'Decoded') -> jax.Array:
    """Returns `[B]` bool: the rows that continue after having written `out`."""
    return self.active & ~out.stopped & (out.count < self.limit)


@flax.struct.dataclass
class Decoded:
  """What a batch of rows wrote; entries beyond a row's count are zero.

  tokens: `[B, M]` int32, stop token included.
  count: `[B]` int32, number of tokens written.
  log_probs: `[B, M]` float32, of each token, before temperature.
  top_log_probs: `[B, M, K]` float32, the K largest, descending.
  hidden_last: `[B, D]` float32, the hidden state that gave the last token.
  hidden_mean: `[B, D]` float32, the mean hidden state of the written tokens.
  stopped: `[B]` bool, the row wrote a stop token.
  """

  tokens: jax.Array
  count: jax.Array
  log_probs: jax.Array
  top_log_probs: jax.Array
  hidden_last: jax.Array
  hidden_mean: jax.Array
  stopped: jax.Array


def prefill(
    params,
    config: decoder.DecoderConfig,
    cache: decoder.KVCache,
    tokens: jax.Array,
    start: jax.Array,
    count: jax.Array,
    slots: jax.Array | None = None,
    num_past: int | None = None,
) -> decoder.KVCache:
  """Passes known tokens through the model to fill the cache.

  Args:
    params: parameters of `decoder.Decoder(config)`.
    config: the decoder's shape.
    cache: `[L, N, KVH, S, Dh]`, filled below `start` in each row's slot.
    tokens: `[B, C]` int32, right-padded.
    start: `[B]` int32, position of the first token of each row.
    count: `[B]` int32, number of tokens of each row without padding; may be 0.
    slots: `[B]` int32, each row's index on axis N; None = its own index.
    num_past: an upper bound on `start`, so that later keys are not attended to;
      None = the cache's length. Static: it sets a shape.

  Returns:
    The cache, filled below `start + count`.
  """
  chex.assert_rank(tokens, 2)
  chex.assert_shape([start, count], (tokens.shape[0],))
  offset = jnp.arange(tokens.shape[1])[None]
  slots = jnp.arange(len(start)) if slots is None else slots
  # Logits are not used, so XLA does not compute them under jit.
  _, _, new = decoder.Decoder(config).apply(
      {'params': params},
      tokens,
      start[:, None] + offset,
      _before(cache, start, slots, num_past),
  )
  return _store(cache, new, start, count, slots)


def _before(
    cache: decoder.KVCache,
    position: jax.Array,
    slots: jax.Array,
    num_past: int | None,
) -> list[decoder.Past]:
  """Returns the cached keys and values below `position`, as a list for `pasts`.

  The list is empty if `num_past` is 0.

  Args:
    cache: the cache, with N rows.
    position: `[B]` int32.
    slots: `[B]` int32, rows of the cache.
    num_past: see `prefill`.
  """
  length = cache.keys.shape[3] if num_past is None else num_past
  if not length:
    return []
  # A tuple over layers: a slice of one stacked array would be copied for every
  # token in the loop of `decode`. Each is [B, KVH, length, Dh].
  rows = jax.tree.map(
      lambda x: tuple(layer[slots, :, :length] for layer in x), cache
  )
  return [decoder.Past(rows, jnp.arange(length)[None] < position[:, None])]


def _store(
    cache: decoder.KVCache,
    new: decoder.KVCache,
    start: jax.Array,
    count: jax.Array,
    slots: jax.Array,
) -> decoder.KVCache:
  """Writes the first `count` tokens of `new` into the cache at `start`, by row.

  Args:
    cache: the cache, with N rows.
    new: keys and values of C tokens of B rows.
    start, count, slots: `[B]` int32.
  """
  offset = jnp.arange(new.keys.shape[3])[None]
  # Padding gets an index past the end, which mode='drop' below ignores.
  beyond = cache.keys.shape[3]
  at = jnp.where(offset < count[:, None], start[:, None] + offset, beyond)

  def put(old, x):
    # Two index arrays [B, 1] and [B, C] with slices between them: as in NumPy,
    # the indexed axes come first. The target is [B, C, L, KVH, Dh].
    return old.at[:, slots[:, None], :, at].set(
        x.transpose(1, 3, 0, 2, 4), mode='drop'
    )

  return jax.tree.map(put, cache, new)


def _choose(logits, seed, position, temperature):
  """Samples a token for each row by Gumbel-max; temperature 0 is greedy.

  argmax(log p + temperature * g) with Gumbel noise g draws from the softmax of
  log p / temperature.

  Args:
    logits: `[B, V]` float32, log-probabilities.
    seed, position: `[B]`; they determine the noise.
    temperature: `[B]` float32.

  Returns:
    `[B]` integer tokens.
  """

  def noise(seed, position):
    # A key per (seed, position): a batch or a resumed call changes no draw.
    key = jax.random.fold_in(jax.random.key(seed), position)
    return jax.random.gumbel(key, logits.shape[-1:])

  gumbel = jax.lax.cond(
      (temperature > 0).any(),
      jax.vmap(noise),
      lambda *_: jnp.zeros_like(logits),  # All greedy: noise costs time.
      seed,
      position,
  )
  return jnp.argmax(logits + temperature[:, None] * gumbel, axis=-1)


def decode(
    params,
    config: decoder.DecoderConfig,
    cache: decoder.KVCache,
    rows: Rows,
    *,
    max_new: int,
    stop_ids: tuple[int, ...],
    pad_id: int = 0,
    top_k: int = 5,
    num_past: int | None = None,
) -> tuple[Decoded, decoder.KVCache]:
  """Writes tokens until every active row has stopped or reached its limit.

  Args:
    params, config, cache: see `prefill`; slots are filled below `position`.
    rows: the state to continue from.
    max_new, top_k: M, maximum number of new tokens of a row, and K.
    stop_ids, pad_id: tokens that end a row (written), and one never written.
    num_past: an upper bound on the rows' positions; see `prefill`.

  Returns:
    What was written, and the cache, filled below position + count.
  """
  rows = rows.checked(max_new, length=cache.keys.shape[3])
  batch_size = len(rows.position)
  pasts = _before(cache, rows.position, rows.slots, num_past)

  def body(carry):
    i, out, token, new = carry
    going = rows.writes(out)
    # Rows that have stopped pass a token, too; it is masked out below.
    written = jnp.broadcast_to(jnp.arange(max_new) < i, (batch_size, max_new))
    logits, hidden, latest = decoder.Decoder(config).apply(
        {'params': params},
        token[:, None],
        rows.position[:, None] + i,
        [*pasts, decoder.Past(new, written)],
    )
    new = _put_column(new, latest, i)
    # Padding is excluded before normalizing, so probabilities still sum to 1.
    log_probs = jax.nn.log_softmax(logits[:, 0].at[:, pad_id].set(-1e9))
    chosen = _choose(log_probs, rows.seed, rows.position + i, rows.temperature)
    chosen = jnp.where(going, chosen, pad_id).astype(jnp.int32)
    out = _record(out, i, going, chosen, log_probs, hidden[:, 0], top_k)
    stops = going & jnp.isin(chosen, jnp.array(stop_ids, jnp.int32))
    return i + 1, out.replace(stopped=out.stopped | stops), chosen, new

  start = (
      jnp.int32(0),
      _nothing(batch_size, max_new, top_k, config.hidden_size),
      rows.last_token,
      decoder.init_cache(config, batch_size, max_new),
  )
  _, out, _, new = jax.lax.while_loop(
      lambda carry: rows.writes(carry[1]).any(), body, start
  )
  mean = out.hidden_mean / jnp.maximum(out.count, 1)[:, None]  # It was a sum.
  cache = _store(cache, new, rows.position, out.count, rows.slots)
  return out.replace(hidden_mean=mean), cache


def _nothing(batch_size: int, max_new: int, top_k: int, width: int) -> Decoded:
  """Returns the `Decoded` of rows that have written no token."""
  return Decoded(
      tokens=jnp.zeros((batch_size, max_new), jnp.int32),
      count=jnp.zeros(batch_size, jnp.int32),
      log_probs=jnp.zeros((batch_size, max_new)),
      top_log_probs=jnp.zeros((batch_size, max_new, top_k)),
      hidden_last=jnp.zeros((batch_size, width)),
      hidden_mean=jnp.zeros((batch_size, width)),
      stopped=jnp.zeros(batch_size, bool),
  )


def _put_column(cache: decoder.KVCache, column: decoder.KVCache, i: jax.Array):
  """Replaces position `i` of the cache in all rows."""
  # `decode` collects new keys in a buffer with one column per written token,
  # the same for all rows, and stores it in the cache once, after the loop.
  return jax.tree.map(
      lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, i, axis=3),
      cache,
      column,
  )


def _record(out, i, going, chosen, log_probs, hidden, top_k) -> Decoded:
  """Adds the i-th token of the rows that continue to `out`."""

  def put(array, value):
    # [B] -> [B, 1, ...]: broadcasts against the trailing axes of `value`.
    keep = going.reshape(-1, *[1] * (value.ndim - 1))
    value = jnp.where(keep, value, 0)
    return jax.lax.dynamic_update_index_in_dim(array, value, i, axis=1)

  # The model's own distribution, without temperature: confidence features must
  # not depend on how tokens are sampled.
  own = jnp.take_along_axis(log_probs, chosen[:, None], axis=-1)[:, 0]
  state = jnp.where(going[:, None], hidden, 0.0)
  return out.replace(
      tokens=put(out.tokens, chosen),
      count=out.count + going,
      log_probs=put(out.log_probs, own),
      top_log_probs=put(out.top_log_probs, jax.lax.top_k(log_probs, top_k)[0]),
      hidden_last=jnp.where(going[:, None], hidden, out.hidden_last),
      hidden_mean=out.hidden_mean + state,
  )
