"""Tests of the CPO step: a solver's optimum, a known best policy."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
from jax import flatten_util
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from routing.objectives import trust_region
from routing.policy import categorical

_MAX_KL = 0.02


def _quadratic(seed, size=5):
  """Returns random g, b and a well-conditioned H."""
  rng = np.random.default_rng(seed)
  g, b = rng.normal(size=(2, size))
  root = rng.normal(size=(size, size))
  return g, b, root @ root.T / size + 0.5 * np.eye(size)


@jax.jit
def _propose(g, b, hessian, excess):
  """Returns the step and its metrics, with a direct solver."""
  x, _, metrics = trust_region.propose(
      jnp.asarray(g),
      jnp.asarray(b),
      excess,
      _MAX_KL,
      lambda x: jnp.linalg.solve(hessian, x),
  )
  return x, metrics


def _reach(b, hessian):
  """Returns the largest b.x within the trust region."""
  return np.sqrt(2 * _MAX_KL * b @ np.linalg.solve(hessian, b))


def _solver(g, b, hessian, excess):
  """Returns the optimum of SciPy's solver."""
  result = optimize.minimize(
      lambda x: g @ x,
      np.zeros(len(g)),
      jac=lambda x: g,
      method='SLSQP',
      constraints=[
          dict(type='ineq', fun=lambda x: -excess - b @ x, jac=lambda x: -b),
          dict(
              type='ineq',
              fun=lambda x: _MAX_KL - x @ hessian @ x / 2,
              jac=lambda x: -hessian @ x,
          ),
      ],
      options=dict(ftol=1e-12, maxiter=500),
  )
  assert result.success, result.message
  return result.x


class ProposeTest(parameterized.TestCase):

  def test_by_hand(self):
    # H = 1, so the region is a ball of radius 0.2. g = (-1, 0), b = (0, 1):
    # with c = -1 the constraint is out of reach: x = (0.2, 0). With c = 0.12,
    # b.x <= -0.12 leaves sqrt(0.04 - 0.0144) = 0.16: x = (0.16, -0.12). With
    # c = 1 no step is feasible: the recovery step is x = (0, -0.2).
    for excess, expected in (
        (-1.0, (0.2, 0.0)),
        (0.12, (0.16, -0.12)),
        (1.0, (0.0, -0.2)),
    ):
      x, metrics = _propose([-1.0, 0.0], [0.0, 1.0], np.eye(2), excess)
      np.testing.assert_allclose(x, expected, atol=1e-6)
      self.assertEqual(metrics['is_recovery'], excess == 1.0)

  @parameterized.product(
      seed=(0, 1, 2, 3, 4, 5), share=(-1.5, -0.9, -0.3, 0.0, 0.3, 0.9)
  )
  def test_equals_a_solver(self, seed, share):
    g, b, hessian = _quadratic(seed)
    excess = share * _reach(b, hessian)
    x, metrics = _propose(g, b, hessian, excess)
    x = np.asarray(x, np.float64)
    self.assertFalse(metrics['is_recovery'])
    np.testing.assert_allclose(
        x, _solver(g, b, hessian, excess), rtol=1e-3, atol=2e-4
    )
    self.assertLessEqual(excess + b @ x, 1e-5)
    self.assertLessEqual(x @ hessian @ x / 2, _MAX_KL * (1 + 1e-4))

  @parameterized.parameters(-0.9, -0.3, 0.3, 0.9)
  def test_multipliers_meet_the_kkt_conditions(self, share):
    # Stationarity: g + nu b + lam H x = 0. Complementary slackness.
    g, b, hessian = _quadratic(7)
    excess = share * _reach(b, hessian)
    x, metrics = _propose(g, b, hessian, excess)
    lam = metrics['trust_multiplier']
    nu = metrics['constraint_multiplier']
    np.testing.assert_allclose(g + nu * b + lam * hessian @ x, 0, atol=1e-4)
    np.testing.assert_allclose(nu * (excess + b @ x), 0, atol=1e-5)

  @parameterized.parameters(1.01, 5.0)
  def test_recovers_where_no_step_is_feasible(self, share):
    g, b, hessian = _quadratic(3)
    x, metrics = _propose(g, b, hessian, share * _reach(b, hessian))
    self.assertTrue(metrics['is_recovery'])
    self.assertEqual(metrics['constraint_multiplier'], 0.0)
    # As far against the constraint as the region allows.
    np.testing.assert_allclose(b @ x, -_reach(b, hessian), rtol=1e-5)

  @parameterized.product(sign=(-2.0, 2.0), share=(-0.5, 0.5))
  def test_loss_along_the_constraint(self, sign, share):
    # The gradients are parallel, in the same or in opposite directions.
    _, b, hessian = _quadratic(4)
    reach = _reach(b, hessian)
    x, _ = _propose(sign * b, b, hessian, share * reach)
    expected = -reach if sign > 0 else -share * reach
    np.testing.assert_allclose(b @ x, expected, rtol=1e-4)

  def test_no_gradient_is_no_step(self):
    zeros, hessian = np.zeros(3), np.eye(3)
    for excess in (-0.1, 0.0, 0.1):
      x, _ = _propose(zeros, zeros, hessian, excess)
      np.testing.assert_array_equal(x, 0.0)

  def test_no_constraint_is_the_natural_gradient(self):
    g, b, hessian = _quadratic(5)
    x, metrics = _propose(g, 0 * b, hessian, -0.5)
    natural = np.linalg.solve(hessian, g)
    natural *= np.sqrt(2 * _MAX_KL / (g @ natural))
    np.testing.assert_allclose(x, -natural, rtol=1e-4)
    self.assertEqual(metrics['constraint_multiplier'], 0.0)


class UpdateTest(parameterized.TestCase):
  """A softmax over routes in two situations, with a pytree of parameters.

  Accuracy and cost of each route are known, so the best policy within a budget
  is the solution of a linear program.
  """

  _CORRECT = np.array([[0.3, 0.5, 0.9], [0.8, 0.85, 0.9]])
  _COST = np.array([[0.1, 0.4, 1.0], [0.1, 0.4, 1.0]])
  _BUDGET = 0.45

  def _logits(self, params):
    return params['shared'] + jnp.stack([params['hard'], params['easy']])

  def _surrogates_at(self, params):
    old = categorical.log_softmax(self._logits(params))

    def surrogates(params):
      new = categorical.log_softmax(self._logits(params))
      probabilities = jnp.exp(new)
      correct = jnp.mean(jnp.sum(probabilities * self._CORRECT, axis=-1))
      cost = jnp.mean(jnp.sum(probabilities * self._COST, axis=-1))
      kl = categorical.kl_divergence(old, new).mean()
      return -correct, cost - self._BUDGET, kl

    return surrogates

  def _update(self, params, **kwargs):
    return trust_region.update(params, self._surrogates_at(params), **kwargs)

  def _best(self):
    """Returns the best accuracy within the budget, and its dual variable."""
    result = optimize.linprog(
        -self._CORRECT.ravel() / 2,
        A_ub=self._COST.reshape(1, -1) / 2,
        b_ub=[self._BUDGET],
        A_eq=np.kron(np.eye(2), np.ones(3)),
        b_eq=np.ones(2),
    )
    return -result.fun, -result.ineqlin.marginals[0]

  @parameterized.named_parameters(
      # Within the budget; far over it, where the first steps must recover.
      ('kept', (1.0, 0.0, -1.0), 0.25),
      ('broken', (-3.0, 0.0, 4.0), 1.0),
  )
  def test_reaches_the_best_policy(self, shared, cost):
    params = {
        'shared': jnp.array(shared),
        'hard': jnp.zeros(3),
        'easy': jnp.zeros(3),
    }
    _, excess, _ = self._surrogates_at(params)(params)
    np.testing.assert_allclose(excess + self._BUDGET, cost, atol=0.03)
    update = jax.jit(lambda p: self._update(p, max_kl=_MAX_KL, damping=1e-3))
    best, price = self._best()
    for _ in range(40):
      before = excess
      params, metrics = update(params)
      excess = metrics['excess']
      self.assertLessEqual(metrics['kl'], _MAX_KL)
      self.assertLessEqual(excess, max(before, 0.0) + 1e-6)
    self.assertLessEqual(excess, 1e-6)
    np.testing.assert_allclose(-metrics['loss'], best, atol=1e-4)
    np.testing.assert_allclose(
        metrics['constraint_multiplier'], price, atol=1e-3
    )

  def test_step_equals_that_of_a_direct_solver(self):
    # Few parameters and almost no damping: H as a matrix, by JAX.
    params = {
        'shared': jnp.array([0.3, -0.2, 0.1]),
        'hard': jnp.array([0.1, 0.2, -0.4]),
        'easy': jnp.array([0.5, -0.1, 0.0]),
    }
    surrogates = self._surrogates_at(params)
    flat, unravel = flatten_util.ravel_pytree(params)
    max_kl = 1e-4  # So small that the quadratic model is exact.

    @jax.jit
    def direct(flat):
      of = lambda i: lambda x: surrogates(unravel(x))[i]
      g, b = jax.grad(of(0))(flat), jax.grad(of(1))(flat)
      hessian = jax.hessian(of(2))(flat) + 1e-2 * jnp.eye(9)
      return trust_region.propose(
          g, b, of(1)(flat), max_kl, lambda x: jnp.linalg.solve(hessian, x)
      )[0]

    expected = direct(flat)
    update = jax.jit(lambda p: self._update(p, max_kl=max_kl, damping=1e-2))
    new, metrics = update(params)
    self.assertEqual(metrics['scale'], 1.0)
    got = flatten_util.ravel_pytree(new)[0] - flat
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-6)

  def test_shortens_a_step_beyond_the_divergence(self):
    # A divergence that grows faster than its curvature at 0 predicts.
    params = jnp.array([0.5])

    def surrogates(x):
      d = (x - params)[0]
      return -x[0], jnp.float32(-1.0), d**2 / 2 + 30 * jnp.abs(d) ** 3

    new, metrics = trust_region.update(
        params, surrogates, max_kl=_MAX_KL, damping=0.0
    )
    # The full step is 0.2; 0.2 * 0.8^4 = 0.08192 has divergence 0.0198, and
    # 0.2 * 0.8^3 = 0.1024 has 0.037.
    np.testing.assert_allclose(metrics['scale'], 0.8**4, rtol=1e-5)
    np.testing.assert_allclose(new, params + 0.08192, rtol=1e-5)

  def test_rejects_a_step_that_does_not_lower_the_loss(self):
    # The loss has a descent direction at 0, but no step lowers it.
    params = {'a': jnp.array([0.5, 0.5])}

    def surrogates(x):
      d = x['a'] - params['a']
      loss = d.sum() + 1e6 * jnp.sum(d**2)
      return loss, jnp.float32(-1.0), jnp.sum(d**2) / 2

    new, metrics = trust_region.update(
        params, surrogates, max_kl=_MAX_KL, damping=0.0
    )
    self.assertEqual(metrics['scale'], 0.0)
    np.testing.assert_array_equal(new['a'], params['a'])

  def test_mapped_updates_equal_single_ones(self):
    params = {
        'shared': jnp.array([[0.0, 0.0, 0.0], [-3.0, 0.0, 4.0]]),
        'hard': jnp.zeros((2, 3)),
        'easy': jnp.zeros((2, 3)),
    }
    update = lambda p: self._update(p, max_kl=_MAX_KL)
    both, _ = jax.jit(jax.vmap(update))(params)
    each = [jax.tree.map(lambda x, k=k: x[k], params) for k in range(2)]
    alone = jax.tree.map(
        lambda *x: jnp.stack(x), *(jax.jit(update)(p)[0] for p in each)
    )
    for name in params:
      np.testing.assert_allclose(both[name], alone[name], atol=1e-5)


if __name__ == '__main__':
  absltest.main()
