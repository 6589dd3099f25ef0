"""The state of a training run: arrays only, so it is one checkpoint item.

A run trains K policies side by side, one per level of its constraint. They see
the same batches. Each has its own weights, optimiser state and multiplier,
stacked along a leading axis K. The K weights of a conditioned network are equal
copies.
"""

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from routing.objectives import lagrangian
from routing.policy import networks
from routing.training import kappa as kappa_lib


@flax.struct.dataclass
class TrainState:
  """The state of a run with the exact estimator; enough to resume it."""

  step: jax.Array  # [] int32, gradient steps done.
  params: chex.ArrayTree  # Leaves [K, ...].
  opt_state: optax.OptState  # Leaves [K, ...].
  multiplier: jax.Array  # [K] float32 >= 0; units as in `lagrangian`.
  kappa: jax.Array  # [K] float32, soft threshold; constant if not used.
  best_params: chex.ArrayTree  # Leaves [K, ...], of the best validation score.
  best_score: jax.Array  # [K] float32; -inf before the first validation.
  best_step: jax.Array  # [K] int32, gradient steps done at that score.


@flax.struct.dataclass
class ActorCriticState(TrainState):
  """The state of a run with critics, which the trained router does not need."""

  critics: chex.ArrayTree  # Leaves [K, ...].
  critics_opt_state: optax.OptState  # Leaves [K, ...].
  controller: lagrangian.Controller  # Leaves [K], PID state of the multiplier.


def make_optimizer(config) -> optax.GradientTransformation:
  """Returns AdamW with gradient clipping, for one policy."""
  # Mapped over K, so that each policy's gradient is clipped by its own norm. An
  # optimiser of the stacked weights would clip all by their joint norm.
  return optax.chain(
      optax.clip_by_global_norm(config.clip_norm),
      optax.adamw(config.learning_rate, weight_decay=config.weight_decay),
  )


def _init_policies(
    key: chex.PRNGKey, network, num_features: int, num_policies: int
) -> chex.ArrayTree:
  """Draws weights with a leading axis K; K equal copies if conditioned."""
  keys = jax.random.split(key, num_policies)
  if network.is_conditioned:
    # One network for all levels: `step.pool_gradients` keeps the copies equal,
    # provided that they start equal.
    keys = keys[jnp.zeros(num_policies, int)]
  return jax.vmap(lambda key: networks.init_params(key, network, num_features))(
      keys
  )


def init_state(
    config, network: networks.Policy, num_features: int, seed: int
) -> TrainState:
  """Returns the state before the first step, with weights drawn from `seed`."""
  num_policies = len(config.objective.levels)
  params = _init_policies(
      jax.random.key(seed), network, num_features, num_policies
  )
  return TrainState(
      step=jnp.int32(0),
      params=params,
      opt_state=jax.vmap(make_optimizer(config.optimizer).init)(params),
      multiplier=jnp.full(num_policies, config.multiplier.init, jnp.float32),
      kappa=jnp.full(num_policies, kappa_lib.initial(config), jnp.float32),
      # Copied: the step donates the state, and no buffer can be donated twice.
      best_params=jax.tree.map(jnp.copy, params),
      best_score=jnp.full(num_policies, -jnp.inf, jnp.float32),
      best_step=jnp.zeros(num_policies, jnp.int32),
  )


def init_actor_critic(
    config,
    network: networks.Policy,
    critics: networks.Critics,
    num_features: int,
    seed: int,
) -> ActorCriticState:
  """Returns `init_state` with critics whose values start at 0."""
  state = init_state(config, network, num_features, seed)
  params = _init_policies(
      # 2, since the policy's weights use key(seed) and dropout folds in 1.
      jax.random.fold_in(jax.random.key(seed), 2),
      critics,
      num_features,
      len(config.objective.levels),
  )
  return ActorCriticState(
      **vars(state),
      critics=params,
      critics_opt_state=jax.vmap(make_optimizer(config.critics).init)(params),
      controller=lagrangian.init_controller(jnp.copy(state.multiplier)),
  )


def last_params(state: TrainState, *, is_shared: bool) -> chex.ArrayTree:
  """Returns the current parameters as NumPy arrays.

  Args:
    state: at any step.
    is_shared: the policies are K copies of one conditioned network.

  Returns:
    A pytree with leaves `[K, ...]`, or `[1, ...]` if they are shared.
  """
  return jax.tree.map(
      lambda x: np.asarray(x)[: 1 if is_shared else None], state.params
  )


def kept_params(state: TrainState, *, is_shared: bool) -> chex.ArrayTree:
  """Returns each policy's parameters of the best validation score.

  A policy without a validation score at any step gets its last parameters.

  Args:
    state: after the last step.
    is_shared: the policies are K copies of one conditioned network.

  Returns:
    A pytree of NumPy arrays with leaves `[K, ...]`, or `[1, ...]` if shared.
  """
  # A score stays -inf if the trajectories of the behaviour policy have too few
  # effective samples for this policy at every step. `best_params` then still
  # hold the initial weights.
  is_scored = np.isfinite(state.best_score)

  def pick(best, last):
    shape = (-1,) + (1,) * (best.ndim - 1)  # [K, 1, ...], to broadcast.
    return np.where(is_scored.reshape(shape), best, last)

  kept = state.replace(
      params=jax.tree.map(pick, state.best_params, state.params)
  )
  return last_params(kept, is_shared=is_shared)
