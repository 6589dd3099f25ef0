"""Writing with a decoder: prefill and decode on a KV cache, as pure functions.

A row's tokens depend on its own prompt and seed alone: the noise of a position
is drawn from a key folded with the row's seed and that position, never from the
batch. The caller jits, since it knows where the cache lives.
"""

from collections.abc import Sequence
import functools

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from routing.lm import decoder


@flax.struct.dataclass
class Rows:
  """What a batch of rows goes on from.

  last_token: `[B]` int32, the newest token, not yet passed.
  position: `[B]` int32, its position.
  seed: `[B]` uint32; the token written after position p depends on the prefix
    and (seed, p) alone.
  temperature: `[B]` float32 >= 0.
  active: `[B]` bool; other rows write nothing.
  limit: `[B]` int32, new tokens at most; never beyond the cache.
  slots: `[B]` int32, each row's place in the cache; None = its own index.
  """

  last_token: jax.Array
  position: jax.Array
  seed: jax.Array
  temperature: jax.Array
  active: jax.Array
  limit: jax.Array
  slots: jax.Array | None = None

  def checked(self, max_new: int, length: int) -> 'Rows':
    """The same with every shape asserted, limits capped and slots named."""
    chex.assert_rank(self.last_token, 1)
    chex.assert_equal_shape(
        [self.last_token, self.position, self.seed]
        + [self.temperature, self.active, self.limit]
    )
    room = jnp.minimum(max_new, length - 1 - self.position)
    own = jnp.arange(len(self.last_token))
    return self.replace(
        limit=jnp.minimum(self.limit, room),
        slots=own if self.slots is None else self.slots,
    )

  def writes(self, out: 'Decoded') -> jax.Array:
    """`[B]` bool, the rows that go on after having written `out`."""
    return self.active & ~out.stopped & (out.count < self.limit)


@flax.struct.dataclass
class Decoded:
  """What a batch of rows wrote; entries beyond a row's count are zero.

  tokens: `[B, M]` int32, stop token included.
  count: `[B]` int32, tokens written.
  log_probs: `[B, M]` float32, of each token, before temperature.
  top_log_probs: `[B, M, K]` float32, the K largest, descending.
  hidden_last: `[B, D]` float32, the state that the last token was read from.
  hidden_mean: `[B, D]` float32, its mean over the written tokens.
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
  """Passes known tokens through the model, for their keys and values alone.

  Args:
    params: of `decoder.Decoder(config)`.
    config: the decoder's shape.
    cache: `[L, N, KVH, S, Dh]`, filled below `start` in each row's slot.
    tokens: `[B, C]` int32, right-padded.
    start: `[B]` int32, position of the first token of each row.
    count: `[B]` int32, tokens of each row that are no padding; may be 0.
    slots: `[B]` int32, each row's place on the axis N; None = its own index.
    num_past: no row starts beyond it, so no key from there on is looked at;
      None = the cache's length.

  Returns:
    The cache, filled below `start + count`.
  """
  chex.assert_rank(tokens, 2)
  chex.assert_shape([start, count], (tokens.shape[0],))
  offset = jnp.arange(tokens.shape[1])[None]
  slots = jnp.arange(len(start)) if slots is None else slots
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
  """What the rows in `slots` hold before `position`, `[B]` each.

  A tuple over layers, since a slice of a stacked array would be copied for
  every token. Nothing, where `num_past` says that nobody holds anything.
  """
  length = cache.keys.shape[3] if num_past is None else num_past
  if not length:
    return []
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
  """The cache with the first `count` tokens of `new` put at `start`, by row."""
  offset = jnp.arange(new.keys.shape[3])[None]
  beyond = cache.keys.shape[3]  # Padding goes there, hence nowhere.
  at = jnp.where(offset < count[:, None], start[:, None] + offset, beyond)

  def put(old, x):
    # Indices beside a slice: the indexed axes, row and position, come first.
    return old.at[:, slots[:, None], :, at].set(
        x.transpose(1, 3, 0, 2, 4), mode='drop'
    )

  return jax.tree.map(put, cache, new)


def _choose(logits, seed, position, temperature):
  """Gumbel-max sampling with a key per row; temperature 0 is greedy."""

  def noise(seed, position):
    key = jax.random.fold_in(jax.random.key(seed), position)
    return jax.random.gumbel(key, logits.shape[-1:])

  gumbel = jax.lax.cond(
      (temperature > 0).any(),
      jax.vmap(noise),
      lambda *_: jnp.zeros_like(logits),  # No draw that nobody looks at.
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
  """Writes until every active row has stopped or reached its limit.

  Args:
    params, config: of `decoder.Decoder(config)`.
    cache, rows: what to go on from; each slot is filled below `position`.
    max_new, top_k: M, new tokens of a row at most, and K.
    stop_ids, pad_id: tokens that end a row (written), one that never is.
    num_past: no row's position is beyond it; see `prefill`.

  Returns:
    What was written, and the cache, filled below position + count.
  """
  rows = rows.checked(max_new, length=cache.keys.shape[3])
  batch_size = len(rows.position)
  pasts = _before(cache, rows.position, rows.slots, num_past)

  def body(carry):
    i, out, token, new = carry
    going = rows.writes(out)
    # All rows write their i-th token at once, so what is new is kept in step;
    # rows at rest pass a token too, which nobody reads.
    written = jnp.broadcast_to(jnp.arange(max_new) < i, (batch_size, max_new))
    logits, hidden, latest = decoder.Decoder(config).apply(
        {'params': params},
        token[:, None],
        rows.position[:, None] + i,
        [*pasts, decoder.Past(new, written)],
    )
    new = _put_column(new, latest, i)
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
  mean = out.hidden_mean / jnp.maximum(out.count, 1)[:, None]
  cache = _store(cache, new, rows.position, out.count, rows.slots)
  return out.replace(hidden_mean=mean), cache


def _nothing(batch_size: int, max_new: int, top_k: int, width: int) -> Decoded:
  """What was written before the first token."""
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
  """The cache with its i-th position replaced, in all rows alike."""
  return jax.tree.map(
      lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, i, axis=3),
      cache,
      column,
  )


def _record(out, i, going, chosen, log_probs, hidden, top_k) -> Decoded:
  """Adds the i-th token of the rows that are going on."""

  def put(array, value):
    keep = going.reshape(-1, *[1] * (value.ndim - 1))
    value = jnp.where(keep, value, 0)
    return jax.lax.dynamic_update_index_in_dim(array, value, i, axis=1)

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


@functools.partial(jax.jit, static_argnums=(1, 6, 7))
def _generate_batch(
    params, config, cache, zero, tokens, count, max_new, stop_id
):
  """Greedy continuations of `[B, C]` right-padded prompts.

  The empty cache and where it ends, `zero`, are arguments since XLA would spend
  seconds on folding the attention to a constant one.
  """
  batch_size = len(tokens)
  cache = prefill(params, config, cache, tokens, zero, count - 1)
  rows = Rows(
      last_token=tokens[jnp.arange(batch_size), count - 1],
      position=count - 1,
      seed=zero.astype(jnp.uint32),
      temperature=zero.astype(jnp.float32),
      active=count > 1,
      limit=jnp.full(batch_size, max_new),
  )
  out, _ = decode(
      params, config, cache, rows, max_new=max_new, stop_ids=(stop_id,)
  )
  return out


def generate(
    params,
    config: decoder.DecoderConfig,
    prompts: Sequence[Sequence[int]],
    *,
    max_new: int,
    stop_id: int,
    batch_size: int = 128,
) -> list[tuple[list[int], np.ndarray]]:
  """Greedy continuations, `max_new` tokens at most, for evaluation.

  Returns:
    For each prompt the tokens written, and `[n]` float32 their log-probability.

  Raises:
    ValueError: if a prompt has fewer than two tokens.
  """
  if any(len(prompt) < 2 for prompt in prompts):
    raise ValueError('A prompt has fewer than 2 tokens; allowed: 2 or more.')
  width = max(map(len, prompts))
  cache = decoder.init_cache(config, batch_size, width + max_new + 1)
  zero = np.zeros(batch_size, np.int32)
  written = []
  for i in range(0, len(prompts), batch_size):
    rows = prompts[i : i + batch_size]
    tokens = np.zeros((batch_size, width), np.int32)
    count = np.ones(batch_size, np.int32)
    for j, row in enumerate(rows):
      tokens[j, : len(row)], count[j] = row, len(row)
    out = jax.device_get(
        _generate_batch(
            params, config, cache, zero, tokens, count, max_new, stop_id
        )
    )
    for j in range(len(rows)):
      ids = out.tokens[j, : out.count[j]].tolist()
      written.append((ids, out.log_probs[j, : out.count[j]]))
  return written
