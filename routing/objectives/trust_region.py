"""One step of constrained policy optimization (CPO).

At the old parameters the loss has gradient g, the constraint has excess c (its
violation where positive) and gradient b, and the KL divergence from the old
policy has Hessian H. The step x of the parameters solves

  minimise g.x   subject to   c + b.x <= 0   and   x.H.x / 2 <= max_kl    (1)

in closed form, from u = H^-1 g and v = H^-1 b. Conjugate gradients find u and
v; they multiply with H and never store it. The step is then shortened until the
true divergence and the true constraint, not only these approximations, hold.

Source: Achiam et al. 2017, "Constrained Policy Optimization", section 6 and
theorem 2.
"""

from collections.abc import Callable

import chex
import jax
from jax import flatten_util
import jax.numpy as jnp
from jax.scipy.sparse import linalg

_TINY = 1e-12  # Lower bound of divisors.
# q - r^2 / s is the squared H^-1-norm of the part of g that is not parallel to
# b. In float32 a difference below this share of q is a rounding error.
_MIN_SHARE = 1e-6

# Function of the parameters that returns three scalars: the loss, the excess of
# the constraint and the KL divergence, which is 0 at the old parameters.
Surrogates = Callable[[chex.ArrayTree], tuple[jax.Array, jax.Array, jax.Array]]


def solve_dual(
    q: chex.Numeric,
    r: chex.Numeric,
    s: chex.Numeric,
    excess: chex.Numeric,
    max_kl: chex.Numeric,
) -> tuple[jax.Array, jax.Array]:
  """Returns the multipliers of the trust region (lam) and constraint (nu).

  The dual of (1), with x = -(u + nu v) / lam inserted, is

    D(lam, nu) = -(q + 2 nu r + nu^2 s) / (2 lam) + nu c - lam max_kl.     (2)

  Its maximum over nu >= 0 is at nu = max(lam c - r, 0) / s. Hence with
  A = q - r^2 / s and B = 2 max_kl - c^2 / s

    D(lam) = -(A / lam + B lam) / 2 - r c / s       where lam c > r,       (3)
    D(lam) = -(q / lam + 2 max_kl lam) / 2          elsewhere.             (4)

  (3) has its maximum at lam = sqrt(A / B), (4) at lam = sqrt(q / (2 max_kl)).
  Each maximum is projected onto the half line where its formula is valid, and
  the better one is returned. Requires that some step meets both constraints.

  Args:
    q, r, s: scalars g.H^-1.g, g.H^-1.b, b.H^-1.b; q, s >= 0.
    excess: c; > 0 where the constraint is violated.
    max_kl: > 0, nats.

  Returns:
    Scalars lam > 0 and nu >= 0.

  Source: Achiam et al. 2017, theorem 2, whose delta is 2 max_kl here.
  """
  # Divisors below must not be 0: c, s, and lam, which would be 0 if q were.
  c = jnp.where(jnp.abs(excess) < _TINY, _TINY, excess)
  q, s = jnp.maximum(q, _TINY), jnp.maximum(s, _TINY)
  edge = r / c  # nu > 0 for lam > edge if c > 0, for lam < edge if c < 0.
  b_term = 2 * max_kl - c**2 / s
  # A >= 0 by Cauchy-Schwarz; rounding breaks this where g, b are parallel.
  a_term = jnp.maximum(q - r**2 / s, _MIN_SHARE * q)
  bound = jnp.sqrt(a_term / jnp.maximum(b_term, _TINY))
  bound = jnp.where(c > 0, jnp.maximum(bound, edge), jnp.minimum(bound, edge))
  free = jnp.sqrt(q / (2 * max_kl))
  free = jnp.where(c > 0, jnp.minimum(free, edge), jnp.maximum(free, edge))
  # The values of (3) and (4). A projection may give lam <= 0, if its half line
  # has no positive lam; such a candidate must lose the comparison, hence -inf.
  bound_value = jnp.where(
      bound > 0, -(a_term / bound + b_term * bound) / 2 - r * c / s, -jnp.inf
  )
  free_value = jnp.where(
      free > 0, -(q / free + 2 * max_kl * free) / 2, -jnp.inf
  )
  # If c < 0 and B < 0, the constraint holds in the whole trust region, so nu =
  # 0 for every lam, and (4) needs no projection.
  is_inside = (c < 0) & (b_term < 0)
  free = jnp.where(is_inside, jnp.sqrt(q / (2 * max_kl)), free)
  is_free = is_inside | (free_value >= bound_value)
  lam = jnp.where(is_free, free, bound)
  nu = jnp.where(is_free, 0.0, jnp.maximum(lam * c - r, 0.0) / s)
  return lam, nu


def propose(
    g: chex.Array,
    b: chex.Array,
    excess: chex.Numeric,
    max_kl: float,
    solve: Callable[[chex.Array], jax.Array],
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
  """Returns the step x that solves (1), or a recovery step if none is feasible.

  If no step within the trust region meets the constraint, the recovery step
  lowers the excess as far as the trust region allows, whatever the loss.

  Args:
    g, b: `[P]` float, gradients of the loss and of the constraint.
    excess: c, scalar.
    max_kl: > 0, nats.
    solve: `[P]` -> `[P]`, multiplies a vector with H^-1.

  Returns:
    `[P]` x; `[P]` v / s, the direction that raises the constraint by 1 with the
    least x.H.x; and the scalars `trust_multiplier` and `constraint_multiplier`,
    both 0 for a recovery step, and `is_recovery`.
  """
  u, v = solve(g), solve(b)
  q, r, s = g @ u, g @ v, jnp.maximum(b @ v, _TINY)
  lam, nu = solve_dual(q, r, s, excess, max_kl)
  # Raises the constraint by 1, since b.(v / s) = 1.
  correction = v / s
  # x for nu = 0, where the constraint is slack.
  free = -u / lam
  # x for nu > 0: nu = (lam c - r) / s inserted into x = -(u + nu v) / lam, and
  # ordered so that b.x = -c holds even where g and b are parallel and u and
  # r v / s cancel.
  bound = -excess * correction - (u - r * correction) / lam
  # The step that minimises b.x on x.H.x / 2 = max_kl: equation 14 of Achiam et
  # al.
  recovery = -jnp.sqrt(2 * max_kl * s) * correction
  # In the trust region b.x is at least -sqrt(2 max_kl s). So no step is
  # feasible if c > sqrt(2 max_kl s).
  is_recovery = (excess > 0) & (excess**2 / s > 2 * max_kl)
  metrics = {
      'trust_multiplier': jnp.where(is_recovery, 0.0, lam),
      'constraint_multiplier': jnp.where(is_recovery, 0.0, nu),
      'is_recovery': is_recovery,
  }
  x = jnp.where(nu > 0, bound, free)
  return jnp.where(is_recovery, recovery, x), correction, metrics


def _search(
    evaluate: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    step: jax.Array,
    correction: jax.Array,
    *,
    max_kl: float,
    backtrack_factor: float,
    max_backtracks: int,
) -> tuple[jax.Array, jax.Array]:
  """Returns the largest accepted share of a step, and the parameters after it.

  The true constraint is curved. Where the constraint binds, a straight step
  along its tangent leaves the feasible set. With the line search of Achiam et
  al. alone, a policy at its budget would therefore never move again. So each
  attempt is corrected by its own violation (a second-order correction: Nocedal
  and Wright 2006, "Numerical Optimization", section 18.3).

  Args:
    evaluate: parameters `[P]` -> `[3]` loss, excess and kl.
    start: `[P]` old parameters.
    step: `[P]` x from `propose`.
    correction: `[P]` v / s from `propose`.
    max_kl, backtrack_factor, max_backtracks: as in `update`.

  Returns:
    The share of `step` that is taken, a scalar, 0 if no share was accepted; and
    the `[P]` new parameters.
  """
  loss, excess, _ = evaluate(start)
  allowed = jnp.maximum(excess, 0.0)

  def attempt(i):
    new = start + backtrack_factor ** jnp.float32(i) * step
    over = jnp.maximum(evaluate(new)[1] - allowed, 0.0)
    # Twice the violation is corrected: the correction is a straight step too,
    # and would otherwise end just outside the feasible set.
    new = new - 2 * over * correction
    return i, new, evaluate(new)

  def is_accepted(values):
    new_loss, new_excess, kl = values
    # While the constraint is violated, the loss may rise to restore it.
    is_better = (new_loss <= loss) | (excess > 0)
    return is_better & (new_excess <= allowed) & (kl <= max_kl)

  i, new, values = jax.lax.while_loop(
      lambda carry: (carry[0] < max_backtracks) & ~is_accepted(carry[2]),
      lambda carry: attempt(carry[0] + 1),
      attempt(0),
  )
  is_taken = is_accepted(values)
  scale = jnp.where(is_taken, backtrack_factor ** jnp.float32(i), 0.0)
  return scale, jnp.where(is_taken, new, start)


def update(
    params: chex.ArrayTree,
    surrogates: Surrogates,
    *,
    max_kl: float,
    damping: float = 1e-2,
    num_iterations: int = 10,
    backtrack_factor: float = 0.8,
    max_backtracks: int = 10,
) -> tuple[chex.ArrayTree, dict[str, jax.Array]]:
  """Returns the parameters of one policy after one CPO step; jittable.

  A step is accepted if the divergence is at most `max_kl`, the constraint is
  violated no more than before, and the loss is no higher (or the constraint was
  violated before). If not, the step is shortened up to `max_backtracks` times.

  Args:
    params: any pytree of float arrays, the old policy.
    surrogates: params -> (loss, excess, kl). The loss is minimised; the excess
      is the constraint's violation, exact at the old parameters; kl is the
      divergence from the old policy, 0 at the old parameters.
    max_kl: > 0, nats per decision.
    damping: >= 0, added to the diagonal of H.
    num_iterations: number of conjugate-gradient iterations.
    backtrack_factor: in (0, 1), multiplies the step at each backtrack.
    max_backtracks: >= 1.

  Returns:
    The new parameters; and scalars to log: those of `propose`, `loss`, `excess`
    and `kl` at the new parameters, and `scale`, the share of the step taken.
  """
  start, unravel = flatten_util.ravel_pytree(params)
  # Jitted, although the whole update is too, because a jitted function is
  # traced once, and this one is called in ten places below.
  evaluate = jax.jit(lambda x: jnp.stack(surrogates(unravel(x))))
  # One forward pass serves both gradients: rows 0, 1 of the Jacobian, [3, P].
  (_, excess, _), pullback = jax.vjp(evaluate, start)
  (g,), (b,) = pullback(jnp.eye(3)[0]), pullback(jnp.eye(3)[1])
  kl_gradient = jax.grad(lambda x: evaluate(x)[2])

  def multiply(x):
    # H x is the derivative of kl's gradient in direction x. Damping is needed
    # as H is singular: a softmax ignores a shift of all its logits.
    _, curvature = jax.jvp(kl_gradient, (start,), (x,))
    return curvature + damping * x

  solve = lambda x: linalg.cg(multiply, x, tol=1e-6, maxiter=num_iterations)[0]
  step, correction, metrics = propose(g, b, excess, max_kl, jax.jit(solve))
  metrics['scale'], new = _search(
      evaluate,
      start,
      step,
      correction,
      max_kl=max_kl,
      backtrack_factor=backtrack_factor,
      max_backtracks=max_backtracks,
  )
  names = 'loss', 'excess', 'kl'
  metrics |= dict(zip(names, evaluate(new), strict=True))
  return unravel(new), metrics
