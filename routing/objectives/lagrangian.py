"""The two constrained problems, their Lagrangians, and multiplier updates.

  budget:       maximise E[correct]  subject to  E[cost] <= b
    L = E[correct] - lam * (E[cost] - b),  lam in accuracy per unit of cost
  reliability:  minimise E[cost]     subject to  E[loss] <= alpha
    L = E[cost] + lam * (E[loss] - alpha),  lam in cost per unit of loss

The policy maximises L for a budget and minimises L for reliability. The
multiplier lam >= 0 (the dual variable) rises and falls with the excess of the
constraint, E[cost] - b or E[loss] - alpha.

Source: Altman, "Constrained Markov Decision Processes" (1999), ch. 3.
"""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

from routing.objectives import exact

FORMS = ('budget', 'reliability')


# Where `spread_levels` puts budgets: 0 = the small model alone, 1 = the large.
_SHARES = (0.15, 0.3, 0.5, 0.65)


def check_form(form: str) -> str:
  """Returns `form`, or raises ValueError unless it is one of `FORMS`."""
  if form not in FORMS:
    raise ValueError(
        f'Unknown objective form {form!r}; allowed: {", ".join(FORMS)}.'
    )
  return form


NUM_SPREAD = len(_SHARES)  # Levels that `spread_levels` returns.


def spread_levels(small_cost: float) -> tuple[float, ...]:
  """Returns budgets between the cost of the small model alone and 1.

  Args:
    small_cost: mean cost fraction of the small model alone.
  """
  return tuple(
      round(small_cost + (1.0 - small_cost) * share, 4) for share in _SHARES
  )


def check_levels(
    levels: Sequence[float], small_cost: float, *, form: str
) -> None:
  """Raises ValueError if a level is infeasible or above 1, or there are none.

  Args:
    levels: budgets b (cost fractions), or relative losses alpha.
    small_cost: mean cost fraction of the small model alone, the lowest cost of
      any policy.
    form: one of `FORMS`.
  """
  low, why = 0.0, ''
  if check_form(form) == 'budget':
    low, why = small_cost, ' (the cost of the small model alone)'
  if not levels:
    raise ValueError('objective.levels is empty; at least 1 level is needed.')
  for level in levels:
    # A level above 1 constrains nothing useful: the largest model alone costs
    # 1, and the loss is a probability.
    if not low <= level <= 1.0:
      raise ValueError(
          f'objective.levels has {level}; allowed: {low:.4g}{why} to 1.'
      )


def constrained(outcomes: exact.Outcomes, form: str) -> jax.Array:
  """Returns the outcome that `form` constrains: cost, or relative loss."""
  return outcomes.cost if check_form(form) == 'budget' else outcomes.loss


def lagrangian_loss(
    outcomes: exact.Outcomes,
    multiplier: chex.Numeric,
    level: chex.Numeric,
    *,
    form: str,
    damping: float = 0.0,
) -> jax.Array:
  """Returns the loss of the policy, the Lagrangian as a value to minimise.

    loss = objective + max(lam + damping * excess, 0) * excess

  The objective is -E[correct] or E[cost]. The optimum under a constraint is
  often a mixture of two deterministic policies, and plain dual ascent
  oscillates between the two. `damping` adds to the multiplier in proportion
  to the excess of this batch. This term is not accumulated over updates, so the
  oscillation decays.

  Args:
    outcomes: expected outcomes of the policy, means over problems, scalars.
    multiplier: scalar >= 0, lam; receives no gradient.
    level: scalar, b or alpha.
    form: one of `FORMS`.
    damping: >= 0, in units of the multiplier per unit of excess.

  Source: the proportional term of Stooke et al. 2020, "Responsive Safety in
  Reinforcement Learning by PID Lagrangian Methods", section 4.
  """
  chex.assert_rank([outcomes.correct, outcomes.cost, outcomes.loss], 0)
  excess = constrained(outcomes, form) - level
  # Without stop_gradient, damping * excess**2 would be differentiated as a
  # whole, and its gradient would be twice as large as `damping` says.
  pressure = jax.lax.stop_gradient(
      jnp.maximum(multiplier + damping * excess, 0.0)
  )
  target = -outcomes.correct if form == 'budget' else outcomes.cost
  return target + pressure * excess


def update_multiplier(
    multiplier: chex.Numeric,
    excess: chex.Numeric,
    *,
    learning_rate: float,
    maximum: float,
) -> jax.Array:
  """Returns the multiplier lam after one projected dual-ascent step.

    lam <- clip(lam + learning_rate * excess, 0, maximum)

  So lam rises while the constraint is violated, and falls while the constraint
  is slack.

  Args:
    multiplier: lam >= 0 before the step.
    excess: constrained quantity minus its level.
    learning_rate: >= 0, multiplier per unit of excess.
    maximum: > 0, upper bound of lam.
  """
  return jnp.clip(multiplier + learning_rate * excess, 0.0, maximum)


@chex.dataclass(frozen=True)
class Controller:
  """The state of a PID controller that sets a multiplier.

  integral: float32 >= 0, accumulated excess, in units of the multiplier.
  previous: float32, the excess at the last update; inf before the first update.
  """

  integral: chex.Array
  previous: chex.Array


def init_controller(multiplier: chex.Numeric) -> Controller:
  """Returns a controller that starts from `multiplier`, of any shape."""
  integral = jnp.asarray(multiplier, jnp.float32)
  # The derivative term is max(excess - previous, 0). With previous = inf it is
  # 0 at the first update, where there is nothing to compare with.
  return Controller(
      integral=integral, previous=jnp.full_like(integral, jnp.inf)
  )


def control_multiplier(
    controller: Controller,
    excess: chex.Numeric,
    *,
    proportional: float,
    integral: float,
    derivative: float,
    maximum: float,
) -> tuple[jax.Array, Controller]:
  """Returns the multiplier lam after one step of PID control, and the state.

    I_k = clip(I_{k-1} + integral * excess_k, 0, maximum)
    lam = clip(proportional * excess_k + I_k
               + derivative * max(excess_k - excess_{k-1}, 0), 0, maximum)

  With proportional = derivative = 0 this is `update_multiplier`. The
  proportional term damps the oscillations of plain dual ascent. The derivative
  term raises lam while the excess still rises, before the constraint breaks.

  Args:
    controller: before the step.
    excess: constrained quantity minus its level.
    proportional, integral, derivative: >= 0, multiplier per unit of excess.
    maximum: > 0, upper bound of lam and of I_k.

  Returns:
    The multiplier in [0, maximum], and the controller after the step.

  Source: Stooke et al. 2020, "Responsive Safety in Reinforcement Learning by
  PID Lagrangian Methods", algorithm 2.
  """
  # The integral is clipped separately from lam. Otherwise it would keep growing
  # while lam is at its maximum (wind-up), and lam would stay at the maximum
  # long after the constraint holds again.
  total = update_multiplier(
      controller.integral, excess, learning_rate=integral, maximum=maximum
  )
  # The derivative term is one-sided: a falling excess must not lower lam before
  # the constraint holds.
  rise = jnp.maximum(excess - controller.previous, 0.0)
  multiplier = jnp.clip(
      proportional * excess + total + derivative * rise, 0.0, maximum
  )
  # The state keeps its shape and dtype, as `scan` and checkpoints need.
  previous = jnp.broadcast_to(excess, total.shape).astype(jnp.float32)
  return multiplier, Controller(integral=total, previous=previous)


def score_at_level(
    policy: exact.Outcomes,
    always_small: exact.Outcomes,
    always_large: exact.Outcomes,
    level: chex.Numeric,
    *,
    form: str,
) -> jax.Array:
  """Returns a score that compares policies at exactly the same level.

  During training a policy is a little above or below its level, and plain
  accuracy would prefer a policy that overspends. So the policy is mixed with a
  constant policy, by a random draw per problem, until the level is met:

  - budget: a policy that costs more than b is mixed with the small model alone;
    a cheaper one with the largest model alone. The score is the accuracy.
  - reliability: a policy whose loss exceeds alpha is mixed with the largest
    model alone; otherwise with the small one. The score is the negated cost.

  A policy that meets its level is never scored below its own value.

  Args:
    policy: expected outcomes, means over problems, scalars.
    always_small: the outcomes of never handing over.
    always_large: the outcomes of the largest model from the first decision.
    level: scalar, b or alpha.
    form: one of `FORMS`.

  Returns:
    Scalar, higher is better; -inf where no mixture meets the level.
  """
  used = constrained(policy, form)
  low, high = (
      (always_small, always_large)
      if form == 'budget'
      else (always_large, always_small)
  )
  over = used > level
  other = jax.tree.map(lambda a, b: jnp.where(over, a, b), low, high)
  # Outcomes of a mixture are linear in its weight w, so the level is met at
  #   (1 - w) * used + w * constrained(other) = level,   w in [0, 1].
  gap = constrained(other, form) - used
  # If gap is 0 the mixture cannot move the constraint, so w = 0. The inner
  # `where` keeps the division finite.
  weight = jnp.clip(
      (level - used) / jnp.where(gap == 0, 1.0, gap), 0.0, 1.0
  ) * (gap != 0)
  value = (lambda o: o.correct) if form == 'budget' else (lambda o: -o.cost)
  mixed = (1 - weight) * value(policy) + weight * value(other)
  is_met = constrained(other, form) <= level
  return jnp.where(
      over,
      jnp.where(is_met, mixed, -jnp.inf),
      jnp.maximum(mixed, value(policy)),
  )
