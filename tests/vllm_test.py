"""Tests of the vLLM engine; all but its settings need vLLM."""

import asyncio
import dataclasses
import importlib.util
import os
import time
import unittest
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from benchmarks import servers
from configs import arithmetic
from configs import arithmetic_vllm
from experiments import builders
from routing import protocols
from routing.engines import back_ends
from routing.engines import boundaries
from routing.engines import endpoint as endpoint_lib
from routing.engines import engine as engine_lib
from routing.engines import openai
from routing.engines import prompts
from routing.engines import vllm
from routing.grading import equivalence
from routing.lm import export
from routing.rollout import driver
from routing.rollout import step_requests
from routing.rollout import steps as steps_lib
from routing.routers import fixed
from routing.tasks import delimiter as delimiter_lib
from tests import sessions

_HAS_VLLM = importlib.util.find_spec('vllm') is not None
_needs_vllm = unittest.skipUnless(
    _HAS_VLLM, 'vllm is not installed here; run: make test-vllm'
)
_NUM_PROBLEMS = 200
_MODELS = {name: export.shipped(name) for name in ('small', 'large')}
_MAX_TOKENS = 176


class CloseTest(absltest.TestCase):

  def test_the_end_of_the_process_is_no_failure(self):
    seen = []

    class Process:
      """Like vLLM's engine: a task waits for output until the process ends."""

      def __init__(self):
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.output_handler = asyncio.create_task(self._handle())

      async def _handle(self):
        await self._ended.wait()
        seen.append('failed')  # vLLM logs a traceback here.

      def shutdown(self):
        self._loop.call_soon_threadsafe(self._ended.set)
        time.sleep(0.1)  # The task would have time to see it.
        seen.append('shut down')

    async def close():
      engine = object.__new__(vllm.VllmEngine)
      engine._llm = Process()
      await asyncio.sleep(0)  # The task starts to wait.
      await engine.close()
      await engine.close()  # The second time there is nothing to do.

    asyncio.run(close())
    self.assertEqual(seen, ['shut down'])


class SettingsTest(parameterized.TestCase):

  def test_arguments_of_vllm(self):
    settings = vllm.Settings(
        max_length=512, memory_share=0.4, extra={'seed': 7, 'block_size': 32}
    )
    arguments = settings.engine_args('some/model')
    self.assertEqual(arguments['model'], 'some/model')
    self.assertEqual(arguments['max_model_len'], 512)
    self.assertEqual(arguments['gpu_memory_utilization'], 0.4)
    self.assertTrue(arguments['enable_prefix_caching'])
    self.assertNotIn('kv_cache_memory_bytes', arguments)  # Not asked for.
    self.assertEqual((arguments['seed'], arguments['block_size']), (7, 32))

  @parameterized.parameters(
      ('memory_share', 0.0),
      ('memory_share', 1.1),
      ('max_length', 0),
      ('tensor_parallel_size', 0),
      ('num_slots', 0),
      ('num_log_probs', -1),
  )
  def test_bad_settings_are_errors(self, name, value):
    with self.assertRaisesRegex(ValueError, f'{name} is {value}; allowed'):
      vllm.Settings(**{name: value})

  def test_a_configuration_has_one_of_each_for_each_route(self):
    config = arithmetic_vllm.get_config()
    config.routes[1]['settings']['cache_bytes'] = 2 << 20
    found = list(map(back_ends.settings, builders.routes(config)))
    self.assertEqual([s.cache_bytes for s in found], [256 << 20, 2 << 20])
    self.assertEqual([s.dtype for s in found], ['float32', 'float32'])
    self.assertEqual(found[0].extra['block_size'], 32)

  def test_the_users_environment_comes_first(self):
    config = arithmetic_vllm.get_config()
    with mock.patch.dict(os.environ, {'OMP_NUM_THREADS': '7'}, clear=True):
      builders.set_environment(config)
      self.assertEqual(os.environ['OMP_NUM_THREADS'], '7')
      self.assertEqual(os.environ['VLLM_CPU_OMP_THREADS_BIND'], 'nobind')
      self.assertEqual(os.environ['VLLM_LOGGING_LEVEL'], 'ERROR')


def _requests(problems, **fields):
  return [
      sessions.ask(
          problem.question,
          **{'to_end': True, 'max_tokens': _MAX_TOKENS, 'seed': i, **fields},
      )
      for i, problem in enumerate(problems)
  ]


def _text(steps):
  return [step.text for step in steps]


def _ids(steps):
  return [i for step in steps for i in step.token_ids]


def _finals(steps):
  return [step.is_final for step in steps]


def _served(name, route, folder, url):
  """Returns the engine of a server."""
  return openai.OpenAIEngine(
      name,
      route,
      endpoint_lib.Endpoint(
          f'{url}/v1',
          name,
          is_vllm=True,
          num_log_probs=5,
          seeds=True,
          max_length=256,
      ),
      prompter=prompts.Prompter(prompts.load_tokenizer(folder)),
  )


@_needs_vllm
class VllmEngineTest(parameterized.TestCase):
  """Two engines in one process, two servers, and the embedded pair.

  An engine belongs to one event loop, so all tests share one.
  """

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    config = arithmetic_vllm.get_config()
    builders.set_environment(config)  # Also for the servers.
    cls.problems = builders.problems(config, 'test')[:_NUM_PROBLEMS]
    cls.runner = cls.enterClassContext(asyncio.Runner())
    urls = [
        cls.enterClassContext(
            servers.serve(
                name, folder, back_ends.settings(builders.routes(config)[route])
            )
        )
        for route, (name, folder) in enumerate(_MODELS.items())
    ]
    # The servers start at the same time.
    cls.embedded = builders.engines(arithmetic.get_config())
    cls.engines = builders.engines(config)
    for url in urls:
      servers.wait_for(url)
    cls.served = [
        _served(name, route, folder, urls[route])
        for route, (name, folder) in enumerate(_MODELS.items())
    ]

  @classmethod
  def tearDownClass(cls):
    for engine in (*cls.engines, *cls.served, *cls.embedded):
      cls.runner.run(engine.close())
    super().tearDownClass()

  def _write(self, engine, requests):
    """Makes all requests concurrently."""
    return self.runner.run(sessions.write_all(engine, requests))

  @parameterized.parameters(0, 1)
  def test_embedded_in_process_and_served_write_the_same(self, route):
    requests = _requests(self.problems)
    written = [
        self._write(engines[route], requests)
        for engines in (self.embedded, self.engines, self.served)
    ]
    rows = list(zip(*written, strict=True))
    same = [row for row in rows if all(_text(s) == _text(row[0]) for s in row)]
    self.assertGreaterEqual(len(same), 0.99 * len(rows))
    for embedded, *others in same:
      for other in others:
        self.assertEqual(_ids(other), _ids(embedded))
        self.assertEqual(_finals(other), _finals(embedded))
        for a, b in zip(other, embedded, strict=True):
          np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-3)

  def test_in_process_and_served_are_charged_the_same(self):
    async def two_steps(engine, asked):
      async with engine.open(asked.question) as session:
        (first,) = await session.write(asked.request)
        second = dataclasses.replace(asked.request, trace=first.text)
        return first, *await session.write(second)

    for request in _requests(self.problems[:4], to_end=False):
      ours, theirs = (
          self.runner.run(two_steps(engines[0], request))
          for engines in (self.engines, self.served)
      )
      self.assertEqual(_ids(ours), _ids(theirs))
      for a, b in zip(ours, theirs, strict=True):
        for name in ('route', 'read', 'cached', 'written'):
          self.assertEqual(getattr(a.usage, name), getattr(b.usage, name))
      self.assertGreater(ours[1].usage.cached, 0)

  def test_routed_trajectories_are_those_of_the_embedded_pair(self):
    problems = self.problems[:40]

    async def answer_all(engines):
      return await asyncio.gather(
          *(
              driver.answer(
                  problem,
                  # Some keep, some hand over early, some late.
                  fixed.ConfidenceRouter(threshold=0.05),
                  engines,
                  protocol=protocols.Protocol('escalate', 'peek'),
                  accounting=None,
                  grade=equivalence.by_name('exact'),
                  seed=0,
                  sampling=step_requests.Sampling(max_tokens=_MAX_TOKENS),
              )
              for problem in problems
          )
      )

    ours = self.runner.run(answer_all(self.engines))
    theirs = self.runner.run(answer_all(self.embedded))
    routes = [[d.route for d in x.decisions] for x in ours]
    self.assertEqual(routes, [[d.route for d in x.decisions] for x in theirs])
    self.assertEqual({r for path in routes for r in path}, {0, 1})
    self.assertEqual([x.text for x in ours], [x.text for x in theirs])
    self.assertEqual(
        [x.is_correct for x in ours], [x.is_correct for x in theirs]
    )

  def test_a_server_tells_the_steps_that_it_returns(self):
    told = []
    on_step = lambda place, step: told.append(step.text)
    for request in _requests(self.problems[:4], on_step=on_step):
      told.clear()
      (steps,) = self._write(self.served[0], [request])
      self.assertEqual(told, _text(steps)[: len(told)])
      self.assertGreaterEqual(len(told), len(steps) - 1)

  def test_step_by_step_is_the_whole_answer(self):
    async def by_steps(asked):
      steps = []
      async with self.engines[0].open(asked.question) as session:
        while not steps or not steps[-1].is_final:
          steps += await session.write(
              engine_lib.Request(
                  trace=steps_lib.join(steps),
                  max_tokens=_MAX_TOKENS - steps_lib.count_tokens(steps),
              )
          )
      return steps

    requests = _requests(self.problems[:8])
    whole = self._write(self.engines[0], requests)
    for request, expected in zip(requests, whole, strict=True):
      steps = self.runner.run(by_steps(request))
      self.assertEqual(_ids(steps), _ids(expected))
      self.assertLen(steps, len(expected))

  def test_seeds_and_nothing_else_decide_what_is_sampled(self):
    engine = self.engines[0]
    requests = _requests(self.problems[:64], temperature=1.5)
    together = self._write(engine, requests)
    for i in (0, 31, 63):
      (alone,) = self._write(engine, [requests[i]])
      self.assertEqual(_ids(alone), _ids(together[i]))
    others = _requests(self.problems[:64], temperature=1.5, seed=99)
    others = self._write(engine, others)
    same = [_ids(a) == _ids(b) for a, b in zip(together, others, strict=True)]
    self.assertLess(np.mean(same), 0.5)

  def test_a_session_reads_its_own_blocks_from_the_cache(self):
    engine, problem = self.engines[0], self.problems[0]
    length = engine.count_tokens(problem.question, '')
    (first,) = self._write(engine, _requests([problem], to_end=False))[0]

    async def run():
      fields = dict(to_end=False, trace=first.text)
      asks = [
          *_requests([problem], to_end=False, session='mine'),
          *_requests([problem], session='mine', **fields),
          *_requests([problem], session='other', **fields),
      ]
      async with sessions.Sessions(engine) as named:
        return [await named.write(asked) for asked in asks]

    _, (again,), (other,) = self.runner.run(run())
    self.assertEqual((first.usage.read, first.usage.cached), (length, 0))
    self.assertEqual(first.usage.written, len(first.token_ids))
    prompt = length + len(first.token_ids)
    # All full blocks of 32; the last token written was never read.
    self.assertEqual(again.usage.cached, (prompt - 1) // 32 * 32)
    self.assertEqual(again.usage.read, prompt - again.usage.cached)
    self.assertEqual((other.usage.read, other.usage.cached), (prompt, 0))
    self.assertEqual(again.text, other.text)

  def test_steps_carry_their_evidence(self):
    (steps,) = self._write(self.engines[1], _requests(self.problems[:1]))
    for step in steps:
      count = len(step.token_ids)
      self.assertEqual(step.route, 1)
      self.assertEqual(step.log_probs.shape, (count,))
      self.assertEqual(step.top_log_probs.shape, (count, 5))
      self.assertTrue(np.all(np.diff(step.top_log_probs) <= 0))
      # Greedy: the token written is the most likely one.
      np.testing.assert_array_equal(step.log_probs, step.top_log_probs[:, 0])
      self.assertIsNone(step.hidden)
      self.assertGreater(step.usage.seconds, 0.0)

  @parameterized.parameters(
      (' = ',), ({'pattern': r'P=\d\d'},), ({'max_tokens': 7},)
  )
  def test_other_delimiters_end_steps(self, delimiter):
    delimiter = delimiter_lib.of(delimiter)
    (whole,) = self._write(
        self.engines[0], _requests(self.problems[:1], delimiter=delimiter)
    )
    steps = []
    while not steps or not steps[-1].is_final:
      (request,) = _requests(
          self.problems[:1],
          trace=steps_lib.join(steps),
          to_end=False,
          delimiter=delimiter,
      )
      steps += self._write(self.engines[0], [request])[0]
    self.assertGreater(len(steps), 3)
    self.assertEqual(_text(whole), _text(steps))

  def test_stops_at_max_tokens(self):
    (steps,) = self._write(
        self.engines[0], _requests(self.problems[:1], max_tokens=30)
    )
    self.assertEqual(steps_lib.count_tokens(steps), 30)
    self.assertTrue(boundaries.is_cut(steps[-1]))

  @parameterized.parameters(
      (dict(max_tokens=0), 'max_tokens is 0'),
      (dict(trace='a) P=1 Q=2\n\n' * 60), 'max_length of small is 256'),
  )
  def test_no_tokens_to_write_is_refused(self, fields, message):
    with self.assertRaisesRegex(ValueError, message):
      self._write(self.engines[0], _requests(self.problems[:1], **fields))

  def test_an_unknown_argument_is_an_error(self):
    with self.assertRaisesRegex(ValueError, 'no engine argument blocksize'):
      vllm.VllmEngine(
          'small',
          0,
          export.shipped('small'),
          vllm.Settings(extra={'blocksize': 32}),
      )

  def test_hidden_states_are_an_error_before_the_first_request(self):
    with self.assertRaisesRegex(ValueError, "'small'.*hidden_size=0"):
      engine_lib.require(self.engines, hidden_size=1)


if __name__ == '__main__':
  absltest.main()
