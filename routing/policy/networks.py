"""Networks of the policy and of its critics: observations in, numbers out.

Small, and pure `init`/`apply`: the parameters are a plain dict of arrays, so a
run can stack the parameters of several policies and map over them. Policy and
critics share no weights: what ships is the policy alone, and a trust region is
around the policy alone.

`mlp` looks at the current observation; `gru` and causal `attention` look at all
up to it. Padding comes after the end, where a causal layer never looks.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from routing.policy import layers

KINDS = ('mlp', 'gru', 'attention')

# An untrained policy hands over at a step with chance sigmoid(-1) = 0.27: rare
# enough that later steps are reached, often enough that each is learnt from.
_HANDOVER_BIAS = -1.0
_NUM_HEADS = 4
_LEVEL_UNIT = 0.1  # Levels so far apart are told apart from the start.
_CONDITION_WIDTH = 16  # One number, spread over some soft intervals.


def _output_bias(rng, shape, dtype=jnp.float32):
  """0 for staying; the larger routes share the initial hand-over chance."""
  del rng
  (num_routes,) = shape
  larger = _HANDOVER_BIAS - jnp.log(num_routes - 1.0)
  return jnp.full(shape, larger, dtype).at[0].set(0.0)


class CausalAttention(nn.Module):
  """One pre-norm block: attention to the steps so far, then two layers.

  The nearer the step, the more it weighs, by a slope of each head's own; so
  there are no positions to learn and no longest trace.

  width: of the block, a multiple of the 4 heads.

  Source: Press et al. 2022, "Train Short, Test Long: Attention with Linear
  Biases Enables Input Length Extrapolation".
  """

  width: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[..., T, F]` to `[..., T, width]`."""
    if self.width % _NUM_HEADS:
      raise ValueError(
          f'The width of attention is {self.width}; allowed: multiples of '
          f'{_NUM_HEADS}.'
      )
    if x.shape[-1] != self.width:
      x = nn.Dense(self.width)(x)
    y = nn.LayerNorm()(x)
    heads = _NUM_HEADS, self.width // _NUM_HEADS
    query, key, value = (nn.DenseGeneral(heads)(y) for _ in range(3))
    steps = jnp.arange(x.shape[-2])
    distance = steps[:, None] - steps
    slopes = 2.0 ** (-8.0 / _NUM_HEADS * (1 + jnp.arange(_NUM_HEADS)))
    bias = jnp.where(distance >= 0, -slopes[:, None, None] * distance, -jnp.inf)
    y = nn.dot_product_attention(query, key, value, bias=bias)
    x = x + nn.DenseGeneral(self.width, axis=(-2, -1))(y)
    y = nn.gelu(nn.Dense(2 * self.width)(nn.LayerNorm()(x)))
    return x + nn.Dense(self.width)(y)


class Film(nn.Module):
  """Scales and shifts each unit by functions of one number; at first by none.

  Sources: Perez et al. 2018, "FiLM: Visual Reasoning with a General
  Conditioning Layer"; Dosovitskiy and Djolonga 2020, "You Only Train Once:
  Loss-Conditional Training of Deep Networks".
  """

  @nn.compact
  def __call__(self, x: jax.Array, condition: chex.Numeric) -> jax.Array:
    """`[..., F]` and a number for each `[...]`, to `[..., F]`."""
    condition = jnp.broadcast_to(condition, x.shape[:-1])[..., None]
    y = nn.tanh(nn.Dense(_CONDITION_WIDTH)(condition))
    y = nn.Dense(2 * x.shape[-1], kernel_init=nn.initializers.zeros)(y)
    scale, shift = jnp.split(y, 2, axis=-1)
    return x * (1 + scale) + shift


_WITH_MEMORY = {
    'gru': lambda width: nn.RNN(nn.GRUCell(width)),
    'attention': CausalAttention,
}


def _hidden_layers(network, features, condition) -> jax.Array:
  """What policy and critics have in common; their submodules, not its own.

  The units come first.
  """
  if (condition is not None) != network.is_conditioned:
    expected = 'one' if network.is_conditioned else 'none'
    raise ValueError(f'condition is {condition}; the network takes {expected}.')
  if has_memory(network.kind) and features.ndim < 2:
    raise ValueError(
        f'{network.kind} takes features [..., T, F]; got shape '
        f'{features.shape}.'
    )
  x = features
  if network.kind == 'mlp':
    x = layers.units_first(x)
    for width in network.hidden:
      x = nn.tanh(layers.Dense(width)(x))
  else:
    for width in network.hidden:
      x = _WITH_MEMORY[network.kind](width)(x)
    x = layers.units_first(x)
  if condition is None:
    return x
  return layers.units_first(Film()(layers.units_last(x), condition))


class Policy(nn.Module):
  """From observations to preferences for the routes.

  hidden: width of each hidden layer.
  num_routes: A, number of logits.
  kind: of the layers, one of `KINDS`.
  is_conditioned: takes the level of its constraint besides the features.
  """

  hidden: Sequence[int]
  num_routes: int
  kind: str = 'mlp'
  is_conditioned: bool = False

  @nn.compact
  def __call__(
      self, features: jax.Array, condition: chex.Numeric | None = None
  ) -> jax.Array:
    """Logits of all routes; `categorical.log_softmax` masks them.

    Args:
      features: `[..., T, F]` standardised float32; for `mlp` `[..., F]`.
      condition: of order 1, broadcast against `features` without F, e.g.
        `[B, 1]`; None for a network that is not conditioned.

    Returns:
      `[..., T, A]` or `[..., A]` float32; at t a function of steps up to t.
    """
    x = _hidden_layers(self, features, condition)
    logits = layers.Dense(
        self.num_routes,
        kernel_init=nn.initializers.variance_scaling(
            0.01, 'fan_in', 'normal'  # Starts near the bias, not at random.
        ),
        bias_init=_output_bias,
    )(x)
    return layers.units_last(logits)


class Critics(nn.Module):
  """From observations to what is still to come of reward and constraint.

  hidden, kind, is_conditioned: as of `Policy`.
  """

  hidden: Sequence[int]
  kind: str = 'mlp'
  is_conditioned: bool = False

  @nn.compact
  def __call__(
      self, features: jax.Array, condition: chex.Numeric | None = None
  ) -> tuple[jax.Array, jax.Array]:
    """`[..., T, F]` to `[..., T]` values of reward and of constraint; 0 first.

    Arguments are those of `Policy`.
    """
    x = _hidden_layers(self, features, condition)
    values = layers.Dense(2, kernel_init=nn.initializers.zeros)(x)
    return values[0], values[1]


def has_memory(kind: str) -> bool:
  """The network looks at earlier steps too, so it must be given them."""
  return check_kind(kind) != 'mlp'


def check_kind(kind: str) -> str:
  """Returns `kind`, or raises ValueError with the allowed names."""
  if kind not in KINDS:
    raise ValueError(
        f'Unknown network kind {kind!r}; allowed: {", ".join(KINDS)}.'
    )
  return kind


def make_network(config: Mapping[str, Any], num_routes: int) -> Policy:
  """The policy that a configuration's `network` names.

  Args:
    config: `kind`, `hidden`, and `is_conditioned`, which may be left out.
    num_routes: A.

  Raises:
    ValueError: if `config.kind` is none of `KINDS`.
  """
  return Policy(num_routes=num_routes, **_layers(config))


def make_critics(config: Mapping[str, Any]) -> Critics:
  """The critics beside `make_network(config, ...)`, with layers like it."""
  return Critics(**_layers(config))


def _layers(config: Mapping[str, Any]) -> dict[str, Any]:
  return dict(
      kind=check_kind(config['kind']),
      hidden=tuple(config['hidden']),
      is_conditioned=config.get('is_conditioned', False),
  )


def init_params(
    rng: chex.PRNGKey, network: Policy | Critics, num_features: int
) -> chex.ArrayTree:
  """The weights of an untrained network; `rng` is consumed."""
  condition = 0.0 if network.is_conditioned else None
  return network.init(rng, jnp.zeros((1, num_features)), condition)['params']


def apply(
    network: Policy | Critics,
    params: chex.ArrayTree,
    features: chex.Array | layers.Observations,
    level: chex.Numeric,
):
  """The network on features; one that is conditioned is told the level.

  Args:
    network, params: from `make_network` or `make_critics`, and `init_params`.
    features: see `Policy`; observations are taken for what they are whole.
    level: of the constraint, broadcast against `features` without F; of
      observations one number.

  Returns:
    What the network returns.

  Source: Dosovitskiy and Djolonga 2020, "You Only Train Once: Loss-Conditional
  Training of Deep Networks"; here the loss follows from the level.
  """
  condition = None
  if network.is_conditioned:
    condition = (level - 0.5) / _LEVEL_UNIT
  is_split = isinstance(features, layers.Observations)
  if is_split and not (network.kind == 'mlp' and network.hidden):
    is_split, features = False, features.whole()
  out = network.apply({'params': params}, features, condition)
  # What observations come to has its steps before its trajectories.
  swap = lambda x: jnp.swapaxes(x, 0, 1)
  return jax.tree.map(swap, out) if is_split else out


def drop_inputs(
    rng: chex.PRNGKey, features: layers.Observations, rate: float
) -> layers.Observations:
  """Input dropout: the same features of a problem are dropped at every step.

  One mask for all steps costs T times fewer random numbers, keeps a dropped
  word from coming back at the next step, and leaves constant what was.

  Args:
    rng: consumed.
    features: of B trajectories.
    rate: chance to drop, in [0, 1); 0 returns the features untouched.

  Source: Gal and Ghahramani 2016, "A Theoretically Grounded Application of
  Dropout in Recurrent Neural Networks", section 4.
  """
  if not 0 <= rate < 1:
    raise ValueError(f'dropout is {rate}; allowed: from 0 up to below 1.')
  if rate == 0:
    return features
  shape = len(features.constant), 1, features.size
  keep = jax.random.bernoulli(rng, 1 - rate, shape)
  scale = layers.split(keep / (1 - rate), features.place)
  return jax.tree.map(jnp.multiply, features, scale)
