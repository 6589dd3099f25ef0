"""Tests of the sampler: rows do not depend on their batch."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from routing.lm import decoder
from routing.lm import generation
from routing.lm import sampler

_CONFIG = decoder.DecoderConfig(
    vocab_size=11,
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=32,
    mlp_size=16,
)
_LENGTH, _MAX_NEW = 40, 12
_PROMPTS = ((3, 4, 5), (6, 7, 8, 9, 10, 3, 4), (5, 5), (9, 3, 8, 2))


@functools.cache
def _params():
  """Weights that are made when first used, not when pytest collects."""
  params = jax.jit(decoder.init_params, static_argnums=0)
  with jax.ensure_compile_time_eval():  # The first use may be under jit.
    return jax.tree.map(lambda x: 2.0 * x, params(_CONFIG, jax.random.key(0)))


@functools.partial(jax.jit, static_argnums=(5, 6))
def _run(tokens, count, seed, temperature, limit, stop_ids, num_past):
  """Prefills `[B, C]` prompts and decodes; a row without tokens is inactive."""
  zero = jnp.zeros_like(count)
  cache = decoder.init_cache(_CONFIG, len(count), _LENGTH)
  cache = sampler.prefill(
      _params(),
      _CONFIG,
      cache,
      tokens,
      zero,
      count - 1,
      num_past=None if num_past is None else 0,  # All start at 0.
  )
  rows = sampler.Rows(
      last_token=tokens[jnp.arange(len(count)), count - 1],
      position=count - 1,
      seed=seed.astype(jnp.uint32),
      temperature=temperature,
      active=count > 0,
      limit=limit,
  )
  return sampler.decode(
      _params(),
      _CONFIG,
      cache,
      rows,
      max_new=_MAX_NEW,
      stop_ids=stop_ids,
      top_k=3,
      num_past=num_past,
  )


def _decode(
    prompts,
    seeds=None,
    temperature=1.0,
    limits=None,
    stop_ids=(1,),
    width=8,
    num_past=None,
):
  """Returns what `sampler.decode` does, as NumPy arrays.

  To slice an array of JAX compiles a program for each place.
  """
  tokens = np.zeros((len(prompts), width), np.int32)
  for i, prompt in enumerate(prompts):
    tokens[i, : len(prompt)] = prompt
  found = _run(
      tokens,
      np.array([len(prompt) for prompt in prompts], np.int32),
      np.array(range(len(prompts)) if seeds is None else seeds),
      np.full(len(prompts), temperature, np.float32),
      np.array([_MAX_NEW] * len(prompts) if limits is None else limits),
      stop_ids,
      num_past,
  )
  return jax.device_get(found)


def _full(ids):
  """Returns logits `[T, V]` and states `[T, D]` of a row without a cache."""
  tokens = np.zeros((1, _LENGTH), np.int32)
  tokens[0, : len(ids)] = ids  # Attention does not see padding after them.
  logits, hidden, _ = jax.device_get(
      _uncached(tokens, np.arange(_LENGTH)[None])
  )
  logits = np.array(logits[0, : len(ids)])
  logits[:, 0] = -1e9  # Padding is never written.
  return logits, hidden[0, : len(ids)]


@jax.jit
def _uncached(tokens, positions):
  return decoder.Decoder(_CONFIG).apply(
      {'params': _params()}, tokens, positions
  )


class DecodeTest(parameterized.TestCase):

  def test_greedy_is_the_uncached_argmax(self):
    out, _ = _decode(_PROMPTS, temperature=0.0, stop_ids=())
    for i, prompt in enumerate(_PROMPTS):
      written = out.tokens[i].tolist()
      logits, _ = _full([*prompt, *written[:-1]])
      best = logits.argmax(axis=-1)[-_MAX_NEW:]
      self.assertEqual(written, best.tolist())

  def test_log_probs_and_states_are_the_uncached_ones(self):
    limits = (12, 5, 1, 9)
    out, _ = _decode(_PROMPTS, None, 1.5, limits, stop_ids=())
    for i, (prompt, count) in enumerate(zip(_PROMPTS, limits, strict=True)):
      self.assertEqual(int(out.count[i]), count)
      written = out.tokens[i, :count].tolist()
      logits, hidden = _full([*prompt, *written[:-1]])
      log_probs = special.log_softmax(logits, axis=-1)[-count:]
      np.testing.assert_allclose(
          out.log_probs[i, :count],
          log_probs[np.arange(count), written],
          atol=1e-4,
      )
      np.testing.assert_allclose(
          out.top_log_probs[i, :count],
          -np.sort(-log_probs, axis=-1)[:, :3],
          atol=1e-4,
      )
      np.testing.assert_allclose(out.hidden_last[i], hidden[-1], atol=1e-4)
      np.testing.assert_allclose(
          out.hidden_mean[i], hidden[-count:].mean(axis=0), atol=1e-4
      )

  @parameterized.parameters(0.0, 1.0)
  def test_a_row_does_not_depend_on_its_batch(self, temperature):
    together, _ = _decode(_PROMPTS, (7, 8, 9, 10), temperature, stop_ids=())
    for i, prompt in enumerate(_PROMPTS):
      alone, _ = _decode([prompt], [7 + i], temperature, stop_ids=())
      np.testing.assert_array_equal(alone.tokens[0], together.tokens[i])

  def test_padding_of_the_prompt_changes_nothing(self):
    narrow, _ = _decode(_PROMPTS)
    wide, _ = _decode(_PROMPTS, width=15)
    np.testing.assert_array_equal(narrow.tokens, wide.tokens)

  def test_the_seed_matters_only_when_sampling(self):
    prompts = [_PROMPTS[1]] * 2
    sampled, _ = _decode(prompts, [1, 2], 1.0, stop_ids=())
    greedy, _ = _decode(prompts, [1, 2], 0.0, stop_ids=())
    self.assertNotEqual(*map(tuple, sampled.tokens.tolist()))
    self.assertEqual(*map(tuple, greedy.tokens.tolist()))

  def test_the_noise_belongs_to_the_position_not_to_the_call(self):
    # Ten tokens at once, or four and then six: seed and position are the same.
    whole, _ = _decode([_PROMPTS[1]], [5], limits=[10], stop_ids=())
    first, _ = _decode([_PROMPTS[1]], [5], limits=[4], stop_ids=())
    kept = first.tokens[0, :4].tolist()
    second, _ = _decode(
        [[*_PROMPTS[1], *kept]], [5], limits=[6], stop_ids=(), width=12
    )
    self.assertEqual(
        kept + second.tokens[0, :6].tolist(), whole.tokens[0, :10].tolist()
    )

  def test_a_higher_temperature_spreads_the_samples(self):
    prompts = [_PROMPTS[0]] * 64
    seeds = range(64)
    cold, _ = _decode(prompts, seeds, 0.3)
    hot, _ = _decode(prompts, seeds, 3.0)
    self.assertLess(
        len(np.unique(cold.tokens[:, 0])), len(np.unique(hot.tokens[:, 0]))
    )

  def test_frequencies_are_the_models(self):
    # 1,024 first tokens against the softmax; 4 standard errors of at most 0.5 /
    # 32 each.
    count = 1_024
    out, _ = _decode([_PROMPTS[0]] * count, range(count), 1.0, [1] * count)
    logits, _ = _full(_PROMPTS[0])
    expected = special.softmax(logits[-1])
    found = np.bincount(out.tokens[:, 0], minlength=11) / count
    np.testing.assert_allclose(found, expected, atol=4 * 0.5 / 32)

  def test_a_shorter_past_changes_nothing(self):
    whole, _ = _decode(_PROMPTS)
    enough, _ = _decode(_PROMPTS, num_past=6)  # The longest prompt has 7.
    np.testing.assert_array_equal(enough.tokens, whole.tokens)
    np.testing.assert_allclose(enough.log_probs, whole.log_probs, atol=1e-5)
    few, _ = _decode(_PROMPTS, num_past=3)
    self.assertFalse(np.allclose(few.log_probs[1], whole.log_probs[1]))

  def test_stops_and_limits(self):
    free, _ = _decode(_PROMPTS, temperature=0.0, stop_ids=())
    np.testing.assert_array_equal(free.count, [_MAX_NEW] * 4)
    self.assertFalse(free.stopped.any())
    row = free.tokens[0].tolist()
    stop = row[3]
    end = row.index(stop) + 1
    cut, _ = _decode(
        _PROMPTS, temperature=0.0, stop_ids=(stop,), limits=[12, 2, 0, 12]
    )
    self.assertTrue(cut.stopped[0])
    self.assertEqual(cut.tokens[0, :end].tolist(), row[:end])
    self.assertEqual(int(cut.count[0]), end)
    self.assertLessEqual(int(cut.count[1]), 2)
    self.assertEqual(int(cut.count[2]), 0)
    np.testing.assert_array_equal(cut.tokens[0, end:], 0)
    np.testing.assert_array_equal(cut.log_probs[0, end:], 0)
    np.testing.assert_array_equal(cut.hidden_mean[2], 0)

  def test_the_cache_ends_the_row(self):
    # 40 positions, a prompt of 35: tokens go to 35..39, the last one unpassed.
    out, _ = _decode([[3] * 35], stop_ids=(), width=36)
    self.assertEqual(int(out.count[0]), 5)

  def test_inactive_rows_keep_their_cache(self):
    @jax.jit
    def decode(active):
      cache = jax.tree.map(
          lambda x: x + 5.0, decoder.init_cache(_CONFIG, 2, _LENGTH)
      )
      _, after = sampler.decode(
          _params(),
          _CONFIG,
          cache,
          sampler.Rows(
              last_token=jnp.array([3, 3]),
              position=jnp.array([6, 6]),
              seed=jnp.zeros(2, jnp.uint32),
              temperature=jnp.zeros(2),
              active=active,
              limit=jnp.array([4, 4]),
          ),
          max_new=_MAX_NEW,
          stop_ids=(),
      )
      return cache.keys, after.keys

    before, after = jax.device_get(decode(np.array([True, False])))
    changed = (after != before).any(axis=(0, 2, 4))
    # Four tokens are passed: the last known one and three new ones.
    np.testing.assert_array_equal(np.flatnonzero(changed[0]), [6, 7, 8, 9])
    self.assertFalse(changed[1].any())


class PrefillTest(absltest.TestCase):

  def test_two_parts_equal_one(self):
    tokens = np.array([[3, 4, 5, 6, 7, 8], [9, 8, 7, 6, 0, 0]])
    empty = decoder.init_cache(_CONFIG, 2, _LENGTH)
    zero = np.zeros(2, np.int32)

    @jax.jit
    def prefill(cache, tokens, start, count):
      return sampler.prefill(_params(), _CONFIG, cache, tokens, start, count)

    whole = prefill(empty, tokens, zero, np.array([6, 4]))
    part = prefill(empty, tokens[:, :3], zero, np.array([3, 3]))
    part = prefill(part, tokens[:, 3:], zero + 3, np.array([3, 1]))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-5), whole, part
    )
    self.assertFalse(np.array(part.keys)[:, 1, :, 4:].any())
    self.assertTrue(np.array(part.keys)[:, 0, :, 5].any())


class GenerateTest(absltest.TestCase):

  def test_equals_decode_and_keeps_the_order(self):
    found = generation.generate(
        _params(), _CONFIG, _PROMPTS, max_new=_MAX_NEW, stop_id=1, batch_size=3
    )
    out, _ = _decode(_PROMPTS, temperature=0.0)
    found = list(found)
    self.assertLen(found, len(_PROMPTS))
    for i, (ids, log_probs) in enumerate(found):
      count = int(out.count[i])
      self.assertEqual(ids, out.tokens[i, :count].tolist())
      np.testing.assert_allclose(log_probs, out.log_probs[i, :count], atol=1e-4)

  def test_short_prompts_are_errors(self):
    with self.assertRaisesRegex(ValueError, 'shortest prompt is 1'):
      generation.generate(_params(), _CONFIG, [[3]], max_new=2, stop_id=1)


if __name__ == '__main__':
  absltest.main()
