"""One step of constrained policy optimisation: far, but not too far.

At the old parameters the loss has gradient g, the constraint has excess c and
gradient b, and the divergence has Hessian H. The step x solves

  minimise g.x   subject to   c + b.x <= 0   and   x.H.x / 2 <= max_kl

in closed form, from two linear systems in H, which is only ever multiplied
with. Then it is shortened until the true divergence and constraint agree.

Source: Achiam et al. 2017, "Constrained Policy Optimization", section 6 and
theorem 2.
"""

from collections.abc import Callable

import chex
import jax
from jax import flatten_util
import jax.numpy as jnp
from jax.scipy.sparse import linalg

_TINY = 1e-12
# q - r^2/s is what is left of g beside b. Below this share of q it is rounding.
_LEAST_SHARE = 1e-6

# params -> (loss, excess, kl), three scalars. At the old parameters kl is 0.
Surrogates = Callable[[chex.ArrayTree], tuple[jax.Array, jax.Array, jax.Array]]


def solve_dual(
    q: chex.Numeric,
    r: chex.Numeric,
    s: chex.Numeric,
    excess: chex.Numeric,
    max_kl: chex.Numeric,
) -> tuple[jax.Array, jax.Array]:
  """Multipliers of the trust region (lam) and of the constraint (nu).

  The dual is concave in lam, with one formula where nu > 0 and one where it is
  0; each formula's maximum is projected onto its half line, and the better one
  is taken. Valid where some step meets both constraints.

  Args:
    q, r, s: scalars g.H^-1.g, g.H^-1.b, b.H^-1.b; q, s >= 0.
    excess: c; > 0 where the constraint is broken.
    max_kl: > 0, nats.

  Returns:
    Scalars lam > 0 and nu >= 0.

  Source: Achiam et al. 2017, theorem 2, with the trust region halved.
  """
  c = jnp.where(jnp.abs(excess) < _TINY, _TINY, excess)
  q, s = jnp.maximum(q, _TINY), jnp.maximum(s, _TINY)
  edge = r / c  # The lam at which nu becomes 0.
  room = 2 * max_kl - c**2 / s
  rest = jnp.maximum(q - r**2 / s, _LEAST_SHARE * q)
  bound = jnp.sqrt(rest / jnp.maximum(room, _TINY))
  bound = jnp.where(c > 0, jnp.maximum(bound, edge), jnp.minimum(bound, edge))
  free = jnp.sqrt(q / (2 * max_kl))
  free = jnp.where(c > 0, jnp.minimum(free, edge), jnp.maximum(free, edge))
  # A half line that holds no lam > 0 is out of the question.
  bound_value = jnp.where(
      bound > 0, -(rest / bound + room * bound) / 2 - r * c / s, -jnp.inf
  )
  free_value = jnp.where(
      free > 0, -(q / free + 2 * max_kl * free) / 2, -jnp.inf
  )
  # All of the trust region keeps the constraint, so it may be forgotten.
  is_inside = (c < 0) & (room < 0)
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
  """The step x of the quadratic problem above.

  Where no step within the trust region can mend the constraint, x recovers: it
  goes as far as allowed against b, whatever the loss does.

  Args:
    g, b: `[P]` float, gradients of the loss and of the constraint.
    excess: c, scalar.
    max_kl: > 0, nats.
    solve: `[P]` -> `[P]`, multiplies with H^-1.

  Returns:
    `[P]` x; `[P]` the shortest way, measured by H, to raise b.x by 1; and the
    scalars `trust_multiplier` and `constraint_multiplier`, both 0 for a step
    that recovers, and `is_recovery`.
  """
  u, v = solve(g), solve(b)
  q, r, s = g @ u, g @ v, jnp.maximum(b @ v, _TINY)
  lam, nu = solve_dual(q, r, s, excess, max_kl)
  rise = v / s
  free = -u / lam
  # Equal to -(u + nu v) / lam, but exact where g and b are parallel.
  bound = -excess * rise - (u - r * rise) / lam
  recovery = -jnp.sqrt(2 * max_kl * s) * rise
  is_recovery = (excess > 0) & (excess**2 / s > 2 * max_kl)
  metrics = {
      'trust_multiplier': jnp.where(is_recovery, 0.0, lam),
      'constraint_multiplier': jnp.where(is_recovery, 0.0, nu),
      'is_recovery': is_recovery,
  }
  x = jnp.where(nu > 0, bound, free)
  return jnp.where(is_recovery, recovery, x), rise, metrics


def _search(
    evaluate: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    step: jax.Array,
    rise: jax.Array,
    *,
    max_kl: float,
    backtrack_factor: float,
    max_backtracks: int,
) -> tuple[jax.Array, jax.Array]:
  """The longest share of a step that keeps its promises, and where it leads.

  Where the constraint binds, a straight step leaves it on one side, since it
  curves; with the paper's steps alone a policy at its budget never moves again.
  So each step is first bent back by what it is over (a second-order correction:
  Nocedal and Wright 2006, "Numerical Optimization", section 18.3), and twice
  that, since the correction too is straight.
  """
  loss, excess, _ = evaluate(start)
  allowed = jnp.maximum(excess, 0.0)

  def attempt(i):
    new = start + backtrack_factor ** jnp.float32(i) * step
    over = jnp.maximum(evaluate(new)[1] - allowed, 0.0)
    new = new - 2 * over * rise
    return i, new, evaluate(new)

  def is_accepted(values):
    new_loss, new_excess, kl = values
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
  """One step from `params`, the old policy; jittable, one member.

  A step is taken if the divergence is at most `max_kl`, the constraint is kept
  or at least no worse than before, and, where it was kept before, the loss is
  no higher. Otherwise it is shortened, and after `max_backtracks` given up.

  Args:
    params: any tree of float arrays.
    surrogates: params -> (loss, excess, kl): what is minimised; by how much the
      constraint is expected to be broken, true at the old parameters; and the
      divergence from the old policy, 0 there.
    max_kl: > 0, nats per decision.
    damping: >= 0, added to the diagonal of H, which is singular: a softmax does
      not see a shift of its logits.
    num_iterations: of conjugate gradients.
    backtrack_factor: in (0, 1), by which a step is shortened at a time.
    max_backtracks: >= 1.

  Returns:
    The new parameters, and scalars to log: those of `propose`, `loss`,
    `excess` and `kl` at the new parameters, and `scale`, the share of the step
    that was taken; 0 if none was.
  """
  start, unravel = flatten_util.ravel_pytree(params)
  evaluate = lambda x: jnp.stack(surrogates(unravel(x)))
  (_, excess, _), pullback = jax.vjp(evaluate, start)
  (g,), (b,) = pullback(jnp.eye(3)[0]), pullback(jnp.eye(3)[1])
  kl_gradient = jax.grad(lambda x: evaluate(x)[2])

  def multiply(x):
    _, curvature = jax.jvp(kl_gradient, (start,), (x,))
    return curvature + damping * x

  def solve(x):
    return linalg.cg(multiply, x, tol=1e-6, maxiter=num_iterations)[0]

  step, rise, metrics = propose(g, b, excess, max_kl, solve)
  metrics['scale'], new = _search(
      evaluate,
      start,
      step,
      rise,
      max_kl=max_kl,
      backtrack_factor=backtrack_factor,
      max_backtracks=max_backtracks,
  )
  names = 'loss', 'excess', 'kl'
  metrics |= dict(zip(names, evaluate(new), strict=True))
  return unravel(new), metrics
