"""What a run carries from step to step: arrays only, so one checkpoint item.

A run trains K policies side by side, one per level of its constraint. They see
the same batches but share nothing else: each has its weights, its optimiser
state and its multiplier, stacked along a leading axis K.
"""

import chex
from flax import linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
  """All that a resumed run needs."""

  step: jax.Array  # [] int32, gradient steps done.
  params: chex.ArrayTree  # Leaves [K, ...].
  opt_state: optax.OptState  # Leaves [K, ...].
  multiplier: jax.Array  # [K] float32, in the units of its form.
  best_params: chex.ArrayTree  # Leaves [K, ...], by validation score.
  best_score: jax.Array  # [K] float32; -inf before the first validation.
  best_step: jax.Array  # [K] int32.


def make_optimizer(config) -> optax.GradientTransformation:
  """AdamW with clipping, for one member: mapped over K, never across it."""
  return optax.chain(
      optax.clip_by_global_norm(config.clip_norm),
      optax.adamw(config.learning_rate, weight_decay=config.weight_decay),
  )


def init_state(
    config, network: nn.Module, num_features: int, seed: int
) -> TrainState:
  """The state before the first step; each member starts from its own draw."""
  num_members = len(config.objective.levels)
  observation = jnp.zeros((1, num_features))
  keys = jax.random.split(jax.random.key(seed), num_members)
  params = jax.vmap(lambda key: network.init(key, observation)['params'])(keys)
  return TrainState(
      step=jnp.int32(0),
      params=params,
      opt_state=jax.vmap(make_optimizer(config.optimizer).init)(params),
      multiplier=jnp.full(num_members, config.multiplier.init, jnp.float32),
      # A copy: the state is donated, and no buffer can be given twice.
      best_params=jax.tree.map(jnp.copy, params),
      best_score=jnp.full(num_members, -jnp.inf, jnp.float32),
      best_step=jnp.zeros(num_members, jnp.int32),
  )
