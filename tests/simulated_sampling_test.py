"""Tests of sampling: means over many problems equal the exact values."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from routing import protocols
from routing.objectives import exact
from routing.simulation import histories
from routing.simulation import history_tree as tree_lib
from routing.simulation import optimum
from routing.simulation import process as process_lib
from routing.simulation import sampling
from tests import simulation_test

NUM = 50_000
PROTOCOLS = simulation_test.ALL
PROCESS = process_lib.three_routes(num_steps=3)


@functools.partial(jax.jit, static_argnums=3)
def _roll(tree, policy, rng, num):
  return sampling.rollout(tree, sampling.follow(policy), rng, num)


def roll(tree, policy, seed=0, num=NUM):
  """Returns trajectories under a table of probabilities, as NumPy arrays."""
  return jax.device_get(_roll(tree, policy, jax.random.key(seed), num))


@functools.cache
def ladders(view):
  """Returns the history tree of a view, and sampled ladders."""
  tree = tree_lib.build(PROCESS, protocols.Protocol('escalate', view))
  run = jax.jit(lambda rng: sampling.sample_ladders(tree, rng, NUM))
  return tree, jax.device_get(run(jax.random.key(0)))


class RolloutTest(parameterized.TestCase):

  def assert_means(self, samples, expected):
    """Asserts a mean within 4 standard errors: 1 false alarm in 16,000."""
    samples = np.asarray(samples, np.float64)
    error = samples.std() / np.sqrt(len(samples))
    self.assertLess(abs(samples.mean() - expected), 4 * error + 1e-6)

  @parameterized.named_parameters(*PROTOCOLS)
  def test_the_optimum_reaches_its_exact_values(self, protocol):
    tree = tree_lib.build(PROCESS, protocol)
    best = optimum.solve(tree, 0.45)
    batch = roll(tree, best.policy)
    self.assert_means(batch.correct, best.values.correct)
    self.assert_means(batch.costs.sum(axis=1), best.values.cost)
    self.assert_means(batch.loss, best.values.loss)
    alone = tree_lib.evaluate(tree, tree_lib.constant(tree, (0, 0, 1)))
    self.assert_means(batch.correct - batch.gain + batch.loss, alone.correct)

  @parameterized.named_parameters(*PROTOCOLS)
  def test_the_largest_alone_is_the_reference(self, protocol):
    tree = tree_lib.build(PROCESS, protocol)
    batch = roll(tree, tree_lib.constant(tree, (0.0, 0.0, 1.0)))
    np.testing.assert_array_equal(batch.loss, 0.0)
    np.testing.assert_array_equal(batch.gain, 0.0)
    asked = 1 if protocol.name == 'escalate' else 3
    np.testing.assert_array_equal(batch.mask.sum(axis=1), asked)

  @parameterized.named_parameters(*PROTOCOLS)
  def test_records_actions_and_their_probabilities(self, protocol):
    tree = tree_lib.build(PROCESS, protocol)
    batch = roll(tree, tree_lib.constant(tree, (0.5, 0.3, 0.2)))
    self.assertEqual(batch.actions.dtype, np.int32)
    probabilities = np.array([0.5, 0.3, 0.2], np.float32)
    np.testing.assert_array_equal(
        batch.behaviour[batch.mask], probabilities[batch.actions][batch.mask]
    )
    np.testing.assert_array_equal(batch.behaviour[~batch.mask], 1.0)
    costs = process_lib.action_costs(tree.process, protocol)
    expected = costs[np.arange(3), batch.actions] * batch.mask
    np.testing.assert_allclose(batch.costs, expected, rtol=1e-6)
    np.testing.assert_array_equal(batch.available.all(axis=-1), batch.mask)
    self.assertFalse(batch.features[~batch.mask].any())
    # After a hand-over there are no more decisions.
    self.assertFalse((batch.mask[:, 1:] & ~batch.mask[:, :-1]).any())

  @parameterized.named_parameters(*PROTOCOLS)
  def test_histories_give_the_probability_of_a_right_answer(self, protocol):
    # Whatever the policy so far: where the small model writes the last step,
    # the answer is right as often as the history says.
    tree = tree_lib.build(PROCESS, protocol)
    stay = np.eye(3)[0]
    policy = [
        0.8 * stay + 0.2 * table
        for table in simulation_test.random_policy(tree)
    ]
    policy[-1] = np.tile([1.0, 0.0, 0.0], (len(policy[-1]), 1))
    batch = roll(tree, policy)
    last = tree.levels[-1]
    right = last.gains[:, 0, 0] / last.chance
    _, where = np.unique(last.features, axis=0, return_index=True)
    asked = batch.mask[:, -1]
    seen = batch.features[asked, -1]
    checked = 0
    for n in where:
      rows = (seen == last.features[n]).all(axis=1)
      if rows.sum() < 200:
        continue
      checked += 1
      got = batch.correct[asked][rows].mean()
      error = np.sqrt(right[n] * (1 - right[n]) / rows.sum())
      self.assertLess(abs(got - right[n]), 4.5 * error)
    self.assertGreaterEqual(checked, 5)

  def test_random_rates_cover_all_costs(self):
    tree = tree_lib.build(PROCESS, protocols.Protocol('switch'))

    @jax.jit
    def run(rng):
      rates, acting = jax.random.split(rng)
      behaviour = sampling.random_rates(PROCESS, rates, 2_000)
      return sampling.rollout(tree, behaviour, acting, 2_000)

    batch = run(jax.random.key(0))
    costs = np.asarray(batch.costs.sum(axis=1))
    counts, _ = np.histogram(costs, 4, (0.1, 1.0))
    self.assertGreater(counts.min(), 50)
    # A trajectory has the same rate at all its steps.
    stay = np.where(
        batch.actions == 0, batch.behaviour, 1 - 2 * batch.behaviour
    )
    np.testing.assert_allclose(stay - stay[:, :1], 0.0, atol=1e-6)

  def test_same_key_same_bits(self):
    tree = tree_lib.build(PROCESS, protocols.Protocol('redraft'))
    policy = tree_lib.constant(tree, (0.5, 0.3, 0.2))
    first, second, other = (roll(tree, policy, seed) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    self.assertTrue((first.actions != other.actions).any())


class LaddersTest(parameterized.TestCase):

  @parameterized.parameters('peek', 'commit')
  def test_closed_form_equals_the_exact_values(self, view):
    tree, batch = ladders(view)
    size = batch.features.shape[-1]
    weights = np.random.default_rng(0).normal(size=(size, 3)).astype(np.float32)
    got = exact.exact_outcomes(batch.features @ weights, batch)
    policy = [jax.nn.softmax(x.features @ weights) for x in tree.levels]
    expected = tree_lib.evaluate(tree, policy)
    for name, value in expected._asdict().items():
      samples = np.asarray(getattr(got, name), np.float64)
      error = samples.std() / np.sqrt(NUM)
      self.assertLess(abs(samples.mean() - value), 4 * error + 1e-6, name)

  def test_the_reference_is_the_first_hand_over(self):
    _, batch = ladders('peek')
    np.testing.assert_array_equal(batch.loss[..., 1:][:, 0, -1], 0.0)
    right = batch.correct[..., 1:][:, 0, -1]
    np.testing.assert_array_equal(
        batch.loss[..., 1:],
        right[:, None, None] * (1.0 - batch.correct[..., 1:]),
    )
    np.testing.assert_array_equal(
        batch.loss[..., 0].sum(axis=1),
        right * (1.0 - batch.correct[..., 0].sum(axis=1)),
    )

  def test_costs_by_hand(self):
    # 3 steps, at 1/30 of all-large for the small, 1/3 for the largest: handing
    # over at 1 with a peek, two drafts and two large steps.
    _, batch = ladders('peek')
    self.assertAlmostEqual(
        float(batch.cost[..., 1:][0, 1, 1]), 22 / 30, places=6
    )
    self.assertAlmostEqual(
        float(batch.cost[..., 0].sum(axis=1)[0]), 0.1, places=6
    )

  def test_thresholds_reach_their_exact_values(self):
    tree, batch = ladders('peek')
    uncertainty = histories.uncertainty_weights(PROCESS, tree.protocol)
    scores = np.asarray(batch.features @ uncertainty)
    truth = tree_lib.evaluate(
        tree,
        tree_lib.thresholded(
            tree, [x.features @ uncertainty for x in tree.levels], 0.3
        ),
    )
    above = scores >= 0.3
    first, ever = above.argmax(axis=1), above.any(axis=1)
    rows = np.arange(NUM)
    loss = np.where(
        ever,
        batch.loss[..., 1:][rows, first, -1],
        batch.loss[..., 0].sum(axis=1),
    )
    error = loss.std() / np.sqrt(NUM)
    self.assertLess(abs(loss.mean() - truth.loss), 4 * error)
    self.assertGreater(truth.loss, 20 * error)

  def test_refuses_other_protocols(self):
    tree = tree_lib.build(PROCESS, protocols.Protocol('switch'))
    with self.assertRaisesRegex(ValueError, 'is switch; .*for escalate only'):
      sampling.sample_ladders(tree, jax.random.key(0), 8)


if __name__ == '__main__':
  absltest.main()
