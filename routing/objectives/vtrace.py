"""Values of one policy from the trajectories of another.

The behaviour policy mu collected the data, the target policy pi is trained, and
the ratios pi(a_t) / mu(a_t) account for the difference. There is no discount:
traces end, and a cost at their end is a cost.
"""

import chex
import jax
import jax.numpy as jnp


def _next(values: jax.Array) -> jax.Array:
  """`[B, T]` shifted to t + 1; what comes after the last step is 0."""
  return jnp.pad(values[:, 1:], ((0, 0), (0, 1)))


def targets_and_advantages(
    values: chex.Array,
    rewards: chex.Array,
    ratios: chex.Array,
    mask: chex.Array,
    *,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """V-trace: what a critic should say, and what each action was worth.

  With rho_t = min(rho_bar, ratio_t) and c_t = min(c_bar, ratio_t), backwards:

    v_t = V_t + rho_t (r_t + V_{t+1} - V_t) + c_t (v_{t+1} - V_{t+1})
    advantage_t = rho_t (r_t + v_{t+1} - V_t)

  Ratios of 1 give Monte-Carlo returns, whatever the critic says. Bars of 1 have
  little variance but value a policy between mu and pi; without bars v_t is
  unbiased for pi. The same serves the reward and the constraint.

  Args:
    values: `[B, T]` float, the critic's V_t.
    rewards: `[B, T]` float, r_t, or what the constraint charges.
    ratios: `[B, T]` float >= 0, pi / mu of the action taken.
    mask: `[B, T]` bool, decision t was taken; True first, then False. Where
      False the others may hold anything.
    rho_bar, c_bar: > 0; `inf` for no clipping.

  Returns:
    `[B, T]` targets and `[B, T]` advantages, constants, 0 where there is no
    decision. The advantage holds rho_t already: times the gradient of log pi it
    is the policy gradient.

  Source: Espeholt et al. 2018, "IMPALA: Scalable Distributed Deep-RL with
  Importance Weighted Actor-Learner Architectures", section 4.1.
  """
  chex.assert_rank([values, rewards, ratios, mask], 2)
  chex.assert_equal_shape([values, rewards, ratios, mask])
  chex.assert_type([values, rewards, ratios, mask], [float, float, float, bool])
  values, rewards, ratios = (
      jax.lax.stop_gradient(jnp.where(mask, x, 0.0))
      for x in (values, rewards, ratios)
  )
  rho, c = jnp.minimum(ratios, rho_bar), jnp.minimum(ratios, c_bar)

  def step_back(error, now):
    surprise, weight = now
    error = surprise + weight * error
    return error, error

  surprises = rho * (rewards + _next(values) - values)
  _, errors = jax.lax.scan(
      step_back, jnp.zeros_like(values[:, 0]), (surprises.T, c.T), reverse=True
  )
  targets = values + errors.T
  return targets, rho * (rewards + _next(targets) - values)


def expected_return(
    values: chex.Array,
    rewards: chex.Array,
    ratios: chex.Array,
    mask: chex.Array,
    *,
    ratio_clip: float = jnp.inf,
) -> jax.Array:
  """What the target policy earns (or is charged) per trajectory, on average.

  V-trace without bars, at the first step: the doubly robust estimate with a
  critic that does not see the action. It is unbiased whatever the critic says,
  and the better the critic, the smaller its variance. This is what a multiplier
  must follow: with bars of 1 it would follow the cost of a policy that leans
  towards the behaviour.

  Args:
    values, rewards, ratios, mask: as of `targets_and_advantages`.
    ratio_clip: clips each ratio; below `inf` trades bias for variance.

  Returns:
    Scalar, the mean over trajectories with at least one decision; 0 if there
    is none.

  Source: Jiang and Li 2016, "Doubly Robust Off-policy Value Evaluation for
  Reinforcement Learning".
  """
  targets, _ = targets_and_advantages(
      values, rewards, ratios, mask, rho_bar=ratio_clip, c_bar=ratio_clip
  )
  return targets[:, 0].sum() / jnp.maximum(mask[:, 0].sum(), 1)


def reach_weights(
    ratios: chex.Array, mask: chex.Array, *, maximum: float = jnp.inf
) -> jax.Array:
  """How much more often the target policy gets to decision t: prod_{s<t} ratio.

  V-trace corrects what is earned after t, not how t was reached. Advantages
  times these weights, without any bars, are the exact policy gradient.

  Args:
    ratios: `[B, T]` float >= 0.
    mask: `[B, T]` bool, True first, then False.
    maximum: > 0; clips the product.

  Returns:
    `[B, T]` float in [0, maximum], a constant; 0 where there is no decision.

  Source: Precup, Sutton and Singh 2000, "Eligibility Traces for Off-Policy
  Policy Evaluation", section 3.
  """
  chex.assert_rank([ratios, mask], 2)
  chex.assert_equal_shape([ratios, mask])
  before = jnp.pad(
      jnp.where(mask, ratios, 0.0)[:, :-1],
      ((0, 0), (1, 0)),
      constant_values=1.0,
  )
  weights = jnp.minimum(jnp.cumprod(before, axis=1), maximum)
  return jax.lax.stop_gradient(jnp.where(mask, weights, 0.0))
