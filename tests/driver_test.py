"""Tests of the driver in `escalate`, with scripted engines."""

import asyncio
import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import costs
from routing import protocols
from routing import types
from routing.engines import scripted
from routing.features import traces
from routing.grading import equivalence
from routing.grading import verdicts
from routing.rollout import collect
from routing.rollout import driver
from routing.rollout import step_requests
from routing.rollout import steps as steps_lib
from tests import scripted_pair

_SAMPLING = step_requests.Sampling(max_decisions=6, max_tokens=100)
_ACCOUNTING = costs.Accounting(scripted_pair.SPECS, 'decoded_tokens', 1e5)


@dataclasses.dataclass
class _HandOverAt:
  """A router that hands over to `route` at `step`, and records its traces."""

  step: int
  route: int = 1
  seen: list[types.Trace] = dataclasses.field(default_factory=list)

  def decide(self, trace):
    self.seen.append(trace)
    here = len(trace.steps) == self.step
    return types.Decision(route=self.route if here else 0, score=0.5)


class _Narrow(scripted.ScriptedEngine):
  """An engine with a context of 5 tokens, whatever limit is requested."""

  async def reply(self, session, request):
    room = 5 - self.count_tokens(request.question, request.trace)
    narrow = dataclasses.replace(request, max_tokens=room)
    return await super().reply(session, narrow)


def _answer(problem, router, engines=None, view='peek', **kwargs):
  settings = dict(
      protocol=protocols.Protocol('escalate', view),
      accounting=_ACCOUNTING,
      grade=equivalence.exact,
      seed=0,
      sampling=_SAMPLING,
  )
  return asyncio.run(
      driver.answer(
          problem,
          router,
          engines or scripted_pair.make_engines(3),
          **settings | kwargs,
      )
  )


def _recital(small, large, answer='3'):
  """Returns a problem 'q', and two engines with fixed answers."""
  engines = [
      scripted.ScriptedEngine('s', 0, scripted.recite(small)),
      scripted.ScriptedEngine('l', 1, scripted.recite(large)),
  ]
  return types.Problem('p', 'q', answer), engines


class AnswerTest(parameterized.TestCase):

  def test_peek_shows_the_draft_then_discards_it(self):
    problem, engines = _recital('a\n\nb\n\n#### 4', 'A\n\nB\n\n#### 3')
    router = _HandOverAt(1)
    got = _answer(problem, router, engines)
    self.assertEqual(got.text, 'a\n\nB\n\n#### 3')
    self.assertTrue(got.is_correct)
    self.assertEqual([s.text for s in got.discarded], ['b\n\n'])
    self.assertEqual([s.route for s in got.steps], [0, 1, 1])
    self.assertEqual([t.draft.text for t in router.seen], ['a\n\n', 'b\n\n'])
    self.assertEqual([t.text for t in router.seen], ['', 'a\n\n'])
    # Tokens are characters, the question has 1. Small: reads 1, writes 3; finds
    # those 4 in its cache, writes 3. Large: reads q and 'a\n\n', writes 3 + 6.
    calls = [(c.route, c.read, c.cached, c.written) for c in got.calls]
    self.assertEqual(calls, [(0, 1, 0, 3), (0, 0, 4, 3), (1, 4, 0, 9)])

  @parameterized.parameters(None, 0, 1)
  def test_an_answer_ends_where_a_model_begins_another_question(self, at):
    small = 'a\n\n#### 3\n\nQ: more\n\n#### 7'
    problem, engines = _recital(small, small.replace('a', 'A'))
    router = _HandOverAt(99 if at is None else at)
    sampling = step_requests.Sampling(finders=('hash',))
    got = _answer(problem, router, engines, sampling=sampling)
    self.assertEndsWith(got.text, '#### 3\n\n')
    self.assertTrue(got.is_correct)
    self.assertTrue(got.steps[-1].is_final)
    # Step by step, the rest is never written; at a hand-over it is paid.
    paid = sum(c.written for c in got.calls if c.route == 1)
    wanted = {None: 0, 0: len(small), 1: len(small) - 3}[at]
    self.assertEqual(paid, wanted)
    self.assertEqual(
        sum(c.written for c in got.calls if c.route == 0),
        {None: len('a\n\n#### 3\n\n'), 0: 3, 1: 11}[at],
    )

  @parameterized.parameters('peek', 'commit')
  def test_wasted_tokens_are_charged_after_the_decision(self, view):
    problem, engines = _recital('a\n\nb\n\n#### 4', 'A\n\nB\n\n#### 3')
    engines[0].num_ahead = 2
    router = _HandOverAt(1)
    got = _answer(problem, router, engines, view=view)
    self.assertEqual(got.text, 'a\n\nB\n\n#### 3')
    calls = [(c.route, c.read, c.cached, c.written) for c in got.calls]
    # The second draft reads nothing: it was written speculatively.
    draft = [(0, 0, 0, 3)] * (view == 'peek')
    self.assertEqual(calls, [(0, 1, 0, 3), *draft, (0, 0, 0, 2), (1, 4, 0, 9)])
    # In 'decoded_tokens': 1000 parameters x characters, over 1e5.
    spent = [0.03, 0.06] if view == 'peek' else [0.0, 0.03]
    np.testing.assert_allclose([t.spent for t in router.seen], spent)

  def test_staying_to_the_end_wastes_no_tokens(self):
    problem, engines = _recital('a\n\nb\n\n#### 4', '#### 3')
    engines[0].num_ahead = 2
    got = _answer(problem, _HandOverAt(99), engines)
    calls = [(c.route, c.read, c.cached, c.written) for c in got.calls]
    self.assertEqual(calls, [(0, 1, 0, 3), (0, 0, 0, 3), (0, 0, 0, 6)])

  def test_no_speculation_past_the_end(self):
    problem, engines = _recital('a\n\n' * 50, '#### 3')
    sampling = step_requests.Sampling(max_decisions=3, max_tokens=30)
    got = _answer(problem, _HandOverAt(99), engines, sampling=sampling)
    # Three kept drafts, and the rest of the answer in one call.
    self.assertEqual([c.written for c in got.calls], [3, 3, 3, 21])
    asked = [request.may_speculate for request in engines[0].requests]
    self.assertEqual(asked, [True, True, True, False])

  @parameterized.product(
      protocol=(
          ('escalate', 'peek'),
          ('escalate', 'commit'),
          ('switch', 'commit'),
          ('redraft', 'peek'),
      ),
      route=(0, 1),
  )
  def test_after_the_last_decision_its_route_writes_to_the_end(
      self, protocol, route
  ):
    small = ''.join(f'{i}\n\n' for i in range(9)) + '#### 3'
    large = small.replace('#### 3', '#### 4')
    problem, engines = _recital(small, large)
    router = _HandOverAt(2, route)  # The third decision is the last.
    sampling = step_requests.Sampling(max_decisions=3, max_tokens=100)
    got = _answer(
        problem,
        router,
        engines,
        protocol=protocols.Protocol(*protocol),
        sampling=sampling,
    )
    self.assertLen(got.decisions, 3)
    self.assertLen(got.steps, 10)
    self.assertEqual(got.text, (small, large)[route])
    self.assertEqual([x.route for x in got.steps], [0, 0] + [route] * 8)
    self.assertEqual(got.is_correct, route == 0)
    # Every written token is in a recorded call.
    total = sum(x.usage.written for x in (*got.steps, *got.discarded))
    self.assertEqual(sum(call.written for call in got.calls), total)
    seen = traces.num_calls_seen(got, protocols.Protocol(*protocol))
    self.assertEqual(seen[-1], len(got.calls))

  def test_the_end_of_a_trace_cancels_speculation(self):
    problem, engines = _recital('a\n\nb\n\n#### 4', '#### 3')
    engines[0].num_ahead = 2
    sampling = step_requests.Sampling(max_decisions=6, max_tokens=6)
    got = _answer(problem, _HandOverAt(99), engines, sampling=sampling)
    self.assertEqual(got.text, 'a\n\nb\n\n')
    self.assertEqual([c.written for c in got.calls], [3, 3, 2])

  def test_commit_decides_before_anything_is_charged(self):
    problem, engines = _recital('a\n\nb\n\n#### 4', 'A\n\nB\n\n#### 3')
    router = _HandOverAt(1)
    got = _answer(problem, router, engines, view='commit')
    self.assertEqual(got.text, 'a\n\nB\n\n#### 3')
    self.assertEmpty(got.discarded)
    self.assertEqual([t.draft for t in router.seen], [None, None])
    calls = [(c.route, c.read, c.cached, c.written) for c in got.calls]
    self.assertEqual(calls, [(0, 1, 0, 3), (1, 4, 0, 9)])

  @parameterized.parameters('peek', 'commit')
  def test_staying_gives_the_small_trace(self, view):
    problem, engines = _recital('a\n\nb\n\n#### 4', '#### 3')
    router = _HandOverAt(99)
    got = _answer(problem, router, engines, view=view)
    self.assertEqual(got.text, 'a\n\nb\n\n#### 4')
    self.assertFalse(got.is_correct)
    self.assertLen(got.decisions, 3)
    self.assertLen(got.calls, 3)
    self.assertEmpty(engines[1].requests)

  def test_a_hand_over_is_one_request_to_the_end(self):
    problem, engines = _recital('a\n\nb\n\n#### 4', 'A\n\nB\n\n#### 3')
    _answer(problem, _HandOverAt(1), engines)
    (request,) = engines[1].requests
    self.assertTrue(request.to_end)
    self.assertEqual(request.trace, 'a\n\n')
    self.assertEqual(request.max_tokens, 100 - len('a\n\n'))

  def test_spent_includes_the_draft(self):
    problem, engines = _recital('a\n\nb\n\n#### 4', '#### 3')
    router = _HandOverAt(99)
    _answer(problem, router, engines)
    # In 'decoded_tokens': 1000 parameters x characters, over 1e5.
    np.testing.assert_allclose(
        [trace.spent for trace in router.seen], [0.03, 0.06, 0.12]
    )
    router = _HandOverAt(99)
    _answer(problem, router, engines, view='commit')
    np.testing.assert_allclose(
        [trace.spent for trace in router.seen], [0.0, 0.03, 0.06]
    )

  def test_max_tokens_ends_a_trace_that_does_not_end(self):
    problem, engines = _recital('a\n\n' * 50, '#### 3')
    got = _answer(problem, _HandOverAt(99), engines)
    self.assertEqual(got.text, ('a\n\n' * 50)[:100])
    self.assertLen(got.decisions, 6)
    self.assertFalse(got.is_correct)

  @parameterized.parameters(
      (5, 'a\n\nb\n'), (6, 'a\n\nb\n\n'), (7, 'a\n\nb\n\nc')
  )
  def test_max_tokens_ends_a_trace(self, max_tokens, expected):
    problem, engines = _recital('a\n\nb\n\nc\n\n#### 3', '#### 3')
    sampling = step_requests.Sampling(max_decisions=6, max_tokens=max_tokens)
    got = _answer(problem, _HandOverAt(99), engines, sampling=sampling)
    self.assertEqual(got.text, expected)

  def test_max_tokens_counts_the_kept_steps_of_a_hand_over(self):
    problem, engines = _recital('a\n\nb\n\n#### 4', 'A\n\nB\n\n#### 3')
    sampling = step_requests.Sampling(max_decisions=6, max_tokens=8)
    got = _answer(problem, _HandOverAt(1), engines, sampling=sampling)
    self.assertEqual(got.text, 'a\n\nB\n\n##')

  def test_a_cut_step_ends_a_trace(self):
    problem, engines = _recital('a\n\nbcd\n\n#### 3', '#### 3')
    engines[0] = _Narrow('s', 0, engines[0].script)
    got = _answer(problem, _HandOverAt(99), engines)
    self.assertEqual(got.text, 'a\n\nb')

  def test_sessions_are_never_shared(self):
    problem, engines = _recital('a\n\n#### 4', '#### 3')
    for _ in range(2):
      _answer(problem, _HandOverAt(99), engines)
    sessions = [r.session for r in engines[0].requests]
    self.assertEqual(sessions[0], sessions[1])
    self.assertEqual(sessions[2], sessions[3])
    self.assertNotEqual(sessions[1], sessions[2])

  def test_seeds_differ_between_requests_and_are_reproducible(self):
    engines = scripted_pair.make_engines(2)
    for problem in scripted_pair.make_problems(5):
      _answer(problem, _HandOverAt(99), engines)
    seeds = [r.seed for r in engines[0].requests]
    self.assertLen(set(seeds), len(seeds))
    self.assertTrue(all(0 <= seed < 2**31 for seed in seeds))
    again = scripted_pair.make_engines(2)
    for problem in scripted_pair.make_problems(5):
      _answer(problem, _HandOverAt(99), again)
    self.assertEqual(seeds, [r.seed for r in again[0].requests])

  @parameterized.parameters(-1, 3)
  def test_a_missing_route_raises_an_error(self, route):
    (problem,) = scripted_pair.make_problems(1)
    with self.assertRaisesRegex(ValueError, rf'route {route}; .*\[0, 1, 2\]'):
      _answer(problem, _HandOverAt(0, route))

  def test_engines_out_of_order_raise_an_error(self):
    (problem,) = scripted_pair.make_problems(1)
    engines = scripted_pair.make_engines(2)[::-1]
    with self.assertRaisesRegex(ValueError, r'routes \[1, 0\]'):
      _answer(problem, _HandOverAt(0), engines)

  def test_a_slow_grader_does_not_block_other_trajectories(self):
    problem, engines = _recital('#### 3', '#### 3')
    waiting = asyncio.Event()

    async def both():
      loop = asyncio.get_running_loop()

      def grade(text, reference, meta):
        del text, reference, meta
        # Blocks until the other trajectory on the same loop has progressed.
        future = asyncio.run_coroutine_threadsafe(waiting.wait(), loop)
        is_right = future.result(timeout=5)
        return verdicts.Verdict(is_right, None, 'literal', '')

      settings = dict(
          protocol=protocols.Protocol(),
          accounting=None,
          seed=0,
          sampling=_SAMPLING,
      )
      slow = asyncio.create_task(
          driver.answer(
              problem, collect.StayRouter(), engines, grade=grade, **settings
          )
      )
      await asyncio.sleep(0.05)
      waiting.set()
      return await slow

    self.assertTrue(asyncio.run(both()).is_correct)


class SamplingTest(parameterized.TestCase):

  @parameterized.parameters(
      (dict(temperature=-1.0), 'temperature is -1.0'),
      (dict(max_decisions=0), 'max_decisions is 0'),
      (dict(max_tokens=0), 'max_tokens is 0'),
  )
  def test_refuses(self, settings, message):
    with self.assertRaisesRegex(ValueError, message):
      step_requests.Sampling(**settings)


class LiveEqualsLadderTest(parameterized.TestCase):
  """A live hand-over has the answer and the cost that the ladder records."""

  @parameterized.product(
      view=['peek', 'commit'], temperature=[0.0, 1.0], num_routes=[2, 3]
  )
  def test_every_hand_over(self, view, temperature, num_routes):
    sampling = step_requests.Sampling(
        temperature, max_decisions=4, max_tokens=30
    )
    plan = collect.Plan(sampling, seed=3)
    specs = scripted_pair.SPECS[:num_routes]
    for problem in scripted_pair.make_problems(10):
      ladder = asyncio.run(
          collect.collect_ladder(
              problem,
              scripted_pair.make_engines(num_routes),
              plan,
              equivalence.exact,
          )
      )
      ways = {(c.step, c.route): c for c in ladder.completions}
      for (step, route), completion in ways.items():
        live = _answer(
            problem,
            _HandOverAt(step, route),
            scripted_pair.make_engines(num_routes),
            view=view,
            sampling=sampling,
            seed=3,
        )
        kept = ''.join(s.text for s in ladder.steps[:step])
        self.assertEqual(live.text, kept + completion.text)
        self.assertEqual(live.is_correct, completion.is_correct)
        for metric in costs.COST_METRICS:
          charged = costs.ladder_costs(
              ladder, specs, metric, draft_is_paid=view == 'peek'
          )
          self.assertAlmostEqual(
              costs.total_cost(live.calls, specs, metric),
              charged.handover[step, route - 1],
              delta=1e-12 * charged.all_large,
          )

  @parameterized.parameters('peek', 'commit')
  def test_staying(self, view):
    plan = collect.Plan(_SAMPLING)
    for problem in scripted_pair.make_problems(10):
      engines = scripted_pair.make_engines(2)
      ladder = asyncio.run(
          collect.collect_ladder(problem, engines, plan, equivalence.exact)
      )
      live = _answer(
          problem, _HandOverAt(99), scripted_pair.make_engines(2), view=view
      )
      self.assertEqual(live.text, ''.join(s.text for s in ladder.steps))
      self.assertEqual(live.is_correct, ladder.is_correct)
      untyped = tuple(steps_lib.as_call('', call) for call in live.calls)
      steps = tuple(steps_lib.as_call('', step.usage) for step in ladder.steps)
      self.assertEqual(untyped, steps)


if __name__ == '__main__':
  absltest.main()
