"""The closed form: what a policy achieves where every way is known.

Ladders (`escalate`) and trees of greedy replies (`switch`, `redraft`) hold the
outcome of every way through a problem. The expected accuracy, cost and relative
loss of a stochastic policy are then finite sums over the answers, and
differentiable in its logits: no sampling, no importance weights, no critics.
Goes past the paper, which estimates the same by V-trace.
"""

import itertools

import chex
import jax
import jax.numpy as jnp

from routing import types


@chex.dataclass(frozen=True)
class Outcomes:
  """Expected outcomes of a policy, of each problem or of the mean problem.

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


def branch_log_probabilities(
    logits: chex.Array, batch: types.OutcomeBatch
) -> jax.Array:
  """Log-probability of each branch: its decision is reached, and it is taken.

  With p_d = softmax(logits_d), the branch of action a at decision d has the
  probability p_d(a) times that of the branch that leads to d. Products are sums
  of logarithms, so that long ways neither underflow nor lose gradients.

  Args:
    logits: `[B, D, A]` float, the policy's preferences at each decision.
    batch: the problems; `features` and outcomes are not read.

  Returns:
    `[B, D, A]` float. Where there is no decision it means nothing.
  """
  chex.assert_rank([logits, batch.mask], [3, 2])
  chex.assert_shape([batch.mask, batch.branch], logits.shape[:2])
  chex.assert_type([logits, batch.mask, batch.branch], [float, bool, int])
  chex.assert_axis_dimension(logits, 1, sum(batch.widths))
  # Padding may hold anything; masking before the softmax keeps its gradient 0.
  log_probs = jax.nn.log_softmax(jnp.where(batch.mask[..., None], logits, 0.0))
  bounds = list(itertools.accumulate(batch.widths, initial=0))
  taken = []
  for start, stop in itertools.pairwise(bounds):
    if not start:
      reached = jnp.zeros((len(logits), stop), logits.dtype)
    elif batch.is_chain:
      reached = taken[-1][:, :, 0]  # A gather would find the same.
    else:
      earlier = taken[-1].reshape(len(logits), -1)
      reached = jnp.take_along_axis(
          earlier, batch.branch[:, start:stop], axis=1
      )
    taken.append(reached[..., None] + log_probs[:, start:stop])
  return jnp.concatenate(taken, axis=1)


def exact_outcomes(logits: chex.Array, batch: types.OutcomeBatch) -> Outcomes:
  """Expected correctness, cost and relative loss of each problem.

  Args:
    logits: `[B, D, A]` float, the policy's preferences at each decision.
    batch: the problems; `features` are not read.

  Returns:
    `Outcomes` of `[B]` arrays, differentiable in `logits`.
  """
  chex.assert_equal_shape([logits, batch.correct, batch.cost, batch.loss])
  taken = jnp.exp(branch_log_probabilities(logits, batch))
  taken = jnp.where(batch.mask[..., None], taken, 0.0)
  # A branch that leads on holds outcomes of 0.
  expect = lambda values: jnp.sum(taken * values, axis=(1, 2))
  return Outcomes(
      correct=expect(batch.correct),
      cost=expect(batch.cost),
      loss=expect(batch.loss),
  )


def mean_entropy(logits: chex.Array, mask: chex.Array) -> jax.Array:
  """Mean entropy of the policy over the decisions that exist, in nats."""
  chex.assert_rank([logits, mask], [3, 2])
  log_probs = jax.nn.log_softmax(jnp.where(mask[..., None], logits, 0.0))
  entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
  return jnp.sum(entropy * mask) / jnp.maximum(mask.sum(), 1)
