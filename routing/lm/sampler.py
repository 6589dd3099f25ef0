"""Writes text with a decoder: prefill and decoding with a KV cache.

All functions are pure. The tokens of a row depend only on the row's own prompt,
temperature and seed, not on the other rows: the sampling noise of a token is a
function of the row's seed and the token's position. The caller jits these
functions, because it knows whether the buffers of the cache may be donated.
"""

import chex
import flax.struct
import jax
import jax.numpy as jnp

from routing.lm import decoder


@flax.struct.dataclass
class Rows:
  """The state from which decoding continues B rows, one text in each.

  last_token: `[B]` int32, the newest token, not yet passed through the model.
  position: `[B]` int32, position of the newest token in its text.
  seed: `[B]` uint32, seed of the sampling noise. The noise of the token after
    position p is a function of (seed, p).
  temperature: `[B]` float32 >= 0, sampling temperature; 0 is greedy. None = all
    rows are greedy; the program is then smaller, since it draws no noise.
  active: `[B]` bool; False marks padding rows, which write nothing.
  limit: `[B]` int32, maximum number of new tokens; `checked` caps it.
  slots: `[B]` int32, index in the cache of each row; None = 0..B-1 in order.
  """

  last_token: jax.Array
  position: jax.Array
  seed: jax.Array
  temperature: jax.Array | None
  active: jax.Array
  limit: jax.Array
  slots: jax.Array | None = None

  def checked(self, max_new: int, length: int) -> 'Rows':
    """Checks shapes; returns the rows with `slots` set and `limit` capped.

    Args:
      max_new: maximum number of new tokens of any row.
      length: number of positions in the cache.
    """
    chex.assert_rank(self.last_token, 1)
    chex.assert_equal_shape(
        [self.last_token, self.position, self.seed, self.active, self.limit]
        + [x for x in (self.temperature,) if x is not None]
    )
    # New tokens get the positions position + 1, position + 2, ... The last new
    # token needs a place in the cache too: its keys are stored there by the
    # next call, which passes it through the model.
    room = jnp.minimum(max_new, length - 1 - self.position)
    own = jnp.arange(len(self.last_token))
    return self.replace(
        limit=jnp.minimum(self.limit, room),
        slots=own if self.slots is None else self.slots,
    )

  def writes(self, out: 'Decoded') -> jax.Array:
    """Returns `[B]` bool, True for rows that write more tokens after `out`."""
    return self.active & ~out.stopped & (out.count < self.limit)


@flax.struct.dataclass
class Decoded:
  """The tokens that B rows wrote, at most M each, with their statistics.

  Entries after a row's last token are zero.

  tokens: `[B, M]` int32, the written tokens, stop token included.
  count: `[B]` int32, number of written tokens.
  log_probs: `[B, M]` float32, log-probability of each token at temperature 1.
  top_log_probs: `[B, M, K]` float32, the K largest log-probabilities at each
    token, descending; or `[B, M, V]`, those of all tokens, by id.
  hidden_last: `[B, D]` float32, hidden state that predicted the last token.
  hidden_mean: `[B, D]` float32, mean of the hidden states that predicted the
    written tokens.
  stopped: `[B]` bool, True if the row wrote a stop token.
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
  """Passes known tokens through the model, and stores their keys and values.

  Args:
    params: parameters of `decoder.Decoder(config)`.
    config: the decoder's shape.
    cache: keys and values, `[L, N, KVH, S, Dh]` each. For each row, the
      positions below `start` of its slot are filled.
    tokens: `[B, C]` int32, the tokens to pass, padded on the right.
    start: `[B]` int32, position of the first token of each row.
    count: `[B]` int32, number of tokens of each row without padding; may be 0.
    slots: `[B]` int32, index of each row on axis N; None = 0..B-1 in order.
    num_past: an upper bound on `start`; only so many cached positions are
      attended to. None = S. It must be static, because it sets a shape.

  Returns:
    The cache, filled at the positions below `start + count`.
  """
  # The logits are not used, so XLA drops their computation under jit.
  _, new = look(params, config, cache, tokens, start, slots, num_past)
  return store(cache, new, start, count, slots)


def look(
    params,
    config: decoder.DecoderConfig,
    cache: decoder.KVCache,
    tokens: jax.Array,
    start: jax.Array,
    slots: jax.Array | None = None,
    num_past: int | None = None,
) -> tuple[jax.Array, decoder.KVCache]:
  """Passes known tokens through the model, without storing anything.

  Args:
    params, config, cache, tokens, start, slots, num_past: see `prefill`.

  Returns:
    `[B, C, V]` float32, the logits of the token after each token; and what to
    `store`, the keys and values of the tokens, `[L, B, KVH, C, Dh]` each.
  """
  chex.assert_rank(tokens, 2)
  chex.assert_shape(start, (tokens.shape[0],))
  offset = jnp.arange(tokens.shape[1])[None]
  slots = jnp.arange(len(start)) if slots is None else slots
  logits, _, new = decoder.Decoder(config).apply(
      {'params': params},
      tokens,
      start[:, None] + offset,
      _before(cache, start, slots, num_past),
  )
  return logits, new


def log_probs(logits: jax.Array, pad_id: int) -> jax.Array:
  """Returns log-probabilities `[..., V]` without the padding token.

  Without it, the probabilities of the others sum to 1.

  Args:
    logits: `[..., V]` float32.
    pad_id: a token that is never written.
  """
  is_pad = jnp.arange(logits.shape[-1]) == pad_id
  return jax.nn.log_softmax(jnp.where(is_pad, -1e9, logits))


def _before(
    cache: decoder.KVCache,
    position: jax.Array,
    slots: jax.Array,
    num_past: int | None,
) -> list[decoder.Past]:
  """Returns the argument `pasts` of the decoder for the cached tokens.

  It is a list of one `Past` with the tokens below `position`; the list is empty
  if `num_past` is 0.

  Args:
    cache: the cache of N slots.
    position: `[B]` int32, number of leading cached tokens to attend to.
    slots: `[B]` int32, index of each row on axis N of the cache.
    num_past: see `prefill`.
  """
  length = cache.keys.shape[3] if num_past is None else num_past
  if not length:
    return []
  rows = _rows(cache, slots, length)
  return [decoder.Past(rows, jnp.arange(length)[None] < position[:, None])]


def _rows(
    cache: decoder.KVCache, slots: jax.Array, length: int, room: int = 0
) -> decoder.KVCache:
  """Returns the first `length` cached tokens of some rows, and room for more.

  The layers are separate arrays in tuples, `[B, KVH, length + room, Dh]` each:
  a slice of one stacked array would be copied for every token in the loop of
  `decode`.
  """
  width = [(0, 0), (0, 0), (0, room), (0, 0)]
  return jax.tree.map(
      lambda x: tuple(jnp.pad(y[slots, :, :length], width) for y in x), cache
  )


def store(
    cache: decoder.KVCache,
    new: decoder.KVCache,
    start: jax.Array,
    count: jax.Array,
    slots: jax.Array | None = None,
) -> decoder.KVCache:
  """Writes the keys and values of new tokens into the cache.

  Args:
    cache: the cache of N slots.
    new: keys and values of C tokens of B rows, `[L, B, KVH, C, Dh]` each.
    start: `[B]` int32, position of each row's first new token.
    count: `[B]` int32, number of each row's tokens to store; the rest of the C
      tokens is padding.
    slots: `[B]` int32, index of each row on axis N; None = 0..B-1 in order.

  Returns:
    The cache, filled at the positions below `start + count`.
  """
  chex.assert_equal_shape([start, count])
  slots = jnp.arange(len(start)) if slots is None else slots
  offset = jnp.arange(new.keys.shape[3])[None]
  # Padding tokens get a position past the cache's end, where mode='drop' below
  # discards them.
  beyond = cache.keys.shape[3]
  at = jnp.where(offset < count[:, None], start[:, None] + offset, beyond)

  def put(old, x):
    # The index arrays have shapes [B, 1] and [B, C], with a slice between them.
    # As in NumPy, the indexed axes then come first: the target has shape
    # [B, C, L, KVH, Dh].
    return old.at[:, slots[:, None], :, at].set(
        x.transpose(1, 3, 0, 2, 4), mode='drop'
    )

  return jax.tree.map(put, cache, new)


def _choose(logits, seed, position, temperature):
  """Samples one token for each row by the Gumbel-max trick.

  With Gumbel noise g, argmax(log p + temperature * g) is a draw from the
  softmax of log p / temperature; at temperature 0 it is the greedy choice.

  Args:
    logits: `[B, V]` float32, log-probabilities of the tokens.
    seed: `[B]` uint32, seed of each row; determines g together with `position`.
    position: `[B]` int32, position of the token that predicts the new one.
    temperature: `[B]` float32 >= 0; None = 0 in every row.

  Returns:
    `[B]` integers, the ids of the chosen tokens.
  """
  if temperature is None:
    return jnp.argmax(logits, axis=-1)

  def noise(seed, position):
    # The key depends only on (seed, position), so neither the other rows nor
    # the split of a text into several calls changes a draw.
    key = jax.random.fold_in(jax.random.key(seed), position)
    return jax.random.gumbel(key, logits.shape[-1:])

  gumbel = jax.vmap(noise)(seed, position)
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
    top_k: int | None = 5,
    num_past: int | None = None,
) -> tuple[Decoded, decoder.KVCache]:
  """Writes tokens until every active row has stopped or reached its limit.

  Args:
    params, config, cache: see `prefill`; the cache is filled below `position`.
    rows: the state from which to continue.
    max_new, top_k: M and K, see `Decoded`; `top_k` None = all tokens.
    stop_ids, pad_id: tokens that end a row, and a token that is never written.
    num_past: an upper bound on the rows' positions; see `prefill`.

  Returns:
    The written tokens, and the cache, filled below `position + count`.
  """
  rows = rows.checked(max_new, length=cache.keys.shape[3])
  # New token i takes column `length + i` in the loop, in every row; after it,
  # the tokens go into the cache, each to its own position.
  length = cache.keys.shape[3] if num_past is None else num_past
  width = top_k or config.vocab_size

  def body(carry):
    i, out, token, held = carry
    going = rows.writes(out)
    # Rows that have stopped pass a token too; its results are discarded below.
    mask = _seen(rows.position, length, max_new, i)
    logits, hidden, held = decoder.Decoder(config).apply(
        {'params': params},
        token[:, None],
        rows.position[:, None] + i,
        decoder.Growing(held, mask, column=length + i),
    )
    scores = log_probs(logits[:, 0], pad_id)
    chosen = _choose(scores, rows.seed, rows.position + i, rows.temperature)
    chosen = jnp.where(going, chosen, pad_id).astype(jnp.int32)
    out = _record(out, i, going, chosen, scores, hidden[:, 0], top_k)
    stops = going & jnp.isin(chosen, jnp.array(stop_ids, jnp.int32))
    return i + 1, out.replace(stopped=out.stopped | stops), chosen, held

  start = (
      jnp.int32(0),
      _nothing(len(rows.seed), max_new, width, config.hidden_size),
      rows.last_token,
      _rows(cache, rows.slots, length, room=max_new),
  )
  more = lambda carry: rows.writes(carry[1]).any()
  _, out, _, held = jax.lax.while_loop(more, body, start)
  mean = out.hidden_mean / jnp.maximum(out.count, 1)[:, None]
  new = decoder.KVCache(_after(held.keys, length), _after(held.values, length))
  cache = store(cache, new, rows.position, out.count, rows.slots)
  return out.replace(hidden_mean=mean), cache


def _seen(position, length, max_new, i) -> jax.Array:
  """Returns `[B, length + max_new]` bool, what new token `i` attends to."""
  column, at = jnp.arange(length + max_new), position[:, None]
  return jnp.where(column < length, column < at, column <= length + i)


def _after(layers: tuple[jax.Array, ...], length: int) -> jax.Array:
  """Stacks what the layers hold after their first `length` tokens."""
  return jnp.stack([layer[:, :, length:] for layer in layers])


def _nothing(batch_size: int, max_new: int, top_k: int, width: int) -> Decoded:
  """Returns a `Decoded` in which no row has written a token.

  Args:
    batch_size: B, number of rows.
    max_new: M, maximum number of new tokens of a row.
    top_k: K, number of top log-probabilities per token.
    width: D, length of a hidden state.
  """
  return Decoded(
      tokens=jnp.zeros((batch_size, max_new), jnp.int32),
      count=jnp.zeros(batch_size, jnp.int32),
      log_probs=jnp.zeros((batch_size, max_new)),
      top_log_probs=jnp.zeros((batch_size, max_new, top_k)),
      hidden_last=jnp.zeros((batch_size, width)),
      hidden_mean=jnp.zeros((batch_size, width)),
      stopped=jnp.zeros(batch_size, bool),
  )


def _record(out, i, going, chosen, log_probs, hidden, top_k) -> Decoded:
  """Writes token `i` into `out`, in each row that is still decoding.

  Args:
    out: the `Decoded` to update.
    i: index of the token among the new tokens.
    going: `[B]` bool, True for rows that are still decoding.
    chosen: `[B]` int32, the token of each row.
    log_probs: `[B, V]` float32, log-probabilities of all tokens.
    hidden: `[B, D]` float32, the hidden states that predicted the tokens.
    top_k: K, number of top log-probabilities to record; None = all, by id.
  """

  def put(array, value):
    # `going` is reshaped from [B] to [B, 1, ...], with as many axes as `value`.
    keep = going.reshape(-1, *[1] * (value.ndim - 1))
    value = jnp.where(keep, value, 0)
    return jax.lax.dynamic_update_index_in_dim(array, value, i, axis=1)

  # The log-probability is recorded without temperature, so that confidence
  # features do not depend on how tokens are sampled.
  own = jnp.take_along_axis(log_probs, chosen[:, None], axis=-1)[:, 0]
  state = jnp.where(going[:, None], hidden, 0.0)
  top = log_probs if top_k is None else jax.lax.top_k(log_probs, top_k)[0]
  # While decoding, `hidden_mean` is a sum over tokens; `decode` divides it.
  return out.replace(
      tokens=put(out.tokens, chosen),
      count=out.count + going,
      log_probs=put(out.log_probs, own),
      top_log_probs=put(out.top_log_probs, top),
      hidden_last=jnp.where(going[:, None], hidden, out.hidden_last),
      hidden_mean=out.hidden_mean + state,
  )
