"""Tests of the benchmark's PyTorch twin: it makes the same update."""

import dataclasses
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from benchmarks import pytorch_twin
from benchmarks import training_step
from routing.routers import learned

_SIZE = training_step.TINY


_BARS = {'rho_bar': 0.7, 'c_bar': 0.8, 'reach_clip': 1.1, 'clip': 0.02}


def make_config(**objective):
  """Without dropout, whose masks are each library's own."""
  config = training_step.get_config(_SIZE)
  config.network.dropout = 0.0
  # Coarse enough steps to reach the clips, and every term at work.
  config.optimizer.learning_rate = config.critics.learning_rate = 0.05
  config.multiplier.derivative = 0.5
  config.objective.update(entropy_weight=0.03, kl_weight=0.1, **objective)
  return config


class TwinTest(parameterized.TestCase):

  @parameterized.parameters(
      ({}, 2, 'eager'),
      (_BARS, 3, 'eager'),
      (_BARS, 3, 'eager, question once'),
      (_BARS, 3, 'vectorized'),
  )
  def test_three_updates_give_the_same_numbers(
      self, objective, num_routes, style
  ):
    self._check(objective, num_routes, style)

  def test_compiled_it_gives_the_same_numbers(self):
    # Traced and differentiated as always. The code that is then generated takes
    # half a minute; the benchmark compares its numbers before it times it.
    for name in ('compiled, question once', 'compiled, vectorized'):
      style = training_step.styles(_SIZE)[name]
      self.assertEqual((style.is_compiled, style.backend), (True, 'inductor'))
      traced = dataclasses.replace(style, backend='aot_eager')
      with mock.patch.object(training_step, 'styles') as styles:
        styles.return_value = {'traced': traced}
        self._check(_BARS, 2, 'traced')

  def test_the_benchmark_times_no_twin_that_computes_something_else(self):
    training_step.check(pytorch_twin.Style())
    right = pytorch_twin.v_trace

    def wrong(*args):
      targets, advantages = right(*args)
      return targets, 1.01 * advantages

    with mock.patch.object(pytorch_twin, 'v_trace', wrong):
      with self.assertRaises(AssertionError):
        training_step.check(pytorch_twin.Style())

  def _check(self, objective, num_routes, style):
    """Three updates."""
    config = make_config(**objective)
    data = training_step.make_data(_SIZE, 60, num_routes)
    jitted = training_step.Jitted(config, data, _SIZE.num_constant)
    given = training_step.styles(_SIZE)[style]
    twin = training_step.make_twin(config, jitted.state, data, given)
    rng = np.random.default_rng(0)
    start = jax.tree.map(np.array, jitted.state.params)
    for _ in range(3):
      twin.load(jitted.state)  # As in `training_step.check`.
      rows = rng.choice(60, _SIZE.batch_size, replace=False)
      np.testing.assert_allclose(
          jitted.step(rows), twin.step(rows).numpy(), rtol=1e-5, atol=1e-6
      )
      for k, policy_index in enumerate(twin.policies):
        self._assert_same(jitted.state.params, policy_index.policy, k)
        self._assert_same(jitted.state.critics, policy_index.critics, k)
    np.testing.assert_allclose(
        jitted.state.multiplier,
        [float(policy_index.multiplier) for policy_index in twin.policies],
        rtol=1e-5,
    )
    moved = np.abs(
        jitted.state.params['Dense_0']['kernel'] - start['Dense_0']['kernel']
    )
    self.assertGreater(moved.min(), 0.0)
    self.assertGreater(moved.max(), 0.1)

  def _assert_same(self, params, network, policy_index):
    layers = {'Dense_0': network.first, 'Dense_1': network.last}
    for name, layer in layers.items():
      for field, value in (('kernel', layer.weight.T), ('bias', layer.bias)):
        np.testing.assert_allclose(
            params[name][field][policy_index],
            value.detach().numpy(),
            atol=2e-5,
            err_msg=f'{name} {field}',
        )

  def test_the_default_size_is_that_of_the_configuration(self):
    size = training_step.default_size()
    self.assertEqual(size.batch_size, 64)
    self.assertEqual(size.num_levels, 4)
    # Two texts of 256 hashes, 128 hidden numbers, and some others: just what
    # the shipped router of the same feature groups sees.
    self.assertEqual(size.num_features, learned.load().card.features.size)
    self.assertEqual(size.num_steps, 8)
    self.assertEqual(size.num_constant, 256)  # The question's.


class MeasureTest(absltest.TestCase):

  def test_the_figures_belong_together(self):
    eager = {
        name: style
        for name, style in training_step.styles(_SIZE).items()
        if not style.is_compiled
    }
    with mock.patch.object(training_step, 'styles', lambda size: eager):
      rows = training_step.measure('tiny', _SIZE)
    self.assertEqual([row['pytorch'] for row in rows], list(eager))
    for row in rows:
      self.assertAlmostEqual(
          row['trajectories_per_second'], 24 * row['steps_per_second'], places=3
      )
      self.assertBetween(
          row['ratio_to_pytorch'], row['least_ratio'], row['largest_ratio']
      )
      self.assertGreater(row['compile_seconds'], 0.0)


if __name__ == '__main__':
  absltest.main()
