"""Tests of the engine that computes no greedy reply twice."""

import asyncio
import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from routing import costs
from routing import protocols
from routing import types
from routing.engines import engine as engine_lib
from routing.engines import memoized
from routing.engines import scripted
from routing.grading import equivalence
from routing.rollout import driver
from routing.rollout import step_requests
from routing.routers import behaviour
from routing.tasks import arithmetic
from tests import embedded_pair
from tests import scripted_pair
from tests import sessions

_SPECS = scripted_pair.SPECS
_SAMPLING = step_requests.Sampling(max_decisions=6, max_tokens=100)


def _remembered(engines, memories=None):
  memories = memories or [memoized.Memory() for _ in engines]
  return [
      memoized.MemoizedEngine(engine, memory)
      for engine, memory in zip(engines, memories, strict=True)
  ]


def _answer_all(
    engines, problems, name, *, num=3, sampling=_SAMPLING, view=None
):
  """Answers each problem `num` times at random, one after the other."""
  draw = behaviour.random_rate(len(engines), seed=1)
  if name == 'escalate':
    draw = behaviour.random_rate(len(engines), seed=1, high=0.5)

  async def run():
    return [
        await driver.answer(
            problem,
            draw(problem, index),
            engines,
            protocol=protocols.Protocol(name, view),
            accounting=costs.Accounting(_SPECS[: len(engines)], reference=1.0),
            grade=equivalence.exact,
            seed=0,
            sampling=sampling,
            sample=index,
        )
        for problem in problems
        for index in range(num)
    ]

  return asyncio.run(run())


def _without_seconds(value):
  """Returns a trajectory as nested lists, with all times 0."""
  if isinstance(value, types.Usage):
    value = dataclasses.replace(value, seconds=0.0)
  if dataclasses.is_dataclass(value):
    return {
        field.name: _without_seconds(getattr(value, field.name))
        for field in dataclasses.fields(value)
    }
  if isinstance(value, np.ndarray):
    return value.shape  # Their values are compared separately.
  if isinstance(value, tuple):
    return tuple(map(_without_seconds, value))
  return value


def _request(trace='', **kwargs):
  return sessions.ask('12:3\n', trace=trace, **kwargs)


def _write(engine, *requests):
  """Makes the requests one after the other; then all sessions end."""

  async def run():
    async with sessions.Sessions(engine) as named:
      return [await named.write(request) for request in requests]

  return asyncio.run(run())


class ScriptedTest(parameterized.TestCase):
  """With models whose every token is known."""

  @parameterized.parameters(
      ('escalate', 'peek'),
      ('escalate', 'commit'),
      ('switch', None),
      ('redraft', None),
  )
  def test_trajectories_are_those_of_the_engines_alone(self, name, view):
    problems = scripted_pair.make_problems(10)
    plain = scripted_pair.make_engines(3)
    wrapped = _remembered(scripted_pair.make_engines(3))
    alone = _answer_all(plain, problems, name, view=view)
    for _ in range(2):  # The second time from memory.
      got = _answer_all(wrapped, problems, name, view=view)
      self.assertEqual(
          scripted_pair.plain(tuple(got)), scripted_pair.plain(tuple(alone))
      )

  def test_no_reply_is_computed_twice(self):
    problems = scripted_pair.make_problems(10)
    engines = scripted_pair.make_engines(3)
    wrapped = _remembered(engines)
    _answer_all(wrapped, problems, 'redraft', num=8)
    asked = [(r.question, r.trace) for e in engines[:1] for r in e.requests]
    self.assertLen(set(asked), len(asked))
    counts = [engine.num_asked for engine in wrapped]
    self.assertEqual(counts, [len(engine.requests) for engine in engines])
    _answer_all(wrapped, problems, 'redraft', num=8)
    self.assertEqual([engine.num_asked for engine in wrapped], counts)

  def test_concurrent_requests_wait_for_one_reply(self):
    engine = scripted_pair.make_engines(1, delay=0.01)[0]
    (wrapped,) = _remembered([engine])

    requests = [_request(session=str(i)) for i in range(5)]
    got = asyncio.run(sessions.write_all(wrapped, requests))
    self.assertLen(engine.requests, 1)
    for (step,) in got:
      self.assertEqual((step.usage.read, step.usage.cached), (5, 0))

  def test_a_cancelled_request_leaves_the_reply_to_others(self):
    engine = scripted_pair.make_engines(1, delay=0.01)[0]
    (wrapped,) = _remembered([engine])

    async def run():
      async with sessions.Sessions(wrapped) as named:
        first, second = (
            asyncio.create_task(named.write(_request(session=name)))
            for name in 'ab'
        )
        await asyncio.sleep(0)
        first.cancel()
        return await second

    (step,) = asyncio.run(run())
    self.assertEqual((step.usage.read, step.usage.cached), (5, 0))
    self.assertLen(engine.requests, 2)
    self.assertEqual((engine.num_in_flight, engine.num_open), (0, 0))

  def test_the_engine_never_speculates(self):
    (engine,) = scripted_pair.make_engines(1, num_ahead=2)
    (wrapped,) = _remembered([engine])

    async def run():
      async with wrapped.open('12:3\n') as session:
        await session.write(engine_lib.Request(may_speculate=True))
        return [await session.cancel_speculation(), await session.close()]

    self.assertEqual(asyncio.run(run()), [None, None])
    self.assertFalse(engine.requests[0].may_speculate)
    self.assertEqual(engine.num_open, 0)

  def test_sampled_replies_are_computed_each_time(self):
    engine = scripted_pair.make_engines(1)[0]
    (wrapped,) = _remembered([engine])
    requests = [_request(temperature=0.7, seed=seed) for seed in (1, 2, 1)]
    _write(wrapped, *requests)
    self.assertLen(engine.requests, 3)
    self.assertEmpty(wrapped.memory)
    _write(wrapped, _request())  # Greedy: not from the sampled replies.
    self.assertLen(engine.requests, 4)
    _write(wrapped, _request(temperature=0.7))  # Nor the reverse.
    self.assertLen(engine.requests, 5)

  def test_an_answer_to_the_end_is_recalled_step_by_step(self):
    engine = scripted_pair.make_engines(1)[0]
    (wrapped,) = _remembered([engine])
    (whole,) = _write(wrapped, _request(to_end=True))
    self.assertGreater(len(whole), 2)
    (second,) = _write(wrapped, _request(whole[0].text))
    self.assertEqual(second[0].text, whole[1].text)
    (again,) = _write(wrapped, _request(to_end=True, session='other'))
    self.assertEqual([s.text for s in again], [s.text for s in whole])
    self.assertEqual([s.usage.read for s in again], [5] + [0] * len(whole[1:]))
    self.assertLen(engine.requests, 1)

  def test_a_cut_step_is_not_stored_and_a_long_one_not_returned(self):
    engine = scripted.ScriptedEngine('m', 0, scripted.recite('abcdef\n\nend'))
    (wrapped,) = _remembered([engine])
    cut, whole, cut_again = _write(
        wrapped,
        _request(max_tokens=3),
        _request(max_tokens=50),
        _request(max_tokens=3),
    )
    self.assertEqual(
        [s.text for s in (*cut, *whole, *cut_again)],
        ['abc', 'abcdef\n\n', 'abc'],
    )
    self.assertLen(engine.requests, 3)

  def test_hidden_states_are_stored_only_on_request(self):
    engines = scripted_pair.make_engines(1), scripted_pair.make_engines(1)
    for (engine,), keeps in zip(engines, (True, False), strict=True):
      memory = memoized.Memory(keeps_hidden=keeps)
      (wrapped,) = _remembered([engine], memories=[memory])
      _, (step,) = _write(wrapped, _request(), _request())
      self.assertEqual(step.hidden is not None, keeps)

  def test_a_failure_is_not_stored(self):
    engine = scripted_pair.make_engines(1)[0]
    engine.fails_at = lambda request: len(engine.requests) == 1
    (wrapped,) = _remembered([engine])
    with self.assertRaises(ConnectionError):
      _write(wrapped, _request())
    ((step,),) = _write(wrapped, _request())
    self.assertNotEmpty(step.text)

  def test_replies_outlive_the_session(self):
    engine = scripted_pair.make_engines(1)[0]
    (wrapped,) = _remembered([engine])
    _, (step,) = _write(wrapped, _request(), _request())
    self.assertEqual((step.usage.read, step.usage.cached), (0, 5))
    ((step,),) = _write(wrapped, _request())  # In a session of its own.
    self.assertEqual((step.usage.read, step.usage.cached), (5, 0))
    self.assertLen(engine.requests, 1)

  def test_counts_are_used_if_ids_are_not_known(self):
    problems = scripted_pair.make_problems(6)

    class Vague(scripted.ScriptedEngine):

      def encode(self, question, trace):
        return None

    engines = [
        Vague(x.name, x.route, x.script) for x in scripted_pair.make_engines(2)
    ]
    (got,) = _write(_remembered(engines)[0], _request())
    (want,) = _write(scripted_pair.make_engines(2)[0], _request())
    self.assertEqual(got[0].usage.read, want[0].usage.read)
    # In `switch` each model continues its own text or that of the other.
    got = _answer_all(_remembered(engines), problems, 'switch')
    want = _answer_all(scripted_pair.make_engines(2), problems, 'switch')
    for x, y in zip(got, want, strict=True):
      for a, b in zip(x.calls, y.calls, strict=True):
        self.assertEqual(a.read + a.cached, b.read + b.cached)
        self.assertLessEqual(a.cached, b.cached)  # The rest counts as read.


@pytest.mark.usefixtures('lightly_optimized')
class EmbeddedTest(parameterized.TestCase):
  """With the embedded engine, whose usage must be reproduced."""

  @parameterized.parameters('escalate', 'switch', 'redraft')
  def test_usage_is_that_of_the_engine_alone(self, name):
    problems = arithmetic.load(0, train=2)['train']
    sampling = step_requests.Sampling(max_decisions=8, max_tokens=100)
    alone = _answer_all(
        embedded_pair.make_engines(), problems, name, sampling=sampling
    )
    wrapped = _remembered(embedded_pair.make_engines())
    for _ in range(2):
      got = _answer_all(wrapped, problems, name, sampling=sampling)
      for a, b in zip(got, alone, strict=True):
        self.assertEqual(_without_seconds(a), _without_seconds(b))
        for x, y in zip(a.steps + a.discarded, b.steps + b.discarded,
                        strict=True):  # fmt: skip
          np.testing.assert_allclose(x.log_probs, y.log_probs, atol=1e-4)
          np.testing.assert_allclose(x.hidden, y.hidden, atol=1e-4)


if __name__ == '__main__':
  absltest.main()
