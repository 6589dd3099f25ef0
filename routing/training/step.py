"""The one jitted training step, whatever it maximises.

It maps the update of one member over the K members of a run. The features are
not mapped, so XLA merges the members' first layers into a single matrix
product.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from routing import types
from routing.objectives import exact
from routing.objectives import lagrangian
from routing.policy import layers
from routing.policy import networks
from routing.training import kappa as kappa_lib
from routing.training import state as state_lib

_POLICIES = 'policies'  # The axis K, to those who look across it.
# (logits [B, D, A], batch, multiplier, level) -> (loss, aux); aux['excess'] is
# what the multiplier follows.
Objective = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
# The state of one member (no axis K), its batch and its level, to the fields
# that change and to metrics, 'loss' among them.
Update = Callable[
    [state_lib.TrainState, Any, jax.Array],
    tuple[dict[str, Any], dict[str, jax.Array]],
]
# Arrays on the device, and which rows of them this step takes; None = all. The
# features may be `layers.Observations`.
Batch = tuple[
    types.OutcomeBatch | types.TrajectoryBatch,
    jax.Array | None,
]


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


def pool_gradients(
    network: networks.Policy, grads: chex.ArrayTree
) -> chex.ArrayTree:
  """The gradient that a member follows.

  The members of a conditioned run are one network at several levels: they start
  alike, and follow the mean of their gradients, so they stay alike. All else,
  their multipliers above all, is each one's own.
  """
  if not network.is_conditioned:
    return grads
  return jax.lax.pmean(grads, _POLICIES)


def descend(config, network: networks.Policy, objective: Objective) -> Update:
  """The update that follows the gradient of a closed form."""
  optimizer = state_lib.make_optimizer(config.optimizer)

  def update(state, batch, level):
    def loss_fn(params):
      logits = networks.apply(network, params, batch.features, level)
      logits = kappa_lib.behind(config, logits, state.kappa)
      return objective(logits, batch, state.multiplier, level)

    (loss, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    grads = pool_gradients(network, grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    multiplier = lagrangian.update_multiplier(
        state.multiplier,
        aux['excess'],
        learning_rate=config.multiplier.learning_rate,
        maximum=config.multiplier.max,
    )
    changes = {
        'params': optax.apply_updates(state.params, updates),
        'opt_state': opt_state,
        'multiplier': multiplier,
        'kappa': kappa_lib.moved(
            config, state.kappa, aux['relative_loss'], state.step, level
        ),
    }
    return changes, {
        'loss': loss,
        'multiplier': multiplier,
        'kappa': changes['kappa'],
        'grad_norm': optax.tree.norm(grads),
        **aux,
    }

  return update


def over_policies(
    config, update: Update, seed: int
) -> Callable[[state_lib.TrainState, Batch], tuple]:
  """Returns jitted (state, batch) -> (state, metrics); `state` is donated.

  Args:
    config: `objective.levels`, and `network.dropout` of the features.
    update: of one member.
    seed: of dropout.
  """
  levels = jnp.asarray(config.objective.levels, jnp.float32)
  # Apart from the keys of the weights, which are split from key(seed) itself.
  dropout_key = jax.random.fold_in(jax.random.key(seed), 1)

  def train_step(state: state_lib.TrainState, batch: Batch):
    data, rows = batch
    if rows is not None:
      data = jax.tree.map(lambda x: x[rows], data)
    features = data.features
    if not isinstance(features, layers.Observations):
      features = layers.split(features, slice(0, 0))
    features = networks.drop_inputs(
        jax.random.fold_in(dropout_key, state.step),
        features,
        config.network.dropout,
    )
    axes = jax.tree.map(lambda _: 0, state).replace(step=None)
    changes, metrics = jax.vmap(
        update, in_axes=(axes, None, 0), axis_name=_POLICIES
    )(state, data.replace(features=features), levels)
    return state.replace(step=state.step + 1, **changes), metrics

  return jax.jit(train_step, donate_argnums=0)
