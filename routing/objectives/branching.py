"""The closed form where control returns: what a policy achieves on whole trees.

`objectives.exact` knows the outcome of every hand-over; with all replies
remembered (`rollout.trees`) the same is known of every way through a problem in
`switch` and `redraft`. The expected accuracy, cost and relative loss of a
stochastic policy are then finite sums over leaves, differentiable in its
logits: no sampling, no importance weights, no critics. Goes past the paper.

Decisions are laid out as a heap: what follows decision i when route a is named
stands at A i + 1 + a, so each depth is one slice and no index is needed.
"""

import chex
import jax
import jax.numpy as jnp

from routing import types
from routing.features import forests
from routing.objectives import exact


def reach_probabilities(chances: chex.Array) -> jax.Array:
  """Chance of each branch: that its decision is reached, and it is taken.

  Args:
    chances: `[B, D, A]` float, of each route at each decision, given that the
      decision is reached.

  Returns:
    `[B, D, A]`; a depth sums to at most 1 if its rows do.
  """
  chex.assert_rank(chances, 3)
  batch_size, size, _ = chances.shape
  reached = jnp.ones((batch_size, 1), chances.dtype)
  taken, start = [], 0
  while start < size:
    here = chances[:, start : start + reached.shape[1]]
    # The last depth may be cut short where nobody decides anything any more.
    taken.append(reached[:, : here.shape[1], None] * here)
    reached = taken[-1].reshape(batch_size, -1)
    start += here.shape[1]
  return jnp.concatenate(taken, axis=1)


def exact_outcomes(
    logits: chex.Array, batch: forests.TreeBatch
) -> exact.Outcomes:
  """Expected correctness, cost and relative loss of each problem.

  Args:
    logits: `[B, D, A]` float, the policy's preferences at each decision.
    batch: the trees; `features` are not read.

  Returns:
    `exact.Outcomes` of `[B]` arrays, differentiable in `logits`.
  """
  chex.assert_equal_shape([logits, batch.correct, batch.cost, batch.loss])
  chex.assert_shape(batch.mask, logits.shape[:2])
  exists = batch.mask[..., None]
  # Padding may hold anything; masking before the softmax keeps its gradient 0.
  chances = jax.nn.softmax(jnp.where(exists, logits, 0.0))
  taken = reach_probabilities(chances)
  expect = lambda values: jnp.sum(taken * values, axis=(1, 2))
  return exact.Outcomes(
      correct=expect(batch.correct),
      cost=expect(batch.cost),
      loss=expect(batch.loss),
  )


def closed_form(
    logits: chex.Array, batch: types.LadderBatch | forests.TreeBatch
) -> exact.Outcomes:
  """`exact_outcomes` of ladders or of trees."""
  if isinstance(batch, forests.TreeBatch):
    return exact_outcomes(logits, batch)
  return exact.exact_outcomes(logits, batch)
