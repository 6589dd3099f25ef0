"""The policy gradient on trajectories: rewards, ratios and surrogate losses.

An update involves three policies:

- the *behaviour* policy mu collected the data; its action probabilities are in
  the batch;
- the *old* policy is the trained policy before this update; its advantages are
  estimated by `vtrace`;
- the *new* policy is differentiated, and kept near the old policy by clipping,
  by a KL penalty or by a trust region.

A surrogate is a sum over the decisions of a trajectory, averaged over
trajectories, so a change of its value estimates a change of accuracy or cost.
Entropies and KL divergences are averaged over decisions.
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
    `[B, T]` float rewards and `[B, T]` float constraint costs, 0 on padding.
    Trajectories without a decision have zeros only.
  """
  chex.assert_equal_shape([batch.costs, batch.mask])
  lagrangian.check_form(form)
  # A row of the mask is True up to the last decision, then False. So the last
  # decision is the True entry with a False one, or the row's end, after it.
  is_last = batch.mask & ~jnp.pad(batch.mask[:, 1:], ((0, 0), (0, 1)))
  costs = jnp.where(batch.mask, batch.costs, 0.0)
  if form == 'budget':
    return is_last * batch.correct[:, None], costs
  return -costs, is_last * batch.loss[:, None]


def log_probs(logits: chex.Array, batch: types.TrajectoryBatch) -> jax.Array:
  """Returns `[B, T, A]` log-probabilities of a policy on the available routes.

  Padding gets equal probabilities and no gradient.

  Args:
    logits: `[B, T, A]` float of the policy.
    batch: the trajectories; `available` and `mask` are used.
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
  # `behaviour` may be 0 on padding, where the quotient below would be NaN or
  # inf, and so would its gradient, even though `where` masks the value.
  behaviour = jnp.where(batch.mask, batch.behaviour, 1.0)
  probabilities = jnp.exp(categorical.log_prob(policy, batch.actions))
  # The ratio is 1 on padding, so that products of ratios along a trajectory do
  # not change after its end.
  return jnp.where(batch.mask, probabilities / behaviour, 1.0)


def penalised(
    advantages: chex.Array,
    constraint_advantages: chex.Array,
    multiplier: chex.Numeric,
) -> jax.Array:
  """Returns (A - lam * A_C) / (1 + lam), the advantage of the Lagrangian.

  The denominator keeps the size of the policy's steps independent of the
  multiplier, which may grow by orders of magnitude.

  Args:
    advantages: `[B, T]` advantages A of the reward.
    constraint_advantages: `[B, T]` advantages A_C of the constraint cost.
    multiplier: lam >= 0, scalar or `[B, 1]`.

  Source: Stooke et al. 2020, "Responsive Safety in Reinforcement Learning by
  PID Lagrangian Methods", algorithm 1.
  """
  return (advantages - multiplier * constraint_advantages) / (1.0 + multiplier)


def rescaled(advantages: chex.Array, mask: chex.Array) -> jax.Array:
  """Returns `[B, T]` advantages divided by their root mean square.

  Args:
    advantages: `[B, T]` float.
    mask: `[B, T]` bool, the decisions over which the mean is taken.
  """
  # The advantages are not centred, as is common on-policy: the gradient of a
  # constant baseline has mean 0 only over actions of the policy itself, so
  # off-policy it would add a bias.
  square = _mean_over_decisions(advantages**2, mask)
  # If all advantages are 0, the divisor is 1, so that they stay 0 and do not
  # become 0 / 0.
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

  To first order the surrogate is the improvement of the new policy over the old
  policy, up to a constant. With x_t = new(a_t) / old(a_t), the surrogate of one
  trajectory is

    sum_t min(x_t A_t, clip(x_t, 1 - clip, 1 + clip) A_t),

  so a ratio that leaves [1 - clip, 1 + clip] in the direction of improvement
  gains nothing more and has no gradient.

  Args:
    new: `[B, T, A]` log-probabilities, differentiated.
    old: `[B, T, A]` log-probabilities of the policy before the update.
    batch: the trajectories.
    advantages: `[B, T]` A_t, constants, 0 on padding. They are multiplied by
      the importance weight of the old policy over the behaviour policy already.
    clip: > 0; `inf` for no clipping.

  Source: Schulman et al. 2017, "Proximal Policy Optimization Algorithms",
  equation 7.
  """
  chex.assert_equal_shape([new, old, batch.available])
  chex.assert_equal_shape([advantages, batch.mask])
  taken = (categorical.log_prob(x, batch.actions) for x in (new, old))
  # The ratio is exp(log new - log old), since both probabilities may underflow
  # to 0.
  ratio = jnp.exp(jnp.subtract(*taken))
  clipped = jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
  gains = jnp.minimum(ratio * advantages, clipped * advantages)
  # The mean is not over all B: trajectories without a decision do not depend on
  # the policy.
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
  """Returns the new policy's loss to minimise, and the terms of the loss.

    loss = -surrogate - entropy_weight * entropy + kl_weight * KL(old || new)

  Args:
    logits: `[B, T, A]` float of the new policy.
    batch, advantages, old, clip: as in `surrogate`.
    entropy_weight: >= 0, accuracy (or cost) per nat.
    kl_weight: >= 0, accuracy (or cost) per nat.

  Returns:
    The scalar loss, and scalars to log: `surrogate`; `entropy` and `kl`, in
    nats per decision; `clipped`, the share of decisions whose ratio is outside
    [1 - clip, 1 + clip].
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
  """Returns the mean KL(old || new) per decision, in nats.

  Args:
    new, old: `[B, T, A]` log-probabilities.
    batch: the trajectories.
  """
  # The old policy comes first, as in TRPO and CPO. In KL(new || old) routes to
  # which the old policy gives little probability would dominate.
  kl = categorical.kl_divergence(old, new)
  return _mean_over_decisions(kl, batch.mask)


def critic_loss(
    values: chex.Array, targets: chex.Array, mask: chex.Array
) -> jax.Array:
  """Returns half the mean squared error of a critic over decisions.

  Args:
    values: `[B, T]` the critic's values.
    targets: `[B, T]` values to learn, e.g. of V-trace; constants.
    mask: `[B, T]` bool, the decision exists.
  """
  chex.assert_equal_shape([values, targets, mask])
  return 0.5 * _mean_over_decisions((values - targets) ** 2, mask)


def _mean_over_decisions(x: chex.Array, mask: chex.Array) -> jax.Array:
  """Returns the mean of `x` `[B, T]` where `mask` is True; 0 if nowhere."""
  return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(mask.sum(), 1)
