"""Tests of both Lagrangians, the dual steps, and the score at a level."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from routing.objectives import exact
from routing.objectives import lagrangian


def _outcomes(correct, cost, loss):
  return exact.Outcomes(
      correct=jnp.float32(correct),
      cost=jnp.float32(cost),
      loss=jnp.float32(loss),
  )


_NEVER = _outcomes(0.4, 0.2, 0.5)
_AT_ONCE = _outcomes(0.9, 1.1, 0.0)


class LagrangianTest(parameterized.TestCase):

  def test_loss_of_both_forms(self):
    outcomes = _outcomes(0.7, 0.6, 0.1)
    # budget: -(0.7 - 2 * (0.6 - 0.5)) = -0.5
    np.testing.assert_allclose(
        lagrangian.lagrangian_loss(outcomes, 2.0, 0.5, form='budget'),
        -0.5,
        rtol=1e-6,
    )
    # reliability: 0.6 + 2 * (0.1 - 0.05) = 0.7
    np.testing.assert_allclose(
        lagrangian.lagrangian_loss(outcomes, 2.0, 0.05, form='reliability'),
        0.7,
        rtol=1e-6,
    )

  def test_damping_adds_to_the_multiplier_in_proportion(self):
    # Excess 0.1: the multiplier is 2 + 5 * 0.1 = 2.5, and the gradient in cost
    # is the same. Excess -0.3: 2 - 1.5 = 0.5. Excess -0.5: 0.
    for cost, pressure in ((0.6, 2.5), (0.2, 0.5), (0.0, 0.0)):
      gradient = jax.grad(
          lambda c: lagrangian.lagrangian_loss(
              _outcomes(0.7, 0, 0.1).replace(cost=c),
              2.0,
              0.5,
              form='budget',
              damping=5.0,
          )
      )(cost)
      np.testing.assert_allclose(gradient, pressure, atol=1e-6)

  @parameterized.parameters('budget', 'reliability')
  def test_multiplier_gets_no_gradient(self, form):
    gradient = jax.grad(
        lambda lam: lagrangian.lagrangian_loss(
            _outcomes(0.7, 0.6, 0.1), lam, 0.05, form=form
        )
    )(1.0)
    self.assertEqual(gradient, 0.0)

  @parameterized.parameters(
      (1.0, 0.5, 1.05),  # Over the level: 1 + 0.1 * 0.5.
      (1.0, -0.5, 0.95),
      (0.01, -0.5, 0.0),  # Projected onto lam >= 0,
      (1.98, 0.5, 2.0),  # and onto lam <= maximum.
  )
  def test_dual_step(self, multiplier, excess, expected):
    got = lagrangian.update_multiplier(
        multiplier, excess, learning_rate=0.1, maximum=2.0
    )
    np.testing.assert_allclose(got, expected, rtol=1e-6)

  def test_control_by_hand(self):
    control = functools.partial(
        lagrangian.control_multiplier,
        proportional=2.0,
        integral=0.5,
        derivative=4.0,
        maximum=3.0,
    )
    controller = lagrangian.init_controller(0.1)
    # 2 * 0.2 + (0.1 + 0.5 * 0.2) = 0.6; the first update has no derivative.
    multiplier, controller = control(controller, 0.2)
    np.testing.assert_allclose(multiplier, 0.6, rtol=1e-6)
    # Rises by 0.1: 2 * 0.3 + (0.2 + 0.5 * 0.3) + 4 * 0.1 = 1.35.
    multiplier, controller = control(controller, 0.3)
    np.testing.assert_allclose(multiplier, 1.35, rtol=1e-6)
    # Falls, so that the derivative term is 0: 0 + 0.35 + 0.
    multiplier, controller = control(controller, 0.0)
    np.testing.assert_allclose(multiplier, 0.35, rtol=1e-6)
    # 2 * -1 + max(0.35 - 0.5, 0) < 0; then the maximum.
    multiplier, controller = control(controller, -1.0)
    self.assertEqual(multiplier, 0.0)
    multiplier, controller = control(controller, 100.0)
    self.assertEqual((multiplier, controller.integral), (3.0, 3.0))

  def test_integral_alone_is_the_dual_step(self):
    excesses = np.random.default_rng(0).normal(size=50).astype(np.float32)
    multiplier = jnp.float32(0.5)
    controller = lagrangian.init_controller(multiplier)
    for excess in excesses:
      multiplier = lagrangian.update_multiplier(
          multiplier, excess, learning_rate=0.3, maximum=1.0
      )
      got, controller = lagrangian.control_multiplier(
          controller,
          excess,
          proportional=0.0,
          integral=0.3,
          derivative=0.0,
          maximum=1.0,
      )
      self.assertEqual(got, multiplier)

  def test_proportional_control_damps_the_oscillation(self):
    # The optimum is a mixture: cost 0 below multiplier 1, cost 1 above it, and
    # half of each at level 0.5. A policy that follows slowly oscillates
    # for ever under the integral alone.
    def last_swing(proportional):
      def step(carry, _):
        controller, cost = carry
        multiplier, controller = lagrangian.control_multiplier(
            controller,
            cost - 0.5,
            proportional=proportional,
            integral=0.05,
            derivative=0.0,
            maximum=10.0,
        )
        cost = jnp.clip(cost + 0.05 * (1.0 - multiplier), 0.0, 1.0)
        return (controller, cost), cost

      start = lagrangian.init_controller(0.0), jnp.float32(1.0)
      _, costs = jax.lax.scan(step, start, length=2_000)
      return np.ptp(costs[-500:])

    self.assertGreater(last_swing(0.0), 0.5)
    self.assertLess(last_swing(1.0), 1e-4)

  @parameterized.parameters(
      # budget 0.5. At cost 0.6, mixed with always small (0.2): weight 0.25,
      # hence 0.75 * 0.7 + 0.25 * 0.4 = 0.625.
      ('budget', 0.5, (0.7, 0.6, 0.2), 0.625),
      # At cost 0.4, mixed with always large (1.1): weight 1/7, hence
      # 6/7 * 0.6 + 1/7 * 0.9 = 0.642857.
      ('budget', 0.5, (0.6, 0.4, 0.2), 0.642857),
      # Exactly at the level: no mixing.
      ('budget', 0.5, (0.6, 0.5, 0.2), 0.6),
      # Cheaper and more accurate than always large: mixing would only harm.
      ('budget', 0.5, (0.95, 0.4, 0.0), 0.95),
      # alpha 0.1. At loss 0.2, mixed with always large (0): weight 1/2, hence
      # cost 0.5 * 0.6 + 0.5 * 1.1 = 0.85.
      ('reliability', 0.1, (0.7, 0.6, 0.2), -0.85),
      # At loss 0, mixed with always small (0.5): weight 0.2, hence
      # cost 0.8 * 0.6 + 0.2 * 0.2 = 0.52.
      ('reliability', 0.1, (0.7, 0.6, 0.0), -0.52),
      # More expensive than always large, and below its level: no mixing.
      ('reliability', 0.1, (0.9, 0.1, 0.1), -0.1),
  )
  def test_score_at_level(self, form, level, policy, expected):
    got = lagrangian.score_at_level(
        _outcomes(*policy), _NEVER, _AT_ONCE, level, form=form
    )
    np.testing.assert_allclose(got, expected, rtol=1e-5)

  def test_unreachable_level_scores_minus_infinity(self):
    got = lagrangian.score_at_level(
        _outcomes(0.7, 0.6, 0.2), _NEVER, _AT_ONCE, 0.1, form='budget'
    )
    self.assertEqual(got, -np.inf)

  def test_score_where_all_policies_are_equal(self):
    # All outcomes are equal: the mixing weight would be 0 / 0.
    same = _outcomes(1.0, 0.5, 0.0)
    with jax.debug_nans(True):
      got = lagrangian.score_at_level(same, same, same, 0.6, form='budget')
    self.assertEqual(got, 1.0)

  def test_unknown_form_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'budget, reliability'):
      lagrangian.check_form('both')

  @parameterized.parameters(
      ('budget', (0.1,)),
      ('budget', (0.4, 1.2)),
      ('reliability', (-0.1,)),
      ('budget', ()),
  )
  def test_level_out_of_range_is_refused(self, form, levels):
    with self.assertRaisesRegex(ValueError, 'objective.levels'):
      lagrangian.check_levels(levels, 0.2, form=form)

  def test_level_in_range_passes(self):
    for levels, form in (((0.2, 1.0), 'budget'), ((0.05,), 'reliability')):
      self.assertIsNone(lagrangian.check_levels(levels, 0.2, form=form))


if __name__ == '__main__':
  absltest.main()
