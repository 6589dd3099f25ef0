"""Tests of trajectories as arrays: equal live and from disk; costs by hand."""

import asyncio
import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import costs
from routing import protocols
from routing import types
from routing.engines import scripted
from routing.features import batching
from routing.features import observation
from routing.features import traces
from routing.grading import equivalence
from routing.rollout import behaviour_rollouts
from routing.rollout import step_requests
from routing.routers import behaviour
from routing.shards import reader
from routing.shards import writer
from tests import scripted_pair

_CONFIG = observation.FeatureConfig(
    groups=observation.GROUPS,
    num_routes=3,
    max_decisions=8,
    hidden_size=4,
    question_width=8,
    step_width=8,
)
_ACCOUNTING = costs.Accounting(scripted_pair.SPECS, 'price', 1e-4)


class _Recorder:
  """Wraps a router and records every trace."""

  def __init__(self, router, traces):
    self._router, self._traces = router, traces

  def decide(self, trace):
    self._traces.append(trace)
    return self._router.decide(trace)


class OneVectorTest(parameterized.TestCase):

  @parameterized.product(
      way=[
          ('escalate', 'peek'),
          ('escalate', 'commit'),
          ('switch', 'commit'),
          ('redraft', 'peek'),
      ],
      num_ahead=[0, 2],  # Wasted tokens are charged by then, or not yet.
  )
  def test_live_shard_and_training_have_the_same_vectors(self, way, num_ahead):
    protocol, live = protocols.Protocol(*way), {}
    draw = behaviour.random_rate(3, seed=0)

    def record(problem, index):
      shown = live.setdefault((problem.id, index), [])
      return _Recorder(draw(problem, index), shown)

    problems = scripted_pair.make_problems(12)
    directory = self.create_tempdir().full_path
    shards = writer.RolloutWriter(directory, problems, {}, shard_size=5)
    asyncio.run(
        behaviour_rollouts.collect_rollouts(
            problems,
            scripted_pair.make_engines(3, num_ahead=num_ahead),
            shards.add,
            behaviour=record,
            plan=behaviour_rollouts.Plan(protocol, step_requests.Sampling(), 3),
            accounting=_ACCOUNTING,
            grade=equivalence.exact,
            concurrency=4,
        )
    )
    back = reader.read_rollouts(directory)
    batch = batching.trajectory_batch(back, _CONFIG, _ACCOUNTING, protocol)
    for row, (problem, index) in enumerate(
        (problem, index) for problem in problems for index in range(3)
    ):
      seen = live[problem.id, index]
      self.assertEqual(batch.mask[row].sum(), len(seen))
      np.testing.assert_array_equal(
          batch.features[row][batch.mask[row]],
          [observation.observe(trace, _CONFIG) for trace in seen],
      )


def _recital(small, large):
  return [
      scripted.ScriptedEngine('s', 0, scripted.recite(small), hidden_size=4),
      scripted.ScriptedEngine('l', 1, scripted.recite(large)),
  ]


class _Say:
  """A router that names the routes of a list, with given probabilities."""

  def __init__(self, routes, probabilities):
    self._routes, self._probabilities_of_actions = routes, probabilities

  def decide(self, trace):
    step = len(trace.steps)
    return types.Decision(
        self._routes[step], 0.0, self._probabilities_of_actions[step]
    )


def _rollouts(
    name, routes, reference='#### 3', small='#### 4', view=None, num_ahead=0
):
  """Returns one trajectory; the question has 1 token, each step 3."""
  engines = _recital(f'a\n\nb\n\n{small}', 'A\n\nB\n\n#### 3')
  for engine in engines:
    engine.num_ahead = num_ahead
  engines[1].script = lambda request: (
      f'A\n\nB\n\n{reference}'
      if request.to_end and not request.trace
      else 'A\n\nB\n\n#### 3'[len(request.trace) :]
  )
  return asyncio.run(
      behaviour_rollouts.collect_problem(
          types.Problem('p', 'q', '3'),
          engines,
          lambda problem, index: _Say(routes, (0.5, 0.25, 1.0)),
          behaviour_rollouts.Plan(
              protocols.Protocol(name, view), step_requests.Sampling()
          ),
          None,
          equivalence.exact,
      )
  )


class BatchTest(parameterized.TestCase):

  def _batch(
      self, rollouts, name, view=None, metric='decoded_tokens', **changes
  ):
    config = dataclasses.replace(
        _CONFIG, num_routes=2, **{'groups': ('progress',)} | changes
    )
    specs = scripted_pair.SPECS[:2]
    return batching.trajectory_batch(
        rollouts,
        config,
        costs.Accounting(specs, metric, 1.0),
        protocols.Protocol(name, view),
    )

  @parameterized.parameters(
      # Small tokens weigh 1, large ones 4, the large model alone 12 x 4 = 48.
      # Steps have 3, 3 and 6 tokens. Each decision is charged for the calls
      # after it, the next draft included; the first draft goes to the first.
      ('switch', 'commit', (0, 1, 0), (3, 12, 6)),
      ('redraft', 'peek', (0, 1, 0), (3 + 3, 12 + 6, 0)),
      ('redraft', 'peek', (1, 0, 1), (3 + 12 + 3, 6, 24)),
      ('escalate', 'peek', (0, 1), (3 + 3, 36)),
      ('escalate', 'commit', (0, 1), (3, 36)),
      ('escalate', 'peek', (0, 0, 0), (3 + 3, 6, 0)),
  )
  def test_costs_by_hand(self, name, view, routes, paid):
    batch = self._batch([_rollouts(name, routes, view=view)], name, view)
    num = len(routes)
    np.testing.assert_allclose(
        batch.costs[0, :num], np.array(paid) / 48, rtol=1e-6
    )
    np.testing.assert_array_equal(batch.actions[0, :num], routes)
    np.testing.assert_array_equal(batch.behaviour[0, :3], (0.5, 0.25, 1))
    np.testing.assert_array_equal(batch.mask[0], np.arange(8) < num)
    self.assertTrue(batch.available.all())

  @parameterized.parameters(
      # Routed, the large model alone -> correct, loss, gain.
      ('#### 3', '#### 3', 1, 0, 0),
      ('#### 4', '#### 3', 0, 1, 0),
      ('#### 3', '#### 9', 1, 0, 1),
      ('#### 4', '#### 9', 0, 0, 0),
  )
  def test_outcomes_by_hand(self, small, reference, correct, loss, gain):
    rollouts = _rollouts('switch', (1, 1, 0), reference, small)
    batch = self._batch([rollouts], 'switch')
    self.assertEqual(
        (batch.correct[0], batch.loss[0], batch.gain[0]), (correct, loss, gain)
    )

  @parameterized.product(
      name=['escalate', 'switch', 'redraft'], metric=costs.COST_METRICS
  )
  def test_rows_sum_to_the_cost_of_their_trajectory(self, name, metric):
    rollouts = scripted_pair.make_rollouts(10, protocol=name)
    accounting = costs.Accounting(scripted_pair.SPECS, metric, 1.0)
    config = dataclasses.replace(_CONFIG, groups=('progress',))
    batch = batching.trajectory_batch(
        rollouts, config, accounting, protocols.Protocol(name)
    )
    expected = [
        costs.total_cost(y.calls, accounting.specs, metric)
        / costs.completion_cost(x.reference, accounting.specs, metric)
        for x in rollouts
        for y in x.trajectories
    ]
    np.testing.assert_allclose(batch.costs.sum(axis=1), expected, rtol=1e-5)

  def test_only_the_small_models_hidden_state_is_observed(self):
    rollouts = _rollouts('switch', (0, 1, 0))
    batch = self._batch([rollouts], 'switch', groups=('hidden',))
    # At 0 nothing is written; at 1 'a\n\n' is in view; at 2 a larger model's.
    np.testing.assert_array_equal(
        batch.features[0, :3],
        [[0] * 5, [1, ord('a'), 10, 10, 0], [0] * 5],
    )

  def test_padding_is_finite(self):
    batch = self._batch([_rollouts('switch', (0, 1, 0))], 'switch')
    off = ~batch.mask
    np.testing.assert_array_equal(batch.features[off], 0)
    np.testing.assert_array_equal(batch.costs[off], 0)
    np.testing.assert_array_equal(batch.actions[off], 0)
    np.testing.assert_array_equal(batch.behaviour[off], 1)
    self.assertTrue(batch.available[off].all())
    trimmed = batching.trimmed(batch)
    self.assertEqual(trimmed.available.shape, (1, 3, 2))
    self.assertEqual(trimmed.costs.shape, (1, 3))
    self.assertEqual(trimmed.correct.shape, (1,))

  def test_reference_is_the_mean_of_the_largest_model_alone(self):
    rollouts = [_rollouts('switch', (0, 0, 0), x) for x in ('#### 3', '#')]
    accounting = costs.Accounting(scripted_pair.SPECS[:2], 'decoded_tokens')
    got = batching.with_reference(accounting, rollouts)
    self.assertEqual(got.reference, (12 + 7) / 2 * 4_000)

  @parameterized.parameters(
      ('escalate', (0, 1), [1, 2, 4], (3 + 3, 1 + 36)),
      ('switch', (0, 1, 0), [0, 1, 3, 5], (3, 1 + 12, 4 + 6)),
      ('redraft', (0, 1, 0), [1, 2, 5, 5], (3 + 3, 1 + 12 + 6, 0)),
  )
  def test_wasted_tokens_are_charged_after_the_decision(
      self, name, routes, seen, paid
  ):
    rollouts = _rollouts(name, routes, num_ahead=1)
    (trajectory,) = rollouts.trajectories
    protocol = protocols.Protocol(name)
    self.assertEqual(traces.num_calls_seen(trajectory, protocol), seen)
    wasted = [x.written for x in trajectory.calls if x.kind == 'wasted']
    self.assertEqual(wasted, [1, 1] if name == 'switch' else [1])
    batch = self._batch([rollouts], name)
    np.testing.assert_allclose(
        batch.costs[0, : len(routes)], np.array(paid) / 48, rtol=1e-6
    )

  def test_another_protocol_raises_an_error(self):
    rollouts = _rollouts('redraft', (0, 1, 0))
    with self.assertRaisesRegex(
        ValueError, 'p: 3 decisions make 3 calls in protocol switch.* has 4'
    ):
      self._batch([rollouts], 'switch')
    (trajectory,) = rollouts.trajectories
    for empty in (
        dataclasses.replace(trajectory, decisions=()),
        dataclasses.replace(trajectory, decisions=(), calls=(), steps=()),
    ):
      with self.assertRaisesRegex(ValueError, 'p has no decision'):
        list(traces.of_trajectory(empty, _ACCOUNTING, protocols.Protocol()))

  @parameterized.parameters(0.0, -0.5, 1.5, float('nan'))
  def test_a_probability_out_of_range_raises_an_error(self, probability):
    rollouts = _rollouts('switch', (0, 1, 0))
    (x,) = rollouts.trajectories
    bad = dataclasses.replace(x.decisions[1], probability=probability)
    x = dataclasses.replace(x, decisions=(x.decisions[0], bad, x.decisions[2]))
    broken = dataclasses.replace(rollouts, trajectories=(x,))
    with self.assertRaisesRegex(ValueError, 'p, decision 1: the action prob'):
      self._batch([broken], 'switch')

  def test_bad_trajectories_raise_an_error_that_names_the_problem(self):
    rollouts = _rollouts('switch', (0, 1, 0))
    (x,) = rollouts.trajectories
    first = dataclasses.replace(
        x.steps[0], log_probs=np.full(3, np.nan, np.float32)
    )
    broken = dataclasses.replace(x, steps=(first, *x.steps[1:]))
    with self.assertRaisesRegex(ValueError, 'p: step 0: .* not finite'):
      self._batch(
          [dataclasses.replace(rollouts, trajectories=(broken,))], 'switch'
      )
    with self.assertRaisesRegex(ValueError, 'p has 3 decisions; .* most 2'):
      self._batch([rollouts], 'switch', max_decisions=2)
    with self.assertRaisesRegex(ValueError, 'no trajectories'):
      self._batch([dataclasses.replace(rollouts, trajectories=())], 'switch')
    free = dataclasses.replace(rollouts.reference, written=0)
    with self.assertRaisesRegex(ValueError, 'p: the cost of .* is 0'):
      self._batch([dataclasses.replace(rollouts, reference=free)], 'switch')


if __name__ == '__main__':
  absltest.main()
