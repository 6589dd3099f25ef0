"""Tests of collecting ladders, with scripted engines."""

import asyncio
import dataclasses
import random

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import types
from routing.engines import scripted
from routing.grading import equivalence
from routing.grading import verdicts
from routing.rollout import collect
from routing.rollout import step_requests
from tests import scripted_pair
from tests import sessions

_SAMPLING = step_requests.Sampling(max_decisions=8, max_tokens=100)


def _collect(problems, engines, *, concurrency=4, **plan):
  """Returns the ladders, in the order of the problems."""
  got = {}

  def sink(index, ladder):
    assert index not in got
    got[index] = ladder

  asyncio.run(
      collect.collect_ladders(
          problems,
          engines,
          sink,
          plan=collect.Plan(**dict(sampling=_SAMPLING) | plan),
          grade=equivalence.exact,
          concurrency=concurrency,
      )
  )
  return [got[i] for i in range(len(problems))]


def _without_marks(ladder):
  """Returns the completions as data, without the mark `is_reused`."""
  return [dataclasses.replace(c, is_reused=False) for c in ladder.completions]


class CollectTest(parameterized.TestCase):

  @parameterized.parameters((2, 0.0, 1), (3, 0.0, 1), (3, 1.0, 2))
  def test_every_hand_over_is_graded(self, num_routes, temperature, samples):
    problems = scripted_pair.make_problems(30)
    ladders = _collect(
        problems,
        scripted_pair.make_engines(num_routes),
        sampling=step_requests.Sampling(temperature),
        num_samples=samples,
    )
    for problem, ladder in zip(problems, ladders, strict=True):
      self.assertEqual(ladder.problem, problem)
      self.assertEqual(
          [(c.step, c.route, c.sample) for c in ladder.completions],
          [
              (t, m, k)
              for t in range(len(ladder.steps))
              for m in range(1, num_routes)
              for k in range(samples)
          ],
      )
      start, count = map(int, problem.question.strip().split(':'))
      right = [f'{start + i + 1}\n\n' for i in range(count)]
      right.append(f'#### {start + count}')
      written = [step.text for step in ladder.steps]
      self.assertEqual(ladder.is_correct, written == right)
      for c in ladder.completions:
        kept = ''.join(written[: c.step])
        self.assertEqual(c.is_correct, kept + c.text == ''.join(right))
        self.assertEqual(c.read, len(problem.question) + len(kept))
        self.assertEqual(c.written, len(c.text))

  def test_grades_the_whole_answer(self):
    (problem,) = scripted_pair.make_problems(1)
    engines = [
        scripted.ScriptedEngine('s', 0, scripted.recite('a\n\nb\n\nc')),
        scripted.ScriptedEngine('l', 1, scripted.recite('A\n\nB\n\nC')),
    ]
    plan = collect.Plan(_SAMPLING)
    for right in ('A\n\nB\n\nC', 'a\n\nB\n\nC', 'a\n\nb\n\nC', 'a\n\nb\n\nc'):
      ladder = asyncio.run(
          collect.collect_ladder(
              problem,
              engines,
              plan,
              lambda text, *_, right=right: verdicts.Verdict(
                  text == right, text, 'literal', ''
              ),
          )
      )
      got = [c.is_correct for c in ladder.completions] + [ladder.is_correct]
      self.assertEqual(sum(got), 1)
      # The number of small steps in the right answer is where to hand over.
      self.assertTrue(got[sum(map(right.count, 'abc'))])

  def test_both_outcomes_occur(self):
    ladders = _collect(
        scripted_pair.make_problems(60), scripted_pair.make_engines(2)
    )
    right = [c.is_correct for ladder in ladders for c in ladder.completions]
    self.assertBetween(np.mean(right), 0.2, 0.9)
    self.assertBetween(np.mean([x.is_correct for x in ladders]), 0.1, 0.6)

  def test_reuse_changes_nothing_but_the_number_of_requests(self):
    problems = scripted_pair.make_problems(60)
    few, many = scripted_pair.make_engines(3), scripted_pair.make_engines(3)
    reused = _collect(problems, few)
    generated = _collect(problems, many, reuse=False)
    for a, b in zip(reused, generated, strict=True):
      self.assertEqual(_without_marks(a), _without_marks(b))
    num_reused = sum(c.is_reused for x in reused for c in x.completions)
    self.assertGreater(num_reused, 50)
    self.assertFalse(any(c.is_reused for x in generated for c in x.completions))
    saved = sum(len(e.requests) for e in many) - sum(
        len(e.requests) for e in few
    )
    self.assertEqual(saved, num_reused)

  @parameterized.parameters((True, 1), (False, 4))
  def test_completions_of_a_problem_share_a_cache_only_with_reuse(
      self, reuse, expected
  ):
    engines = scripted_pair.make_engines(2)
    problem = scripted_pair.make_problems(5)[-1]
    (ladder,) = _collect(
        [problem],
        engines,
        reuse=reuse,
        sampling=step_requests.Sampling(temperature=1.0, max_decisions=4),
    )
    asked = [request.session for request in engines[1].requests]
    self.assertLen(asked, min(len(ladder.steps), 4))
    self.assertLen(set(asked), expected)
    # The recorded prompt counts as read anew in both cases.
    for completion in ladder.completions:
      kept = ''.join(step.text for step in ladder.steps[: completion.step])
      self.assertEqual(
          completion.read, engines[1].count_tokens(problem.question, kept)
      )

  def test_nothing_is_reused_when_sampling(self):
    ladders = _collect(
        scripted_pair.make_problems(20),
        scripted_pair.make_engines(2),
        sampling=step_requests.Sampling(temperature=1.0),
    )
    self.assertFalse(any(c.is_reused for x in ladders for c in x.completions))

  def test_samples_of_one_prefix_differ(self):
    (ladder,) = _collect(
        scripted_pair.make_problems(5)[-1:],
        scripted_pair.make_engines(2),
        sampling=step_requests.Sampling(temperature=1.0),
        num_samples=20,
    )
    texts = {c.text for c in ladder.completions if c.step == 0}
    self.assertGreater(len(texts), 1)

  def test_order_of_arrival_changes_nothing(self):
    problems = scripted_pair.make_problems(40)
    rng = random.Random(0)
    jittery = scripted_pair.make_engines(2, delay=lambda _: rng.random() / 500)
    at_once = _collect(problems, jittery, concurrency=40)
    one_by_one = _collect(
        problems, scripted_pair.make_engines(2), concurrency=1
    )
    for a, b in zip(at_once, one_by_one, strict=True):
      self.assertEqual(a.completions, b.completions)
      self.assertEqual(
          [(s.text, s.usage) for s in a.steps],
          [(s.text, s.usage) for s in b.steps],
      )

  @parameterized.parameters(1, 3)
  def test_concurrency_is_the_number_of_problems_in_flight(self, concurrency):
    engines = scripted_pair.make_engines(2, delay=0.001)
    _collect(scripted_pair.make_problems(12), engines, concurrency=concurrency)
    most = max(engine.max_in_flight for engine in engines)
    self.assertEqual(most, concurrency)

  def test_reads_of_the_small_trace_do_not_depend_on_other_problems(self):
    engines = scripted_pair.make_engines(2)
    found = _collect(scripted_pair.make_problems(20), engines)
    self.assertLen(found, 20)
    self.assertGreater(max(len(x.steps) for x in found), 1)
    for ladder in found:
      self.assertEqual(ladder.steps[0].usage.cached, 0)
      self.assertTrue(all(s.usage.read == 0 for s in ladder.steps[1:]))

  def test_an_error_names_the_problem_and_cancels_the_others(self):
    engines = scripted_pair.make_engines(
        2, fails_at=lambda request: request.question.startswith('13:')
    )
    with self.assertRaises(ConnectionError) as caught:
      _collect(scripted_pair.make_problems(500), engines, concurrency=2)
    self.assertIn('count/3', caught.exception.__notes__[0])
    self.assertLess(len(engines[0].requests), 50)

  @parameterized.parameters(
      (dict(num_samples=0), 'num_samples is 0'),
      (dict(num_samples=2), 'temperature 0'),
  )
  def test_a_bad_plan_raises_an_error(self, settings, message):
    with self.assertRaisesRegex(ValueError, message):
      collect.Plan(_SAMPLING, **settings)

  def test_a_single_engine_raises_an_error(self):
    with self.assertRaisesRegex(ValueError, '2 engines'):
      _collect(scripted_pair.make_problems(1), scripted_pair.make_engines(1))

  def test_zero_concurrency_raises_an_error(self):
    with self.assertRaisesRegex(ValueError, 'concurrency is 0'):
      _collect(
          scripted_pair.make_problems(1),
          scripted_pair.make_engines(2),
          concurrency=0,
      )


class KnownRestTest(absltest.TestCase):

  def _write(self, text, max_tokens=100):
    engine = scripted.ScriptedEngine('l', 1, scripted.recite(text))
    asked = sessions.ask('q', to_end=True, max_tokens=max_tokens)
    (steps,) = asyncio.run(sessions.write_all(engine, [asked]))
    return steps

  def _known(self, written, small, left=100):
    (step,) = self._write(small)
    return collect.known_rest(written, step, left)

  def test_is_the_rest_after_the_same_step(self):
    written = self._write('a\n\nb\n\nc')
    known = self._known(written, 'a\n\n')
    self.assertEqual([s.text for s in known], ['b\n\n', 'c'])
    # 7 characters took 7 s; the rest, 4 of them, has 4/7 of that.
    self.assertAlmostEqual(sum(s.usage.seconds for s in known), 4.0)

  def test_is_unknown_after_another_step(self):
    self.assertEmpty(self._known(self._write('a\n\nb'), 'x\n\n'))

  def test_is_unknown_if_the_step_has_only_a_common_prefix(self):
    self.assertEmpty(self._known(self._write('ab\n\nc'), 'a\n\n'))

  def test_is_unknown_if_the_limit_cut_it_off(self):
    self.assertEmpty(self._known(self._write('a\n\nb\n\nc', 5), 'a\n\n'))

  def test_is_unknown_if_it_exceeds_the_tokens_left(self):
    written = self._write('a\n\nb\n\nc')
    self.assertNotEmpty(self._known(written, 'a\n\n', left=4))
    self.assertEmpty(self._known(written, 'a\n\n', left=3))

  def test_is_unknown_if_nothing_follows(self):
    self.assertEmpty(self._known(self._write('a\n\n'), 'a\n\n'))
    self.assertEmpty(self._known((), 'a\n\n'))


class StayRouterTest(absltest.TestCase):

  def test_chooses_route_0(self):
    decision = collect.StayRouter().decide(types.Trace('q', ()))
    self.assertEqual(decision, types.Decision(0, 0.0))


if __name__ == '__main__':
  absltest.main()
