"""Pads batches of the embedded engine to few shapes, and jits its calls."""

from collections.abc import Iterator
from collections.abc import Sequence
import functools

import jax
import numpy as np

from routing.lm import decoder
from routing.lm import sampler

# Array sizes are rounded up to one of these. A shape that occurs for the first
# time costs a compilation of seconds, so there should be few shapes.
BATCH_BUCKETS = (8, 32, 128)  # Rows.
# At most so many rows at once on a CPU. There, 32 rows take less time for each
# row than 128: their keys are nearer to the processor, and fewer of them are
# much shorter than the longest.
CPU_ROWS = 32
# Rows that are prefilled at once, one shape for all batches: on a CPU, and on
# an accelerator, where it has not been measured.
CPU_PREFILL_ROWS, PREFILL_ROWS = 8, 64
PREFILL_BUCKETS = (32, 48, 96, 192)  # New prompt tokens per row.
# The same where no row has cached tokens: whole prompts.
PROMPT_BUCKETS = PREFILL_BUCKETS[1:]
PAST_BUCKETS = (128,)  # Cached tokens per row; each is a program to compile.
# Smaller batches attend to all cached positions instead of a bucket of them.
# Their keys fit into the processor's caches, so fewer positions would save
# little time and cost compilations.
MIN_ROWS_FOR_PAST = 32
# Maximum number of tokens per call of `decode`. A step usually has 22 tokens; a
# longer step takes several calls.
SEGMENT_TOKENS = 32
TOP_K = 5  # Number of top log-probabilities per token.


def bucket(buckets: Sequence[int], count: int) -> int:
  """Rounds `count` up to one of the ascending `buckets`.

  A count above the largest bucket is returned unchanged.
  """
  return next((size for size in buckets if size >= count), count)


def rows_at_once(max_batch: int) -> int:
  """Returns how many of at most `max_batch` rows to compute at once."""
  return min(max_batch, CPU_ROWS) if _is_cpu() else max_batch


def _is_cpu() -> bool:
  return jax.default_backend() == 'cpu'


def pad(values: Sequence, size: int, fill) -> np.ndarray:
  """Returns `values` padded with `fill` to length `size`.

  The array is float32 if `fill` is a float, and int32 otherwise.
  """
  kind = np.float32 if isinstance(fill, float) else np.int32
  return np.array([*values, *[fill] * (size - len(values))], kind)


def heat(temperatures: Sequence[float], size: int) -> np.ndarray | None:
  """Returns temperatures, padded to `size` rows; None if all are 0."""
  return pad(temperatures, size, 0.0) if any(temperatures) else None


def padded_rows(
    size: int,
    padding: int,
    *,
    last_token: Sequence[int] = (),
    position: Sequence[int] = (),
    seed: Sequence[int] = (),
    temperature: Sequence[float] = (),
    limit: Sequence[int] = (),
    slots: Sequence[int] = (),
) -> sampler.Rows:
  """Returns rows of texts, followed by padding up to `size`.

  Rows of padding are inactive and may write 0 tokens.

  Args:
    size: B, number of rows.
    padding: the slot of the rows of padding, which belongs to no session.
    last_token, position, seed, temperature, limit, slots: of each text, see
      `sampler.Rows`; none = all rows are padding.
  """
  return sampler.Rows(
      last_token=pad(last_token, size, 0),
      position=pad(position, size, 0),
      seed=np.array([*seed, *[0] * (size - len(seed))], np.uint32),
      temperature=heat(temperature, size),
      active=np.arange(size) < len(last_token),
      limit=pad(limit, size, 0),
      slots=pad(slots, size, padding),
  )


def num_past(positions: np.ndarray, max_length: int) -> int:
  """Returns the number of cached positions that a batch must attend to.

  Args:
    positions: `[B]` int32, the position of each row's last token.
    max_length: number of positions in the cache.
  """
  if len(positions) < MIN_ROWS_FOR_PAST:
    return max_length
  buckets = *PAST_BUCKETS, max_length
  return min(bucket(buckets, int(positions.max())), max_length)


def fill(
    params,
    config: decoder.DecoderConfig,
    cache: decoder.KVCache,
    parts: Sequence[tuple[int, int, Sequence[int]]],
    padding: int,
) -> Iterator[decoder.KVCache]:
  """Prefills the cache with known tokens of any number of rows, group by group.

  Args:
    params, config, cache: see `sampler.prefill`; the cache is donated.
    parts: (slot, start, tokens) of each row: where in the cache the keys of the
      tokens go, from position `start` on.
    padding: a slot that belongs to no row.

  Yields:
    The cache after each group. The one before is then gone, so that the caller
    keeps each of them, lest an error in a later group leave it without any.
  """
  size = CPU_PREFILL_ROWS if _is_cpu() else PREFILL_ROWS
  # Rows with much to read, or with nothing before it, are read together.
  parts = sorted(parts, key=lambda part: (part[1] > 0, len(part[2])))
  for i in range(0, len(parts), size):
    group = parts[i : i + size]
    slots, starts, texts = zip(*group, strict=True)
    counts = [len(text) for text in texts]
    buckets = PREFILL_BUCKETS if any(starts) else PROMPT_BUCKETS
    width = bucket(buckets, max(counts))
    tokens = np.zeros((size, width), np.int32)
    for line, text in zip(tokens, texts, strict=False):
      line[: len(text)] = text
    cache = prefill(
        params,
        config,
        cache,
        pad(slots, size, padding),
        tokens,
        pad(starts, size, 0),
        pad(counts, size, 0),
        # num_past is static, so each value costs a compilation. There are only
        # two values: the whole length, or 0 if no row has cached tokens.
        cache.keys.shape[3] if any(starts) else 0,
    )
    yield cache


def compile_ahead(
    params,
    config: decoder.DecoderConfig,
    cache: decoder.KVCache,
    stop_ids: tuple[int, ...],
    padding: int,
    max_rows: int,
    reads_on: bool,
) -> Iterator[decoder.KVCache]:
  """Compiles what nearly every batch of a collection needs, by empty batches.

  Args:
    params, config, cache: see `sampler.prefill`; the cache is donated.
    stop_ids: see `sampler.decode`.
    padding: a slot that belongs to no row.
    max_rows: largest number of rows that are written at once.
    reads_on: whether rows will read text of other models after their own.

  Yields:
    The cache after each program, with what it had; see `fill`.
  """
  length = cache.keys.shape[3]
  size = CPU_PREFILL_ROWS if _is_cpu() else PREFILL_ROWS
  slots, zeros = pad((), size, padding), pad((), size, 0)
  shapes = [(PROMPT_BUCKETS[0], 0)]
  if reads_on:
    shapes.append((PREFILL_BUCKETS[0], length))
  for width, past in shapes:
    tokens = np.zeros((size, width), np.int32)
    cache = prefill(params, config, cache, slots, tokens, zeros, zeros, past)
    yield cache
  largest = bucket(BATCH_BUCKETS, max_rows)
  for count, position in ((largest, 0), (largest, length - 1), (1, 0)):
    size = bucket(BATCH_BUCKETS, count)
    rows = padded_rows(size, padding)
    past = num_past(np.full(size, position), length)
    _, cache = decode(params, config, cache, rows, stop_ids, past)
    yield cache


def row(out: sampler.Decoded, i: int, seconds: float) -> dict[str, np.ndarray]:
  """Returns the results of one row of a decoded batch, without padding.

  Args:
    out: the results of the batch, on the host.
    i: index of the row.
    seconds: the row's share of the time that the batch took.

  Returns:
    The fields of `sampler.Decoded` for this row, cut to its number of written
    tokens, and its `seconds`.
  """
  count = int(out.count[i])
  return {
      'tokens': out.tokens[i, :count],
      'log_probs': out.log_probs[i, :count],
      'top_log_probs': out.top_log_probs[i, :count],
      'hidden_last': out.hidden_last[i],
      'hidden_mean': out.hidden_mean[i],
      'stopped': out.stopped[i],
      'seconds': np.float64(seconds),
  }


# The cache is donated (updated in place), because copying all its rows would
# take longer than writing a step. `num_past` is static, because it sets the
# shape of the keys that are attended to; see `PAST_BUCKETS`.
@functools.partial(jax.jit, static_argnums=(1, 7), donate_argnums=2)
def prefill(params, config, cache, slots, tokens, start, count, num_past):
  """Runs `sampler.prefill` under jit; returns the updated cache.

  The buffers of the argument `cache` are donated and must not be used again.
  """
  return sampler.prefill(
      params, config, cache, tokens, start, count, slots, num_past
  )


def read(params, config, cache, slots, tokens, start, count, pad_id, num_past):
  """Passes known tokens through the model; returns log-probabilities and cache.

  Returns:
    `[B, C, V]` float32, log-probabilities of the token after each token; and
    the cache, filled at the positions below `start + count`.

  The buffers of the argument `cache` are donated and must not be used again.
  """
  # In one program XLA would copy the whole cache: it sees no order between the
  # last layer, which reads it, and the new keys, which are put into it.
  log_probs, new = _look(
      params, config, cache, slots, tokens, start, pad_id, num_past
  )
  return log_probs, _store(cache, new, start, count, slots)


@functools.partial(jax.jit, static_argnums=(1, 6, 7))
def _look(params, config, cache, slots, tokens, start, pad_id, num_past):
  logits, new = sampler.look(
      params, config, cache, tokens, start, slots, num_past
  )
  return sampler.log_probs(logits, pad_id), new


_store = jax.jit(sampler.store, donate_argnums=0)


@functools.partial(
    jax.jit,
    static_argnums=(1, 4, 5),
    static_argnames=('max_new', 'top_k'),
    donate_argnums=2,
)
def decode(
    params,
    config,
    cache,
    rows,
    stop_ids,
    num_past,
    *,
    max_new=SEGMENT_TOKENS,
    top_k=TOP_K,
):
  """Runs `sampler.decode` under jit; returns what it wrote and the cache.

  The buffers of the argument `cache` are donated and must not be used again.
  """
  return sampler.decode(
      params,
      config,
      cache,
      rows,
      max_new=max_new,
      stop_ids=stop_ids,
      top_k=top_k,
      num_past=num_past,
  )
