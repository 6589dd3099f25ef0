"""Networks of the policy: from observations to route preferences.

Small, and pure `init`/`apply`: the parameters are a plain dict of arrays, so a
run can stack the parameters of several policies and map over them.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

KINDS = ('mlp',)

# An untrained policy hands over at a step with chance sigmoid(-1) = 0.27: rare
# enough that later steps are reached, often enough that each is learnt from.
_HANDOVER_BIAS = -1.0


def _output_bias(rng, shape, dtype=jnp.float32):
  """0 for staying; the larger routes share the initial hand-over chance."""
  del rng
  (num_routes,) = shape
  larger = _HANDOVER_BIAS - jnp.log(num_routes - 1.0)
  return jnp.full(shape, larger, dtype).at[0].set(0.0)


class Mlp(nn.Module):
  """Tanh layers on the current observation.

  hidden: width of each hidden layer.
  num_routes: A, number of logits.
  """

  hidden: Sequence[int]
  num_routes: int

  @nn.compact
  def __call__(self, features: jax.Array) -> jax.Array:
    """`[..., F]` standardised float32 to `[..., A]` float32 logits."""
    x = features
    for width in self.hidden:
      x = nn.tanh(nn.Dense(width)(x))
    return nn.Dense(
        self.num_routes,
        kernel_init=nn.initializers.variance_scaling(
            0.01, 'fan_in', 'normal'  # Starts near the bias, not at random.
        ),
        bias_init=_output_bias,
    )(x)


def make_network(config: Mapping[str, Any], num_routes: int) -> nn.Module:
  """The network that a configuration's `network` names.

  Raises:
    ValueError: if `config.kind` is none of `KINDS`.
  """
  if config['kind'] not in KINDS:
    raise ValueError(
        f'Unknown network kind {config["kind"]!r}; allowed: {", ".join(KINDS)}.'
    )
  return Mlp(hidden=tuple(config['hidden']), num_routes=num_routes)


def drop_inputs(
    rng: chex.PRNGKey, features: jax.Array, rate: float
) -> jax.Array:
  """Input dropout: the same features of a problem are dropped at every step.

  One mask for all steps costs T times fewer random numbers and keeps a dropped
  word from coming back at the next step.

  Args:
    rng: consumed.
    features: `[B, T, F]` float.
    rate: chance to drop, in [0, 1); 0 returns the features untouched.

  Source: Gal and Ghahramani 2016, "A Theoretically Grounded Application of
  Dropout in Recurrent Neural Networks", section 4.
  """
  chex.assert_rank(features, 3)
  if not 0 <= rate < 1:
    raise ValueError(f'dropout is {rate}; allowed: from 0 up to below 1.')
  if rate == 0:
    return features
  batch_size, _, num_features = features.shape
  keep = jax.random.bernoulli(rng, 1 - rate, (batch_size, 1, num_features))
  return features * (keep / (1 - rate)).astype(features.dtype)
