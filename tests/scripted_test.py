"""Tests of the scripted engine: it must fulfil the protocol."""

import asyncio
import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import types
from routing.engines import boundaries
from routing.engines import engine as engine_lib
from routing.engines import scripted
from routing.rollout import steps as steps_lib
from tests import sessions


def _write(engine, **request):
  """Makes one request about the question 'q' in a session of its own."""

  async def run():
    async with engine.open('q') as session:
      return await session.write(engine_lib.Request(**request))

  return asyncio.run(run())


class ScriptedEngineTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.engine = scripted.ScriptedEngine(
        'tale', 1, scripted.recite('ab\n\nc\n\nd'), hidden_size=3
    )

  def test_writes_one_step(self):
    (step,) = _write(self.engine)
    self.assertEqual(step.text, 'ab\n\n')
    self.assertFalse(step.is_final)
    self.assertEqual(step.route, 1)
    self.assertEqual(step.token_ids, tuple(map(ord, 'ab\n\n')))
    np.testing.assert_array_equal(step.log_probs, [-0.5] * 4)
    np.testing.assert_array_equal(step.top_log_probs, [[-0.5, -1.5]] * 4)
    np.testing.assert_array_equal(step.hidden, [97, 98, 10])

  def test_writes_to_the_end_from_where_the_trace_is(self):
    steps = _write(self.engine, trace='xy\n\n', to_end=True)
    self.assertEqual([s.text for s in steps], ['c\n\n', 'd'])
    self.assertEqual([s.is_final for s in steps], [False, True])

  def test_stepwise_equals_to_the_end(self):
    whole = _write(self.engine, to_end=True)
    trace, steps = '', []
    while not steps or not steps[-1].is_final:
      steps += _write(self.engine, trace=trace)
      trace = steps_lib.join(steps)
    self.assertEqual([s.text for s in steps], [s.text for s in whole])

  def test_splits_like_boundaries(self):
    rng = np.random.default_rng(0)
    for _ in range(100):
      text = ''.join(rng.choice(list('ab\n'), size=rng.integers(1, 20)))
      engine = scripted.ScriptedEngine('t', 0, scripted.recite(text))
      steps = _write(engine, to_end=True)
      self.assertEqual([s.text for s in steps], boundaries.split(text))

  @parameterized.parameters(
      (3, ['ab\n'], [False]),
      (4, ['ab\n\n'], [False]),
      (5, ['ab\n\n', 'c'], [False, False]),
      (8, ['ab\n\n', 'c\n\n', 'd'], [False, False, True]),
  )
  def test_stops_at_max_tokens(self, max_tokens, texts, finals):
    steps = _write(self.engine, to_end=True, max_tokens=max_tokens)
    self.assertEqual([s.text for s in steps], texts)
    self.assertEqual([s.is_final for s in steps], finals)

  def test_cache_belongs_to_the_session(self):
    asks = [
        sessions.ask('q', session=name, trace=trace)
        for name, trace in (('a', ''), ('a', 'ab\n\n'), ('b', 'ab\n\n'))
    ]
    steps = asyncio.run(sessions.write_all(self.engine, asks))
    usage = [(s.usage.read, s.usage.cached) for (s,) in steps]
    self.assertEqual(usage, [(1, 0), (0, 5), (5, 0)])

  def test_the_cache_matches_the_common_prefix_only(self):
    asks = [sessions.ask('q', trace=trace) for trace in ('', 'aX\n\n')]
    _, (step,) = asyncio.run(sessions.write_all(self.engine, asks))
    # In the cache: 'qab\n\n'; the prompt: 'qaX\n\n'.
    self.assertEqual((step.usage.cached, step.usage.read), (2, 3))

  def test_speculates_where_the_request_allows_it(self):
    self.engine.num_ahead = 2

    async def run():
      async with self.engine.open('q') as session:
        request = engine_lib.Request(may_speculate=True)
        steps = [
            *await session.write(request),
            *await session.write(dataclasses.replace(request, trace='ab\n\n')),
        ]
        rest = [await session.cancel_speculation() for _ in range(2)]
        (last,) = await session.write(engine_lib.Request(trace='ab\n\nc\n\n'))
        return steps, rest, last, await session.cancel_speculation()

    steps, rest, last, nothing = asyncio.run(run())
    self.assertEqual(
        [s.usage for s in steps],
        [
            types.Usage(1, 1, 0, 4, 4.0),
            types.Usage(1, 0, 0, 3, 3.0, in_context=5),
        ],
    )
    # Only 'd' remains to be written speculatively.
    self.assertEqual(rest, [types.Usage(1, 0, 0, 1, 1.0, 1 + 7), None])
    self.assertEqual((last.usage.read, last.usage.cached), (0, 8))
    self.assertIsNone(nothing)

  def test_closing_returns_the_wasted_tokens_once(self):
    self.engine.num_ahead = 2

    async def run():
      async with self.engine.open('q') as session:
        await session.write(engine_lib.Request(may_speculate=True))
        self.assertEqual(self.engine.num_open, 1)
        return [await session.close() for _ in range(2)]

    wasted = asyncio.run(run())
    self.assertEqual(wasted, [types.Usage(1, 0, 0, 2, 2.0, 1 + 4), None])
    self.assertEqual(self.engine.num_open, 0)

  def test_only_the_first_step_carries_the_reads(self):
    steps = _write(self.engine, to_end=True)
    self.assertEqual([s.usage.read for s in steps], [1, 0, 0])
    self.assertEqual([s.usage.written for s in steps], [4, 3, 1])
    self.assertEqual([s.usage.seconds for s in steps], [4.0, 3.0, 1.0])

  def test_fails_where_the_test_says(self):
    engine = scripted.ScriptedEngine(
        't',
        0,
        scripted.recite('a'),
        fails_at=lambda request: request.seed == 7,
    )
    self.assertLen(_write(engine, seed=6), 1)
    with self.assertRaisesRegex(ConnectionError, 'fails_at is true'):
      _write(engine, seed=7)
    self.assertEqual(engine.num_in_flight, 0)

  def test_no_tokens_to_write_is_an_error(self):
    with self.assertRaisesRegex(ValueError, 'max_tokens is 0'):
      _write(self.engine, max_tokens=0)

  def test_waits_for_the_delay(self):
    engine = scripted.ScriptedEngine(
        't',
        0,
        scripted.recite('a'),
        delay=lambda request: request.seed / 100,
    )

    async def order():
      done = []

      async def ask(seed):
        async with engine.open('q') as session:
          await session.write(engine_lib.Request(seed=seed))
        done.append(seed)

      await asyncio.gather(ask(4), ask(0), ask(2))
      return done

    self.assertEqual(asyncio.run(order()), [0, 2, 4])
    self.assertEqual(engine.max_in_flight, 3)


if __name__ == '__main__':
  absltest.main()
