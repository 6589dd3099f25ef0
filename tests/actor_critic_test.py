"""Tests of training on trajectories: each update, resuming, edge cases."""

import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import arithmetic_redraft
from routing import types
from routing.objectives import policy_gradient
from routing.policy import networks
from routing.training import actor_critic
from routing.training import fit
from routing.training import metrics as metrics_lib
from routing.training import sources
from routing.training import state as state_lib
from routing.training import validation
from tests import learners


def make_config(
    update='lagrangian', levels=(0.5, 0.8), estimator='vtrace', **changes
):
  """Returns the smoke configuration without dropout, with small networks."""
  config = arithmetic_redraft.get_config('vtrace-smoke')
  config.objective.update(
      policy_update=update, levels=levels, estimator=estimator
  )
  config.network.hidden = (8,)
  config.network.dropout = 0.0
  config.update(changes)
  return config


def make_batch(num=64, num_steps=3, num_routes=2, seed=0, policy=None):
  """Returns random trajectories; the only feature says if a step is hard.

  A hard step that the small model writes makes the answer wrong. Larger routes
  cost three times as much as the small one, whose whole trace costs 0.3. Routes
  are drawn uniformly, or from `policy`: features -> `[B, T, A]` probabilities.
  """
  rng = np.random.default_rng(seed)
  lengths = rng.integers(1, num_steps + 1, num)
  mask = np.arange(num_steps) < lengths[:, None]
  is_hard = (rng.random((num, num_steps)) < 0.4) & mask
  features = np.where(is_hard, 1.0, -1.0) * mask
  features = features[..., None].astype(np.float32)
  actions = rng.integers(0, num_routes, (num, num_steps)) * mask
  behaviour = np.full((num, num_steps), 1 / num_routes)
  if policy is not None:
    probabilities = np.asarray(policy(features), np.float64)
    draws = rng.random((num, num_steps, 1))
    actions = (np.cumsum(probabilities, -1)[..., :-1] < draws).sum(-1) * mask
    behaviour = np.take_along_axis(probabilities, actions[..., None], -1)[
        ..., 0
    ]
  costs = np.where(actions > 0, 0.9, 0.3) / lengths[:, None] * mask
  correct = ~(is_hard & (actions == 0)).any(axis=1)
  return types.TrajectoryBatch(
      features=features,
      mask=mask,
      available=np.ones((num, num_steps, num_routes), bool),
      actions=actions.astype(np.int32),
      behaviour=np.where(mask, behaviour, 1.0).astype(np.float32),
      costs=costs.astype(np.float32),
      correct=correct.astype(np.float32),
      loss=(~correct).astype(np.float32),
      gain=np.zeros(num, np.float32),
  )


def _setup(config, data):
  network, state, step = fit.make_learner(
      config, data.available.shape[-1], data.features.shape[-1], seed=0
  )
  return network, jax.tree.map(jnp.copy, state), step


def _own(config):
  """Returns a `collect` function that follows the first policy of a state."""
  network = networks.make_network(config.network, 2)

  def collect(number, state):
    return make_batch(
        40,
        seed=number,
        policy=lambda x: jax.nn.softmax(
            learners.logits(network, state.params, x)
        ),
    )

  return collect


def _leaving(network, params):
  """Returns the probability of a larger route at an easy and a hard step."""
  logits = learners.logits(
      network, params, np.array([[-1.0], [1.0]], np.float32)
  )
  return 1 - np.asarray(jax.nn.softmax(logits))[:, 0]


class ConstantTest(parameterized.TestCase):

  @parameterized.parameters('mlp', 'gru')
  def test_features_stored_once_train_the_same_policy(self, kind):
    # Not in a trust region: its conjugate gradients amplify rounding.
    config = make_config()
    config.network.update(kind=kind, dropout=0.3)
    data = make_batch()
    noise = np.random.default_rng(1).normal(size=(64, 1, 3)) + np.zeros((3, 1))
    data = data.replace(
        features=np.concatenate(
            [data.features, noise.astype(np.float32) * data.mask[..., None]],
            axis=-1,
        )
    )
    ends = []
    for columns in (slice(0, 0), slice(2, 4)):
      _, state, step = _setup(config, data)
      for _ in range(2):
        state, _ = step(state, (sources.with_constant(data, columns), None))
      ends.append(state)
    chex.assert_trees_all_close(*ends, atol=2e-5)

  def test_features_that_change_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'columns 0 to 0 .* they change'):
      sources.with_constant(make_batch(), slice(0, 1))


class LearnsTest(parameterized.TestCase):

  @parameterized.parameters(
      ('lagrangian', 2), ('lagrangian', 3), ('trust_region', 3)
  )
  def test_hands_over_at_hard_steps_within_the_budget(self, update, num_routes):
    # Handing over at all hard steps and no others costs 0.3 + 0.4 * 0.6 = 0.54.
    config = make_config(update, levels=(0.54,))
    config.optimizer.learning_rate = 1e-2
    data = make_batch(512, num_routes=num_routes)
    network, state, step = _setup(config, data)
    for _ in range(150):
      state, metrics = step(state, (data, None))
    easy, hard = _leaving(network, state.params)
    self.assertLess(easy, 0.1)
    self.assertGreater(hard, 0.9)
    self.assertLess(abs(float(metrics['excess'][0])), 0.03)
    self.assertGreater(float(metrics['reward'][0]), 0.9)

  @parameterized.parameters(('gru', 8), ('attention', 16))
  def test_memory_uses_earlier_observations(self, kind, width):
    # The feature of a step is observed one decision too early, so the current
    # observation is uninformative. Finding the hard steps needs the one before.
    config = make_config(levels=(0.6,))
    config.network.update(kind=kind, hidden=(width,))
    config.optimizer.learning_rate = 1e-2
    # Entropy, since a policy that is certain too early no longer changes.
    config.objective.entropy_weight = 0.1
    data = make_batch(256, num_steps=2)
    data = data.replace(
        features=np.roll(data.features, 1, axis=1) * data.mask[..., None]
    )
    # Rolled: step 0 has the feature of step 1 and the reverse. Traces of one
    # step have no feature.
    network, state, step = _setup(config, data)
    for _ in range(120):
      state, _ = step(state, (data, None))
    seen = np.array([[[-1.0], [1.0]], [[1.0], [1.0]]], np.float32)
    probabilities = jax.nn.softmax(learners.logits(network, state.params, seen))
    easy, hard = 1 - np.asarray(probabilities)[:, 1, 0]
    self.assertLess(easy, 0.3)
    self.assertGreater(hard, 0.7)


class UpdateTest(parameterized.TestCase):

  @parameterized.parameters(
      ('vtrace', 'lagrangian'),
      ('vtrace', 'trust_region'),
      ('on_policy', 'lagrangian'),
  )
  @pytest.mark.slow
  def test_resumed_run_equals_uninterrupted_run(self, estimator, update):
    # To trace the step thrice is most of the time, and no part of resuming.
    config = make_config(update, estimator=estimator)
    self.enter_context(learners.shared(config, 2, 1, seed=3))

    def run(directory, **changes):
      config = make_config(update, estimator=estimator, **changes)
      train = make_batch(40)
      if estimator == 'on_policy':
        train = sources.renewed(_own(config), 4, seed=3, batch_size=32)
      return fit.fit(config, train, make_batch(30, seed=1), directory, seed=3)

    whole_dir, resumed_dir = (
        pathlib.Path(self.create_tempdir().full_path) for _ in range(2)
    )
    whole = run(whole_dir)
    # In a run, the trajectories of a begun on-policy round are on disk. Here
    # they are collected again.
    num_steps = 8 if estimator == 'on_policy' else 10
    run(resumed_dir, num_steps=num_steps)
    resumed = run(resumed_dir)
    self.assertEqual(int(resumed.step), 20)
    chex.assert_trees_all_equal(whole, resumed)
    rows = [
        metrics_lib.read_rows(path / 'metrics.jsonl')
        for path in (whole_dir, resumed_dir)
    ]
    if estimator == 'vtrace':  # Else the short run logged its last step, 8.
      self.assertEqual(*rows)
    self.assertEqual(rows[0][-1], rows[1][-1])

  def test_estimates_by_hand(self):
    # Two decisions, probability 1/2 against a behaviour of 1/4: ratio 2,
    # clipped to 1. Critics are 0. Costs 0.3 and 0.6, right, level 0.5.
    config = make_config(levels=(0.5,))
    config.objective.update(
        rho_bar=1.0, reach_clip=0.0, ratio_clip=float('inf')
    )
    data = make_batch(1, num_steps=2).replace(
        mask=np.ones((1, 2), bool),
        behaviour=np.full((1, 2), 0.25, np.float32),
        costs=np.array([[0.3, 0.6]], np.float32),
        correct=np.ones(1, np.float32),
    )
    network = networks.make_network(config.network, 2)
    critics = networks.make_critics(config.network)
    state = state_lib.init_actor_critic(config, network, critics, 1, 0)
    params = jax.tree.map(jnp.zeros_like, state.params)
    one = jax.tree.map(lambda x: x[0], state.replace(step=None, params=params))
    got = actor_critic.estimate(config, network, critics, one, data, 0.5)
    np.testing.assert_allclose(got.targets[0], [[1.0, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(got.targets[1], [[0.9, 0.6]], rtol=1e-6)
    np.testing.assert_allclose(got.advantages, [[1.0, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(
        got.constraint_advantages, [[0.9, 0.6]], rtol=1e-6
    )
    # Without clipping: 2 * 0.3 + 2 * 2 * 0.6 = 3.0.
    np.testing.assert_allclose(got.excess, 2.5, rtol=1e-6)
    # The second decision is reached twice as often.
    config.objective.reach_clip = 10.0
    again = actor_critic.estimate(config, network, critics, one, data, 0.5)
    np.testing.assert_allclose(again.advantages, [[1.0, 2.0]], rtol=1e-6)
    config.objective.reach_clip = 1.5
    again = actor_critic.estimate(config, network, critics, one, data, 0.5)
    np.testing.assert_allclose(
        again.constraint_advantages, [[0.9, 0.9]], rtol=1e-6
    )

  def test_multiplier_comes_from_the_controller(self):
    config = make_config(levels=(0.3, 0.9))
    config.multiplier.update(damping=0.5, learning_rate=0.1)
    data = make_batch(512)
    _, state, step = _setup(config, data)
    start = config.multiplier.init
    state, metrics = step(state, (data, None))
    excess = np.asarray(metrics['excess'])
    self.assertGreater(excess[0], 0)
    self.assertLess(excess[1], 0)
    np.testing.assert_allclose(
        state.multiplier, start + 0.6 * excess, rtol=1e-5
    )
    np.testing.assert_allclose(
        state.controller.integral, start + 0.1 * excess, rtol=1e-5
    )

  def test_trust_region_limits_the_divergence(self):
    config = make_config('trust_region', levels=(0.6,))
    config.trust_region.max_kl = 1e-3
    data = make_batch(512)
    network, state, step = _setup(config, data)

    def log_probs(state):
      return policy_gradient.log_probs(
          learners.logits(network, state.params, data.features), data
      )

    before = log_probs(state)
    state, _ = step(state, (data, None))
    kl = float(policy_gradient.mean_kl(log_probs(state), before, data))
    self.assertBetween(kl, 1e-5, 1.01e-3)

  def test_unknown_update_and_wrong_data_are_named(self):
    config = make_config('newton')
    with self.assertRaisesRegex(ValueError, "'newton'; allowed: lagrangian"):
      _setup(config, make_batch(4))
    config = make_config(estimator='magic')
    with self.assertRaisesRegex(ValueError, "'magic'; allowed: exact"):
      _setup(config, make_batch(4))
    config.objective.estimator = 'exact'
    with self.assertRaisesRegex(
        ValueError, 'learns from known outcomes .*got trajectories'
    ):
      fit.check_data(config, make_batch(4))

  def test_a_policy_without_a_score_keeps_its_last_parameters(self):
    _, state, _ = _setup(make_config(levels=(0.5, 0.8)), make_batch(4))
    best = jax.tree.map(lambda x: x + 1.0, state.params)
    state = state.replace(
        best_params=best, best_score=jnp.array([-jnp.inf, 0.3])
    )
    kept = state_lib.kept_params(state, is_shared=False)
    chex.assert_trees_all_equal(
        kept,
        jax.tree.map(lambda x, y: np.stack([x[0], y[1]]), state.params, best),
    )


class EdgeCaseTest(parameterized.TestCase):

  @parameterized.product(
      update=actor_critic.UPDATES, form=('budget', 'reliability')
  )
  def test_all_numbers_are_finite(self, update, form):
    config = make_config(update, levels=(0.5,))
    config.objective.form = form
    plain = make_batch(32)
    network, start, step = _setup(config, plain)
    eval_step = validation.make_eval_step(config, network)
    zeros, ones = np.zeros(32, np.float32), np.ones(32, np.float32)
    for case, changes in {
        'all right': dict(correct=ones, loss=zeros),
        'all wrong': dict(correct=zeros, loss=zeros),
        'one action never taken': dict(
            actions=np.zeros_like(plain.actions),
            behaviour=np.ones_like(plain.behaviour),
        ),
        'no decision': dict(mask=np.zeros_like(plain.mask)),
    }.items():
      with self.subTest(case):
        data = plain.replace(**changes)
        state = jax.tree.map(jnp.copy, start)
        for _ in range(3):
          state, metrics = step(state, (data, None))
        chex.assert_tree_all_finite((state.params, state.critics, metrics))
        _, scores = eval_step(state, data)
        self.assertFalse(np.isnan(scores['validation_score']).any())


class ValidationTest(absltest.TestCase):

  def test_weights_by_hand(self):
    # Always route 1, from behaviour probabilities 1/2, and 1/4 then 1/2.
    batch = make_batch(3, num_steps=2).replace(
        mask=np.array([[1, 0], [1, 0], [1, 1]], bool),
        actions=np.array([[1, 0], [0, 0], [1, 1]], np.int32),
        behaviour=np.array([[0.5, 1], [0.5, 1], [0.25, 0.5]], np.float32),
        costs=np.array([[0.9, 7], [0.3, 7], [0.4, 0.8]], np.float32),
        correct=np.array([1, 1, 0], np.float32),
        loss=np.array([0, 0, 1], np.float32),
    )
    # Weights at the first decision 2, 0, 4; at the end 2, 0, 8.
    got = validation.always(1, batch)
    np.testing.assert_allclose(got.correct, 2 / 10, rtol=1e-6)
    np.testing.assert_allclose(got.loss, 8 / 10, rtol=1e-6)
    cost = (2 * 0.9 + 4 * 0.4) / 6 + 8 * 0.8 / 10
    np.testing.assert_allclose(got.cost, cost, rtol=1e-6)

  def test_on_policy_outcomes_are_plain_means(self):
    batch = make_batch(200)
    logits = jnp.zeros((*batch.mask.shape, 2))
    got = validation.outcomes(logits, batch)
    np.testing.assert_allclose(got.correct, batch.correct.mean(), rtol=1e-5)
    np.testing.assert_allclose(got.cost, batch.costs.sum() / 200, rtol=1e-5)

  def test_too_small_a_sample_gives_no_score(self):
    config = make_config(levels=(0.5,))
    data = make_batch(50)
    network, state, _ = _setup(config, data)
    for min_effective, is_scored in ((1e3, False), (0.0, True)):
      config.objective.min_effective_size = min_effective
      _, metrics = validation.make_eval_step(config, network)(
          jax.tree.map(jnp.copy, state), data
      )
      self.assertEqual(bool(np.isfinite(metrics['best_score'][0])), is_scored)

  def test_no_policy_is_mixed_with_a_constant_policy_without_data(self):
    # The policy is above its budget. No trajectory keeps every draft, so that
    # policy would seem to be free.
    config = make_config(levels=(0.5,))
    config.objective.min_effective_size = 0.0
    data = make_batch(50)
    data = data.replace(
        actions=np.ones_like(data.actions), costs=np.ones_like(data.costs)
    )
    network, state, _ = _setup(config, data)
    self.assertEqual(validation.always(0, data).cost, 0.0)
    _, metrics = validation.make_eval_step(config, network)(state, data)
    self.assertGreater(metrics['validation_cost'][0], 0.5)
    self.assertEqual(metrics['best_score'][0], -np.inf)


if __name__ == '__main__':
  absltest.main()
