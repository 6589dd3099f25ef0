"""What every registered router must keep: one test for all of them.

Routers of installed packages are tested too.
"""

import asyncio
import dataclasses
import functools
import math
import re
import unittest

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import types
from routing.evaluation import decision_speed
from routing.evaluation import entries
from routing.evaluation import harness
from routing.outcomes import live_answers
from routing.routers import entrants
from routing.routers import registry
from routing.tasks import prompt as prompt_lib
from tests import plain_totals
from tests import small_arena
from third_party.token_router import methods as token_router
from third_party.trim import learned
from third_party.trim import ppo

_COUNTED = ('read', 'cached', 'written')
_BY_PPO = {
    'TRIM, aggregate': (learned.aggregate, ppo.Settings()),
    'TRIM, sequence': (learned.element, ppo.Settings('attention')),
}


def _load(name):
  """Returns a method; those that train networks are made small."""
  if name == 'policy':
    return entrants.policy(small_arena.untrained)
  if name == token_router.NAME:
    return token_router.method(_labelled_tokens)
  method = registry.load(name)
  if name in _BY_PPO:
    describe, settings = _BY_PPO[name]
    few = dict(hidden=(4,), rounds=2, problems=8, epochs=1)
    settings = dataclasses.replace(settings, **few)
    return learned.method(name, describe, settings, prices=(0.1,))
  return method


def _labelled_tokens(train):
  """Returns tokens and labels as if the scripted pair gave them."""
  rng = np.random.default_rng(len(train.questions))
  rows = rng.normal(size=(64, 8))
  return rows, rows[:, 0] > 1


@functools.cache
def _fitted(name, seed=0):
  method = _load(name)
  arena = small_arena.make()
  return method, harness.fit(method, arena, method.settings[0], seed)


def _knobs(method, family):
  return harness.grid(method, family, small_arena.make())


class _Counting:
  """An engine that notes the usage of every text that its sessions return."""

  def __init__(self, engine, noted):
    self._engine, self._noted = engine, noted

  def __getattr__(self, name):
    return getattr(self._engine, name)

  def open(self, question):
    session = self._engine.open(question)
    write = session.write

    async def counted(request):
      steps = await write(request)
      is_aside = isinstance(question, prompt_lib.Plain)
      self._noted += [(is_aside, x.usage) for x in steps]
      return steps

    session.write = counted
    return session


def _check_answers(method):
  """Skips what the scripted pair, which has no tokens, cannot answer."""
  if method.needs.tokens:
    raise unittest.SkipTest('Answered by the embedded pair: token_costs_test.')


def _answers(method, family, knob, noted=None):
  """Returns live answers to the test problems at one knob, as trajectories."""
  _check_answers(method)
  noted = [] if noted is None else noted
  engines = [_Counting(x, noted) for x in small_arena.make_engines()]
  asked = live_answers.Asked(family.at(knob), 'x', knob, method.needs.protocol)
  answering = small_arena.answering()
  problems = small_arena.make().alone['test'].problems

  async def all_of_them():
    return [await asked.answer(answering, x, engines) for x in problems]

  return asyncio.run(all_of_them())


def _traces(method, family):
  """Returns what a router of the family may see, with its informant's word."""
  live = family.at(_knobs(method, family)[-1])
  return decision_speed.some_traces(method, live, small_arena.make(), 0)


def _on_view(answer):
  """Returns the length of question, steps and draft at each decision."""
  discarded, found = iter(answer.discarded), []
  for t, decision in enumerate(answer.decisions):
    draft = next(discarded) if decision.route else answer.steps[t]
    texts = [x.text for x in (*answer.steps[:t], draft)]
    found.append(len(answer.problem.question) + sum(map(len, texts)))
  return found


def _read_by(answer, need):
  """Returns the tokens of each call of the model that serves a need."""
  route = small_arena.ACCOUNTING.specs.index(small_arena.INFORMING[need])
  return [x.read + x.cached for x in answer.calls if x.route == route]


@parameterized.named_parameters(
    (re.sub(r'\W+', '_', name), name) for name in registry.names()
)
class ConformanceTest(parameterized.TestCase):

  def test_fitting_again_gives_the_same_routers(self, name):
    method, found = _fitted(name)
    again = harness.fit(method, small_arena.make(), method.settings[0], 0)
    self.assertEqual(
        [x.fingerprint for x in found], [x.fingerprint for x in again]
    )
    self.assertLen({x.fingerprint for x in found}, len(found))

  def test_decisions_are_functions_of_the_trace(self, name):
    method, found = _fitted(name)
    if method.needs.protocol is None:
      self.skipTest('It makes no decisions.')
    for family in found:
      traces = _traces(method, family)
      self.assertNotEmpty(traces)
      for knob in _knobs(method, family):
        live = family.at(knob)
        forth = [live.decide(x) for x in traces]
        back = [live.decide(x) for x in reversed(traces)][::-1]
        fresh = [family.at(knob).decide(x) for x in traces]
        self.assertEqual(forth, back)
        self.assertEqual(forth, fresh)

  def test_fit_sees_problems_of_train_only(self, name):
    method = _load(name)
    seen = []

    def fit(train, **fields):
      seen.extend(x.id for x in train.source.problems)
      return method.fit(train, **fields)

    def guarded(split, protocol):
      asked.append(split)
      return small_arena.sample(split, protocol)

    asked = []
    arena = small_arena.make(samples=guarded)
    spied = dataclasses.replace(method, fit=fit)
    harness.fit(spied, arena, method.settings[0], 0)
    self.assertEqual(set(asked), {'train'})
    train = {x.problem.id for x in small_arena.ladders('train')}
    self.assertEqual(set(seen), train)

  def test_extremes_of_the_knob(self, name):
    method, found = _fitted(name)
    test = small_arena.ladders('test')
    texts = {
        'small': [''.join(s.text for s in x.steps) for x in test],
        'large': [x.text for y in test for x in y.completions if not x.step],
    }
    for family in found:
      knobs = _knobs(method, family)
      ends = (knobs[0], knobs[-1])
      if not hasattr(family, 'knobs'):
        ends = math.inf, -math.inf
      for knob, model in zip(
          ends, (method.lowest, method.highest), strict=True
      ):
        if model:
          got = [x.text for x in _answers(method, family, knob)]
          self.assertEqual(got, texts[model], f'at {knob}')

  def test_every_call_is_charged(self, name):
    method, found = _fitted(name)
    for family in found[:1]:
      for knob in _knobs(method, family)[::3]:
        noted = []
        answers = _answers(method, family, knob, noted)
        calls = [
            x
            for answer in answers
            for x in answer.calls
            if x.route < small_arena.NUM_ROUTES
        ]
        counts, expected = (
            {x: sum(getattr(y, x) for y in some) for x in _COUNTED}
            for some in (calls, [usage for _, usage in noted])
        )
        if any(is_aside for is_aside, _ in noted):
          # Asides have sessions of their own, but share what they begin with.
          for sums in (counts, expected):
            sums['read'] += sums.pop('cached')
        self.assertEqual(counts, expected)
        self.assertNotIn('', {x.kind for x in calls})
        for answer in answers:
          for need in small_arena.INFORMING:
            read = _read_by(answer, need)
            if not getattr(method.needs, need):
              self.assertEmpty(read, f'{need} is not declared')
            elif need == 'step_score':
              # A token for each character, of all that is on view.
              self.assertEqual(read, _on_view(answer))

  def test_needs_are_declared(self, name):
    method, found = _fitted(name)
    needs = method.needs
    for family in found:
      live = family.at(_knobs(method, family)[-1])
      # Whoever asks an informant has declared what for.
      if getattr(live, 'informant', None) is not None:
        self.assertTrue(
            needs.step_score or needs.judge or needs.embedding or needs.probe
        )
      if hasattr(family, 'embed'):
        self.assertTrue(needs.embedding)
      self.assertEqual(hasattr(live, 'answer'), needs.protocol is None)
      if needs.protocol is None:
        continue
      if not needs.log_probs:
        for trace in _traces(method, family):
          self.assertEqual(live.decide(_silent(trace)), live.decide(trace))

  def test_live_answers_are_what_records_say(self, name):
    method, found = _fitted(name)
    arena = small_arena.make()
    for family in found:
      is_replayed = hasattr(family, 'replay')
      if not (harness.is_known(method, family) or is_replayed):
        continue
      knobs = _knobs(method, family)[::2]
      known = harness.outcomes(method, family, knobs, arena, 'test', 0)
      live = harness._live(method, family, knobs, arena, 'test', 0)
      np.testing.assert_array_equal(known.correct, live.correct)
      for metric in entries.ALL:
        if metric != 'latency':  # Measured, so it differs from run to run.
          np.testing.assert_allclose(
              known.cost[metric], live.cost[metric], rtol=1e-9, err_msg=metric
          )

  def test_costs_follow_from_the_raw_records(self, name):
    method, found = _fitted(name)
    _check_answers(method)
    specs = small_arena.ACCOUNTING.specs
    for family in found[-1:]:
      knobs = _knobs(method, family)[::3]
      found_cost = harness.outcomes(
          method, family, knobs, small_arena.make(), 'test', 0
      ).cost
      for k, knob in enumerate(knobs):
        for n, answer in enumerate(_answers(method, family, knob)):
          alone = small_arena.ladders('test')[n].completions
          large = next(x for x in alone if x.step == 0)
          for metric, total in plain_totals.BY_METRIC.items():
            self.assertAlmostEqual(
                found_cost[metric][k, n],
                total(answer.calls, specs) / total([_call(large)], specs),
                places=9,
                msg=metric,
            )


class JudgeTest(absltest.TestCase):

  def test_a_judge_that_scores_is_charged_for_all_that_is_on_view(self):
    method = registry.load('SpecReason')
    arena = small_arena.make(
        samples=lambda *which: dataclasses.replace(
            small_arena.sample(*which), follows_words=False
        )
    )
    (family,) = harness.fit(method, arena, {}, 0)
    for answer in _answers(method, family, family.knobs[5]):
      self.assertEqual(_read_by(answer, 'judge'), _on_view(answer))


def _call(completion):
  return types.Call(1, completion.read, completion.cached, completion.written)


def _silent(trace):
  """Returns a trace without log-probabilities, as were those before it."""
  mute = lambda step: step and dataclasses.replace(
      step, log_probs=np.zeros(0, np.float32)
  )
  return dataclasses.replace(
      trace,
      steps=tuple(map(mute, trace.steps)),
      draft=mute(trace.draft),
      previous=trace.previous and _silent(trace.previous),
  )


if __name__ == '__main__':
  absltest.main()
