"""Tests of the closed form on reply trees: the mean over all answers."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import numpy as np

from configs import arithmetic_redraft
from routing.features import standardize
from routing.objectives import exact
from routing.outcomes import batches
from routing.outcomes import known
from routing.training import fit as fit_lib
from routing.training import validation
from tests import trees_test


def _batch(name, count, num_routes=2):
  table = trees_test.make_table(name, count, num_routes)
  statistics = standardize.measure_decisions(table.decisions.features)
  return table, batches.outcome_batch(table, statistics, 'price')


def _logits(table, batch, seed=0):
  """Returns random logits, `[M, A]` of the table and `[B, D, A]`, padded."""
  rng = np.random.default_rng(seed)
  flat = rng.normal(size=table.children.shape)
  padded = rng.normal(size=batch.correct.shape)  # Padding may be anything.
  places, widths = batches.level_places(table)
  starts = np.concatenate([[0], np.cumsum(widths)])
  padded[table.problem, starts[table.decisions.depth] + places] = flat
  return flat, padded.astype(np.float32)


class ReplyTreeTest(parameterized.TestCase):

  @parameterized.product(name=('switch', 'redraft'), num_routes=(2, 3))
  def test_equals_the_expectation_over_answers(self, name, num_routes):
    table, batch = _batch(name, 7, num_routes)
    flat, padded = _logits(table, batch)
    got = jax.jit(exact.exact_outcomes)(padded, batch)
    probabilities = np.exp(flat) / np.exp(flat).sum(axis=1, keepdims=True)
    want = known.expected(table, probabilities, 'price')
    np.testing.assert_allclose(got.correct, want.correct[0], atol=1e-6)
    np.testing.assert_allclose(got.cost, want.cost[0], rtol=1e-5)
    np.testing.assert_allclose(got.loss, want.loss[0], atol=1e-6)

  def test_levels_are_as_wide_as_the_widest_problem(self):
    table, batch = _batch('switch', 5)
    for depth, width in enumerate(batch.widths):
      here = table.problem[table.decisions.depth == depth]
      self.assertEqual(width, np.bincount(here).max())
    self.assertFalse(batch.is_chain)
    self.assertEqual(batch.mask.sum(), len(table.children))

  def test_probabilities_of_all_answers_sum_to_one(self):
    _, batch = _batch('redraft', 6)
    ends = (batch.cost > 0).astype(np.float32)
    batch = dataclasses.replace(batch, correct=ends)
    logits = np.random.default_rng(0).normal(size=ends.shape)
    got = jax.jit(exact.exact_outcomes)(np.float32(logits), batch)
    np.testing.assert_allclose(got.correct, np.ones(6), rtol=1e-6)

  def test_gradient_equals_finite_differences(self):
    table, batch = _batch('redraft', 4)
    _, logits = _logits(table, batch)
    f = jax.jit(lambda x: exact.exact_outcomes(x, batch).mean().cost)
    gradient = np.asarray(jax.jit(jax.grad(f))(logits))
    self.assertTrue(np.isfinite(gradient).all())
    direction = np.random.default_rng(1).normal(size=logits.shape)
    direction = direction.astype(np.float32)
    step = 1e-2
    change = (f(logits + step * direction) - f(logits - step * direction)) / 2
    self.assertAlmostEqual(
        float(change / step), float((gradient * direction).sum()), places=3
    )


class FitTest(parameterized.TestCase):

  def _config(self):
    config = arithmetic_redraft.get_config('smoke')
    config.num_steps, config.batch_size = 30, 16
    config.network.dropout = 0.0
    config.objective.levels = (0.7,)
    return config

  def test_beats_the_random_router_on_its_training_problems(self):
    _, batch = _batch('redraft', 16)
    config = self._config()
    config.optimizer.update(learning_rate=2e-2, weight_decay=0.0)
    state = fit_lib.fit(
        config, batch, batch, self.create_tempdir().full_path, seed=0
    )
    small, large = (validation.always(route, batch) for route in (0, -1))
    share = (0.7 - small.cost) / (large.cost - small.cost)
    mixed = small.correct + share * (large.correct - small.correct)
    self.assertGreater(float(state.best_score[0]), float(mixed) + 0.1)

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

  def test_networks_with_memory_are_refused(self):
    _, batch = _batch('redraft', 4)
    config = self._config()
    config.network.kind = 'gru'
    with self.assertRaisesRegex(ValueError, 'only mlp'):
      fit_lib.fit(config, batch, batch, self.create_tempdir().full_path, seed=0)


if __name__ == '__main__':
  absltest.main()
