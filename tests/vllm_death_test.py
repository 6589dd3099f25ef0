"""Tests of a vLLM process that dies while it has requests."""

import asyncio
import importlib.util
import multiprocessing
import unittest

from absl.testing import absltest

from configs import arithmetic_vllm
from experiments import builders
from routing.engines import back_ends
from routing.engines import engine as engine_lib
from routing.engines import vllm
from routing.lm import export
from routing.rollout import steps as steps_lib
from tests import sessions


@unittest.skipUnless(
    importlib.util.find_spec('vllm'),
    'vllm is not installed here; run: make test-vllm',
)
class DeathTest(absltest.TestCase):
  """A process that dies is restarted once."""

  def test_is_restarted_after_the_first_death_only(self):
    config = arithmetic_vllm.get_config()
    builders.set_environment(config)
    problems = builders.problems(config, 'test')[:4]
    requests = [sessions.ask(x.question, to_end=True) for x in problems]

    async def write_all(engine):
      return await sessions.write_all(engine, requests, return_exceptions=True)

    async def kill_while(writing):
      task = asyncio.create_task(writing)
      await asyncio.sleep(0.01)
      for child in multiprocessing.active_children():
        child.kill()
      return await task

    async def write_step(session, trace):
      left = requests[0].request.max_tokens - engine.count_tokens('', trace)
      request = engine_lib.Request(trace, may_speculate=True, max_tokens=left)
      (step,) = await session.write(request)
      return step

    async def run(engine):
      before = await write_all(engine)
      # A speculative run is under way, too; its session can continue.
      async with engine.open(requests[0].question) as session:
        first = await write_step(session, '')
        after = await kill_while(write_all(engine))
        second = await write_step(session, first.text)
      restarts = engine.num_restarts
      gone = await kill_while(write_all(engine))
      await engine.close()
      return before, after, (first, second), restarts, gone

    engine = vllm.VllmEngine(
        'small',
        0,
        export.shipped('small'),
        back_ends.settings(builders.routes(config)[0]),
    )
    before, after, steps, restarts, gone = asyncio.run(run(engine))
    self.assertEqual(
        [steps_lib.join(x) for x in after], [steps_lib.join(x) for x in before]
    )
    self.assertEqual([x.text for x in steps], [x.text for x in before[0][:2]])
    # The second step took a new request.
    self.assertGreater(steps[1].usage.read, 0)
    self.assertEqual(restarts, 1)
    for error in gone:
      self.assertIsInstance(error, engine_lib.EngineDied)
    self.assertIn('small (route 0) has died a second time', str(gone[0]))


if __name__ == '__main__':
  absltest.main()
