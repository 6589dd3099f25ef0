"""Tests of the constrained step by hand: dual, line search, defaults."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from routing.objectives import trust_region

_MAX_KL = 0.02
_solve_dual = jax.jit(trust_region.solve_dual)


def _update(params, surrogates, **kwargs):
  """`trust_region.update` in one program, and what it returns in NumPy."""
  update = lambda params: trust_region.update(params, surrogates, **kwargs)
  return jax.device_get(jax.jit(update)(params))


def best_dual(q, r, s, c, max_kl):
  """Returns the multipliers by a search over lam, whose best nu is known."""

  def value(lam):
    nu = max((lam * c - r) / s, 0.0)
    inner = (q + 2 * nu * r + nu**2 * s) / (2 * lam)
    return -inner + nu * c - lam * max_kl, nu

  logs = np.linspace(-8, 8, 4_001)
  start = logs[np.argmax([value(np.exp(x))[0] for x in logs])]
  found = optimize.minimize_scalar(
      lambda x: -value(np.exp(x))[0],
      bounds=(start - 0.01, start + 0.01),
      method='bounded',
      options={'xatol': 1e-10},
  )
  lam = float(np.exp(found.x))
  return lam, value(lam)[1]


class DualTest(parameterized.TestCase):

  @parameterized.product(
      r=(-1.0, -0.2, 0.3, 1.1), c=(-0.3, -0.15, -0.05, 0.02, 0.12, 0.18)
  )
  def test_equals_a_search(self, r, c):
    # q s > r^2, and the ball of radius sqrt(2 * .02 * s) reaches .253.
    q, s = 1.5, 1.6
    lam, nu = _solve_dual(q, r, s, c, _MAX_KL)
    want = best_dual(q, r, s, c, _MAX_KL)
    np.testing.assert_allclose(lam, want[0], rtol=2e-3)
    np.testing.assert_allclose(nu, want[1], rtol=2e-3, atol=2e-3)

  def test_by_hand(self):
    # q = s = 1, r = 0: lam is sqrt(q / (2 kl)) = 5 while the constraint is
    # slack. At c = .12, B = .04 - .0144 = .16^2, lam = 1 / .16 and nu = lam c.
    for c, lam, nu in ((-0.1, 5.0, 0.0), (0.12, 6.25, 0.75), (0.0, 5.0, 0.0)):
      got = _solve_dual(1.0, 0.0, 1.0, c, _MAX_KL)
      np.testing.assert_allclose(got, (lam, nu), rtol=1e-5, atol=1e-6)

  @parameterized.product(r=(-0.4, 0.3), c=(-0.3, -0.1, 0.1), scale=(1e-2, 30.0))
  def test_multipliers_scale_with_the_loss(self, r, c, scale):
    solve = lambda k: _solve_dual(1.5 * k**2, r * k, 1.6, c, _MAX_KL)
    want = scale * np.array(solve(1.0))
    np.testing.assert_allclose(solve(scale), want, rtol=1e-4, atol=1e-6)

  @parameterized.parameters(-0.2, 0.0, 0.1)
  def test_multipliers_without_a_gradient_are_finite(self, c):
    lam, nu = _solve_dual(0.0, 0.0, 0.0, c, _MAX_KL)
    self.assertTrue(np.isfinite(lam) and np.isfinite(nu))
    self.assertGreater(lam, 0)

  def test_parallel_gradients_keep_a_minimum_share_of_q(self):
    # g = b: q = r = s = 1. A step that lowers the loss lowers the constraint,
    # too, so that the constraint is slack.
    for c in (-0.1, 0.1):
      lam, nu = _solve_dual(1.0, 1.0, 1.0, c, _MAX_KL)
      np.testing.assert_allclose(lam, 5.0, rtol=1e-3)
      np.testing.assert_allclose(nu, 0.0, atol=1e-3)
    # g = -b and c = -.1: the step goes as far as the constraint allows. A is at
    # least 1e-6 q, so lam = sqrt(1e-6 / (.04 - .01)) and nu = -.1 lam + 1.
    lam, nu = _solve_dual(1.0, -1.0, 1.0, -0.1, _MAX_KL)
    small = np.sqrt(1e-6 / 0.03)
    np.testing.assert_allclose(lam, small, rtol=1e-3)
    np.testing.assert_allclose(nu, 1 - 0.1 * small, rtol=1e-4)


class ProposeTest(parameterized.TestCase):

  def test_the_correction_is_the_shortest_step_up(self):
    hessian = np.diag([1.0, 4.0])
    b = np.array([1.0, 2.0])
    _, correction, _ = trust_region.propose(
        jnp.array([-1.0, 0.5]),
        jnp.array(b),
        0.05,
        _MAX_KL,
        lambda x: jnp.linalg.solve(hessian, x),
    )
    # H^-1 b = (1, .5) and b.H^-1.b = 2.
    np.testing.assert_allclose(correction, [0.5, 0.25], rtol=1e-6)

  @parameterized.parameters((0.1999, False), (0.2001, True), (-0.2001, False))
  def test_recovery_starts_where_the_trust_region_ends(
      self, excess, is_recovery
  ):
    x, _, metrics = trust_region.propose(
        jnp.array([-1.0, 0.0]),
        jnp.array([0.0, 1.0]),
        excess,
        _MAX_KL,
        lambda x: x,
    )
    self.assertEqual(bool(metrics['is_recovery']), is_recovery)
    if is_recovery:
      np.testing.assert_allclose(x, [0.0, -0.2], atol=1e-6)
      self.assertEqual(metrics['trust_multiplier'], 0.0)
      self.assertEqual(metrics['constraint_multiplier'], 0.0)
    else:
      self.assertGreater(metrics['trust_multiplier'], 0.0)


class SearchTest(parameterized.TestCase):
  """Without a constraint, the step is 0.2 in one parameter."""

  def steep(self, factor):
    """Returns surrogates whose divergence has a cubic term with this factor."""
    return lambda x: (
        -x[0],
        jnp.float32(-1.0),
        x[0] ** 2 / 2 + factor * jnp.abs(x[0]) ** 3,
    )

  @parameterized.parameters((1_990.0, 10), (3_900.0, 11))
  def test_ten_backtracks_by_a_fifth_are_the_default(self, factor, num):
    # .2 * .8^10 = .02147 has a divergence of .00023 + factor * 9.9e-6, which
    # is .01994 or .0388; .2 * .8^11 of the latter .0199.
    params = np.zeros(1, np.float32)
    update = lambda **kwargs: _update(
        params, self.steep(factor), max_kl=_MAX_KL, damping=0.0, **kwargs
    )
    new, metrics = update()
    if num > 10:
      self.assertEqual((metrics['scale'], new[0]), (0.0, 0.0))
      new, metrics = update(max_backtracks=num)
    np.testing.assert_allclose(metrics['scale'], 0.8**num, rtol=1e-5)
    np.testing.assert_allclose(new, 0.2 * 0.8**num, rtol=1e-5)
    self.assertLessEqual(metrics['kl'], _MAX_KL)
    # One backtrack less is too few.
    _, metrics = update(max_backtracks=num - 1)
    self.assertEqual(metrics['scale'], 0.0)

  def test_default_damping_is_a_hundredth(self):
    plain = lambda x: (-x[0], jnp.float32(-1.0), x[0] ** 2 / 2)
    for kwargs, curvature in (({}, 1.01), (dict(damping=0.21), 1.21)):
      new, metrics = _update(
          np.zeros(1, np.float32), plain, max_kl=_MAX_KL, **kwargs
      )
      np.testing.assert_allclose(new, 0.2 / np.sqrt(curvature), rtol=1e-5)
      np.testing.assert_allclose(metrics['loss'], -new[0], rtol=1e-6)
      np.testing.assert_allclose(metrics['kl'], new[0] ** 2 / 2, rtol=1e-5)
      self.assertEqual((metrics['scale'], metrics['excess']), (1.0, -1.0))

  def test_ten_iterations_are_the_default(self):
    weights = np.float32(2.0 ** np.arange(14))
    slopes = np.float32(np.random.default_rng(0).normal(size=14))
    surrogates = lambda x: (
        slopes @ x,
        jnp.float32(-1.0),
        jnp.sum(weights * x**2) / 2,
    )
    update = lambda **kwargs: _update(
        np.zeros(14, np.float32), surrogates, max_kl=_MAX_KL, **kwargs
    )[0]
    plain = update()
    np.testing.assert_array_equal(plain, update(num_iterations=10))
    for num in (9, 11):
      self.assertGreater(np.abs(plain - update(num_iterations=num)).max(), 0)

  def test_a_step_over_a_curved_constraint_is_corrected(self):
    # The start is on the constraint. A step of .2 exceeds it, since x_1 + x_0^2
    # is .04. Corrected by .08, it leaves the trust region. A step of .16,
    # corrected by .0512, does not.
    surrogates = lambda x: (-x[0], x[1] + x[0] ** 2, jnp.sum(x**2) / 2)
    new, metrics = _update(
        np.zeros(2, np.float32), surrogates, max_kl=_MAX_KL, damping=0.0
    )
    np.testing.assert_allclose(new, [0.16, -0.0512], rtol=1e-4)
    np.testing.assert_allclose(metrics['scale'], 0.8, rtol=1e-6)
    np.testing.assert_allclose(metrics['excess'], -0.0256, rtol=1e-3)

  def test_recovery_may_raise_the_loss_but_not_the_constraint(self):
    # The constraint is far exceeded, and lowering it raises the loss. The
    # divergence is slightly below its quadratic model, so that rounding does
    # not shorten the step.
    up = lambda x: (-x[0], 1.0 + x[0], x[0] ** 2 / 2 - x[0] ** 4)
    new, metrics = _update(
        np.zeros(1, np.float32), up, max_kl=_MAX_KL, damping=0.0
    )
    np.testing.assert_allclose(new, -0.2, rtol=1e-5)
    self.assertTrue(metrics['is_recovery'])
    np.testing.assert_allclose(metrics['loss'], 0.2, rtol=1e-5)
    # If the constraint falls to first order only, no step is taken.
    worse = lambda x: (-x[0], 1.0 + x[0] + 1e4 * x[0] ** 2, x[0] ** 2 / 2)
    new, metrics = _update(
        np.zeros(1, np.float32), worse, max_kl=_MAX_KL, damping=0.0
    )
    self.assertEqual((metrics['scale'], new[0]), (0.0, 0.0))

  def test_a_constant_constraint_at_zero_allows_the_full_step(self):
    surrogates = lambda x: (-x[0], 0.0 * x[0], x[0] ** 2 / 2 - x[0] ** 4)
    new, metrics = _update(
        np.zeros(1, np.float32), surrogates, max_kl=_MAX_KL, damping=0.0
    )
    np.testing.assert_allclose(new, 0.2, rtol=1e-5)
    self.assertEqual((metrics['scale'], metrics['excess']), (1.0, 0.0))

  def test_an_equal_loss_is_accepted_and_a_higher_one_is_not(self):
    # The constraint holds. If the true loss rises, no step is taken.
    for rise, scale in ((0.0, 1.0), (1e-3, 0.0)):
      # The slope at 0 is -1, but the loss stays as it was, or rises.
      surrogates = lambda x, rise=rise: (
          -x[0] + jax.lax.stop_gradient(x[0] + rise * (x[0] > 0)),
          jnp.float32(-1.0),
          x[0] ** 2 / 2,
      )
      _, metrics = _update(
          np.zeros(1, np.float32), surrogates, max_kl=_MAX_KL, damping=0.01
      )
      self.assertEqual(metrics['scale'], scale)


if __name__ == '__main__':
  absltest.main()
