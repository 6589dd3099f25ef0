"""Token sessions: distributions, what is charged, and going back in a text."""

import asyncio

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from routing.engines import engine as engine_lib
from routing.engines import jitted_batches
from routing.engines import token_session
from routing.lm import decoder
from routing.lm import draws
from routing.lm import tokenizer as tokenizer_lib
from routing.tasks import arithmetic
from tests import embedded_test

_QUESTIONS = [p.question for p in arithmetic.load(1, test=12)['test']]
_TOKENIZER = tokenizer_lib.Tokenizer()
_LENGTH = 96
_APPLY = jax.jit(decoder.Decoder(embedded_test._CONFIG).apply)


def _run(use, **fields):
  """Runs `use(engine)` with an untrained engine, which is closed at the end."""

  async def run():
    engine = embedded_test._engine(
        **{'max_batch': 8, 'num_slots': 8, 'max_length': _LENGTH} | fields
    )
    try:
      return await use(engine)
    finally:
      await engine.close()

  return asyncio.run(run())


def _whole(tokens):
  """Returns `[n, V]` log-probabilities from one pass without a cache."""
  logits, _, _ = _APPLY(
      {'params': embedded_test._params()},
      np.array([tokens]),
      np.arange(len(tokens))[None],
  )
  logits = np.asarray(logits[0], np.float64)
  logits[:, _TOKENIZER.pad_id] = -np.inf
  return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


class SessionTest(parameterized.TestCase):

  def test_reading_a_token_copies_no_cache(self):
    config, params = embedded_test._CONFIG, embedded_test._params()
    cache = decoder.init_cache(config, 64, _LENGTH)
    rows = np.zeros(8, np.int32)
    logits, new = jitted_batches._look(
        params, config, cache, rows, rows[:, None], rows, 0, _LENGTH
    )
    self.assertEqual(logits.shape, (8, 1, len(_TOKENIZER)))
    compiled = jitted_batches._store.lower(cache, new, rows, rows, rows)
    sizes = compiled.compile().memory_analysis()
    self.assertLess(sizes.temp_size_in_bytes, cache.keys.nbytes / 10)
    # The cache is updated in place.
    self.assertGreaterEqual(
        sizes.alias_size_in_bytes, cache.keys.nbytes + cache.values.nbytes
    )

  def test_distributions_are_those_of_one_pass_over_the_text(self):
    answer = _TOKENIZER.encode('a) P gets 27: 12 + 27 = 39. P=39 Q=93\n\n')

    async def use(engine):
      async with engine.open_tokens(_QUESTIONS[0]) as session:
        first = await session.read(answer[:5], 3)
        second = await session.read(answer, len(answer) - 4)
        # Back to the first five tokens, and on with another one.
        third = await session.read([*answer[:5], 30], 2)
        return session.question, first, second, third

    question, *found = _run(use)
    for read, text in zip(
        found, (answer[:5], answer, [*answer[:5], 30]), strict=True
    ):
      expected = _whole([*question, *text])[-len(read.log_probs) :]
      real = np.arange(len(_TOKENIZER)) != _TOKENIZER.pad_id
      np.testing.assert_allclose(
          read.log_probs[:, real], expected[:, real], atol=1e-4
      )
      self.assertLess(read.log_probs[:, _TOKENIZER.pad_id].max(), -1e8)
    # Read anew: all, then what follows, then the one token that differs.
    self.assertEqual(
        [read.usage.read for read in found],
        [len(question) + 5, len(answer) - 5, 1],
    )
    self.assertEqual(
        [read.usage.in_context for read in found],
        [0, len(question) + 5, len(question) + 5],
    )
    self.assertEqual({read.usage.written for read in found}, {0})

  def test_greedy_tokens_are_those_of_a_request(self):
    async def use(engine):
      async with engine.open(_QUESTIONS[1]) as session:
        steps = await session.write(
            engine_lib.Request(to_end=True, max_tokens=30)
        )
      async with engine.open_tokens(_QUESTIONS[1]) as session:
        rng = np.random.default_rng(0)
        first = await session.write((), 10, temperature=0.0, rng=rng)
        rest = await session.write(first.ids, 20, temperature=0.0, rng=rng)
      return steps, session, first, rest

    steps, session, first, rest = _run(use)
    ids = (*first.ids, *rest.ids)
    self.assertEqual(ids, tuple(i for step in steps for i in step.token_ids))
    cut = token_session.to_steps(
        ids, np.concatenate([first.log_probs, rest.log_probs]), 0, _TOKENIZER
    )
    self.assertLen(cut, len(steps))
    for a, b in zip(cut, steps, strict=True):
      self.assertEqual(
          (a.text, a.token_ids, a.is_final), (b.text, b.token_ids, b.is_final)
      )
      np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-4)
      np.testing.assert_allclose(a.top_log_probs, b.top_log_probs, atol=1e-4)
    # The prompt is read once; tokens that the model wrote are not read.
    self.assertEqual(first.usage.read, len(session.question))
    self.assertEqual((rest.usage.read, rest.usage.written), (0, len(rest.ids)))
    self.assertEqual(
        rest.usage.in_context, len(session.question) + len(first.ids)
    )

  def test_a_result_does_not_depend_on_other_sessions(self):
    # Twelve sessions share eight slots, so texts are evicted and computed anew.
    async def write(engine, index):
      async with engine.open_tokens(_QUESTIONS[index]) as session:
        rng = np.random.default_rng(index)
        parts = [await session.write((), 4, temperature=1.0, rng=rng)]
        parts.append(
            await session.write(parts[0].ids, 4, temperature=1.0, rng=rng)
        )
        # Back into its own text: all that is kept has passed already.
        parts.append(
            await session.write(parts[0].ids[:2], 4, temperature=1.0, rng=rng)
        )
        return parts

    async def together(engine):
      return await asyncio.gather(*(write(engine, i) for i in range(12)))

    crowd = _run(together)
    for index in (0, 11):
      alone = _run(lambda engine, index=index: write(engine, index))
      for a, b in zip(alone, crowd[index], strict=True):
        self.assertEqual(a.ids, b.ids)
        np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-4)
        self.assertEqual(
            (a.usage.read, a.usage.in_context),
            (b.usage.read, b.usage.in_context),
        )

  def test_what_is_refused(self):
    async def use(engine):
      with self.assertRaisesRegex(engine_lib.Refused, 'No token matches'):
        engine.open_tokens('What is 1 + 1?')
      async with engine.open_tokens(_QUESTIONS[0]) as session:
        with self.assertRaisesRegex(engine_lib.Refused, 'max_length .* is 96'):
          await session.read([7] * _LENGTH)
        with self.assertRaisesRegex(ValueError, 'num_last is 0'):
          await session.read([7], 0)

    _run(use)


class DrawsTest(parameterized.TestCase):

  def test_tempered_by_hand(self):
    log_probs = np.log([0.5, 0.3, 0.2])
    # At temperature 1/2 probabilities are squared: .25, .09, .04 of .38.
    np.testing.assert_allclose(
        draws.tempered(log_probs, 0.5), np.array([25, 9, 4]) / 38
    )
    np.testing.assert_allclose(draws.tempered(log_probs, 1.0), [0.5, 0.3, 0.2])
    np.testing.assert_array_equal(draws.tempered(log_probs, 0.0), [1, 0, 0])
    with self.assertRaisesRegex(ValueError, 'temperature is -1'):
      draws.tempered(log_probs, -1.0)

  def test_a_token_without_probability_is_never_drawn(self):
    class Fixed:

      def __init__(self, value):
        self.value = value

      def random(self):
        return self.value

    probabilities = np.array([0.0, 0.25, 0.75, 0.0])
    for value, expected in ((0.0, 1), (0.2499, 1), (0.25, 2), (0.9999, 2)):
      self.assertEqual(draws.pick(probabilities, Fixed(value)), expected)


if __name__ == '__main__':
  absltest.main()
