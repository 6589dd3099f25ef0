"""Tests of training behind a soft threshold that follows the misses."""

from absl.testing import absltest
from absl.testing import parameterized
import chex
import numpy as np

from routing.training import fit
from tests import training_test


def _config(levels, **fields):
  config = training_test._config('reliability', levels, batch_size=64, **fields)
  config.soft_threshold.is_used = True
  config.network.update(dropout=0.0, hidden=(16,))
  config.optimizer.learning_rate = 1e-2
  return config


class KappaTest(parameterized.TestCase):

  def test_reaches_the_optimum_of_a_toy_at_each_alpha(self):
    levels = (0.05, 0.2)
    config = _config(levels, num_steps=600)
    config.eval_every = 50
    config.log_every = config.checkpoint_every = 600
    state = training_test._train_toy(config, self.create_tempdir().full_path)
    best = [training_test._optimum('reliability', x) for x in levels]
    # Negated costs; -inf where a level is not met.
    np.testing.assert_allclose(state.best_score, best, rtol=0.03)

  @parameterized.parameters((0.0, 1), (1.0, -1))
  def test_kappa_follows_the_misses(self, alpha, sign):
    # An untrained policy misses some problems. If their share is above alpha,
    # kappa falls, so that more is handed over.
    data = training_test._toy()
    config = _config((alpha,))
    _, state, step = fit.make_learner(config, 2, data.features.shape[-1], 0)
    for k in range(1, 4):
      before = float(state.kappa[0])
      state, metrics = step(state, (data, None))
      moved = 0.2 * k**-0.6 * (float(metrics['relative_loss'][0]) - alpha)
      self.assertAlmostEqual(float(state.kappa[0]), before - moved, places=5)
      self.assertGreaterEqual(sign * moved, 0.0)
    self.assertNotEqual(float(state.kappa[0]), 0.5)

  def test_kappa_stays_where_it_is_not_used(self):
    data = training_test._toy()
    config = _config((0.1,))
    config.soft_threshold.is_used = False
    _, state, step = fit.make_learner(config, 2, data.features.shape[-1], 0)
    state, _ = step(state, (data, None))
    self.assertEqual(float(state.kappa[0]), 0.5)

  def test_resumed_run_equals_uninterrupted_run(self):
    config = _config((0.1, 0.2), num_steps=8, checkpoint_every=2)
    whole, parts = (self.create_tempdir().full_path for _ in range(2))
    want = training_test._train_toy(config, whole)
    config.num_steps = 4
    training_test._train_toy(config, parts)
    config.num_steps = 8
    got = training_test._train_toy(config, parts)
    chex.assert_trees_all_equal(got, want)

  @parameterized.parameters(
      ('objective.estimator', 'vtrace', "'vtrace'; allowed: exact"),
      ('objective.form', 'budget', "'budget'; allowed: reliability"),
  )
  def test_unsupported_combinations_are_refused(self, field, value, message):
    config = _config((0.5,)).unlock()
    config.update_from_flattened_dict({field: value})
    with self.assertRaisesRegex(ValueError, message):
      fit.make_learner(config, 2, 12, 0)


if __name__ == '__main__':
  absltest.main()
