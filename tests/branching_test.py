"""Tests of the closed form on trees: it is the mean over all ways."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from configs import arithmetic_trees
from routing.evaluation import walks
from routing.features import forests
from routing.features import standardize
from routing.objectives import branching
from routing.training import fit as fit_lib
from routing.training import validation
from tests import trees_test


def _batch(name, count, num_routes=2, num_steps=None):
  forest = trees_test.make_forest(name, count, num_routes)
  statistics = standardize.measure(
      forest.features[None], np.ones((1, len(forest.depth)), bool)
  )
  num_steps = num_steps or forest.max_depth
  return forest, forests.tree_batch(forest, statistics, 'price', num_steps)


def _logits(forest, batch, seed=0):
  """Random ones, as `[M, A]` of the forest and as `[B, D, A]` of the batch."""
  rng = np.random.default_rng(seed)
  flat = rng.normal(size=forest.children.shape)
  padded = rng.normal(size=batch.correct.shape)  # Padding holds anything.
  problem = np.cumsum(forest.parents < 0) - 1
  padded[problem, forests.heap_places(forest)] = flat
  return flat, padded.astype(np.float32)


class BranchingTest(parameterized.TestCase):

  @parameterized.product(name=('switch', 'redraft'), num_routes=(2, 3))
  def test_agrees_with_walks_down_the_trees(self, name, num_routes):
    forest, batch = _batch(name, 7, num_routes)
    flat, padded = _logits(forest, batch)
    got = branching.exact_outcomes(padded, batch)
    chances = np.exp(flat) / np.exp(flat).sum(axis=1, keepdims=True)
    want = walks.expected(forest, chances, 'price')
    np.testing.assert_allclose(got.correct, want.correct[0], atol=1e-6)
    np.testing.assert_allclose(got.cost, want.cost[0], rtol=1e-5)
    np.testing.assert_allclose(got.loss, want.loss[0], atol=1e-6)

  def test_padding_changes_nothing(self):
    forest, batch = _batch('switch', 5)
    _, wide = _batch('switch', 5, num_steps=forest.max_depth + 1)
    _, logits = _logits(forest, batch)
    more = wide.correct.shape[1] - logits.shape[1]
    padded = np.pad(logits, [(0, 0), (0, more), (0, 0)], constant_values=9)
    # Nor does it if the last depth is cut short.
    for x, y in ((batch, logits), (wide, padded)):
      np.testing.assert_allclose(
          branching.exact_outcomes(y, x).cost,
          branching.exact_outcomes(
              padded[:, :-3], jax.tree.map(lambda z: z[:, :-3], wide)
          ).cost,
          rtol=1e-6,
      )

  def test_all_leaves_together_are_certain(self):
    _, batch = _batch('redraft', 6)
    ends = (batch.cost > 0).astype(np.float32)
    batch = dataclasses.replace(batch, correct=ends)
    logits = np.random.default_rng(0).normal(size=ends.shape)
    got = branching.exact_outcomes(jnp.float32(logits), batch)
    np.testing.assert_allclose(got.correct, np.ones(6), rtol=1e-6)

  def test_the_gradient_is_that_of_finite_differences(self):
    forest, batch = _batch('redraft', 4)
    _, logits = _logits(forest, batch)
    f = lambda x: branching.exact_outcomes(x, batch).mean().cost
    gradient = jax.grad(f)(logits)
    self.assertTrue(np.isfinite(gradient).all())
    direction = np.random.default_rng(1).normal(size=logits.shape)
    direction = direction.astype(np.float32)
    step = 1e-2
    change = (f(logits + step * direction) - f(logits - step * direction)) / 2
    self.assertAlmostEqual(
        float(change / step), float((gradient * direction).sum()), places=3
    )

  def test_a_longer_tree_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'decisions in a row'):
      _batch('switch', 5, num_steps=2)


class FitTest(parameterized.TestCase):
  """The common loop trains on trees."""

  def _config(self):
    config = arithmetic_trees.get_config('smoke')
    config.num_steps, config.batch_size = 30, 16
    config.network.dropout = 0.0
    config.objective.levels = (0.7,)
    return config

  def test_it_gains_on_its_training_problems(self):
    _, batch = _batch('redraft', 16)
    config = self._config()
    config.optimizer.update(learning_rate=2e-2, weight_decay=0.0)
    state = fit_lib.fit(
        config, batch, batch, self.create_tempdir().full_path, seed=0
    )
    never, at_once = (validation.always(route, batch) for route in (0, -1))
    share = (0.7 - never.cost) / (at_once.cost - never.cost)
    coin = never.correct + share * (at_once.correct - never.correct)
    self.assertGreater(float(state.best_score[0]), float(coin) + 0.1)

  @parameterized.parameters(False, True)
  def test_resumed_run_equals_uninterrupted_run(self, is_conditioned):
    _, batch = _batch('redraft', 8)
    config = self._config()
    config.objective.levels = (0.5, 0.8)
    config.network.update(dropout=0.3, is_conditioned=is_conditioned)
    config.update(num_steps=8, eval_every=2, checkpoint_every=2, batch_size=4)
    whole, parts = (self.create_tempdir().full_path for _ in range(2))
    fit = lambda path: fit_lib.fit(config, batch, batch, path, seed=3)
    want = fit(whole)
    config.num_steps = 4
    fit(parts)
    config.num_steps = 8
    chex.assert_trees_all_equal(fit(parts), want)

  @parameterized.product(right=(0.0, 1.0), form=('budget', 'reliability'))
  def test_trees_without_a_choice(self, right, form):
    # All right or all wrong: nothing to gain, and nothing may break.
    _, batch = _batch('switch', 6)
    ends = (batch.cost > 0).astype(np.float32)
    batch = dataclasses.replace(
        batch, correct=right * ends, loss=np.zeros_like(ends)
    )
    config = self._config()
    config.objective.form = form
    config.num_steps = 5
    state = fit_lib.fit(
        config, batch, batch, self.create_tempdir().full_path, seed=0
    )
    chex.assert_tree_all_finite((state.params, state.best_score))
    if form == 'budget':
      np.testing.assert_allclose(state.best_score, right, atol=1e-6)

  def test_memory_is_refused(self):
    _, batch = _batch('redraft', 4)
    config = self._config()
    config.network.kind = 'gru'
    with self.assertRaisesRegex(ValueError, 'on trees only mlp'):
      fit_lib.fit(config, batch, batch, self.create_tempdir().full_path, seed=0)


if __name__ == '__main__':
  absltest.main()
