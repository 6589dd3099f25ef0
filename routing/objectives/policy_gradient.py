"""The policy gradient on trajectories: rewards, ratios and surrogate losses.

Three policies meet here:

- the *behaviour* policy mu collected the data; its action probabilities are in
  the batch;
- the *old* policy is the one before this update; its advantages are estimated
  by `vtrace`;
- the *new* policy is differentiated, and kept near the old one by clipping, by
  a KL penalty or by a trust region.

Surrogates are sums over the decisions of a trajectory, averaged over
trajectories, so a change in them is a change in accuracy or in cost. Entropies
and KL divergences are averaged over decisions.
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
  """Returns the reward and the constraint cost of each decision.

  form         reward                             constraint cost
  budget       correctness, at the last decision  cost of each decision
  reliability  negated cost of each decision      loss, at the last decision

  Args:
    batch: the trajectories.
    form: one of `lagrangian.FORMS`.

  Returns:
    `[B, T]` float rewards and `[B, T]` float constraint costs, 0 on padding. A
    trajectory without a decision has zeros only.
  """
  chex.assert_equal_shape([batch.costs, batch.mask])
  lagrangian.check_form(form)
  # The mask is True first, then False: the last decision is followed by False,
  # or by the end of the row.
  is_last = batch.mask & ~jnp.pad(batch.mask[:, 1:], ((0, 0), (0, 1)))
  costs = jnp.where(batch.mask, batch.costs, 0.0)
  if form == 'budget':
    return is_last * batch.correct[:, None], costs
  return -costs, is_last * batch.loss[:, None]


def log_probs(logits: chex.Array, batch: types.TrajectoryBatch) -> jax.Array:
  """Returns `[B, T, A]` log-probabilities over the available routes.

  Padding gets equal probabilities and no gradient.
  """
  chex.assert_equal_shape([logits, batch.available])
  return categorical.log_softmax(
      logits, batch.available & batch.mask[..., None]
  )


def importance_ratios(
    policy: chex.Array, batch: types.TrajectoryBatch
) -> jax.Array:
  """Returns `[B, T]` importance ratios pi(a_t) / mu(a_t); 1 on padding.

  Args:
    policy: `[B, T, A]` log-probabilities of pi, from `log_probs`.
    batch: the trajectories; `behaviour` is mu(a_t), in (0, 1].
  """
  # Padding may hold 0, and 0 / 0 would be NaN even where it is masked later.
  behaviour = jnp.where(batch.mask, batch.behaviour, 1.0)
  probabilities = jnp.exp(categorical.log_prob(policy, batch.actions))
  # 1 on padding, so that products of ratios carry on past the end of a trace.
  return jnp.where(batch.mask, probabilities / behaviour, 1.0)


def penalised(
    advantages: chex.Array,
    constraint_advantages: chex.Array,
    multiplier: chex.Numeric,
) -> jax.Array:
  """Returns (A - lam * A_C) / (1 + lam), the advantage in the Lagrangian.

  The denominator keeps the step size independent of the multiplier, which may
  grow by orders of magnitude.

  Args:
    advantages: `[B, T]`, A, of the reward.
    constraint_advantages: `[B, T]`, A_C, of the constraint cost.
    multiplier: lam >= 0, scalar or `[B, 1]`.

  Source: Stooke et al. 2020, "Responsive Safety in Reinforcement Learning by
  PID Lagrangian Methods", algorithm 1.
  """
  return (advantages - multiplier * constraint_advantages) / (1.0 + multiplier)


def rescaled(advantages: chex.Array, mask: chex.Array) -> jax.Array:
  """Returns `[B, T]` advantages divided by their root mean square."""
  # Not centred as is common on-policy: a constant baseline has expectation 0
  # only under the policy's own actions, so off-policy it would add a bias.
  square = _mean_over_decisions(advantages**2, mask)
  # If all advantages are 0 they stay 0, rather than become 0 / 0.
  return advantages / jnp.sqrt(jnp.where(square > 0, square, 1.0))


def surrogate(
    new: chex.Array,
    old: chex.Array,
    batch: types.TrajectoryBatch,
    advantages: chex.Array,
    *,
    clip: float = jnp.inf,
) -> jax.Array:
  """Returns the clipped surrogate objective, averaged over trajectories.

  To first order it is the improvement of the new policy over the old one, up to
  a constant. With x_t = new(a_t) / old(a_t) it is the mean over trajectories of

    sum_t min(x_t A_t, clip(x_t, 1 - clip, 1 + clip) A_t),

  so that beyond the clip a larger ratio gains nothing and has no gradient.

  Args:
    new: `[B, T, A]` log-probabilities, differentiated.
    old: `[B, T, A]` log-probabilities of the policy before the update.
    batch: the trajectories.
    advantages: `[B, T]`, constants, 0 on padding. The importance weight of old
      over behaviour is part of them.
    clip: > 0; `inf` for none.

  Source: Schulman et al. 2017, "Proximal Policy Optimization Algorithms",
  equation 7.
  """
  chex.assert_equal_shape([new, old, batch.available])
  chex.assert_equal_shape([advantages, batch.mask])
  taken = (categorical.log_prob(x, batch.actions) for x in (new, old))
  # exp(log new - log old), since both probabilities may underflow to 0.
  ratio = jnp.exp(jnp.subtract(*taken))
  clipped = jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
  gains = jnp.minimum(ratio * advantages, clipped * advantages)
  # Not B: trajectories without a decision do not depend on the policy.
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
  """Returns the policy's loss to minimise, and its terms.

    loss = -surrogate - entropy_weight * entropy + kl_weight * KL(old || new)

  Args:
    logits: `[B, T, A]` float of the new policy.
    batch, advantages, old, clip: as in `surrogate`.
    entropy_weight: >= 0, accuracy (or cost) per nat.
    kl_weight: >= 0, in the same unit.

  Returns:
    The scalar loss, and scalars to log: `surrogate`; `entropy` and `kl`, in
    nats per decision; `clipped`, the share of decisions whose ratio is beyond
    the clip.
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
  """Returns the mean KL(old || new) per decision, in nats; both `[B, T, A]`."""
  # Old first, as in TRPO and CPO. In the other direction a route to which old
  # gives little probability would dominate.
  kl = categorical.kl_divergence(old, new)
  return _mean_over_decisions(kl, batch.mask)


def critic_loss(
    values: chex.Array, targets: chex.Array, mask: chex.Array
) -> jax.Array:
  """Returns half the mean squared error over decisions; all are `[B, T]`."""
  chex.assert_equal_shape([values, targets, mask])
  return 0.5 * _mean_over_decisions((values - targets) ** 2, mask)


def _mean_over_decisions(x: chex.Array, mask: chex.Array) -> jax.Array:
  """Returns the scalar mean of `[B, T]` values where `mask`; 0 if nowhere."""
  return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(mask.sum(), 1)
