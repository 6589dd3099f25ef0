"""Tests of training: the optimum reached, exact resuming, failures."""

import itertools
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from configs import arithmetic
from routing.features import batching
from routing.objectives import exact
from routing.policy import networks
from routing.training import checkpoint
from routing.training import fit
from routing.training import loop
from routing.training import metrics as metrics_lib
from routing.training import state as state_lib
from routing.training import validation
from tests import ladders
from tests import learners


def _config(form='budget', levels=(0.4, 0.7), **changes):
  config = arithmetic.get_config('smoke')
  config.objective.form = form
  config.objective.levels = levels
  config.update(changes)
  return config


def _random_batch(num_problems, num_steps=3, num_features=5, seed=0):
  """Returns random outcomes; hand-overs cost about 1 and help."""
  rng = np.random.default_rng(seed)
  lengths = rng.integers(1, num_steps + 1, num_problems)
  mask = np.arange(num_steps) < lengths[:, None]
  features = rng.normal(size=(num_problems, num_steps, num_features))
  shape = num_problems, num_steps, 1
  large = (rng.random(num_problems) < 0.9)[:, None, None] & np.ones(shape, bool)
  right = large & (rng.random(shape) < 0.9)
  right[:, 0] = large[:, 0]
  small = rng.random(num_problems) < 0.5
  exists = mask[..., None]
  return ladders.ladder_batch(
      features=(features * exists).astype(np.float32),
      mask=mask,
      handover_correct=(right & exists).astype(np.float32),
      handover_cost=((0.9 + 0.2 * rng.random(shape)) * exists).astype(
          np.float32
      ),
      handover_loss=(large & ~right & exists).astype(np.float32),
      stay_correct=small.astype(np.float32),
      stay_cost=np.full(num_problems, 0.2, np.float32),
      stay_loss=(large[:, 0, 0] & ~small).astype(np.float32),
  )


# A toy whose best policy is known. Four kinds of problem, of three steps each,
# distinguished by one-hot features at every step; outcomes of handing over at
# step 0, 1, 2 or never. A hand-over at step t costs 1 + 0.1 * t - 0.3 * t.
_KINDS_CORRECT = np.array(
    [
        [1, 1, 1, 1],  # The small model is right: never hand over.
        [1, 0, 0, 0],  # Its first step is wrong: hand over at 0.
        [1, 1, 1, 0],  # Only the last step is wrong: as late as possible.
        [0, 0, 0, 0],  # No model solves it: never hand over.
    ]
)
_KINDS_COST = np.array([1.1, 0.9, 0.7, 0.3])


def _toy(copies=16):
  """Returns the four kinds, `copies` times each."""
  kinds = np.tile(np.arange(4), copies)
  num = len(kinds)
  features = np.zeros((num, 3, 12), np.float32)
  for n, t in itertools.product(range(num), range(3)):
    features[n, t, 3 * kinds[n] + t] = 1.0
  correct = _KINDS_CORRECT[kinds].astype(np.float32)
  loss = correct[:, :1] * (1 - correct)
  cost = np.broadcast_to(_KINDS_COST, (num, 4)).astype(np.float32)
  return ladders.ladder_batch(
      features=features,
      mask=np.ones((num, 3), bool),
      handover_correct=correct[:, :3, None],
      handover_cost=cost[:, :3, None],
      handover_loss=loss[:, :3, None],
      stay_correct=correct[:, 3],
      stay_cost=cost[:, 3],
      stay_loss=loss[:, 3],
  )


def _optimum(form, level):
  """Returns the best value over mixtures of two of 4^4 deterministic policies.

  The optimum of a linear program with one constraint mixes at most two.
  """
  points = []
  for stops in itertools.product(range(4), repeat=4):
    kinds = np.arange(4), np.asarray(stops)
    correct = _KINDS_CORRECT[kinds].mean()
    loss = (_KINDS_CORRECT[:, 0] * (1 - _KINDS_CORRECT[kinds])).mean()
    cost = _KINDS_COST[kinds[1]].mean()
    points.append((correct, cost) if form == 'budget' else (-cost, loss))
  points = np.unique(points, axis=0)
  best = -np.inf
  for (value, used), (other, less) in itertools.product(points, repeat=2):
    if less <= level < used:
      weight = (level - less) / (used - less)
      best = max(best, weight * value + (1 - weight) * other)
    elif used <= level:
      best = max(best, value)
  return best


def _train_toy(config, directory):
  data = _toy()
  return fit.fit(config, data, data, directory, seed=0)


class OptimumTest(parameterized.TestCase):

  @parameterized.parameters(
      # At 0.35 only a part of the kinds can be helped; at 0.6 all of them.
      ('budget', (0.35, 0.45, 0.6)),
      ('reliability', (0.05, 0.2)),
  )
  def test_reaches_99_percent_of_the_optimum(self, form, levels):
    config = _config(form, levels, num_steps=600, batch_size=64)
    config.eval_every = 50
    config.log_every = config.checkpoint_every = 600
    config.network.dropout = 0.0
    config.network.hidden = (16,)
    config.optimizer.learning_rate = 1e-2
    state = _train_toy(config, self.create_tempdir().full_path)
    best = np.array([_optimum(form, level) for level in levels])
    score = np.asarray(state.best_score)
    # For reliability both are negative costs: 1 % more cost is allowed.
    np.testing.assert_array_less(best - 0.01 * np.abs(best), score)
    np.testing.assert_array_less(score, best + 1e-5)  # And the optimum is one.

  def test_optimum_by_hand(self):
    # cost <= 0.6: kinds 0 and 3 never (0.3 each), kind 1 at once (1.1), kind 2
    # at step 2 (0.7): mean cost 0.6, three of four right.
    self.assertAlmostEqual(_optimum('budget', 0.6), 0.75)
    # loss = 0 needs just that policy; its cost is 0.6.
    self.assertAlmostEqual(_optimum('reliability', 0.0), -0.6)
    # alpha 0.25: leave kind 1 to the small model, mean cost 0.4.
    self.assertAlmostEqual(_optimum('reliability', 0.25), -0.4)


class ResumeTest(parameterized.TestCase):

  def _fit(self, directory, **changes):
    return fit.fit(
        _config(**changes),
        _random_batch(40),
        _random_batch(30, seed=1),
        directory,
        seed=3,
    )

  def test_resumed_run_equals_uninterrupted_run(self):
    self.enter_context(learners.shared(_config(), 2, 5, seed=3))
    whole_dir = self.create_tempdir().full_path
    resumed_dir = self.create_tempdir().full_path
    whole = self._fit(whole_dir)
    self._fit(resumed_dir, num_steps=10)
    # As if killed after step 12: that row must be written again.
    rows = pathlib.Path(resumed_dir) / 'metrics.jsonl'
    rows.write_text(rows.read_text() + '{"step": 12, "loss": 7.0}\n{"ste')
    resumed = self._fit(resumed_dir)
    self.assertEqual(int(resumed.step), 20)
    chex.assert_trees_all_equal(whole, resumed)
    self.assertEqual(
        metrics_lib.read_rows(rows),
        metrics_lib.read_rows(pathlib.Path(whole_dir) / 'metrics.jsonl'),
    )
    # A finished run that is started again changes nothing.
    chex.assert_trees_all_equal(whole, self._fit(whole_dir))

  def test_seeds_differ(self):
    config = _config()
    network = networks.make_network(config.network, 2)
    kernels = [
        state_lib.init_state(config, network, 5, seed).params['Dense_0']
        for seed in (0, 1)
    ]
    # All policies of both seeds start from different weights.
    flat = np.concatenate([k['kernel'].reshape(2, -1) for k in kernels])
    self.assertLen(np.unique(flat, axis=0), 4)


class StepTest(parameterized.TestCase):

  def _setup(self, config, data):
    return fit.make_learner(config, 2, data.features.shape[-1], seed=0)

  def test_is_traced_once(self):
    data = _random_batch(40)
    _, state, step = self._setup(_config(), data)
    for k in range(3):
      rows = batching.minibatch_indices(0, k, 40, 16)
      state, _ = step(state, (data, rows))
    self.assertEqual(step._cache_size(), 1)

  def test_policies_do_not_affect_each_other(self):
    # A policy trained beside another equals one trained alone, though the
    # other's gradient is clipped: clipping is per policy.
    data = _random_batch(40)
    pair = _config(levels=(0.4, 0.7))
    pair.optimizer.clip_norm = 1e-3
    alone = _config(levels=(0.4,))
    alone.optimizer.clip_norm = 1e-3
    rows = np.arange(40)
    _, state, step = self._setup(pair, data)
    first = jax.tree.map(lambda x: jnp.copy(x[:1]), state.params)
    pair_state, pair_metrics = step(state, (data, rows))
    _, state, step = self._setup(alone, data)
    state = state.replace(params=first)
    alone_state, alone_metrics = step(state, (data, rows))
    chex.assert_trees_all_close(
        jax.tree.map(lambda x: x[:1], pair_state.params),
        alone_state.params,
        # One policy and two are summed in other orders; a step is 2e-3.
        rtol=1e-6,
        atol=1e-8,
    )
    np.testing.assert_allclose(
        pair_metrics['loss'][:1], alone_metrics['loss'], rtol=1e-6
    )

  def test_multiplier_follows_the_constraint(self):
    # Untrained policies cost about the same. One is above its budget, the other
    # below.
    config = _config(levels=(0.3, 0.95))
    data = _random_batch(40)
    _, state, step = self._setup(config, data)
    state, metrics = step(state, (data, np.arange(40)))
    self.assertGreater(metrics['cost'][0], 0.3)
    self.assertLess(metrics['cost'][1], 0.95)
    np.testing.assert_allclose(
        state.multiplier,
        config.multiplier.init
        + config.multiplier.learning_rate * np.asarray(metrics['excess']),
        rtol=1e-5,
    )
    self.assertGreater(state.multiplier[0], state.multiplier[1])

  def test_gradient_ascends_the_lagrangian(self):
    data = _random_batch(40)
    config = _config(levels=(0.5,))
    config.network.dropout = 0.0
    config.multiplier.learning_rate = 0.0
    _, state, step = self._setup(config, data)
    losses = []
    for _ in range(30):
      state, metrics = step(state, (data, np.arange(40)))
      losses.append(float(metrics['loss'][0]))
    self.assertLess(losses[-1], losses[0] - 0.01)

  def test_entropy_bonus_keeps_the_policy_random(self):
    entropies = []
    for weight in (0.0, 1.0):
      config = _config(levels=(0.5,))
      config.objective.entropy_weight = weight
      config.network.dropout = 0.0
      data = _random_batch(40)
      _, state, step = self._setup(config, data)
      for _ in range(40):
        state, metrics = step(state, (data, np.arange(40)))
      entropies.append(float(metrics['entropy'][0]))
    self.assertGreater(entropies[1], entropies[0])

  def test_validation_keeps_the_best_of_each_policy(self):
    config = _config(levels=(0.4, 0.7))
    data = _random_batch(30)
    network, state, _ = self._setup(config, data)
    eval_step = validation.make_eval_step(config, network)
    worse = jax.tree.map(np.asarray, state.params)
    state, first = eval_step(state, data)
    # Policy 0 already has a better score, policy 1 a worse one.
    record = np.asarray(first['validation_score']) + np.array([1.0, -1.0])
    other = jax.tree.map(lambda x: x + 1.0, worse)
    state = state.replace(
        best_score=jnp.asarray(record, jnp.float32),
        best_params=jax.tree.map(jnp.asarray, other),
        step=jnp.int32(7),
    )
    state, _ = eval_step(state, data)
    np.testing.assert_array_equal(state.best_step, [0, 7])
    chex.assert_trees_all_equal(
        state.best_params,
        jax.tree.map(lambda old, new: np.stack([old[0], new[1]]), other, worse),
    )

  def test_validation_score_is_the_exact_mixture(self):
    # One problem kind, recomputed from the outcomes of the untrained policy.
    config = _config(levels=(0.4,))
    data = _random_batch(30)
    network, state, _ = self._setup(config, data)
    logits = network.apply(
        {'params': jax.tree.map(lambda x: x[0], state.params)}, data.features
    )
    policy = exact.exact_outcomes(logits, data).mean()
    self.assertGreater(policy.cost, 0.4)
    weight = (policy.cost - 0.4) / (
        policy.cost - data.cost[..., 0].sum(axis=1).mean()
    )
    expected = (1 - weight) * policy.correct + weight * data.correct[
        ..., 0
    ].sum(axis=1).mean()
    _, metrics = validation.make_eval_step(config, network)(state, data)
    np.testing.assert_allclose(
        metrics['validation_score'], [expected], rtol=1e-5
    )


class EdgeCaseTest(parameterized.TestCase):

  @parameterized.parameters(
      ('budget', 0.0, 1), ('budget', 1.0, 3), ('reliability', 1.0, 1)
  )
  def test_data_without_a_choice(self, form, right, num_steps):
    # All models right, or all wrong: nothing to learn, but no error either.
    data = _random_batch(20, num_steps=num_steps)
    ends = data.cost > 0
    data = data.replace(
        correct=(right * ends).astype(np.float32),
        loss=np.zeros_like(data.loss),
    )
    state = fit.fit(
        _config(form, (0.5,)),
        data,
        data,
        self.create_tempdir().full_path,
        seed=0,
    )
    chex.assert_tree_all_finite(state.params)
    self.assertTrue(np.isfinite(state.best_score).all())
    if form == 'budget':
      np.testing.assert_allclose(state.best_score, right, atol=1e-5)

  def test_not_finite_data_stops_with_the_step(self):
    # Problem 11 of 20 is infinite; batches of 4 reach it within 5 steps.
    data = _random_batch(20)
    data.cost[11, 0, 1] = np.inf
    order = [batching.minibatch_indices(0, s, 20, 4) for s in range(5)]
    bad = 1 + next(s for s, rows in enumerate(order) if 11 in rows)
    directory = self.create_tempdir().full_path
    config = _config(batch_size=4, num_steps=20, checkpoint_every=1)
    with self.assertRaisesRegex(FloatingPointError, f'at step {bad};'):
      fit.fit(config, data, _random_batch(9), directory, seed=0)
    with checkpoint.open_manager(directory, 1) as manager:
      self.assertEqual(manager.latest_step() or 0, bad - 1)

  def test_budget_below_the_small_model_is_refused(self):
    data = _random_batch(20)  # Staying costs 0.2.
    with self.assertRaisesRegex(ValueError, 'levels has 0.1; allowed: 0.2'):
      fit.fit(
          _config(levels=(0.1,)),
          data,
          data,
          self.create_tempdir().full_path,
          seed=0,
      )

  def test_schedule_is_checked(self):
    with self.assertRaisesRegex(ValueError, 'eval_every is 0'):
      loop.Schedule(10, 1, 0, 1)


if __name__ == '__main__':
  absltest.main()
