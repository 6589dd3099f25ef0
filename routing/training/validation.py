"""Validation: scores each policy at its level and keeps the best parameters.

On known outcomes (ladders, reply trees) a policy's expected outcomes are exact.
On trajectories of another policy they are estimated by self-normalised
importance weighting (`weighted_outcomes`), which is slightly biased but has far
less variance than the unbiased estimate. A score does not count if the
effective sample size is below `objective.min_effective_size`.

New answers under the policy would give a better estimate, but the engines would
have to write thousands of them at each validation, which costs more than all of
training. Only live evaluation does this.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from routing import types
from routing.objectives import exact
from routing.objectives import lagrangian
from routing.objectives import policy_gradient
from routing.policy import networks
from routing.training import kappa as kappa_lib
from routing.training import state as state_lib

Data = types.OutcomeBatch | types.TrajectoryBatch
# A logit so large that the softmax is exactly 1 in float32. It is finite,
# because `inf` would make the log-probabilities NaN.
_CERTAIN = 1e4


def weighted_outcomes(
    log_probs: chex.Array, batch: types.TrajectoryBatch
) -> tuple[exact.Outcomes, jax.Array]:
  """Estimates a policy's mean outcomes from behaviour trajectories.

  This is the weighted (self-normalised) per-decision importance estimate. With
  the policy pi, the behaviour policy mu, the weight of trajectory b up to
  decision t, w_{b,t} = prod_{s<=t} pi(a_s) / mu(a_s), and the last decision T:

    E[cost]    = sum_t sum_b w_{b,t} cost_{b,t} / sum_b w_{b,t}
    E[correct] = sum_b w_{b,T} correct_b / sum_b w_{b,T}
    E[loss]    = sum_b w_{b,T} loss_b / sum_b w_{b,T}

  Args:
    log_probs: `[B, T, A]` float, log pi, from `policy_gradient.log_probs`.
    batch: trajectories of the behaviour policy.

  Returns:
    The mean outcomes, and the effective sample size
    (sum_b w_{b,T})^2 / sum_b w_{b,T}^2. Each is 0 if all weights are 0.

  Source: Precup, Sutton and Singh 2000, "Eligibility Traces for Off-Policy
  Policy Evaluation".
  """
  chex.assert_equal_shape([log_probs, batch.available])
  ratios = policy_gradient.importance_ratios(log_probs, batch)
  # Ratios are 1 on padding, so a trajectory that has ended keeps its last
  # weight. Each column of `weights` therefore has all B trajectories.
  weights = jnp.cumprod(ratios, axis=1)
  total = weights.sum(axis=0)
  shares = weights / jnp.where(total > 0, total, 1.0)
  last = shares[:, -1]  # [B], w_{b,T} / sum_b w_{b,T}.
  costs = jnp.where(batch.mask, batch.costs, 0.0)
  # The effective sample size does not change if all weights are scaled. Shares
  # are used, because the squares of the weights could overflow.
  square = jnp.sum(last**2)
  effective = jnp.where(
      square > 0, last.sum() ** 2 / jnp.where(square > 0, square, 1.0), 0.0
  )
  outcomes = exact.Outcomes(
      correct=last @ batch.correct,
      cost=jnp.sum(shares * costs),
      loss=last @ batch.loss,
  )
  return outcomes, effective


def outcomes(logits: chex.Array, data: Data) -> exact.Outcomes:
  """Returns a policy's mean outcomes over the problems of `data`.

  They are exact on known outcomes, and estimated on trajectories.

  Args:
    logits: the policy's logits: `[B, D, A]` float on known outcomes,
      `[B, T, A]` float on trajectories.
    data: known outcomes, or trajectories.
  """
  return _outcomes_and_size(logits, data)[0]


def _outcomes_and_size(
    logits: chex.Array, data: Data
) -> tuple[exact.Outcomes, jax.Array]:
  """Returns `outcomes`, and the sample size that they were computed from.

  It is the number of problems, or the effective sample size on trajectories.
  """
  if isinstance(data, types.OutcomeBatch):
    num = jnp.float32(len(data.mask))
    return exact.exact_outcomes(logits, data).mean(), num
  return weighted_outcomes(policy_gradient.log_probs(logits, data), data)


def num_routes(data: Data) -> int:
  """Returns A, the number of routes that the data have."""
  if isinstance(data, types.OutcomeBatch):
    return data.correct.shape[-1]
  return data.available.shape[-1]


def always(route: int, data: Data) -> exact.Outcomes:
  """Returns the mean outcomes of the policy that always chooses one route.

  Args:
    route: the route, in 0..A-1. A negative number counts from the end: -1 is
      the largest model.
    data: known outcomes, or trajectories.
  """
  return _always(route, data)[0]


def _always(route: int, data: Data) -> tuple[exact.Outcomes, jax.Array]:
  """Returns the result of `always`, and its (effective) sample size."""
  num = num_routes(data)
  certain = _CERTAIN * jax.nn.one_hot(route % num, num)
  shape = *data.mask.shape, num
  return _outcomes_and_size(jnp.broadcast_to(certain, shape), data)


def _constant_or_policy(
    constant: exact.Outcomes,
    num: jax.Array,
    min_effective: float,
    policy: exact.Outcomes,
) -> exact.Outcomes:
  """Returns a constant policy's outcomes if the data determine them.

  Otherwise returns `policy`.

  Args:
    constant: estimated outcomes of the small or the largest model alone.
    num: (effective) sample size of this estimate.
    min_effective: the smallest sample size to rely on.
    policy: outcomes of the policy that is scored.
  """
  # Without samples the estimate is 0 in every outcome, which would look like a
  # policy without cost. `score_at_level` mixes the scored policy with the
  # constant one; mixing it with itself instead has no effect.
  is_known = (num > 0) & (num >= min_effective)
  return jax.tree.map(lambda x, y: jnp.where(is_known, x, y), constant, policy)


def make_eval_step(
    config, network: networks.Policy
) -> Callable[[state_lib.TrainState, Data], tuple]:
  """Returns the jitted validation step (state, data) -> (state, metrics).

  The step scores each policy with `lagrangian.score_at_level` on `data`, and
  updates the policy's `best_params`, `best_score` and `best_step` if the score
  is its highest so far. The argument `state` is donated.
  """
  levels = jnp.asarray(config.objective.levels, jnp.float32)
  form = lagrangian.check_form(config.objective.form)
  min_effective = config.objective.get('min_effective_size', 0.0)

  def eval_step(state: state_lib.TrainState, data: Data):
    # Mixed with one of these, each policy meets its level exactly.
    constants = _always(0, data), _always(-1, data)

    def evaluate(params, kappa, level):
      logits = networks.apply(network, params, data.features, level)
      logits = kappa_lib.apply_threshold(config, logits, kappa)
      policy, effective = _outcomes_and_size(logits, data)
      always_small, always_large = (
          _constant_or_policy(constant, num, min_effective, policy)
          for constant, num in constants
      )
      score = lagrangian.score_at_level(
          policy, always_small, always_large, level, form=form
      )
      # With few effective samples the score is unreliable. At -inf it can never
      # become the best score.
      score = jnp.where(effective >= min_effective, score, -jnp.inf)
      return score, policy, effective

    score, policy, effective = jax.vmap(evaluate)(
        state.params, state.kappa, levels
    )
    if network.is_conditioned:
      # One network serves all levels, so all of them get the same best step.
      score = jnp.full_like(score, score.mean())
    is_better = score > state.best_score

    def pick(new, old):
      shape = (-1,) + (1,) * (new.ndim - 1)  # [K, 1, ...], to broadcast.
      return jnp.where(is_better.reshape(shape), new, old)

    state = state.replace(
        best_params=jax.tree.map(pick, state.params, state.best_params),
        best_score=jnp.where(is_better, score, state.best_score),
        best_step=jnp.where(is_better, state.step, state.best_step),
    )
    return state, {
        'validation_score': score,
        'validation_correct': policy.correct,
        'validation_cost': policy.cost,
        'validation_relative_loss': policy.loss,
        'validation_effective': effective,
        'best_score': state.best_score,
    }

  return jax.jit(eval_step, donate_argnums=0)
