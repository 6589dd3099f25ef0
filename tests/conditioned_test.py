"""Tests of one network for all levels: trained together, served at any."""

import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import numpy as np

from routing import protocols
from routing.features import observation
from routing.features import standardize
from routing.routers import card as card_lib
from routing.routers import learned
from routing.training import fit
from routing.training import state as state_lib
from tests import actor_critic_test
from tests import scripted_pair
from tests import training_test

_LEVELS = (0.35, 0.45, 0.55)


def _config(levels=_LEVELS, **network):
  config = actor_critic_test.make_config(levels=levels)
  config.optimizer.learning_rate = 1e-2
  # A policy that is sure of itself at once cannot follow its multiplier.
  config.objective.entropy_weight = 0.03
  config.network.is_conditioned = True
  config.network.update(network)
  return config


def _train(config, data, num_steps):
  _, state, step = fit.make_learner(config, 2, data.features.shape[-1], seed=0)
  for _ in range(num_steps):
    state, metrics = step(state, (data, None))
  return state, metrics


def _router(params, **network):
  """Of one feature."""
  config = _config(**network)
  features = observation.FeatureConfig(('cost',), num_routes=2, max_decisions=3)
  card = card_lib.Card(
      specs=scripted_pair.SPECS[:2],
      metric='price',
      reference=1.0,
      protocol=protocols.Protocol('switch'),
      features=features,
      network=config.network.to_dict(),
      form='budget',
      levels=_LEVELS,
  )
  statistics = standardize.Statistics(
      np.zeros(1, np.float32), np.ones(1, np.float32)
  )
  return learned.LearnedRouter(card, params, statistics)


class ConditionedTest(parameterized.TestCase):

  def test_one_network_serves_every_level(self):
    # The small model alone costs 0.3, leaving at all hard steps and no other
    # 0.54. What a hard step is worth is the same for all of them, so between
    # these levels the best policy is a coin, about which training swings.
    data = actor_critic_test.make_batch(512)
    state, metrics = _train(_config(), data, 500)
    jax.tree.map(
        lambda x: np.testing.assert_allclose(x[0], x[2], atol=1e-3),
        state.params,
    )
    self.assertLess(np.abs(metrics['excess'])[[0, 2]].max(), 0.07)
    router = _router(state_lib.last_params(state, is_shared=True))
    self.assertEqual(router.num_policies, 3)
    easy, hard = (np.full((1, 1), x, np.float32) for x in (-1, 1))
    at = [router.at_level(x, 0.5) for x in (0.35, 0.4, 0.45, 0.5, 0.55)]
    probabilities = [float(x.score(hard)[0]) for x in at]
    self.assertLess(probabilities[0], 0.2)
    self.assertGreater(probabilities[-1], 0.9)
    self.assertGreater(np.diff(probabilities).min(), -0.02)
    self.assertLess(max(float(x.score(easy)[0]) for x in at), 0.1)
    # A member is the network at its level.
    np.testing.assert_array_equal(router.score(hard, 1), at[2].score(hard))

  def test_levels_share_the_weights_and_nothing_else(self):
    config = training_test._config(levels=(0.4, 0.7))
    config.network.is_conditioned = True
    config.network.dropout = 0.0
    data = training_test._random_batch(40)
    state, metrics = _train(config, data, 3)
    chex.assert_trees_all_close(
        jax.tree.map(lambda x: x[0], state.params),
        jax.tree.map(lambda x: x[1], state.params),
        atol=1e-6,
    )
    self.assertNotEqual(*np.asarray(state.multiplier).tolist())
    self.assertNotEqual(*np.asarray(metrics['loss']).tolist())

  def test_kept_is_the_best_on_the_whole(self):
    config = _config(num_steps=4, eval_every=2)
    directory = pathlib.Path(self.create_tempdir().full_path)
    data = actor_critic_test.make_batch(64)
    state = fit.fit(config, data, data, directory, seed=0)
    self.assertLen(np.unique(state.best_score), 1)
    self.assertLen(np.unique(state.best_step), 1)
    kept = state_lib.kept_params(state, is_shared=True)
    self.assertEqual({len(x) for x in jax.tree.leaves(kept)}, {1})

  def test_levels_it_was_not_trained_for_are_refused(self):
    config = _config()
    _, state, _ = fit.make_learner(config, 2, 1, seed=0)
    router = _router(state_lib.last_params(state, is_shared=True))
    with self.assertRaisesRegex(ValueError, 'is 0.6; allowed: 0.35 to 0.55'):
      router.at_level(0.6, 0.5)
    directory = self.create_tempdir().full_path
    router.save(directory)
    loaded = learned.load(directory).at_level(0.38, 0.5)
    self.assertEqual((loaded.level, loaded.policy_index), (0.38, 0))
    with self.assertRaisesRegex(ValueError, 'of the router names 1'):
      _router(state_lib.last_params(state, is_shared=False))

  def test_a_trust_region_is_refused(self):
    config = _config()
    config.objective.policy_update = 'trust_region'
    with self.assertRaisesRegex(ValueError, 'trust_region, which takes one'):
      fit.make_learner(config, 2, 1, seed=0)

  def test_others_have_their_levels_alone(self):
    config = _config(is_conditioned=False)
    _, state, _ = fit.make_learner(config, 2, 1, seed=0)
    self.assertFalse(np.array_equal(*state.params['Dense_0']['kernel'][:2]))
    router = _router(state.params, is_conditioned=False)
    self.assertEqual(router.at_level(0.45, 0.5).policy_index, 1)
    with self.assertRaisesRegex(ValueError, 'trained for: 0.35, 0.45'):
      router.at_level(0.4, 0.5)


if __name__ == '__main__':
  absltest.main()
