"""The closed form: what a policy achieves on a ladder, without sampling.

A ladder holds the outcome of every hand-over, so under `escalate` the expected
accuracy, cost and relative loss of a stochastic policy are finite sums,
differentiable in its logits. No importance weights, no variance.
"""

import chex
import jax
import jax.numpy as jnp

from routing import types


@chex.dataclass(frozen=True)
class Outcomes:
  """What is expected of each problem, or of the mean problem.

  correct: `[...]` float32 in [0, 1], chance that the answer is right.
  cost: `[...]` float32 >= 0, fraction of the all-large cost.
  loss: `[...]` float32 in [0, 1], chance that the largest model alone is right
    and the answer is wrong.
  """

  correct: chex.Array
  cost: chex.Array
  loss: chex.Array

  def mean(self) -> 'Outcomes':
    """The mean over problems."""
    return jax.tree.map(jnp.mean, self)


def stopping_probabilities(
    logits: chex.Array, mask: chex.Array
) -> tuple[jax.Array, jax.Array]:
  """Chance of each way through a ladder.

  With p_t = softmax(logits_t), handing over at t to route a has the chance
  p_t(a) * prod_{s<t} p_s(0), and never handing over prod_s p_s(0). Products are
  sums of logarithms, so that long ladders neither underflow nor lose gradients.

  Args:
    logits: `[B, T, A]` float, preferences at each decision; 0 = stay.
    mask: `[B, T]` bool, decision exists.

  Returns:
    `[B, T, A-1]` hand-over chances, zero where there is no decision, and `[B]`
    the chance of staying to the end. They sum to 1 for each problem.
  """
  chex.assert_rank([logits, mask], [3, 2])
  chex.assert_shape(mask, logits.shape[:2])
  chex.assert_type([logits, mask], [float, bool])
  exists = mask[..., None]
  # Padding may hold anything; masking before the softmax keeps its gradient 0.
  log_probs = jax.nn.log_softmax(jnp.where(exists, logits, 0.0))
  stay = jnp.where(mask, log_probs[..., 0], 0.0)
  reached = jnp.cumsum(stay, axis=1) - stay
  handover = jnp.exp(reached[..., None] + log_probs[..., 1:])
  return jnp.where(exists, handover, 0.0), jnp.exp(jnp.sum(stay, axis=1))


def exact_outcomes(logits: chex.Array, batch: types.LadderBatch) -> Outcomes:
  """Expected correctness, cost and relative loss of each problem.

  Args:
    logits: `[B, T, A]` float, the policy's preferences at each decision.
    batch: the ladders; `features` are not read.

  Returns:
    `Outcomes` of `[B]` arrays, differentiable in `logits`.
  """
  chex.assert_rank(logits, 3)
  batch_size, num_steps, num_routes = logits.shape
  chex.assert_shape(
      [batch.handover_correct, batch.handover_cost, batch.handover_loss],
      (batch_size, num_steps, num_routes - 1),
  )
  chex.assert_shape(
      [batch.stay_correct, batch.stay_cost, batch.stay_loss], (batch_size,)
  )
  handover, stay = stopping_probabilities(logits, batch.mask)

  def expect(if_handover, if_stay):
    return jnp.sum(handover * if_handover, axis=(1, 2)) + stay * if_stay

  return Outcomes(
      correct=expect(batch.handover_correct, batch.stay_correct),
      cost=expect(batch.handover_cost, batch.stay_cost),
      loss=expect(batch.handover_loss, batch.stay_loss),
  )


def mean_entropy(logits: chex.Array, mask: chex.Array) -> jax.Array:
  """Mean entropy of the policy over the decisions that exist, in nats."""
  chex.assert_rank([logits, mask], [3, 2])
  log_probs = jax.nn.log_softmax(jnp.where(mask[..., None], logits, 0.0))
  entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
  return jnp.sum(entropy * mask) / jnp.maximum(mask.sum(), 1)
