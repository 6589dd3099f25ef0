"""The jitted training step, which is the same for all objectives.

The step maps the update of one policy over the K policies of a run, one per
level of the constraint. All policies see the same features, which are not
mapped over K. So XLA merges the first layers of all policies into one matrix
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

_POLICIES = 'policies'  # Name of the mapped axis K, for collectives across it.
# (logits [B, D, A], batch, multiplier, level) -> (loss, aux); aux['excess'] is
# the constrained quantity minus its level, which the multiplier follows.
Objective = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
# (state of one policy, without the axis K; batch; level) -> (changed fields of
# the state, metrics). The metrics must have an entry 'loss'.
Update = Callable[
    [state_lib.TrainState, Any, jax.Array],
    tuple[dict[str, Any], dict[str, jax.Array]],
]
# (arrays on the device, indices of the rows that the step uses). No indices
# (None) = all rows. The features may be `layers.Observations`.
Batch = tuple[
    types.OutcomeBatch | types.TrajectoryBatch,
    jax.Array | None,
]


def make_objective(config) -> Objective:
  """Returns the objective of the estimator `exact`.

  It is the Lagrangian loss of one policy on known outcomes, in closed form.
  """
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
  """Averages the gradients over the K policies if these share one network.

  The policies of a conditioned network are K equal copies of its weights, one
  per level. All copies follow the mean of their gradients, so they stay equal.
  Multipliers and metrics still differ by level. Other gradients are returned
  unchanged.

  Args:
    network: the policy network or the critics.
    grads: the gradient of one policy, inside the map over K.
  """
  if not network.is_conditioned:
    return grads
  return jax.lax.pmean(grads, _POLICIES)


def descend(config, network: networks.Policy, objective: Objective) -> Update:
  """Returns the update of one policy by gradient descent on an objective.

  Args:
    config: `optimizer`, `multiplier` and `soft_threshold`.
    network: the policy network.
    objective: the loss, from `make_objective`.
  """
  optimizer = state_lib.make_optimizer(config.optimizer)

  def update(state, batch, level):
    def loss_fn(params):
      logits = networks.apply(network, params, batch.features, level)
      logits = kappa_lib.apply_threshold(config, logits, state.kappa)
      return objective(logits, batch, state.multiplier, level)

    (loss, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    grads = pool_gradients(network, grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    # Dual ascent with an integral term only: the proportional term (damping) is
    # part of the loss already.
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
        'kappa': kappa_lib.update(
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
  """Returns the jitted step (state, batch) -> (state, metrics) of K policies.

  The argument `state` of the step is donated: its buffers are reused, so do not
  read it after the call.

  Args:
    config: its `objective.levels` are the K levels; its `network.dropout` is
      the dropout rate of the input features.
    update: the update of one policy.
    seed: of dropout.
  """
  levels = jnp.asarray(config.objective.levels, jnp.float32)
  # `fold_in` gives dropout another key than the initial weights, which are
  # drawn from key(seed) itself.
  dropout_key = jax.random.fold_in(jax.random.key(seed), 1)

  def train_step(state: state_lib.TrainState, batch: Batch):
    data, rows = batch
    if rows is not None:
      data = jax.tree.map(lambda x: x[rows], data)
    features = data.features
    if not isinstance(features, layers.Observations):
      # Stored without a constant column, so that dropout below has one case.
      features = layers.split(features, slice(0, 0))
    # The dropout key depends on (seed, step) only, so that a resumed run drops
    # the same inputs. All policies have the same dropout mask, because they
    # share the features.
    features = networks.drop_inputs(
        jax.random.fold_in(dropout_key, state.step),
        features,
        config.network.dropout,
    )
    # The first axis of each leaf of the state is K, except that `step` is a
    # scalar. The batch is not mapped: all policies see the same one.
    axes = jax.tree.map(lambda _: 0, state).replace(step=None)
    changes, metrics = jax.vmap(
        update, in_axes=(axes, None, 0), axis_name=_POLICIES
    )(state, data.replace(features=features), levels)
    return state.replace(step=state.step + 1, **changes), metrics

  return jax.jit(train_step, donate_argnums=0)
