"""Batch shapes of the embedded engine, and the jitted calls that use them."""

from collections.abc import Sequence
import functools

import jax
import numpy as np

from routing.lm import sampler

# Shapes are rounded up to these sizes: each new shape costs a compilation of
# seconds, when it is first needed.
BATCH_BUCKETS = (8, 32, 64, 128)  # Rows.
PREFILL_BUCKETS = (32, 64, 128, 192)  # New prompt tokens per row.
PAST_BUCKETS = (96, 128, 160)  # Cached tokens per row.
# The keys of fewer rows fit into the processor's caches, so a shorter past
# saves no time there and would only cost compilations.
MIN_ROWS_FOR_PAST = 64
SEGMENT_TOKENS = 32  # A step is 22 tokens; a longer one takes two segments.
TOP_K = 5


def bucket(buckets: Sequence[int], count: int) -> int:
  """Returns the smallest bucket that is at least `count`, else `count`."""
  return next((size for size in buckets if size >= count), count)


def pad(values: Sequence, size: int, fill) -> np.ndarray:
  """Pads `values` with `fill` to a `[size]` int32 or float32 array."""
  kind = np.float32 if isinstance(fill, float) else np.int32
  return np.array([*values, *[fill] * (size - len(values))], kind)


def row(out: sampler.Decoded, i: int, seconds: float) -> dict[str, np.ndarray]:
  """Returns the arrays of row `i`, cut to the tokens that it wrote.

  Args:
    out: a decoded batch, on the host.
    i: index of the row.
    seconds: the row's share of the time of the batch.
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


# The cache is donated: a copy of all its rows would take longer than a step.
# `num_past` sets a shape, hence static; see `PAST_BUCKETS`.
@functools.partial(jax.jit, static_argnums=(1, 7), donate_argnums=2)
def prefill(params, config, cache, slots, tokens, start, count, num_past):
  """Runs `sampler.prefill`; returns the cache. `cache` is donated."""
  return sampler.prefill(
      params, config, cache, tokens, start, count, slots, num_past
  )


@functools.partial(jax.jit, static_argnums=(1, 4, 5), donate_argnums=2)
def decode(params, config, cache, rows, stop_ids, num_past):
  """Runs `sampler.decode`; returns its results. `cache` is donated."""
  return sampler.decode(
      params,
      config,
      cache,
      rows,
      max_new=SEGMENT_TOKENS,
      stop_ids=stop_ids,
      top_k=TOP_K,
      num_past=num_past,
  )
