"""Tests of V-trace: by hand, a plain loop, rlax, Monte Carlo, unbiasedness."""

import itertools
import warnings

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from routing.objectives import vtrace

_targets = jax.jit(vtrace.targets_and_advantages)


def _draw(seed, batch_size=6, num_steps=5):
  """Returns values, rewards, ratios and mask of random trajectories."""
  rng = np.random.default_rng(seed)
  shape = batch_size, num_steps
  lengths = np.arange(batch_size) % (num_steps + 1)
  return (
      rng.normal(size=shape).astype(np.float32),
      rng.normal(size=shape).astype(np.float32),
      rng.lognormal(size=shape).astype(np.float32),
      np.arange(num_steps) < lengths[:, None],
  )


def _loop(values, rewards, ratios, length, rho_bar, c_bar):
  """Computes the definition, one trajectory and one step at a time."""
  targets, advantages = np.zeros(len(values)), np.zeros(len(values))
  next_value = next_target = 0.0
  for t in reversed(range(length)):
    rho, c = min(ratios[t], rho_bar), min(ratios[t], c_bar)
    targets[t] = (
        values[t]
        + rho * (rewards[t] + next_value - values[t])
        + c * (next_target - next_value)
    )
    advantages[t] = rho * (rewards[t] + next_target - values[t])
    next_value, next_target = values[t], targets[t]
  return targets, advantages


class TargetsTest(parameterized.TestCase):

  def test_by_hand(self):
    # Two steps, V = (1, 2), r = (0, 3), ratios (1/2, 4), clipped to (1/2, 1).
    # v_1 = 2 + 1 * (3 + 0 - 2) = 3; advantage 1 * (3 + 0 - 2) = 1.
    # v_0 = 1 + 1/2 * (0 + 2 - 1) + 1/2 * (3 - 2) = 2;
    # advantage 1/2 * (0 + 3 - 1) = 1.
    targets, advantages = _targets(
        np.float32([[1.0, 2.0]]),
        np.float32([[0.0, 3.0]]),
        np.float32([[0.5, 4.0]]),
        np.ones((1, 2), bool),
    )
    np.testing.assert_allclose(targets, [[2.0, 3.0]], rtol=1e-6)
    np.testing.assert_allclose(advantages, [[1.0, 1.0]], rtol=1e-6)

  @parameterized.parameters((1.0, 1.0), (2.0, 0.5), (np.inf, np.inf))
  def test_equals_a_plain_loop(self, rho_bar, c_bar):
    values, rewards, ratios, mask = _draw(0)
    got = _targets(values, rewards, ratios, mask, rho_bar=rho_bar, c_bar=c_bar)
    for n, length in enumerate(mask.sum(axis=1)):
      expected = _loop(values[n], rewards[n], ratios[n], length, rho_bar, c_bar)
      for x, y in zip(got, expected, strict=True):
        np.testing.assert_allclose(x[n], y, rtol=1e-5, atol=1e-6)

  def test_equals_rlax(self):
    with warnings.catch_warnings():
      # Its dependencies raise deprecation warnings.
      warnings.simplefilter('ignore')
      import rlax
    of_rlax = jax.jit(rlax.vtrace_td_error_and_advantage)
    values, rewards, ratios, mask = _draw(1)
    targets, advantages = map(
        np.asarray, _targets(values, rewards, ratios, mask)
    )
    for n, length in enumerate(mask.sum(axis=1)):
      if not length:
        continue
      now = slice(0, length)
      expected = of_rlax(
          values[n, now],
          np.append(values[n, 1:length], 0.0).astype(np.float32),
          rewards[n, now],
          np.ones(length, np.float32),
          ratios[n, now],
      )
      np.testing.assert_allclose(
          targets[n, now], values[n, now] + expected.errors, atol=1e-5
      )
      np.testing.assert_allclose(
          advantages[n, now], expected.pg_advantage, atol=1e-5
      )

  def test_ratios_of_one_give_monte_carlo_returns(self):
    values, rewards, ratios, mask = _draw(2)
    targets, advantages = _targets(values, rewards, np.ones_like(ratios), mask)
    earned = rewards * mask
    returns = np.cumsum(earned[:, ::-1], axis=1)[:, ::-1]
    np.testing.assert_allclose(targets, returns, atol=1e-5)
    np.testing.assert_allclose(advantages, (returns - values) * mask, atol=1e-5)

  def test_ratios_of_zero_give_the_critics_values(self):
    values, rewards, ratios, mask = _draw(3)
    targets, advantages = _targets(values, rewards, np.zeros_like(ratios), mask)
    np.testing.assert_array_equal(targets, values * mask)
    np.testing.assert_array_equal(advantages, 0.0)

  def test_padding_may_be_anything(self):
    values, rewards, ratios, mask = _draw(4)
    expected = _targets(values, rewards, ratios, mask)
    dirty = (np.where(mask, x, np.nan) for x in (values, rewards, ratios))
    got = _targets(*dirty, mask)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(np.asarray(got)[:, ~mask], 0.0)

  def test_outputs_have_no_gradient(self):
    values, rewards, ratios, mask = _draw(5)
    total = lambda v, r: sum(x.sum() for x in _targets(v, rewards, r, mask))
    gradients = jax.jit(jax.grad(total, argnums=(0, 1)))(values, ratios)
    np.testing.assert_array_equal(gradients, 0.0)


class OffPolicyTest(parameterized.TestCase):
  """All trajectories of 3 decisions, weighted by their probability."""

  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    actions = np.array(list(itertools.product((0, 1), repeat=3)))
    # Action 1 ends the trajectory, as a hand-over does.
    ended = np.cumsum(actions, axis=1) - actions > 0
    self.mask = ~ended
    behaviour, target = (0.1 + 0.8 * rng.random((2, 3))).astype(np.float32)
    mu, pi = (np.where(actions, p, 1 - p) for p in (behaviour, target))
    self.ratios = (pi / mu).astype(np.float32)
    rewards = rng.normal(size=(3, 2))
    self.rewards = rewards[np.arange(3), actions].astype(np.float32)
    # An ended trajectory occurs once per continuation; `free` corrects that.
    free = np.prod(np.where(ended, 0.5, 1.0), axis=1)
    self.action_probabilities = free * np.prod(np.where(ended, 1, mu), axis=1)
    probabilities = free * np.prod(np.where(ended, 1, pi), axis=1)
    self.expected = probabilities @ (self.rewards * self.mask).sum(axis=1)
    self.reached = np.cumprod([1.0, *(1 - target[:2])])
    self.values = rng.normal(size=3).astype(np.float32)

  def _mean_estimate(self, values, **kwargs):
    """Returns the mean of the estimates from single trajectories."""
    each = jax.jit(
        jax.vmap(
            lambda *row: vtrace.expected_return(
                values[None], *(x[None] for x in row), **kwargs
            )
        )
    )(self.rewards, self.ratios, self.mask)
    return self.action_probabilities @ np.asarray(each)

  def test_expected_return_is_unbiased_with_any_critic(self):
    self.assertAlmostEqual(self.action_probabilities.sum(), 1.0, places=6)
    for scale in (0, 1, 10):
      np.testing.assert_allclose(
          self._mean_estimate(scale * self.values), self.expected, atol=1e-5
      )

  def test_clipping_biases_towards_the_behaviour_policy(self):
    # The multiplier must not follow this bias.
    got = self._mean_estimate(self.values, ratio_clip=1.0)
    self.assertGreater(abs(got - self.expected), 0.05)

  def test_reach_weights_give_the_probability_of_a_decision(self):
    weights = vtrace.reach_weights(self.ratios, self.mask)
    np.testing.assert_allclose(
        self.action_probabilities @ weights, self.reached, rtol=1e-5
    )
    clipped = vtrace.reach_weights(self.ratios, self.mask, maximum=0.5)
    np.testing.assert_array_equal(clipped, np.minimum(weights, 0.5))

  def test_mean_ignores_trajectories_without_decisions(self):
    # One decision with reward 2; the other trajectory has none.
    got = vtrace.expected_return(
        jnp.zeros((2, 1)),
        jnp.full((2, 1), 2.0),
        jnp.ones((2, 1)),
        jnp.array([[True], [False]]),
    )
    self.assertEqual(got, 2.0)
    nothing = jnp.zeros((2, 1))
    got = vtrace.expected_return(nothing, nothing, nothing, nothing > 0)
    self.assertEqual(got, 0.0)


if __name__ == '__main__':
  absltest.main()
