"""The policy gradient on trajectories: signals, ratios, surrogate losses.

Three policies meet here. The *behaviour* collected the data; its probabilities
are in the batch. The *old* policy is the one before this update; advantages are
estimated for it (see `vtrace`). The *new* one is differentiated, and kept near
the old one by clipping, by a penalty or by a trust region.

Surrogates are sums over the decisions of a trajectory, averaged over
trajectories, so a change in them is a change in accuracy or in cost. Entropies
and divergences are averaged over decisions.
"""

import chex
import jax
import jax.numpy as jnp

from routing import types
from routing.objectives import lagrangian
from routing.policy import categorical


def signals(
    batch: types.TrajectoryBatch, *, form: str
) -> tuple[jax.Array, jax.Array]:
  """What each decision earns, and what the constraint charges it with.

  budget:      earns correctness, at the last decision; is charged the costs.
  reliability: earns the costs, negated; is charged the loss, at the last one.

  Args:
    batch: the trajectories.
    form: one of `lagrangian.FORMS`.

  Returns:
    `[B, T]` float rewards and `[B, T]` float charges, 0 on padding. A
    trajectory without a decision earns nothing and is charged nothing.
  """
  chex.assert_equal_shape([batch.costs, batch.mask])
  lagrangian.check_form(form)
  is_last = batch.mask & ~jnp.pad(batch.mask[:, 1:], ((0, 0), (0, 1)))
  costs = jnp.where(batch.mask, batch.costs, 0.0)
  if form == 'budget':
    return is_last * batch.correct[:, None], costs
  return -costs, is_last * batch.loss[:, None]


def log_probs(logits: chex.Array, batch: types.TrajectoryBatch) -> jax.Array:
  """`[B, T, A]` log-probabilities over available routes; padding is inert."""
  chex.assert_equal_shape([logits, batch.available])
  return categorical.log_softmax(
      logits, batch.available & batch.mask[..., None]
  )


def importance_ratios(
    policy: chex.Array, batch: types.TrajectoryBatch
) -> jax.Array:
  """`[B, T]` policy over behaviour, of the actions taken; 1 on padding.

  Args:
    policy: `[B, T, A]`, as `log_probs` gives them.
    batch: the trajectories; `behaviour` is in (0, 1].
  """
  behaviour = jnp.where(batch.mask, batch.behaviour, 1.0)
  probabilities = jnp.exp(categorical.log_prob(policy, batch.actions))
  return jnp.where(batch.mask, probabilities / behaviour, 1.0)


def penalised(
    advantages: chex.Array, charges: chex.Array, multiplier: chex.Numeric
) -> jax.Array:
  """(A - lam * A_C) / (1 + lam): one advantage of both critics.

  The denominator keeps steps of one size while the multiplier grows.

  Args:
    advantages, charges: `[B, T]`, of the reward and of the constraint.
    multiplier: >= 0, scalar or `[B, 1]`.

  Source: Stooke et al. 2020, "Responsive Safety in Reinforcement Learning by
  PID Lagrangian Methods".
  """
  return (advantages - multiplier * charges) / (1.0 + multiplier)


def rescaled(advantages: chex.Array, mask: chex.Array) -> jax.Array:
  """Advantages over their root mean square, `[B, T]`; zeros stay zeros.

  They are not centred: off-policy, a constant would not cancel.
  """
  square = _mean_over_decisions(advantages**2, mask)
  return advantages / jnp.sqrt(jnp.where(square > 0, square, 1.0))


def surrogate(
    new: chex.Array,
    old: chex.Array,
    batch: types.TrajectoryBatch,
    advantages: chex.Array,
    *,
    clip: float = jnp.inf,
) -> jax.Array:
  """How much more the new policy earns than the old one, to first order.

  Mean over trajectories of sum_t min(x_t A_t, clipped(x_t) A_t), with the ratio
  x_t = new(a_t) / old(a_t) clipped to [1 - clip, 1 + clip]: beyond it there is
  nothing more to gain, hence no reason to go there.

  Args:
    new: `[B, T, A]` log-probabilities, differentiated.
    old: `[B, T, A]` log-probabilities of the policy before the update.
    batch: the trajectories.
    advantages: `[B, T]`, constants, 0 on padding.
    clip: > 0; `inf` for none.

  Source: Schulman et al. 2017, "Proximal Policy Optimization Algorithms",
  equation 7.
  """
  chex.assert_equal_shape([new, old, batch.available])
  chex.assert_equal_shape([advantages, batch.mask])
  taken = (categorical.log_prob(x, batch.actions) for x in (new, old))
  ratio = jnp.exp(jnp.subtract(*taken))
  clipped = jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
  gains = jnp.minimum(ratio * advantages, clipped * advantages)
  # Not B: a trajectory without a decision is none of the policy's.
  num_trajectories = jnp.maximum(batch.mask[:, 0].sum(), 1)
  return jnp.sum(jnp.where(batch.mask, gains, 0.0)) / num_trajectories


def policy_loss(
    logits: chex.Array,
    batch: types.TrajectoryBatch,
    advantages: chex.Array,
    old: chex.Array,
    *,
    clip: float,
    entropy_weight: float,
    kl_weight: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Clipped surrogate, entropy bonus and divergence penalty, to be minimised.

  Args:
    logits: `[B, T, A]` float of the new policy.
    batch, advantages, old, clip: as of `surrogate`.
    entropy_weight: >= 0, accuracy (or cost) per nat.
    kl_weight: >= 0, of the divergence of the new policy from the old one.

  Returns:
    The scalar loss, and scalars to log: `surrogate`, `entropy`, `kl`, both in
    nats per decision, and `clipped`, the share of decisions beyond the clip.
  """
  new = log_probs(logits, batch)
  gain = surrogate(new, old, batch, advantages, clip=clip)
  entropy = _mean_over_decisions(categorical.entropy(new), batch.mask)
  kl = mean_kl(new, old, batch)
  shift = categorical.log_prob(new - old, batch.actions)
  is_clipped = jnp.abs(jnp.exp(shift) - 1.0) > clip
  return -gain - entropy_weight * entropy + kl_weight * kl, {
      'surrogate': gain,
      'entropy': entropy,
      'kl': kl,
      'clipped': _mean_over_decisions(is_clipped, batch.mask),
  }


def mean_kl(
    new: chex.Array, old: chex.Array, batch: types.TrajectoryBatch
) -> jax.Array:
  """Mean KL(old || new) over the decisions, in nats; both `[B, T, A]`."""
  kl = categorical.kl_divergence(old, new)
  return _mean_over_decisions(kl, batch.mask)


def critic_loss(
    values: chex.Array, targets: chex.Array, mask: chex.Array
) -> jax.Array:
  """Half the mean squared error over decisions; all `[B, T]`."""
  chex.assert_equal_shape([values, targets, mask])
  return 0.5 * _mean_over_decisions((values - targets) ** 2, mask)


def _mean_over_decisions(x: chex.Array, mask: chex.Array) -> jax.Array:
  return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(mask.sum(), 1)
