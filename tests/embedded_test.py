"""Tests of the embedded engine: batches, sessions, seeds and usage."""

import asyncio
import functools
import time
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from routing import costs
from routing import types
from routing.engines import embedded
from routing.engines import engine as engine_lib
from routing.engines import jitted_batches
from routing.lm import decoder
from routing.lm import tokenizer as tokenizer_lib
from routing.rollout import steps as steps_lib
from routing.tasks import arithmetic
from tests import sessions

_TOKENIZER = tokenizer_lib.Tokenizer()
_CONFIG = decoder.DecoderConfig(
    vocab_size=len(_TOKENIZER),
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=32,
    mlp_size=16,
)
_QUESTIONS = [
    problem.question for problem in arithmetic.load(1, test=40)['test']
]


@functools.cache
def _params():
  """Weights that are made when first used, not when pytest collects."""
  params = jax.jit(decoder.init_params, static_argnums=0)
  # Far from zero, so that an untrained model is confident, not uniform. With
  # larger ones rounding alone moves a log-probability by more than 1e-4.
  return jax.tree.map(lambda x: 2.0 * x, params(_CONFIG, jax.random.key(0)))


def _engine(route=0, **fields):
  return embedded.EmbeddedEngine(
      'tiny', route, _CONFIG, _params(), _TOKENIZER, **fields
  )


def _write(engine, requests):
  """Makes all requests concurrently, then closes the engine."""

  async def run():
    try:
      return await sessions.write_all(engine, requests)
    finally:
      await engine.close()

  return asyncio.run(run())


def _request(i, **fields):
  fields = {'max_tokens': 40, 'to_end': True, **fields}
  return sessions.ask(_QUESTIONS[i], **fields)


def _ids(steps):
  return [i for step in steps for i in step.token_ids]


class EmbeddedEngineTest(parameterized.TestCase):

  @parameterized.parameters(0.0, 1.0)
  def test_a_result_does_not_depend_on_its_batch(self, temperature):
    # The tokens are equal. Their log-probabilities are equal up to rounding, as
    # matrix products have another shape.
    requests = [_request(i, seed=i, temperature=temperature) for i in range(40)]
    together = _write(_engine(), requests)
    for i in (0, 17, 39):
      (alone,) = _write(_engine(), [requests[i]])
      self.assertEqual(_ids(alone), _ids(together[i]))
      for a, b in zip(alone, together[i], strict=True):
        np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-4)
        np.testing.assert_allclose(a.hidden, b.hidden, atol=1e-4)

  def test_what_is_compiled_ahead_is_what_a_collection_needs(self):
    def shapes(calls):
      return {(len(call.args[3].seed), call.args[5]) for call in calls}

    requests = [_request(i) for i in range(32)]
    wanted, engine = _write(_engine(), requests), _engine(max_batch=32)
    with mock.patch.object(
        jitted_batches, 'decode', wraps=jitted_batches.decode
    ) as decode:
      engine_lib.prepare([engine], 31)
      self.assertIsNone(engine._ahead)
      engine_lib.prepare([engine], 32)
      engine._ahead.result()
      ahead = shapes(decode.call_args_list)
      got = _write(engine, requests)
    self.assertLen(ahead, 3)
    self.assertGreater(decode.call_count, 3)
    self.assertContainsSubset(shapes(decode.call_args_list), ahead)
    self.assertEqual([*map(_ids, got)], [*map(_ids, wanted)])

  def test_only_larger_models_compile_for_text_of_others(self):
    for route in (0, 1):
      engine = _engine(max_batch=32, route=route)
      with mock.patch.object(
          jitted_batches, 'prefill', wraps=jitted_batches.prefill
      ) as prefill:
        engine.prepare(32)
        engine._ahead.result()
      pasts = [call.args[7] > 0 for call in prefill.call_args_list]
      self.assertEqual(pasts, [False, True] if route else [False])

  def test_an_engine_that_is_closed_compiles_no_further_program(self):
    engine, made = _engine(max_batch=32), []

    def compile_ahead(params, config, cache, *_, **__):
      for i in range(1_000):
        made.append(i)
        time.sleep(0.01)
        yield cache

    with mock.patch.object(jitted_batches, 'compile_ahead', compile_ahead):
      engine.prepare(32)
      asyncio.run(engine.close())
    self.assertLess(len(made), 1_000)

  def test_an_error_while_compiling_ahead_is_that_of_the_request(self):
    engine = _engine(max_batch=32)
    with mock.patch.object(
        jitted_batches, 'compile_ahead', side_effect=MemoryError('no room')
    ):
      engine.prepare(32)
      engine._ahead.exception()  # Waits for it.
    with self.assertRaisesRegex(MemoryError, 'no room'):
      _write(engine, [_request(0)])

  def test_seeds_matter_only_when_sampling(self):
    for temperature, same in ((1.0, False), (0.0, True)):
      a, b = _write(
          _engine(),
          [
              _request(0, seed=1, temperature=temperature, session='a'),
              _request(0, seed=2, temperature=temperature, session='b'),
          ],
      )
      self.assertEqual(_ids(a) == _ids(b), same)

  def test_step_by_step_is_the_whole_answer(self):
    (whole,) = _write(_engine(), [_request(3)])

    async def by_steps(engine):
      steps, named = [], sessions.Sessions(engine)
      while sum(len(s.token_ids) for s in steps) < len(_ids(whole)):
        left = 40 - sum(len(step.token_ids) for step in steps)
        trace = ''.join(step.text for step in steps)
        request = _request(3, to_end=False, trace=trace, max_tokens=left)
        steps += await named.write(request)
      await engine.close()
      return steps

    steps = asyncio.run(by_steps(_engine()))
    self.assertEqual(_ids(steps), _ids(whole))
    self.assertLen(steps, len(whole))

  def test_steps_of_one_call_have_the_flops_of_the_call(self):
    (steps,) = _write(_engine(), [_request(3)])
    self.assertGreater(len(steps), 1)
    spec = costs.spec_by_parameters('small', 100, 2, 8)
    self.assertAlmostEqual(
        costs.total_cost([step.usage for step in steps], [spec], 'flops'),
        float(costs.call_cost(steps_lib.call_usage(steps), spec, 'flops')),
    )

  def test_a_session_reads_its_own_tokens_from_the_cache(self):
    question = _QUESTIONS[0]
    length = len(_TOKENIZER.encode(question))

    async def run(engine):
      named = sessions.Sessions(engine)
      (first,) = await named.write(_request(0, to_end=False, max_tokens=5))
      again = await named.write(
          _request(0, trace=first.text, to_end=False, max_tokens=5)
      )
      other = await named.write(
          _request(0, trace=first.text, session='other', max_tokens=5)
      )
      await engine.close()
      return first.usage, again[0].usage, other[0].usage

    first, again, other = asyncio.run(run(_engine()))
    self.assertEqual((first.read, first.cached, first.written), (length, 0, 5))
    self.assertEqual((again.read, again.cached), (0, length + 5))
    self.assertEqual((other.read, other.cached), (length + 5, 0))

  def test_another_branch_of_a_trace_reuses_only_the_common_prefix(self):
    traces = ['a) P gets 27: 12', 'a) P gets 27: 45 + ']
    common = len(_TOKENIZER.encode(_QUESTIONS[0] + 'a) P gets 27: '))

    async def run(engine):
      named = sessions.Sessions(engine)
      for trace in traces:
        steps = await named.write(_request(0, trace=trace, max_tokens=6))
      await engine.close()
      return steps

    branched = asyncio.run(run(_engine()))
    (fresh,) = _write(_engine(), [_request(0, trace=traces[1], max_tokens=6)])
    self.assertEqual(branched[0].usage.cached, common)
    self.assertEqual(_ids(branched), _ids(fresh))
    np.testing.assert_allclose(
        branched[0].log_probs, fresh[0].log_probs, atol=1e-5
    )

  def test_with_too_few_slots_prefixes_are_read_again_not_mixed_up(self):
    requests = [_request(i) for i in range(40)]
    few = _write(_engine(max_batch=4, num_slots=4), requests)
    many = _write(_engine(), requests)
    self.assertEqual([_ids(s) for s in few], [_ids(s) for s in many])

  def test_steps_carry_their_evidence(self):
    (steps,) = _write(_engine(), [_request(5)])
    self.assertNotEmpty(steps)
    for step in steps:
      count = len(step.token_ids)
      self.assertEqual(step.log_probs.shape, (count,))
      self.assertEqual(step.top_log_probs.shape, (count, 5))
      self.assertEqual(step.hidden.shape, (2 * _CONFIG.hidden_size,))
      # Greedy: the token written is the most likely one.
      np.testing.assert_allclose(step.log_probs, step.top_log_probs[:, 0])
      self.assertGreater(step.usage.seconds, 0.0)

  def test_no_tokens_to_write_is_refused(self):
    with self.assertRaisesRegex(engine_lib.Refused, 'max_tokens is 0'):
      _write(_engine(), [_request(0, max_tokens=0)])

  def test_an_error_reaches_its_caller_and_the_engine_continues(self):
    async def run(engine):
      asks = [sessions.ask('What is 2 + 2?'), _request(0)]
      results = await sessions.write_all(engine, asks, return_exceptions=True)
      await engine.close()
      return results

    error, steps = asyncio.run(run(_engine()))
    self.assertIsInstance(error, engine_lib.Refused)
    self.assertIsInstance(steps[0], types.Step)

  def test_an_engine_goes_on_after_an_error_in_a_later_group(self):
    count = jitted_batches.CPU_PREFILL_ROWS + 2
    prefill, calls = jitted_batches.prefill, []

    def fail_once(*args):
      calls.append(args)
      if len(calls) == 2:
        raise RuntimeError('out of memory')
      return prefill(*args)  # It takes the cache that it is given.

    async def run(engine):
      results = []
      for _ in range(2):
        asks = [_request(i, max_tokens=4) for i in range(count)]
        results.append(
            await sessions.write_all(engine, asks, return_exceptions=True)
        )
      await engine.close()
      return results

    with mock.patch.object(jitted_batches, 'prefill', fail_once):
      failed, written = asyncio.run(run(_engine()))
    self.assertTrue(any(isinstance(x, RuntimeError) for x in failed))
    for steps in written:
      self.assertIsInstance(steps[0], types.Step)

  def test_cancelled_requests_are_not_written_to_the_end(self):
    async def run(engine):
      write, sizes = engine._write_segment, []

      def count(jobs):
        sizes.append(len(jobs))
        return write(jobs)

      engine._write_segment = count
      asks = [_request(i, max_tokens=150, temperature=1.0) for i in range(24)]
      async with sessions.Sessions(engine) as named:
        writing = [asyncio.create_task(named.write(x)) for x in asks]
        while len(sizes) < 4:  # Some wait for a slot, others have one.
          await asyncio.sleep(0)
        for task in writing[1:]:
          task.cancel()
        before = len(sizes)
        (steps,) = await asyncio.gather(writing[0])
      busy = [x for x in engine._slots if x.is_busy or x.session is not None]
      await engine.close()
      return steps, sizes[before:], busy

    steps, sizes, busy = asyncio.run(run(_engine(max_batch=8, num_slots=8)))
    # The batch that was being computed ends; then only one request is left.
    self.assertEqual(set(sizes[1:]), {1})
    self.assertEmpty(busy)
    alone = _write(_engine(), [_request(0, max_tokens=150, temperature=1.0)])
    self.assertEqual(_ids(steps), _ids(alone[0]))

  def test_a_session_that_closes_while_it_writes_leaves_its_slot(self):
    async def run(engine):
      async with engine.open(_QUESTIONS[0]) as session:
        request = engine_lib.Request(to_end=True, max_tokens=40)
        writing = asyncio.create_task(session.write(request))
        await asyncio.sleep(0.001)
        writing.cancel()
      await engine.close()  # Waits for the batch.
      return [x for x in engine._slots if x.is_busy or x.session is not None]

    self.assertEmpty(asyncio.run(run(_engine())))

  def test_a_listener_that_fails_ends_its_own_request_only(self):
    def fail(place, step):
      raise KeyError(step.text)

    async def run(engine):
      asks = [
          _request(0, max_tokens=60, to_end=True, on_step=fail),
          _request(1, max_tokens=60, to_end=True),
      ]
      found = await sessions.write_all(engine, asks, return_exceptions=True)
      await engine.close()
      return found

    failed, steps = asyncio.run(run(_engine()))
    self.assertIsInstance(failed, KeyError)
    self.assertIsInstance(steps[0], types.Step)

  @parameterized.parameters(
      dict(max_batch=0), dict(max_batch=999), dict(max_batch=64, num_slots=8)
  )
  def test_bad_sizes_are_errors(self, **fields):
    with self.assertRaises(ValueError):
      _engine(**fields)


if __name__ == '__main__':
  absltest.main()
