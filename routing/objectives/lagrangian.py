"""Both constrained problems, their Lagrangians, and the multiplier's step.

  budget:       maximise E[correct]  subject to  E[cost] <= b
    L = E[correct] - lam * (E[cost] - b),  lam in accuracy per unit of cost
  reliability:  minimise E[cost]     subject to  E[loss] <= alpha
    L = E[cost] + lam * (E[loss] - alpha),  lam in cost per unit of loss

Source: Altman, "Constrained Markov Decision Processes" (1999), ch. 3.
"""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

from routing.objectives import exact

FORMS = ('budget', 'reliability')


def check_form(form: str) -> str:
  """Returns `form`, or raises ValueError with the allowed names."""
  if form not in FORMS:
    raise ValueError(
        f'Unknown objective form {form!r}; allowed: {", ".join(FORMS)}.'
    )
  return form


def check_levels(
    levels: Sequence[float], small_cost: float, *, form: str
) -> None:
  """Raises ValueError if a level cannot be met, or would bind nobody.

  Args:
    levels: budgets (cost fractions) or risks alpha.
    small_cost: mean cost fraction of the small model alone.
    form: one of `FORMS`.
  """
  low, why = 0.0, ''
  if check_form(form) == 'budget':
    low, why = small_cost, ' (the small model alone costs as much)'
  if not levels:
    raise ValueError('objective.levels is empty; at least 1 level is needed.')
  for level in levels:
    if not low <= level <= 1.0:
      raise ValueError(
          f'objective.levels has {level}; allowed: {low:.4g}{why} to 1.'
      )


def constrained(outcomes: exact.Outcomes, form: str) -> jax.Array:
  """What the constraint holds down: cost for a budget, else relative loss."""
  return outcomes.cost if check_form(form) == 'budget' else outcomes.loss


def lagrangian_loss(
    outcomes: exact.Outcomes,
    multiplier: chex.Numeric,
    level: chex.Numeric,
    *,
    form: str,
    damping: float = 0.0,
) -> jax.Array:
  """The Lagrangian, signed so that the policy minimises it.

  The optimum under a constraint is often a mixture of two deterministic
  policies, between which plain dual ascent swings for ever. `damping` adds to
  the multiplier in proportion to the excess of this very batch, at once rather
  than by accumulation; that turns the swing into a spiral that ends.

  Args:
    outcomes: means over problems, scalars.
    multiplier: scalar >= 0, held constant here.
    level: scalar, b or alpha.
    form: one of `FORMS`.
    damping: >= 0, in units of the multiplier per unit of excess.

  Source: the proportional term of Stooke et al. 2020, "Responsive Safety in
  Reinforcement Learning by PID Lagrangian Methods", section 4.
  """
  chex.assert_rank([outcomes.correct, outcomes.cost, outcomes.loss], 0)
  excess = constrained(outcomes, form) - level
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
  """One projected dual step: up when the constraint is broken, else down."""
  return jnp.clip(multiplier + learning_rate * excess, 0.0, maximum)


@chex.dataclass(frozen=True)
class Controller:
  """What a PID controller of a multiplier remembers.

  integral: float32 >= 0, what the excess has added up to, as a multiplier.
  previous: float32, the excess of the update before; inf before the first.
  """

  integral: chex.Array
  previous: chex.Array


def init_controller(multiplier: chex.Numeric) -> Controller:
  """The controller that starts from a multiplier, of any shape."""
  integral = jnp.asarray(multiplier, jnp.float32)
  # Nothing exceeds infinity, so the first update sees no rise.
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
  """One step of PID control: a projected dual step that also looks ahead.

    lam = clip(P * excess + sum of I * excess + D * max(rise of excess, 0))

  With P = D = 0 it is `update_multiplier` with learning rate I. P damps the
  swings of plain dual ascent; D brakes before the constraint breaks, and does
  nothing while the excess falls.

  Args:
    controller: before the step.
    excess: constrained quantity minus its level.
    proportional, integral, derivative: >= 0, multiplier per unit of excess.
    maximum: of the multiplier, and of the integral alone, which could otherwise
      wind up while the multiplier is clipped.

  Returns:
    The multiplier in [0, maximum], and the controller after the step.

  Source: Stooke et al. 2020, "Responsive Safety in Reinforcement Learning by
  PID Lagrangian Methods", algorithm 2.
  """
  total = update_multiplier(
      controller.integral, excess, learning_rate=integral, maximum=maximum
  )
  rise = jnp.maximum(excess - controller.previous, 0.0)
  multiplier = jnp.clip(
      proportional * excess + total + derivative * rise, 0.0, maximum
  )
  previous = jnp.broadcast_to(excess, total.shape).astype(jnp.float32)
  return multiplier, Controller(integral=total, previous=previous)


def score_at_level(
    policy: exact.Outcomes,
    never: exact.Outcomes,
    at_once: exact.Outcomes,
    level: chex.Numeric,
    *,
    form: str,
) -> jax.Array:
  """What a policy is worth exactly at its level, so that members compare.

  During training a policy sits a little above or below its level, and plain
  accuracy would reward the one that overspends. So the policy is mixed, by a
  coin per problem, with a policy without judgement until the level is met:

  - budget: dearer than b, with 'never hand over'; cheaper, with 'the largest
    model at the first decision'. The score is the mixture's accuracy.
  - reliability: riskier than alpha, with 'the largest at the first decision';
    safer, with 'never'. The score is the mixture's cost, negated.

  A policy within its level is never made worse by mixing.

  Args:
    policy, never, at_once: means over problems, scalars.
    level: scalar, b or alpha.
    form: one of `FORMS`.

  Returns:
    Scalar, higher is better; -inf where no mixture meets the level.
  """
  used = constrained(policy, form)
  low, high = (never, at_once) if form == 'budget' else (at_once, never)
  over = used > level
  other = jax.tree.map(lambda a, b: jnp.where(over, a, b), low, high)
  gap = constrained(other, form) - used
  # A zero gap: the other end is no different, so nothing is mixed in.
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
