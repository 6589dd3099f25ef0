"""Exact expected outcomes of a stochastic policy, where all outcomes are known.

Ladders (`escalate`) and reply trees of greedy replies (`switch`, `redraft`)
record the outcome of every sequence of actions on a problem. The expected
accuracy, cost and relative loss of a policy are then finite sums over answers,
differentiable in the logits: no sampling, no importance weights, no critics.
"Policy-Guided Stepwise Model Routing" (arXiv 2605.06116) estimates the same
expectations by V-trace instead.
"""

import itertools

import chex
import jax
import jax.numpy as jnp

from routing import types


@chex.dataclass(frozen=True)
class Outcomes:
  """Expected outcomes of a policy, per problem or averaged over problems.

  correct: `[...]` float32 in [0, 1], probability that the answer is right.
  cost: `[...]` float32 >= 0, fraction of the all-large cost.
  loss: `[...]` float32 in [0, 1], relative loss: probability that the largest
    model alone is right and the routed answer is wrong.
  """

  correct: chex.Array
  cost: chex.Array
  loss: chex.Array

  def mean(self) -> 'Outcomes':
    """Returns the means over problems, as scalars."""
    return jax.tree.map(jnp.mean, self)


def branch_log_probabilities(
    logits: chex.Array, batch: types.OutcomeBatch
) -> jax.Array:
  """Returns log P(decision d is reached and action a is taken) for all d, a.

  A branch is a decision with one of its actions. With p_d = softmax(logits_d),
  and parent(d) the branch that leads to decision d:

    P(d, a) = p_d(a) * P(parent(d)),   P(parent(d)) = 1 at the first level.

  For a ladder with hand-over probabilities p_t this is the optimal-stopping
  product P(hand over at t) = p_t * prod_{s<t} (1 - p_s).

  Args:
    logits: `[B, D, A]` float, the policy's logits at each decision.
    batch: decisions and outcomes of B problems. Only `mask`, `branch` and
      `widths` are used.

  Returns:
    `[B, D, A]` float. Entries at decisions that do not exist are arbitrary.
  """
  chex.assert_rank([logits, batch.mask], [3, 2])
  chex.assert_shape([batch.mask, batch.branch], logits.shape[:2])
  chex.assert_type([logits, batch.mask, batch.branch], [float, bool, int])
  chex.assert_axis_dimension(logits, 1, sum(batch.widths))
  # Padded logits may be inf or NaN. They are masked before the softmax, not
  # after, so that their gradient is 0: the gradient of where(mask, f(x), 0) is
  # NaN wherever f'(x) is NaN.
  log_probs = jax.nn.log_softmax(jnp.where(batch.mask[..., None], logits, 0.0))
  bounds = list(itertools.accumulate(batch.widths, initial=0))
  taken = []
  # The loop over levels is a Python loop: each level has its own static width,
  # and needs the probabilities of the level before. Logarithms are added, since
  # a product of many small probabilities would underflow and lose its gradient.
  for start, stop in itertools.pairwise(bounds):
    if not start:
      reached = jnp.zeros((len(logits), stop), logits.dtype)
    elif batch.is_chain:
      # In a ladder only action 0 leads to a next decision. The gather below
      # would give the same values, but needs a scatter in the backward pass.
      reached = taken[-1][:, :, 0]  # [B, 1]
    else:
      # `branch` is the index of parent(d) among the [width, A] branches of the
      # level before, flattened: A * (decision's place in that level) + action.
      earlier = taken[-1].reshape(len(logits), -1)
      reached = jnp.take_along_axis(
          earlier, batch.branch[:, start:stop], axis=1
      )
    taken.append(reached[..., None] + log_probs[:, start:stop])
  return jnp.concatenate(taken, axis=1)


def exact_outcomes(logits: chex.Array, batch: types.OutcomeBatch) -> Outcomes:
  """Returns each problem's expected correctness, cost and relative loss.

    E[x] = sum_{d, a} P(d, a) x(d, a),   x one of correct, cost, loss,

  with P from `branch_log_probabilities` and x the outcome of the answer that
  ends with action a at decision d, 0 if the answer does not end there.

  Args:
    logits: `[B, D, A]` float, the policy's logits at each decision.
    batch: decisions and outcomes of B problems. `features` are not used.

  Returns:
    `Outcomes` of `[B]` arrays, differentiable in `logits`.
  """
  chex.assert_equal_shape([logits, batch.correct, batch.cost, batch.loss])
  taken = jnp.exp(branch_log_probabilities(logits, batch))
  taken = jnp.where(batch.mask[..., None], taken, 0.0)
  # The expectation is a sum over all D x A branches of a problem. A branch that
  # leads to another decision has outcome 0 in the batch and adds nothing. The
  # probabilities of the branches that end the answer sum to 1.
  expect = lambda values: jnp.sum(taken * values, axis=(1, 2))
  return Outcomes(
      correct=expect(batch.correct),
      cost=expect(batch.cost),
      loss=expect(batch.loss),
  )


def mean_entropy(logits: chex.Array, mask: chex.Array) -> jax.Array:
  """Returns the policy's mean entropy per existing decision, in nats.

  Args:
    logits: `[B, D, A]` float.
    mask: `[B, D]` bool, the decision exists. All existing decisions have equal
      weight, however likely the policy is to reach them.
  """
  chex.assert_rank([logits, mask], [3, 2])
  log_probs = jax.nn.log_softmax(jnp.where(mask[..., None], logits, 0.0))
  entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
  # The divisor is at least 1, so that a batch without decisions gives 0 and not
  # 0 / 0.
  return jnp.sum(entropy * mask) / jnp.maximum(mask.sum(), 1)
