"""Tests of the driver in `switch` and `redraft`, with every token by hand."""

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
from routing.rollout import all_replies
from routing.rollout import driver
from routing.rollout import step_requests
from tests import scripted_pair

_SAMPLING = step_requests.Sampling(max_decisions=6, max_tokens=100)
_ACCOUNTING = costs.Accounting(scripted_pair.SPECS, 'decoded_tokens', 1e5)
# What the small model writes, and what the medium one does; the latter's end is
# the right one.
_PIECES = (('a\n\n', 'b\n\n', '#### 4'), ('A\n\n', 'B\n\n', '#### 3'))


@dataclasses.dataclass
class _Say:
  """A router that names the routes of a list, each with probability 1/2."""

  routes: tuple[int, ...]
  seen: list[types.Trace] = dataclasses.field(default_factory=list)

  def decide(self, trace):
    self.seen.append(trace)
    return types.Decision(self.routes[len(trace.steps)], 0.5, 0.5)


def _recitals():
  return [
      scripted.ScriptedEngine(f'm{route}', route, scripted.recite(''.join(x)))
      for route, x in enumerate(_PIECES)
  ]


def _answer(router, engines, name, **kwargs):
  """Answers a question of one token, 'q'."""
  settings = dict(
      protocol=protocols.Protocol(name),
      accounting=_ACCOUNTING,
      grade=equivalence.exact,
      seed=0,
      sampling=_SAMPLING,
  )
  problem = types.Problem('p', 'q', '3')
  return asyncio.run(
      driver.answer(problem, router, engines, **settings | kwargs)
  )


def _calls(trajectory):
  return [(c.route, c.read, c.cached, c.written) for c in trajectory.calls]


class SwitchTest(parameterized.TestCase):
  """Any model writes any step; nothing is drafted."""

  def _switch(self, *routes, **kwargs):
    router = _Say(routes)
    return router, _answer(router, _recitals(), 'switch', **kwargs)

  @parameterized.parameters(
      # The question has 1 token, a step 3, the last one 6. A model that returns
      # reads only the steps of others; the rest is in its prefix cache.
      ((0, 1, 0), [(0, 1, 0, 3), (1, 4, 0, 3), (0, 3, 4, 6)]),
      ((1, 0, 1), [(1, 1, 0, 3), (0, 4, 0, 3), (1, 3, 4, 6)]),
      ((1, 0, 0), [(1, 1, 0, 3), (0, 4, 0, 3), (0, 0, 7, 6)]),
      ((0, 0, 1), [(0, 1, 0, 3), (0, 0, 4, 3), (1, 7, 0, 6)]),
      ((1, 1, 1), [(1, 1, 0, 3), (1, 0, 4, 3), (1, 0, 7, 6)]),
  )  # fmt: skip
  def test_only_new_prompt_tokens_are_read(self, routes, calls):
    router, got = self._switch(*routes)
    text = ''.join(_PIECES[m][t] for t, m in enumerate(routes))
    self.assertEqual(got.text, text)
    self.assertEqual(got.is_correct, routes[-1] == 1)
    self.assertEqual(_calls(got), calls)
    self.assertEqual([s.route for s in got.steps], list(routes))
    self.assertEqual([d.route for d in got.decisions], list(routes))
    self.assertEqual([d.probability for d in got.decisions], [0.5] * 3)
    self.assertEmpty(got.discarded)
    self.assertEqual([t.draft for t in router.seen], [None] * 3)

  @parameterized.parameters(
      ((0, 0, 1), [(0, 1, 0, 3), (0, 0, 0, 3), (0, 0, 0, 1), (1, 7, 0, 6)]),
      ((0, 1, 1), [(0, 1, 0, 3), (0, 0, 0, 1), (1, 4, 0, 3), (1, 0, 0, 6)]),
  )  # fmt: skip
  def test_another_writer_cancels_speculation(self, routes, calls):
    engines = _recitals()
    for engine in engines:
      engine.num_ahead = 1
    self.assertEqual(_calls(_answer(_Say(routes), engines, 'switch')), calls)

  def test_price_by_hand(self):
    _, got = self._switch(0, 1, 0)
    # Small: reads 1 + 3 at 0.2, 4 cached at 0.02, writes 9 at 1. Medium: reads
    # 4 at 0.8, writes 3 at 4.
    self.assertAlmostEqual(
        costs.total_cost(got.calls, scripted_pair.SPECS, 'price') * 1e6,
        (0.8 + 0.08 + 9) + (3.2 + 12),
    )

  def test_control_returns_one_step_at_a_time(self):
    engines = _recitals()
    _answer(_Say((1, 1, 0)), engines, 'switch')
    self.assertEqual([r.to_end for r in engines[1].requests], [False, False])
    self.assertEqual([r.trace for r in engines[0].requests], ['A\n\nB\n\n'])

  def test_spent_is_the_cost_of_all_writers(self):
    router, _ = self._switch(0, 1, 0)
    # In 'decoded_tokens': 3 characters x 1000, then 3 x 4000, over 1e5.
    np.testing.assert_allclose(
        [trace.spent for trace in router.seen], [0, 0.03, 0.15]
    )

  @parameterized.parameters((3, 'A\n\n'), (5, 'A\n\nb\n'), (8, 'A\n\nb\n\n##'))
  def test_max_tokens_counts_all_writers(self, max_tokens, text):
    sampling = step_requests.Sampling(max_decisions=6, max_tokens=max_tokens)
    _, got = self._switch(1, 0, 1, sampling=sampling)
    self.assertEqual(got.text, text)

  def test_max_decisions_counts_all_writers(self):
    sampling = step_requests.Sampling(max_decisions=2, max_tokens=100)
    _, got = self._switch(1, 0, 1, sampling=sampling)
    # The second decision is the last: its writer continues to the end.
    self.assertLen(got.decisions, 2)
    self.assertEqual([x.route for x in got.steps][:2], [1, 0])
    self.assertEqual({x.route for x in got.steps[1:]}, {0})
    self.assertTrue(got.steps[-1].is_final)


class RedraftTest(parameterized.TestCase):
  """The small model drafts; larger ones rewrite; control returns."""

  def _redraft(self, *routes):
    router = _Say(routes)
    return router, _answer(router, _recitals(), 'redraft')

  @parameterized.parameters(
      # A discarded draft is charged. The small model then reads the step that
      # replaced it; the large model reads all steps that it did not write.
      ((0, 1, 0), ['b\n\n'],
       [(0, 1, 0, 3), (0, 0, 4, 3), (1, 4, 0, 3), (0, 3, 4, 6)]),
      ((1, 0, 1), ['a\n\n', '#### 4'],
       [(0, 1, 0, 3), (1, 1, 0, 3), (0, 3, 1, 3), (0, 0, 7, 6), (1, 3, 4, 6)]),
      ((0, 0, 0), [],
       [(0, 1, 0, 3), (0, 0, 4, 3), (0, 0, 7, 6)]),
  )  # fmt: skip
  def test_drafts_are_kept_or_discarded_and_charged(
      self, routes, discarded, calls
  ):
    router, got = self._redraft(*routes)
    text = ''.join(_PIECES[m][t] for t, m in enumerate(routes))
    self.assertEqual(got.text, text)
    self.assertEqual(got.is_correct, routes[-1] == 1)
    self.assertEqual([s.text for s in got.discarded], discarded)
    self.assertEqual(_calls(got), calls)
    self.assertEqual([s.route for s in got.steps], list(routes))
    self.assertEqual([d.probability for d in got.decisions], [0.5] * 3)
    self.assertEqual([t.draft.route for t in router.seen], [0] * 3)
    for step, (trace, route) in enumerate(
        zip(router.seen, routes, strict=True)
    ):
      drafted = trace.draft.text == got.steps[step].text
      self.assertEqual(drafted, route == 0)

  def test_only_the_drafting_model_speculates(self):
    engines = _recitals()
    for engine in engines:
      engine.num_ahead = 1
    got = _answer(_Say((0, 1, 0)), engines, 'redraft')
    self.assertEqual(
        _calls(got),
        [(0, 1, 0, 3), (0, 0, 0, 3), (0, 0, 0, 1), (1, 4, 0, 3), (0, 3, 4, 6)],
    )
    self.assertFalse(engines[1].requests[0].may_speculate)

  def test_price_by_hand(self):
    _, got = self._redraft(0, 1, 0)
    # Small: reads 1 + 3 at 0.2, 4 + 4 cached at 0.02, writes 12 at 1. Medium:
    # reads 4 at 0.8, writes 3 at 4.
    self.assertAlmostEqual(
        costs.total_cost(got.calls, scripted_pair.SPECS, 'price') * 1e6,
        (0.8 + 0.16 + 12) + (3.2 + 12),
    )

  def test_spent_includes_the_draft(self):
    router, _ = self._redraft(0, 1, 0)
    # 3, then 6, then 6 + 4 x 3 + 6 characters' worth.
    np.testing.assert_allclose(
        [trace.spent for trace in router.seen], [0.03, 0.06, 0.24]
    )

  def test_only_the_chosen_model_is_asked(self):
    engines = [
        scripted.ScriptedEngine(name, m, scripted.recite(f'{name}\n\n{name}'))
        for m, name in enumerate('sml')
    ]
    got = _answer(_Say((2, 0)), engines, 'redraft')
    self.assertEqual(got.text, 'l\n\ns')
    self.assertEmpty(engines[1].requests)


class KindTest(parameterized.TestCase):
  """Each call says what it was made for."""

  @parameterized.parameters(
      ('escalate', 'peek', (0, 1), ['draft', 'draft', 'wasted', 'hand_over']),
      ('escalate', 'commit', (0, 1), ['step', 'wasted', 'hand_over']),
      ('switch', 'commit', (0, 1, 0), ['step', 'wasted'] * 2 + ['step']),
      ('switch', 'commit', (0, 0, 0), ['step'] * 3),
      ('redraft', 'peek', (0, 1, 0),
       ['draft', 'draft', 'wasted', 'step', 'draft']),
  )  # fmt: skip
  def test_of_calls(self, name, view, routes, kinds):
    engines = _recitals()
    for engine in engines:
      engine.num_ahead = 1
    protocol = protocols.Protocol(name, view)
    got = _answer(_Say(routes), engines, name, protocol=protocol)
    self.assertEqual([call.kind for call in got.calls], kinds)
    # Without kinds, as in older files, the same calls count as wasted.
    older = dataclasses.replace(
        got, calls=tuple(dataclasses.replace(x, kind='') for x in got.calls)
    )
    seen = traces.num_calls_seen(got, protocol)
    self.assertEqual(traces.num_calls_seen(older, protocol), seen)

  def test_of_the_rest_after_the_last_decision(self):
    sampling = step_requests.Sampling(max_decisions=1, max_tokens=100)
    got = _answer(_Say((0,)), _recitals(), 'redraft', sampling=sampling)
    self.assertEqual([call.kind for call in got.calls], ['draft', 'hand_over'])


class SessionTest(parameterized.TestCase):

  @parameterized.parameters('escalate', 'switch', 'redraft')
  def test_a_session_ends_with_the_answer_and_on_an_error(self, name):
    engines = _recitals()
    engines[0].num_ahead = 1
    _answer(_Say((0, 1, 1)), engines, name)
    with self.assertRaises(ValueError):
      _answer(_Say((0, 9)), engines, name)
    for engine in engines:
      self.assertEqual((engine.num_sessions, engine.num_open), (2, 0))

  def test_a_cancelled_answer_leaves_no_request_and_no_session(self):
    engines = _recitals()
    engines[0].num_ahead, engines[1].delay = 1, 60.0

    async def run():
      answering = asyncio.create_task(
          driver.answer(
              types.Problem('p', 'q', '3'),
              _Say((0, 1)),
              engines,
              protocol=protocols.Protocol('switch'),
              accounting=_ACCOUNTING,
              grade=equivalence.exact,
              seed=0,
              sampling=_SAMPLING,
          )
      )
      while not engines[1].num_in_flight:
        await asyncio.sleep(0)
      answering.cancel()
      await asyncio.wait({answering})

    asyncio.run(run())
    for engine in engines:
      self.assertEqual((engine.num_in_flight, engine.num_open), (0, 0))

  def test_an_error_of_one_model_ends_the_requests_of_the_others(self):
    engines = _recitals()
    engines[0].fails_at = lambda request: True
    engines[1].delay = 60.0

    async def run():
      with self.assertRaises(ConnectionError):
        await all_replies.collect_problem(
            types.Problem('p', 'q', '3'), engines, _SAMPLING
        )
      # `asyncio.run` would end what is left.
      return [(x.num_in_flight, x.num_open) for x in engines]

    self.assertEqual(asyncio.run(run()), [(0, 0), (0, 0)])

  def test_trajectories_of_one_problem_differ_by_their_sample(self):
    engines = _recitals()
    for sample in (0, 1, 0):
      _answer(_Say((0, 0, 0)), engines, 'redraft', sample=sample)
    seeds = [r.seed for r in engines[0].requests]
    self.assertEqual(seeds[:3], seeds[6:])
    self.assertNoCommonElements(seeds[:3], seeds[3:6])


if __name__ == '__main__':
  absltest.main()
