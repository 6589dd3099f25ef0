"""Tests of vLLM continuing speculatively between requests."""

import asyncio
import dataclasses
import importlib.util
import unittest
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from configs import arithmetic_vllm
from experiments import builders
from routing.engines import back_ends
from routing.engines import boundaries
from routing.engines import engine as engine_lib
from routing.engines import vllm
from routing.lm import export
from routing.rollout import steps as steps_lib

_MAX_TOKENS = 176


@unittest.skipUnless(
    importlib.util.find_spec('vllm'),
    'vllm is not installed here; run: make test-vllm',
)
class SpeculationTest(parameterized.TestCase):
  """All tests share one engine, and its event loop."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    config = arithmetic_vllm.get_config()
    builders.set_environment(config)
    cls.questions = [
        problem.question for problem in builders.problems(config, 'test')[:24]
    ]
    cls.runner = cls.enterClassContext(asyncio.Runner())
    cls.engine = vllm.VllmEngine(
        'small',
        0,
        export.shipped('small'),
        back_ends.settings(builders.routes(config)[0]),
    )

  @classmethod
  def tearDownClass(cls):
    cls.runner.run(cls.engine.close())
    super().tearDownClass()

  async def _step(self, session, steps, **fields):
    """Writes the step after `steps`."""
    request = engine_lib.Request(
        trace=steps_lib.join(steps),
        max_tokens=_MAX_TOKENS - steps_lib.count_tokens(steps),
        **{'may_speculate': True} | fields,
    )
    (step,) = await session.write(request)
    return step

  async def _answer(self, question, **fields):
    """Writes all steps, one request each, in a session of its own."""
    steps = []
    async with self.engine.open(question) as session:
      while not steps or not (
          steps[-1].is_final or boundaries.is_cut(steps[-1])
      ):
        steps.append(await self._step(session, steps, **fields))
      self.assertIsNone(session._run)
    return steps

  async def _written_to_the_end(self):
    """Waits until vLLM has nothing left to write."""
    while self.engine._llm.get_num_unfinished_requests():
      await asyncio.sleep(0.01)

  def test_writes_the_same_as_one_request_per_step(self):
    async def answer_all(**fields):
      return await asyncio.gather(
          *(self._answer(x, **fields) for x in self.questions)
      )

    ours = self.runner.run(answer_all())
    theirs = self.runner.run(answer_all(may_speculate=False))
    for steps, expected in zip(ours, theirs, strict=True):
      self.assertLen(steps, len(expected))
      for a, b in zip(steps, expected, strict=True):
        self.assertEqual(
            (a.text, a.token_ids, a.is_final), (b.text, b.token_ids, b.is_final)
        )
        np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-3)
        np.testing.assert_allclose(a.top_log_probs, b.top_log_probs, atol=1e-3)
        self.assertGreater(a.usage.seconds, 0.0)
      first, *others = [step.usage for step in steps]
      self.assertEqual((first.read, first.cached), (expected[0].usage.read, 0))
      held = first.read + first.written
      for usage in others:
        self.assertEqual((usage.read, usage.cached), (0, 0))
        self.assertEqual(usage.in_context, held)
        held += usage.written
      self.assertGreater(expected[-1].usage.cached, 0)

  def test_steps_are_told_while_vllm_writes_the_next(self):
    question = self.questions[0]
    told, given_up = [], []

    def on_step(place, step):
      self.assertEqual(place, len(told))
      is_writing = self.engine._llm.get_num_unfinished_requests()
      told.append((step, is_writing))

    async def run():
      fields = dict(to_end=True, max_tokens=176)
      async with self.engine.open(question) as session:
        whole = await session.write(engine_lib.Request(**fields))
      async with self.engine.open(question) as session:
        steps = await session.write(
            engine_lib.Request(on_step=on_step, **fields)
        )
      async with self.engine.open(question) as session:
        task = asyncio.create_task(
            session.write(
                engine_lib.Request(
                    on_step=lambda place, step: given_up.append(step)
                    or task.cancel(),
                    **fields,
                )
            )
        )
        await asyncio.wait([task])
      return whole, steps

    whole, steps = self.runner.run(run())
    self.assertEqual([x.text for x in steps], [x.text for x in whole])
    self.assertEqual(
        [x.text for x, _ in told], [x.text for x in whole][: len(told)]
    )
    self.assertGreaterEqual(len(told), len(whole) - 1)
    self.assertEqual(told[0][1], 1)  # While it was writing.
    for (one, _), other in zip(told, steps, strict=False):
      for name in ('read', 'cached', 'written', 'in_context'):
        self.assertEqual(getattr(one.usage, name), getattr(other.usage, name))
    # Of a request that is given up, what has come is told, and no more.
    self.assertEqual(given_up[0].text, whole[0].text)
    self.assertLess(
        sum(x.usage.written for x in given_up),
        sum(x.usage.written for x in whole),
    )

  def test_wasted_tokens_are_reported_once(self):
    question = self.questions[0]

    async def run():
      whole = await self._answer(question)
      async with self.engine.open(question) as session:
        first = await self._step(session, [])
        await self._written_to_the_end()
        wasted = [await session.cancel_speculation() for _ in range(2)]
        second = await self._step(session, [first])
      return whole, first, wasted, second

    whole, first, (wasted, none), second = self.runner.run(run())
    self.assertEqual(
        wasted.written, steps_lib.count_tokens(whole) - first.num_tokens
    )
    self.assertEqual((wasted.route, wasted.read, wasted.cached), (0, 0, 0))
    self.assertEqual(wasted.in_context, first.usage.read + first.usage.written)
    self.assertIsNone(none)
    # A new request is made and finds its prefix in the cache.
    self.assertEqual(second.text, whole[1].text)
    self.assertGreater(second.usage.cached, 0)

  def test_another_trace_ends_the_run_and_reports_its_waste_later(self):
    question = self.questions[0]

    async def run():
      async with self.engine.open(question) as session:
        first = await self._step(session, [])
        await self._written_to_the_end()
        other = dataclasses.replace(first, text='a) P=1 Q=2\n\n')
        after = await self._step(session, [other], may_speculate=False)
        wasted = [await session.close() for _ in range(2)]
      async with self.engine.open(question) as session:
        alone = await self._step(session, [other], may_speculate=False)
      return after, alone, wasted

    after, alone, (wasted, none) = self.runner.run(run())
    # Charged to a step, wasted tokens would reduce the tokens left.
    self.assertEqual(after.token_ids, alone.token_ids)
    self.assertEqual(after.usage.written, alone.usage.written)
    self.assertGreater(wasted.written, 0)
    self.assertIsNone(none)

  @parameterized.parameters(dict(temperature=1.0), dict(may_speculate=False))
  def test_does_not_speculate(self, **fields):
    self._check_no_speculation(**fields)

  def _check_no_speculation(self, **fields):
    async def run():
      async with self.engine.open(self.questions[0]) as session:
        await self._step(session, [], **fields)
        return await session.cancel_speculation()

    self.assertIsNone(self.runner.run(run()))

  def test_a_setting_turns_it_off(self):
    config = arithmetic_vllm.get_config()
    self.assertTrue(back_ends.settings(builders.routes(config)[0]).speculates)
    config.routes[0]['settings']['speculates'] = False
    settings = back_ends.settings(builders.routes(config)[0])
    with mock.patch.object(self.engine, '_settings', settings):
      self._check_no_speculation()

  def test_closing_a_session_ends_its_run(self):
    async def run():
      for _ in range(3):
        async with self.engine.open(self.questions[0]) as session:
          await self._step(session, [])
      return self.engine._llm.get_num_unfinished_requests()

    self.assertEqual(self.runner.run(run()), 0)

  def test_an_error_ends_the_run_of_a_session(self):
    async def run():
      with self.assertRaisesRegex(ValueError, 'a bug'):
        async with self.engine.open(self.questions[0]) as session:
          await self._step(session, [])
          raise ValueError('a bug')
      return self.engine._llm.get_num_unfinished_requests()

    self.assertEqual(self.runner.run(run()), 0)

  def test_cancelled_requests_are_ended(self):
    async def answer(question):
      async with self.engine.open(question) as session:
        await session.write(
            engine_lib.Request(to_end=True, max_tokens=_MAX_TOKENS)
        )

    async def run():
      tasks = [asyncio.create_task(answer(x)) for x in self.questions]
      started = 0
      # On a busy machine it takes a while until all have begun.
      while started < len(tasks) and not any(task.done() for task in tasks):
        await asyncio.sleep(0.001)
        started = self.engine._llm.get_num_unfinished_requests()
      for task in tasks:
        task.cancel()
      await asyncio.gather(*tasks, return_exceptions=True)
      return started, self.engine._llm.get_num_unfinished_requests()

    self.assertEqual(self.runner.run(run()), (24, 0))


if __name__ == '__main__':
  absltest.main()
