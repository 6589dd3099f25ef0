"""The one jitted training step, and validation.

Both map over the K members of a run. The features are not mapped, so XLA merges
the members' first layers into a single matrix product.
"""

from collections.abc import Callable

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import optax

from routing import types
from routing.objectives import exact
from routing.objectives import lagrangian
from routing.policy import networks
from routing.training import state as state_lib

# (logits [B, T, A], batch, multiplier, level) -> (loss, aux); aux['excess'] is
# what the multiplier follows.
Objective = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
# The whole set on the device, and the rows of this step.
Batch = tuple[types.LadderBatch, jax.Array]


def make_objective(config) -> Objective:
  """The exact constrained objective of a configuration, for one member."""
  form = lagrangian.check_form(config.objective.form)

  def objective(logits, batch, multiplier, level):
    outcomes = exact.exact_outcomes(logits, batch).mean()
    entropy = exact.mean_entropy(logits, batch.mask)
    loss = lagrangian.lagrangian_loss(
        outcomes,
        multiplier,
        level,
        form=form,
        damping=config.multiplier.damping,
    )
    return loss - config.objective.entropy_weight * entropy, {
        'excess': lagrangian.constrained(outcomes, form) - level,
        'correct': outcomes.correct,
        'cost': outcomes.cost,
        'relative_loss': outcomes.loss,
        'entropy': entropy,
    }

  return objective


def _apply(network: nn.Module, params: chex.ArrayTree, features) -> jax.Array:
  return network.apply({'params': params}, features)


def make_train_step(
    config, network: nn.Module, objective: Objective, seed: int
) -> Callable[[state_lib.TrainState, Batch], tuple]:
  """Returns jitted (state, batch) -> (state, metrics); `state` is donated."""
  optimizer = state_lib.make_optimizer(config.optimizer)
  levels = jnp.asarray(config.objective.levels, jnp.float32)
  # Apart from the keys of the weights, which are split from key(seed) itself.
  dropout_key = jax.random.fold_in(jax.random.key(seed), 1)

  def update_member(params, opt_state, multiplier, level, batch):
    def loss_fn(params):
      logits = _apply(network, params, batch.features)
      return objective(logits, batch, multiplier, level)

    (loss, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    multiplier = lagrangian.update_multiplier(
        multiplier,
        aux['excess'],
        learning_rate=config.multiplier.learning_rate,
        maximum=config.multiplier.max,
    )
    metrics = {
        'loss': loss,
        'multiplier': multiplier,
        'grad_norm': optax.tree.norm(grads),
        **aux,
    }
    return optax.apply_updates(params, updates), opt_state, multiplier, metrics

  def train_step(state: state_lib.TrainState, batch: Batch):
    data, rows = batch
    batch = jax.tree.map(lambda x: x[rows], data)
    features = networks.drop_inputs(
        jax.random.fold_in(dropout_key, state.step),
        batch.features,
        config.network.dropout,
    )
    params, opt_state, multiplier, metrics = jax.vmap(
        update_member, in_axes=(0, 0, 0, 0, None)
    )(
        state.params,
        state.opt_state,
        state.multiplier,
        levels,
        batch.replace(features=features),
    )
    state = state.replace(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        multiplier=multiplier,
    )
    return state, metrics

  return jax.jit(train_step, donate_argnums=0)


def _never(batch: types.LadderBatch) -> exact.Outcomes:
  """The small model alone."""
  return exact.Outcomes(
      correct=batch.stay_correct, cost=batch.stay_cost, loss=batch.stay_loss
  ).mean()


def _at_once(batch: types.LadderBatch) -> exact.Outcomes:
  """The largest model from the first decision on."""
  return exact.Outcomes(
      correct=batch.handover_correct[:, 0, -1],
      cost=batch.handover_cost[:, 0, -1],
      loss=batch.handover_loss[:, 0, -1],
  ).mean()


def make_eval_step(
    config, network: nn.Module
) -> Callable[[state_lib.TrainState, types.LadderBatch], tuple]:
  """Returns jitted (state, data) -> (state, metrics); keeps each best member.

  The score is `lagrangian.score_at_level` on the data, the validation set.
  """
  levels = jnp.asarray(config.objective.levels, jnp.float32)
  form = lagrangian.check_form(config.objective.form)

  def eval_step(state: state_lib.TrainState, data: types.LadderBatch):
    never, at_once = _never(data), _at_once(data)

    def evaluate(params, level):
      logits = _apply(network, params, data.features)
      outcomes = exact.exact_outcomes(logits, data).mean()
      score = lagrangian.score_at_level(
          outcomes, never, at_once, level, form=form
      )
      return score, outcomes

    score, outcomes = jax.vmap(evaluate)(state.params, levels)
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
        'validation_correct': outcomes.correct,
        'validation_cost': outcomes.cost,
        'validation_relative_loss': outcomes.loss,
        'best_score': state.best_score,
    }

  return jax.jit(eval_step, donate_argnums=0)
