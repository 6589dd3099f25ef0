"""Continues many prompts at once, to evaluate a model of the embedded pair."""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from routing.lm import decoder
from routing.lm import sampler


@functools.partial(jax.jit, static_argnums=(1, 8, 9))
def _batch(
    params, config, cache, zero, seed, heat, tokens, count, max_new, stop_id
):
  """Continues a batch of B prompts.

  Args:
    params, config: see `sampler.prefill`.
    cache: an empty cache with B rows.
    zero: `[B]` int32 zeros.
    seed: `[B]` uint32, seed of each row.
    heat: `[B]` float32, temperature of each row; None = 0.
    tokens: `[B, C]` int32, the prompts, padded on the right.
    count: `[B]` int32, number of tokens of each prompt; 1 = a padding row.
    max_new: maximum number of new tokens of each row.
    stop_id: id of the token after which a row ends.

  Returns:
    The written tokens, a `sampler.Decoded`.
  """
  # `cache` and `zero` have constant values, but are arguments: if they were
  # constants, XLA would evaluate the attention to the empty cache during
  # compilation (constant folding), which takes seconds.
  batch_size = len(tokens)
  # The last token of a prompt is not prefilled, because `decode` passes it
  # through the model first.
  cache = sampler.prefill(params, config, cache, tokens, zero, count - 1)
  rows = sampler.Rows(
      last_token=tokens[jnp.arange(batch_size), count - 1],
      position=count - 1,
      seed=seed,
      temperature=heat,
      # `generate` gives padding rows a count of 1.
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
    temperature: float = 0.0,
    seed: int = 0,
) -> list[tuple[list[int], np.ndarray]]:
  """Continues each of many prompts.

  Args:
    params, config: see `sampler.prefill`.
    prompts: the token ids of each prompt, at least two.
    max_new: maximum number of new tokens of each prompt.
    stop_id: id of the token after which a continuation ends; the token is part
      of the continuation.
    batch_size: number of prompts that are continued at once.
    temperature: at which tokens are sampled; 0 = greedy.
    seed: of the samples, in 0..999; prompt i has the seed 10^6 x seed + i.

  Returns:
    For each prompt the ids of the n written tokens, and their
    log-probabilities, `[n]` float32.

  Raises:
    ValueError: if a prompt has fewer than two tokens.
  """
  shortest = min(map(len, prompts), default=2)
  # `_batch` would treat a prompt of one token as a padding row.
  if shortest < 2:
    raise ValueError(
        f'The number of tokens of the shortest prompt is {shortest}; it must '
        'be at least 2.'
    )
  width = max(map(len, prompts))
  # All batches have the same shapes, so `_batch` is compiled once.
  cache = decoder.init_cache(config, batch_size, width + max_new + 1)
  zero = np.zeros(batch_size, np.int32)
  # None: a program without noise.
  heat = np.full(batch_size, temperature, np.float32) if temperature else None
  written = []
  for i in range(0, len(prompts), batch_size):
    rows = prompts[i : i + batch_size]
    tokens, count = _padded(rows, batch_size, width)
    seeds = (10**6 * seed + i + np.arange(batch_size)).astype(np.uint32)
    out = jax.device_get(
        _batch(
            *(params, config, cache, zero, seeds, heat),
            *(tokens, count, max_new, stop_id),
        )
    )
    for j in range(len(rows)):
      ids = out.tokens[j, : out.count[j]].tolist()
      written.append((ids, out.log_probs[j, : out.count[j]]))
  return written


def _padded(rows, batch_size: int, width: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns a batch's tokens and their number per row, see `_batch`."""
  tokens = np.zeros((batch_size, width), np.int32)
  # A count of 1 marks a padding row, of which only the last batch has some.
  count = np.ones(batch_size, np.int32)
  for i, row in enumerate(rows):
    tokens[i, : len(row)], count[i] = row, len(row)
  return tokens, count


def step_ends(ids: Sequence[int], delimiter_id: int) -> np.ndarray:
  """Returns the indices at which an answer is cut into its steps.

  Args:
    ids: token ids of the answer.
    delimiter_id: the token that ends a step.
  """
  # A delimiter in last place is no cut: an empty step would follow it.
  return 1 + np.flatnonzero(np.equal(ids[:-1], delimiter_id))
