"""Tests of collecting rollouts, with scripted engines and the embedded pair."""

import asyncio
import dataclasses
import random

from absl.testing import absltest
from absl.testing import parameterized
import pytest

from routing import protocols
from routing import types
from routing.grading import equivalence
from routing.lm import tokenizer as tokenizer_lib
from routing.rollout import behaviour_rollouts
from routing.rollout import step_requests
from routing.routers import behaviour
from routing.tasks import arithmetic
from tests import embedded_pair
from tests import scripted_pair


class CollectTest(parameterized.TestCase):

  @parameterized.parameters('escalate', 'switch', 'redraft')
  def test_answers_are_graded_and_all_calls_are_recorded(self, protocol):
    rollouts = scripted_pair.make_rollouts(
        30, protocol=protocol, num_trajectories=3
    )
    problems = scripted_pair.make_problems(30)
    self.assertEqual([x.problem for x in rollouts], problems)
    for rollout in rollouts:
      start, count = map(int, rollout.problem.question.strip().split(':'))
      right = ''.join(f'{start + i + 1}\n\n' for i in range(count))
      right += f'#### {start + count}'
      self.assertEqual(
          rollout.reference.is_correct, rollout.reference.text == right
      )
      self.assertEqual(rollout.reference.route, 2)
      self.assertEqual(rollout.reference.step, 0)
      self.assertLen(rollout.trajectories, 3)
      for x in rollout.trajectories:
        self.assertEqual(x.is_correct, x.text == right)
        written = sum(s.usage.written for s in (*x.steps, *x.discarded))
        self.assertEqual(sum(c.written for c in x.calls), written)
        self.assertTrue(all(0 < d.probability <= 1 for d in x.decisions))

  def test_trajectories_of_a_problem_differ_by_their_random_draws(self):
    rollouts = scripted_pair.make_rollouts(30, num_trajectories=2)
    drawn = [
        [[d.route for d in x.decisions] for x in rollout.trajectories]
        for rollout in rollouts
    ]
    self.assertGreater(sum(a != b for a, b in drawn), 15)

  @parameterized.parameters('switch', 'redraft')
  def test_order_of_arrival_changes_nothing(self, protocol):
    rng = random.Random(0)
    at_once = scripted_pair.make_rollouts(
        25,
        protocol=protocol,
        concurrency=25,
        delay=lambda _: rng.random() / 500,
    )
    one_by_one = scripted_pair.make_rollouts(
        25, protocol=protocol, concurrency=1
    )
    self.assertEqual(
        list(map(scripted_pair.plain, at_once)),
        list(map(scripted_pair.plain, one_by_one)),
    )

  def test_a_known_reference_is_not_generated_again(self):
    (rollout,) = scripted_pair.make_rollouts(1, num_trajectories=0)
    self.assertEmpty(rollout.trajectories)
    engines = scripted_pair.make_engines(3)
    known = dataclasses.replace(rollout.reference, text='known')
    got = {}
    asyncio.run(
        behaviour_rollouts.collect_rollouts(
            [rollout.problem],
            engines,
            got.__setitem__,
            behaviour=behaviour.random_rate(3, seed=0),
            plan=behaviour_rollouts.Plan(
                protocols.Protocol('switch'), step_requests.Sampling(), 0
            ),
            accounting=None,
            grade=equivalence.exact,
            concurrency=1,
            references={rollout.problem.id: known},
        )
    )
    self.assertEqual(got[0].reference, known)
    self.assertEmpty(engines[2].requests)

  def test_hidden_states_of_larger_models_are_removed(self):
    step = scripted_pair.make_ladders(1)[0].steps[0]
    usage = dataclasses.replace(step.usage, route=1)
    steps = step, dataclasses.replace(step, usage=usage)
    trajectory = types.Trajectory(None, steps, (step,), (), (), True)
    got = behaviour_rollouts.without_large_hidden(trajectory)
    self.assertIs(got.steps[0], step)
    self.assertIsNone(got.steps[1].hidden)
    self.assertEqual(got.discarded, (step,))

  def test_bad_settings_raise_an_error(self):
    with self.assertRaisesRegex(ValueError, 'num_trajectories is -1'):
      scripted_pair.make_rollouts(1, num_trajectories=-1)
    with self.assertRaisesRegex(ValueError, 'concurrency is 0'):
      scripted_pair.make_rollouts(1, concurrency=0)


@pytest.mark.usefixtures('lightly_optimized')
class EmbeddedTest(parameterized.TestCase):

  def _collect(self, name, num_slots, concurrency):
    got = {}
    engines = embedded_pair.make_engines(num_slots)

    async def run():
      try:
        await behaviour_rollouts.collect_rollouts(
            arithmetic.load(0, test=10)['test'],
            engines,
            got.__setitem__,
            behaviour=behaviour.drawn(behaviour.RandomRate(0.4, 0.4), seed=0),
            plan=behaviour_rollouts.Plan(
                protocols.Protocol(name), step_requests.Sampling(0.0, 8, 176), 2
            ),
            accounting=None,
            grade=equivalence.exact,
            concurrency=concurrency,
        )
      finally:
        for engine in engines:
          await engine.close()

    asyncio.run(run())
    return [got[i] for i in range(10)]

  @parameterized.parameters('switch', 'redraft')
  def test_each_model_reads_the_steps_of_others_once(self, name):
    # As many slots as traces in flight: a slot stays with its trace while the
    # other model writes, however many traces come and go meanwhile.
    rollouts = self._collect(name, num_slots=8, concurrency=8)
    encode = tokenizer_lib.Tokenizer().encode
    num_returns = 0
    for rollout in rollouts:
      for x in rollout.trajectories:
        prompts = _prompts(x, protocols.Protocol(name))
        rewritten = sum(d.route > 0 for d in x.decisions)
        self.assertLen(x.discarded, rewritten if name == 'redraft' else 0)
        known = {0: [], 1: []}
        for call, (prompt, text) in zip(x.calls, prompts, strict=True):
          tokens, held = encode(prompt), known[call.route]
          same = next(
              (
                  i
                  for i, (a, b) in enumerate(zip(tokens, held, strict=False))
                  if a != b
              ),
              min(len(tokens), len(held)),
          )
          self.assertEqual(int(call.cached), same)
          self.assertEqual(int(call.read), len(tokens) - same)
          num_returns += bool(held) and call.read > 0
          known[call.route] = encode(prompt + text)
    self.assertGreater(num_returns, 20)


def _prompts(trajectory, protocol):
  """Returns the prompt of each call, and what it wrote."""
  discarded = iter(trajectory.discarded)
  prompt = trajectory.problem.question
  for step, decision in zip(
      trajectory.steps, trajectory.decisions, strict=True
  ):
    if protocol.has_draft and decision.route:
      yield prompt, next(discarded).text
    yield prompt, step.text
    prompt += step.text


if __name__ == '__main__':
  absltest.main()
