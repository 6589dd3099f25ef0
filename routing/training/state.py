"""What a run carries from step to step: arrays only, so one checkpoint item.

A run trains K policies side by side, one per level of its constraint. They see
the same batches; each has its weights, its optimiser state and its multiplier,
stacked along a leading axis K. Of a conditioned network all weights are alike.
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
  """All that a resumed run needs."""

  step: jax.Array  # [] int32, gradient steps done.
  params: chex.ArrayTree  # Leaves [K, ...].
  opt_state: optax.OptState  # Leaves [K, ...].
  multiplier: jax.Array  # [K] float32, in the units of its form.
  kappa: jax.Array  # [K] float32, the threshold that it is trained behind.
  best_params: chex.ArrayTree  # Leaves [K, ...], by validation score.
  best_score: jax.Array  # [K] float32; -inf before the first validation.
  best_step: jax.Array  # [K] int32.


@flax.struct.dataclass
class ActorCriticState(TrainState):
  """The same of an estimator that has critics; they are not kept at the end."""

  critics: chex.ArrayTree  # Leaves [K, ...].
  critics_opt_state: optax.OptState  # Leaves [K, ...].
  controller: lagrangian.Controller  # Leaves [K], of the multiplier.


def make_optimizer(config) -> optax.GradientTransformation:
  """AdamW with clipping, for one member: mapped over K, never across it."""
  return optax.chain(
      optax.clip_by_global_norm(config.clip_norm),
      optax.adamw(config.learning_rate, weight_decay=config.weight_decay),
  )


def _init_policies(
    key: chex.PRNGKey, network, num_features: int, num_policies: int
) -> chex.ArrayTree:
  """Weights with a leading axis K: of a draw each, or K times the same network.

  A conditioned network is the same at all levels.
  """
  keys = jax.random.split(key, num_policies)
  if network.is_conditioned:
    keys = keys[jnp.zeros(num_policies, int)]
  return jax.vmap(lambda key: networks.init_params(key, network, num_features))(
      keys
  )


def init_state(
    config, network: networks.Policy, num_features: int, seed: int
) -> TrainState:
  """The state before the first step; each member starts from its own draw."""
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
      # A copy: the state is donated, and no buffer can be given twice.
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
  """`init_state`, and critics that start at 0."""
  state = init_state(config, network, num_features, seed)
  params = _init_policies(
      # Apart from the keys of the policy's weights and of dropout.
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
  """The parameters as they are, NumPy leaves `[K, ...]`; `[1, ...]` if shared.

  Args:
    state: at any step.
    is_shared: the members are one conditioned network.
  """
  return jax.tree.map(
      lambda x: np.asarray(x)[: 1 if is_shared else None], state.params
  )


def kept_params(state: TrainState, *, is_shared: bool) -> chex.ArrayTree:
  """The best parameters of each member; the last ones where none was judged.

  A validation set of another policy's trajectories may be unable to judge a
  member at any step. The weights that it started from would be no choice.

  Args:
    state: after the last step.
    is_shared: the members are one conditioned network.

  Returns:
    NumPy leaves `[K, ...]`; `[1, ...]` if they are shared.
  """
  is_judged = np.isfinite(state.best_score)

  def pick(best, last):
    shape = (-1,) + (1,) * (best.ndim - 1)
    return np.where(is_judged.reshape(shape), best, last)

  kept = state.replace(
      params=jax.tree.map(pick, state.best_params, state.params)
  )
  return last_params(kept, is_shared=is_shared)
