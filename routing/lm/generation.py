"""Greedy continuations of many prompts, for evaluation."""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from routing.lm import decoder
from routing.lm import sampler


@functools.partial(jax.jit, static_argnums=(1, 6, 7))
def _greedy_batch(params, config, cache, zero, tokens, count, max_new, stop_id):
  """Continues `[B, C]` right-padded prompts greedily.

  Args:
    params, config, cache: see `sampler.prefill`; the cache is empty.
    zero: `[B]` int32 zeros.
    tokens: `[B, C]` int32.
    count: `[B]` int32, number of tokens of each prompt; 1 = a padding row.
    max_new, stop_id: see `sampler.decode`.
  """
  # `cache` and `zero` are arguments although constant: as constants, XLA would
  # spend seconds on folding the attention to the empty cache.
  batch_size = len(tokens)
  # The last token of a prompt is left to `decode`, which starts from it.
  cache = sampler.prefill(params, config, cache, tokens, zero, count - 1)
  rows = sampler.Rows(
      last_token=tokens[jnp.arange(batch_size), count - 1],
      position=count - 1,
      seed=zero.astype(jnp.uint32),
      temperature=zero.astype(jnp.float32),
      # Padding rows have a count of 1; see `generate`.
      active=count > 1,
      limit=jnp.full(batch_size, max_new),
  )
  out, _ = sampler.decode(
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
  """Continues prompts greedily, for evaluation.

  Args:
    params, config: see `sampler.prefill`.
    prompts: token ids, at least two in each.
    max_new: maximum number of new tokens.
    stop_id: token that ends a continuation; it is written.
    batch_size: rows written at once.

  Returns:
    For each prompt the tokens written, and `[n]` float32, their
    log-probabilities.

  Raises:
    ValueError: if a prompt has fewer than two tokens.
  """
  shortest = min(map(len, prompts), default=2)
  if shortest < 2:  # `_greedy_batch` takes a count of 1 for padding.
    raise ValueError(
        f'The shortest prompt has {shortest} tokens, fewer than 2; allowed: 2 '
        'or more.'
    )
  width = max(map(len, prompts))
  # One cache and one width for all batches: a single compilation.
  cache = decoder.init_cache(config, batch_size, width + max_new + 1)
  zero = np.zeros(batch_size, np.int32)
  written = []
  for i in range(0, len(prompts), batch_size):
    rows = prompts[i : i + batch_size]
    tokens = np.zeros((batch_size, width), np.int32)
    # 1 = inactive, for the padding rows of the last batch.
    count = np.ones(batch_size, np.int32)
    for j, row in enumerate(rows):
      tokens[j, : len(row)], count[j] = row, len(row)
    out = jax.device_get(
        _greedy_batch(
            params, config, cache, zero, tokens, count, max_new, stop_id
        )
    )
    for j in range(len(rows)):
      ids = out.tokens[j, : out.count[j]].tolist()
      written.append((ids, out.log_probs[j, : out.count[j]]))
  return written
