"""Tests that live routers with memory see what training saw."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from routing import costs
from routing import protocols
from routing import types
from routing.features import batching
from routing.features import observation
from routing.features import standardize
from routing.features import traces
from routing.policy import networks
from routing.routers import behaviour
from routing.routers import card as card_lib
from routing.routers import learned
from tests import scripted_pair

_ACCOUNTING = costs.Accounting(scripted_pair.SPECS, 'price', 1.0)
_FEATURES = observation.FeatureConfig(
    groups=observation.GROUPS,
    num_routes=3,
    max_decisions=8,
    hidden_size=4,
    question_width=8,
    step_width=8,
)


def _router(kind, protocol='redraft'):
  """Returns an untrained router with different outputs per trace."""
  fields = dict(kind=kind, hidden=(8,), dropout=0.0)
  network = networks.make_network(fields, 3)
  params = jax.vmap(
      lambda key: networks.init_params(key, network, _FEATURES.size)
  )(jax.random.split(jax.random.key(0), 2))
  last = sorted(name for name in params if name.startswith('Dense'))[-1]
  params[last]['kernel'] *= 30
  card = card_lib.Card(
      specs=scripted_pair.SPECS,
      metric='price',
      reference=1.0,
      protocol=protocols.Protocol(protocol),
      features=_FEATURES,
      network=fields,
      form='budget',
      levels=(0.3, 0.6),
  )
  rng = np.random.default_rng(0)
  statistics = standardize.Statistics(
      rng.normal(0, 0.2, size=_FEATURES.size).astype(np.float32),
      np.full(_FEATURES.size, 0.3, np.float32),
  )
  return learned.LearnedRouter(card, params, statistics).with_threshold(1, 0.5)


class _Recorder:
  """A policy that records the action probabilities of a router."""

  def __init__(self, router, given):
    self._router, self._given = router, given

  def action_probabilities(self, trace):
    probabilities = self._router.action_probabilities(trace)
    self._given.append(probabilities)
    return probabilities


def _answer(router, protocol):
  """Returns rollouts of a router, and the probabilities at each decision."""
  given = {}

  def draw(problem, trajectory):
    asked = _Recorder(router, given.setdefault((problem.id, trajectory), []))
    # Mostly uniform draws; its own choices would often hand over at once.
    policy = behaviour.Mixture(asked, behaviour.RandomRate(0.3, 0.3, 3), 0.8)
    return behaviour.DrawingRouter(policy, 0, problem.id, trajectory)

  rollouts = scripted_pair.make_rollouts(12, protocol=protocol, behaviour=draw)
  return rollouts, given


class SameProbabilitiesTest(parameterized.TestCase):

  @parameterized.product(
      kind=networks.KINDS, protocol=('redraft', 'switch', 'escalate')
  )
  def test_live_probabilities_equal_those_of_the_batch(self, kind, protocol):
    router = _router(kind, protocol)
    rollouts, given = _answer(router, protocol)
    batch = batching.trajectory_batch(
        rollouts, _FEATURES, _ACCOUNTING, router.card.protocol
    )
    probabilities = router.probabilities(batch.features)
    self.assertEqual(probabilities.shape, (*batch.mask.shape, 3))
    live = [
        given[x.problem.id, i]
        for x in rollouts
        for i in range(len(x.trajectories))
    ]
    self.assertGreater(batch.mask.sum(), 1.5 * len(live))
    for row, rows in enumerate(live):
      np.testing.assert_allclose(
          probabilities[row, batch.mask[row]], rows, rtol=1e-5, atol=1e-6
      )
    # Equal probabilities would hide an error.
    self.assertGreater(probabilities[batch.mask].std(axis=0).max(), 0.05)

  @parameterized.parameters('gru', 'attention')
  def test_records_reproduce_the_live_observations(self, kind):
    router = _router(kind)
    rollouts, given = _answer(router, 'redraft')
    self.assertTrue(any(y.discarded for x in rollouts for y in x.trajectories))
    for x in rollouts:
      for i, y in enumerate(x.trajectories):
        shown = traces.of_trajectory(y, _ACCOUNTING, router.card.protocol)
        np.testing.assert_allclose(
            [router.action_probabilities(trace) for trace in shown],
            given[x.problem.id, i],
            rtol=1e-5,
            atol=1e-6,
        )

  @parameterized.parameters('gru', 'attention')
  def test_a_discarded_draft_stays_in_the_history(self, kind):
    router = _router(kind)
    rollouts, _ = _answer(router, 'redraft')
    trajectory = next(
        y
        for x in rollouts
        for y in x.trajectories
        if y.discarded and len(y.decisions) > 1 and y.decisions[0].route
    )
    _, trace, *_ = traces.of_trajectory(
        trajectory, _ACCOUNTING, router.card.protocol
    )
    forgotten = types.Trace(
        trace.question,
        trace.steps,
        trace.draft,
        trace.spent,
        previous=types.Trace(trace.question, ()),
    )
    self.assertFalse(
        np.allclose(
            router.action_probabilities(trace),
            router.action_probabilities(forgotten),
        )
    )

  def test_a_trace_without_its_history_raises(self):
    rollouts, _ = _answer(_router('mlp'), 'redraft')
    step, *_ = rollouts[0].trajectories[0].steps
    trace = types.Trace('1:2', (step,), draft=step)
    _router('mlp').decide(trace)
    with self.assertRaisesRegex(
        ValueError, '1 steps and a history of 1 decisions'
    ):
      _router('gru').decide(trace)


class ThresholdsTest(parameterized.TestCase):

  def test_each_decision_has_its_own_threshold(self):
    router = _router('mlp')
    rollouts, _ = _answer(router, 'redraft')
    seen = next(
        list(traces.of_trajectory(y, _ACCOUNTING, router.card.protocol))
        for x in rollouts
        for y in x.trajectories
        if len(y.decisions) >= 3
    )
    scores = [router.decide(trace).score for trace in seen]
    # Only at the second decision does the score reach its threshold.
    kappas = [np.nextafter(score, 2) for score in scores]
    kappas[1] = scores[1]
    at = router.with_threshold(1, kappas)
    got = [at.decide(trace).route > 0 for trace in seen]
    self.assertEqual(got, [t == 1 for t in range(len(seen))])
    short = router.with_threshold(1, kappas[:2])
    with self.assertRaisesRegex(ValueError, 'decision 2; the.*point has 2'):
      short.decide(seen[2])

  def test_a_point_with_several_thresholds_is_read_and_printed(self):
    router = _router('mlp')
    point = card_lib.OperatingPoint(
        name='loss<=0.05@0.9&cost<=0.5@0.9/steps0,3',
        policy_index=1,
        threshold=[0.25, 0.25, 0.25, 0.5, 0.5, 0.5, 0.5, 0.5],
        promise={
            'what': 'loss',
            'level': 0.05,
            'delta': 0.1,
            'also': [{'what': 'cost', 'level': 0.5, 'delta': 0.2}],
        },
        checkpoint_hash=router.checkpoint_hash,
    )
    directory = self.create_tempdir().full_path
    learned.LearnedRouter(
        router.card, router._params, router._statistics, [point]
    ).save(directory)
    loaded = learned.load(directory)
    self.assertEqual(loaded.points, (point,))
    self.assertEqual(loaded.threshold, (0.25,) * 3 + (0.5,) * 5)
    text = str(loaded)
    self.assertIn('now at      policy 1, threshold 0.25, from decision 3', text)
    self.assertIn(
        'threshold 0.25, from decision 3 on 0.5; promised loss <= 0.05 with '
        'probability 0.9 and mean cost <= 0.5 with probability 0.8',
        text,
    )

  @parameterized.parameters(((),), ([[0.1]],), (float('nan'),))
  def test_an_invalid_threshold_raises(self, value):
    with self.assertRaisesRegex(ValueError, 'allowed: a number, or one for'):
      _router('mlp').with_threshold(0, value)


if __name__ == '__main__':
  absltest.main()
