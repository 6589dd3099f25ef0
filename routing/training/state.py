"""The state of a training run; it has only arrays, so orbax can save it.

A run trains K policies side by side, one per level of its constraint. All see
the same batches. Each has its own weights, optimiser state and multiplier,
which are stacked along a leading axis K. A conditioned network takes the level
as an input: its K policies share one set of weights, stored as K equal copies.
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
  """The state from which a run with the estimator `exact` can be resumed."""

  step: jax.Array  # [] int32, number of gradient steps done.
  params: chex.ArrayTree  # Leaves [K, ...].
  opt_state: optax.OptState  # Leaves [K, ...].
  multiplier: jax.Array  # [K] float32 >= 0; units as in `lagrangian`.
  kappa: jax.Array  # [K] float32, soft threshold; constant if it is not used.
  # Parameters, score and step of the best validation score so far.
  best_params: chex.ArrayTree  # Leaves [K, ...].
  best_score: jax.Array  # [K] float32; -inf before the first validation.
  best_step: jax.Array  # [K] int32, number of gradient steps done then.


@flax.struct.dataclass
class ActorCriticState(TrainState):
  """The state of a run with critics.

  Critics serve training only; they are not saved with the router.
  """

  critics: chex.ArrayTree  # Leaves [K, ...].
  critics_opt_state: optax.OptState  # Leaves [K, ...].
  controller: lagrangian.Controller  # Leaves [K], PID state of the multiplier.


def make_optimizer(config) -> optax.GradientTransformation:
  """Returns AdamW with gradient clipping, for the weights of one policy."""
  # Callers map it over the axis K, so that each policy's gradient is clipped by
  # its own norm. Applied to the stacked weights, it would clip the gradients of
  # all policies by their joint norm.
  return optax.chain(
      optax.clip_by_global_norm(config.clip_norm),
      optax.adamw(config.learning_rate, weight_decay=config.weight_decay),
  )


def _init_policies(
    key: chex.PRNGKey, network, num_features: int, num_policies: int
) -> chex.ArrayTree:
  """Draws the initial weights of K networks, stacked along a leading axis.

  The K weights of a conditioned network are equal.

  Args:
    key: a random key; consumed.
    network: the policy network or the critics.
    num_features: F, the length of an observation.
    num_policies: K.
  """
  keys = jax.random.split(key, num_policies)
  if network.is_conditioned:
    # `step.pool_gradients` keeps the K copies equal, provided that they start
    # equal.
    keys = keys[jnp.zeros(num_policies, int)]
  # As one program. Operation by operation, compiling takes twice as long.
  draw = jax.jit(
      jax.vmap(lambda key: networks.init_params(key, network, num_features))
  )
  return draw(keys)


def _init_optimizer(config, params: chex.ArrayTree) -> optax.OptState:
  """Returns the optimizer's state of each of K networks."""
  return jax.jit(jax.vmap(make_optimizer(config).init))(params)


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
      opt_state=_init_optimizer(config.optimizer, params),
      multiplier=jnp.full(num_policies, config.multiplier.init, jnp.float32),
      kappa=jnp.full(num_policies, kappa_lib.initial(config), jnp.float32),
      # A copy, because the training step donates the state's buffers, and no
      # buffer can be donated twice.
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
  """Returns the state before the first step of a run with critics.

  It is `init_state` with critics, whose predictions are 0 at first.
  """
  state = init_state(config, network, num_features, seed)
  params = _init_policies(
      # Folding in 2 gives a new key: the policy's weights use key(seed) itself,
      # and dropout folds in 1.
      jax.random.fold_in(jax.random.key(seed), 2),
      critics,
      num_features,
      len(config.objective.levels),
  )
  return ActorCriticState(
      **vars(state),
      critics=params,
      critics_opt_state=_init_optimizer(config.critics, params),
      controller=lagrangian.init_controller(jnp.copy(state.multiplier)),
  )


def last_params(state: TrainState, *, is_shared: bool) -> chex.ArrayTree:
  """Returns the policies' current parameters as NumPy arrays.

  Args:
    state: the state after any number of steps.
    is_shared: whether the policies are K copies of one conditioned network.

  Returns:
    A pytree with leaves `[K, ...]`, or `[1, ...]` if `is_shared`.
  """
  return jax.tree.map(
      lambda x: np.asarray(x)[: 1 if is_shared else None], state.params
  )


def kept_params(state: TrainState, *, is_shared: bool) -> chex.ArrayTree:
  """Returns the parameters at the best validation score of each policy.

  For a policy that never got a finite score, these are its last parameters.

  Args:
    state: the state after the last step.
    is_shared: whether the policies are K copies of one conditioned network.

  Returns:
    A pytree of NumPy arrays with leaves `[K, ...]`, or `[1, ...]` if
    `is_shared`.
  """
  # A policy's best score stays -inf if the behaviour policy's trajectories had
  # too small an effective sample size for it at every validation. Its
  # `best_params` are then still the initial weights.
  is_scored = np.isfinite(state.best_score)

  def pick(best, last):
    shape = (-1,) + (1,) * (best.ndim - 1)  # [K, 1, ...], to broadcast.
    return np.where(is_scored.reshape(shape), best, last)

  kept = state.replace(
      params=jax.tree.map(pick, state.best_params, state.params)
  )
  return last_params(kept, is_shared=is_shared)
