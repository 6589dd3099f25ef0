"""Tests of objectives on trajectories by hand: clipping, defaults, shapes."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from routing.objectives import policy_gradient
from routing.objectives import soft_threshold
from routing.objectives import vtrace
from tests import policy_gradient_test


class VtraceTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.values = jnp.array([[1.0, 2.0, 9.0], [3.0, 9.0, 9.0]])
    self.rewards = jnp.array([[0.5, 3.0, 9.0], [1.0, 9.0, 9.0]])
    self.ratios = jnp.array([[2.0, 4.0, 9.0], [0.5, 9.0, 9.0]])
    self.mask = jnp.array([[True, True, False], [True, False, False]])

  def test_clipping_thresholds_of_one_are_the_default(self):
    args = self.values, self.rewards, self.ratios, self.mask
    got = vtrace.targets_and_advantages(*args)
    want = vtrace.targets_and_advantages(*args, rho_bar=1.0, c_bar=1.0)
    np.testing.assert_array_equal(got, want)
    # v_1 = 3, v_0 = 1 + (.5 + 2 - 1) + (3 - 2) = 3.5; 3 + .5 * (1 - 3) = 2.
    np.testing.assert_allclose(got[0], [[3.5, 3, 0], [2, 0, 0]], rtol=1e-6)
    # 1 * (.5 + 3 - 1); 3 - 2; .5 * (1 - 3).
    np.testing.assert_allclose(got[1], [[2.5, 1, 0], [-1, 0, 0]], rtol=1e-6)

  def test_each_clipping_threshold_has_its_own_effect(self):
    args = self.values, self.rewards, self.ratios, self.mask
    targets, advantages = vtrace.targets_and_advantages(
        *args, rho_bar=3.0, c_bar=0.5
    )
    # v_1 = 2 + 3 * 1 = 5; v_0 = 1 + 2 * 1.5 + .5 * (5 - 2) = 5.5.
    np.testing.assert_allclose(targets[0], [5.5, 5.0, 0.0], rtol=1e-6)
    # 2 * (.5 + 5 - 1) = 9; 3 * 1.
    np.testing.assert_allclose(advantages[0], [9.0, 3.0, 0.0], rtol=1e-6)

  def test_expected_return_does_not_clip_by_default(self):
    args = self.values, self.rewards, self.ratios, self.mask
    # v_1 = 2 + 4 * 1 = 6; v_0 = 1 + 2 * (.5 + 6 - 1) = 12; 3 - .5 * 2 = 2.
    np.testing.assert_allclose(
        vtrace.expected_return(*args), (12 + 2) / 2, rtol=1e-6
    )
    # With ratios clipped at 1: 3.5 and 2.
    np.testing.assert_allclose(
        vtrace.expected_return(*args, ratio_clip=1.0), 2.75, rtol=1e-6
    )

  def test_reach_by_hand(self):
    got = vtrace.reach_weights(self.ratios, self.mask)
    np.testing.assert_array_equal(got, [[1, 2, 0], [1, 0, 0]])
    full = jnp.ones((2, 3), bool)
    got = vtrace.reach_weights(self.ratios, full)
    np.testing.assert_array_equal(got, [[1, 2, 8], [1, 0.5, 4.5]])
    got = vtrace.reach_weights(self.ratios, full, maximum=3.0)
    np.testing.assert_array_equal(got, [[1, 2, 3], [1, 0.5, 3]])
    gradient = jax.grad(lambda x: vtrace.reach_weights(x, full).sum())
    np.testing.assert_array_equal(gradient(self.ratios), 0.0)

  def test_inconsistent_shapes_and_types_are_refused(self):
    good = self.values, self.rewards, self.ratios, self.mask
    for k in range(4):
      bad = [x[:, :2] if i == k else x for i, x in enumerate(good)]
      with self.assertRaises(AssertionError):
        vtrace.targets_and_advantages(*bad)
    with self.assertRaises(AssertionError):
      vtrace.targets_and_advantages(*(x[0] for x in good))
    with self.assertRaises(AssertionError):
      vtrace.targets_and_advantages(*good[:3], self.mask.astype(int))
    with self.assertRaises(AssertionError):
      vtrace.targets_and_advantages(self.values.astype(int), *good[1:])
    with self.assertRaises(AssertionError):
      vtrace.reach_weights(self.ratios, self.mask[:, :2])
    with self.assertRaises(AssertionError):
      vtrace.reach_weights(self.ratios[0], self.mask[0])


class PolicyGradientTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    # The trajectories have two decisions, one and none.
    self.batch = policy_gradient_test._batch(
        batch_size=3, num_steps=2, num_routes=2
    ).replace(
        mask=np.array([[True, True], [True, False], [False, False]]),
        available=np.ones((3, 2, 2), bool),
        actions=np.array([[0, 1], [1, 0], [0, 0]], np.int32),
    )
    log_probs = lambda x: jnp.log(jnp.array([x, 1 - x]))
    rows = lambda *p: jnp.stack([log_probs(x) for x in p]).reshape(3, 2, 2)
    self.old = rows(0.5, 0.5, 0.5, 0.5, 0.5, 0.5)
    self.new = rows(0.6, 0.2, 0.75, 0.9, 0.9, 0.9)
    self.advantages = jnp.array([[1.0, -2.0], [3.0, 99.0], [99.0, 99.0]])

  def test_surrogate_by_hand(self):
    # Ratios 1.2, 1.6 and .5: 1.2 - 3.2 + 1.5 = -.5, over two trajectories.
    got = policy_gradient.surrogate(
        self.new, self.old, self.batch, self.advantages
    )
    np.testing.assert_allclose(got, -0.25, rtol=1e-5)
    # Clipped to [.9, 1.1]: 1.1 - 3.2 + 1.5 = -.6, since min(1.5, 2.7) is 1.5.
    got = policy_gradient.surrogate(
        self.new, self.old, self.batch, self.advantages, clip=0.1
    )
    np.testing.assert_allclose(got, -0.3, rtol=1e-5)

  def test_loss_and_metrics_by_hand(self):
    loss, logged = policy_gradient.policy_loss(
        self.new,
        self.batch,
        self.advantages,
        self.old,
        clip=0.3,
        entropy_weight=0.5,
        kl_weight=2.0,
    )
    probabilities = np.array([0.6, 0.2, 0.75])
    entropy = -np.mean(
        probabilities * np.log(probabilities)
        + (1 - probabilities) * np.log(1 - probabilities)
    )
    kl = (
        -np.mean(np.log(2 * probabilities) + np.log(2 * (1 - probabilities)))
        / 2
    )
    # 1.2 - 3.2 + 1.5: each unclipped term is the smaller one.
    self.assertAlmostEqual(float(logged['surrogate']), -0.25, places=5)
    self.assertAlmostEqual(float(logged['entropy']), entropy, places=5)
    self.assertAlmostEqual(float(logged['kl']), kl, places=5)
    # Two of three ratios, 1.6 and .5, are outside [.7, 1.3].
    self.assertAlmostEqual(float(logged['clipped']), 2 / 3, places=5)
    self.assertAlmostEqual(float(loss), 0.25 - 0.5 * entropy + 2 * kl, places=5)
    self.assertAlmostEqual(
        float(policy_gradient.mean_kl(self.new, self.old, self.batch)),
        kl,
        places=5,
    )

  def test_critic_loss_by_hand(self):
    got = policy_gradient.critic_loss(
        jnp.array([[1.0, 2.0], [4.0, 9.0]]),
        jnp.array([[0.0, 4.0], [1.0, 0.0]]),
        jnp.array([[True, True], [True, False]]),
    )
    np.testing.assert_allclose(got, (1 + 4 + 9) / 3 / 2, rtol=1e-6)
    one = policy_gradient.critic_loss(
        jnp.array([[1.0, 2.0]]),
        jnp.array([[4.0, 9.0]]),
        jnp.array([[True, False]]),
    )
    np.testing.assert_allclose(one, 4.5, rtol=1e-6)
    nothing = policy_gradient.critic_loss(
        jnp.ones((1, 2)), jnp.zeros((1, 2)), jnp.zeros((1, 2), bool)
    )
    self.assertEqual(nothing, 0.0)

  def test_inconsistent_shapes_and_types_are_refused(self):
    batch, ones = self.batch, jnp.ones((3, 2))
    for call in (
        lambda: policy_gradient.log_probs(self.new[:, :1], batch),
        lambda: policy_gradient.critic_loss(ones, ones[:1], batch.mask),
        lambda: policy_gradient.surrogate(
            self.new, self.old[:1], batch, self.advantages
        ),
        lambda: policy_gradient.surrogate(
            self.new, self.old, batch, self.advantages[:, :1]
        ),
        lambda: policy_gradient.signals(
            batch.replace(costs=batch.costs[:, :1]), form='budget'
        ),
    ):
      with self.assertRaises(AssertionError):
        call()


class SoftThresholdTest(parameterized.TestCase):

  @parameterized.parameters((0.3, 0.01), (0.3, 0.2), (0.8, 0.05))
  def test_three_routes_by_the_formula(self, kappa, epsilon):
    probabilities = np.array([0.5, 0.2, 0.3])
    got = soft_threshold.thresholded(
        jnp.log(jnp.array(probabilities)), kappa, epsilon=epsilon
    )
    leave = 1 / (1 + np.exp(-(0.5 - kappa) / epsilon))
    want = [1 - leave, leave * 0.4, leave * 0.6]
    np.testing.assert_allclose(jnp.exp(got), want, rtol=1e-4, atol=1e-7)
    if epsilon == 0.01:
      plain = soft_threshold.thresholded(
          jnp.log(jnp.array(probabilities)), kappa
      )
      np.testing.assert_array_equal(got, plain)

  @parameterized.parameters((1, 0.5, 0.2), (4, 0.5, 0.2), (9, 2.0, 0.0))
  def test_the_step_size_decays_by_its_formula(self, step, rate, xi):
    got = soft_threshold.update_kappa(
        0.5, 0.75, step, alpha=0.25, learning_rate=rate, xi=xi
    )
    want = 0.5 - rate * step ** (-0.5 - xi) * (0.75 - 0.25)
    np.testing.assert_allclose(got, want, rtol=1e-5)

  def test_default_step_size(self):
    got = soft_threshold.update_kappa(0.5, 1.0, 4, alpha=0.25)
    np.testing.assert_allclose(got, 0.5 - 4**-0.6 * 0.75, rtol=1e-5)


if __name__ == '__main__':
  absltest.main()
