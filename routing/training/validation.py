"""Validation: what each member is worth at its level, and which was best.

Where every way is known (ladders, trees), a policy's outcomes are exact. From
trajectories of another policy they are weighted by importance, each weight over
its mean across trajectories (`weighted_outcomes`): a little biased, but far
calmer than the unbiased estimate. Fresh rollouts would be better judges still,
but dearer than all of training: an engine would write thousands of answers for
a number that is looked at dozens of times a run. So they are left to live
evaluation, and what `select` cannot judge is not preferred: below
`objective.min_effective_size` effective trajectories a score does not count,
and a policy is not mixed with an end that so few trajectories tell of.
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
_CERTAIN = 1e4  # A logit that leaves the other routes no chance.


def weighted_outcomes(
    log_probs: chex.Array, batch: types.TrajectoryBatch
) -> tuple[exact.Outcomes, jax.Array]:
  """What a policy would have got, from what another one did.

  The weighted per-decision estimate: with w_t the product of the ratios up to
  t, carried on after a trace has ended, a cost at t counts w_t / mean(w_t), and
  what is known at the end w_T / mean(w_T).

  Args:
    log_probs: `[B, T, A]` float, of the policy, as `policy_gradient.log_probs`.
    batch: behaviour trajectories.

  Returns:
    The mean outcomes, and the effective number of trajectories,
    (sum w_T)^2 / sum w_T^2. If all weights are 0, all of it is 0.

  Source: Precup, Sutton and Singh 2000, "Eligibility Traces for Off-Policy
  Policy Evaluation".
  """
  chex.assert_equal_shape([log_probs, batch.available])
  ratios = policy_gradient.importance_ratios(log_probs, batch)
  weights = jnp.cumprod(ratios, axis=1)
  total = weights.sum(axis=0)
  shares = weights / jnp.where(total > 0, total, 1.0)
  last = shares[:, -1]
  costs = jnp.where(batch.mask, batch.costs, 0.0)
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
  """The mean outcomes of a policy, from whichever data there is.

  Args:
    logits: `[B, T, A]` float.
    data: known outcomes, or trajectories.
  """
  return _judged(logits, data)[0]


def _judged(logits: chex.Array, data: Data) -> tuple[exact.Outcomes, jax.Array]:
  """The outcomes, and how many problems or trajectories they rest on."""
  if isinstance(data, types.OutcomeBatch):
    num = jnp.float32(len(data.mask))
    return exact.exact_outcomes(logits, data).mean(), num
  return weighted_outcomes(policy_gradient.log_probs(logits, data), data)


def num_routes(data: Data) -> int:
  """A."""
  if isinstance(data, types.OutcomeBatch):
    return data.correct.shape[-1]
  return data.available.shape[-1]


def always(route: int, data: Data) -> exact.Outcomes:
  """The mean outcomes of naming one route at every decision.

  Args:
    route: in 0..A-1, or negative, from the end.
    data: known outcomes, or trajectories.
  """
  return _always(route, data)[0]


def _always(route: int, data: Data) -> tuple[exact.Outcomes, jax.Array]:
  """The same, and how many problems or trajectories it rests on."""
  num = num_routes(data)
  certain = _CERTAIN * jax.nn.one_hot(route % num, num)
  shape = *data.mask.shape, num
  return _judged(jnp.broadcast_to(certain, shape), data)


def _known(
    end: exact.Outcomes, num: jax.Array, least: float, policy: exact.Outcomes
) -> exact.Outcomes:
  """An end to mix a policy with: the policy itself where it is not known.

  An end of which nothing is known would count as free and never right. Mixed
  with itself, a policy stays what it is.
  """
  is_known = (num > 0) & (num >= least)
  return jax.tree.map(lambda x, y: jnp.where(is_known, x, y), end, policy)


def make_eval_step(
    config, network: networks.Policy
) -> Callable[[state_lib.TrainState, Data], tuple]:
  """Returns jitted (state, data) -> (state, metrics); keeps each best member.

  The score is `lagrangian.score_at_level` on the data, the validation set; of a
  conditioned network its mean over the levels.
  """
  levels = jnp.asarray(config.objective.levels, jnp.float32)
  form = lagrangian.check_form(config.objective.form)
  least = config.objective.get('min_effective_size', 0.0)

  def eval_step(state: state_lib.TrainState, data: Data):
    ends = _always(0, data), _always(-1, data)

    def evaluate(params, kappa, level):
      logits = networks.apply(network, params, data.features, level)
      logits = kappa_lib.behind(config, logits, kappa)
      policy, effective = _judged(logits, data)
      never, at_once = (_known(end, num, least, policy) for end, num in ends)
      score = lagrangian.score_at_level(
          policy, never, at_once, level, form=form
      )
      return jnp.where(effective >= least, score, -jnp.inf), policy, effective

    score, policy, effective = jax.vmap(evaluate)(
        state.params, state.kappa, levels
    )
    if network.is_conditioned:
      # One network for all levels: it is worth what it is on the whole.
      score = jnp.full_like(score, score.mean())
    is_better = score > state.best_score

    def pick(new, old):
      shape = (-1,) + (1,) * (new.ndim - 1)
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
