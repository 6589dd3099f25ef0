"""V-trace: off-policy values and advantages from behaviour trajectories.

The behaviour policy mu collected the data; the target policy pi is evaluated
and trained. Importance ratios pi(a_t) / mu(a_t) correct for the difference. The
discount is 1: trajectories are finite, and late costs count in full.

Source: Espeholt et al. 2018, "IMPALA: Scalable Distributed Deep-RL with
Importance Weighted Actor-Learner Architectures".
"""

import chex
import jax
import jax.numpy as jnp


def _next(values: jax.Array) -> jax.Array:
  """Returns `[B, T]` with the value of step t + 1 at t, and 0 at the end."""
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
  """Returns V-trace value targets and policy-gradient advantages.

  With clipped ratios rho_t = min(rho_bar, ratio_t), c_t = min(c_bar, ratio_t):

    delta_t = rho_t (r_t + V_{t+1} - V_t)                                 (1)
    v_t = V_t + delta_t + c_t (v_{t+1} - V_{t+1})                         (2)
    advantage_t = rho_t (r_t + v_{t+1} - V_t)                             (3)

  If all ratios are 1, v_t is the Monte-Carlo return, whatever the critic says.
  Thresholds of 1 keep the variance low, but v_t then estimates the value of a
  policy between mu and pi. Without clipping, v_t is unbiased for pi.

  Args:
    values: `[B, T]` float, the critic's V_t.
    rewards: `[B, T]` float, r_t; for the constraint's critic, the cost at t.
    ratios: `[B, T]` float >= 0, pi / mu of the action taken.
    mask: `[B, T]` bool, decision t was taken; True first, then False.
    rho_bar: > 0, `inf` for no clipping. Decides which policy v_t evaluates.
    c_bar: > 0, `inf` for no clipping. Trades variance for contraction speed.

  Returns:
    `[B, T]` targets and `[B, T]` advantages, without gradient, 0 where there is
    no decision. The advantages are multiplied by rho_t already, as in (3).

  Source: Espeholt et al. 2018, "IMPALA", sections 4.1 and 4.2.
  """
  chex.assert_rank([values, rewards, ratios, mask], 2)
  chex.assert_equal_shape([values, rewards, ratios, mask])
  chex.assert_type([values, rewards, ratios, mask], [float, float, float, bool])
  # Padding may hold any values. With zeros in their place the last decision
  # bootstraps from V = 0, as it must, and the recursion starts from errors 0.
  values, rewards, ratios = (
      jax.lax.stop_gradient(jnp.where(mask, x, 0.0))
      for x in (values, rewards, ratios)
  )
  rho, c = jnp.minimum(ratios, rho_bar), jnp.minimum(ratios, c_bar)

  # Equation (2) in e_t = v_t - V_t: e_t = delta_t + c_t e_{t+1}, from the end.
  def step_back(error, now):
    delta, weight = now
    error = delta + weight * error
    return error, error

  deltas = rho * (rewards + _next(values) - values)
  # `scan` runs over the leading axis, so the inputs are [T, B].
  _, errors = jax.lax.scan(
      step_back, jnp.zeros_like(values[:, 0]), (deltas.T, c.T), reverse=True
  )
  targets = values + errors.T
  # The advantage bootstraps from the target v_{t+1}, not from the critic.
  return targets, rho * (rewards + _next(targets) - values)


def expected_return(
    values: chex.Array,
    rewards: chex.Array,
    ratios: chex.Array,
    mask: chex.Array,
    *,
    ratio_clip: float = jnp.inf,
) -> jax.Array:
  """Returns the target policy's estimated return, averaged over trajectories.

  The estimate is the mean of the unclipped V-trace target v_0:

    v_t = V_t + ratio_t (r_t + v_{t+1} - V_t).

  This is the doubly robust estimate with a critic that does not see the action.
  The estimate is unbiased whatever the critic says; a better critic lowers the
  variance. The dual variable must be updated by this estimate. Targets clipped
  at 1 would give the cost of a policy nearer to the behaviour policy instead.

  Args:
    values, rewards, ratios, mask: as in `targets_and_advantages`.
    ratio_clip: > 0, upper bound of each ratio. A finite bound lowers the
      variance and adds bias.

  Returns:
    Scalar, the mean over trajectories with at least one decision; 0 if there
    are none.

  Source: Jiang and Li 2016, "Doubly Robust Off-policy Value Evaluation for
  Reinforcement Learning".
  """
  # With rho_bar = c_bar, rho_t = c_t, and (1) and (2) become the formula above.
  targets, _ = targets_and_advantages(
      values, rewards, ratios, mask, rho_bar=ratio_clip, c_bar=ratio_clip
  )
  return targets[:, 0].sum() / jnp.maximum(mask[:, 0].sum(), 1)


def reach_weights(
    ratios: chex.Array, mask: chex.Array, *, maximum: float = jnp.inf
) -> jax.Array:
  """Returns prod_{s<t} ratio_s, the importance weight of reaching decision t.

  V-trace corrects for the actions from decision t on. The states at which
  decision t is taken still have the behaviour policy's distribution. Unclipped
  V-trace advantages times these weights give an unbiased policy gradient.

  Args:
    ratios: `[B, T]` float >= 0, pi / mu of the action taken.
    mask: `[B, T]` bool, True first, then False.
    maximum: > 0, upper bound of each product.

  Returns:
    `[B, T]` float in [0, maximum], without gradient; 0 where there is no
    decision.

  Source: Precup, Sutton and Singh 2000, "Eligibility Traces for Off-Policy
  Policy Evaluation", section 3.
  """
  chex.assert_rank([ratios, mask], 2)
  chex.assert_equal_shape([ratios, mask])
  # The product stops before t: the advantage at t includes ratio_t already.
  before = jnp.pad(
      jnp.where(mask, ratios, 0.0)[:, :-1],
      ((0, 0), (1, 0)),
      constant_values=1.0,
  )
  # Only the product is clipped. If each factor were clipped, as in V-trace, the
  # bias would grow with t.
  weights = jnp.minimum(jnp.cumprod(before, axis=1), maximum)
  return jax.lax.stop_gradient(jnp.where(mask, weights, 0.0))
