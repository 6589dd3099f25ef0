"""The policy network, which maps observations to logits, and the critics.

The networks are small and have pure `init` and `apply`. Parameters are a plain
dict of arrays, so a training run stacks the parameters of several policies and
maps over them. Policy and critics share no weights: only the policy is needed
in service, and a trust region limits the change of the policy alone.

`mlp` uses the current observation; `gru` and causal `attention` use this and
all earlier observations. Padding comes after the last decision, so it does not
influence the output at any decision.
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

# An untrained policy hands over at a step with probability sigmoid(-1) = 0.27:
# rarely enough to reach later steps, often enough to learn from hand-overs at
# each step.
_HANDOVER_BIAS = -1.0
# Number of heads of an attention block, which must divide its width.
_NUM_HEADS = 4
# The level of the constraint, in (0, 1], is divided by this unit before it
# enters the network. So levels 0.1 apart give inputs 1 apart, far enough for
# tanh units with random weights to distinguish them from the first update on.
_LEVEL_UNIT = 0.1
# Each tanh unit is a soft threshold on the level; 16 units resolve (0, 1).
_CONDITION_WIDTH = 16


def _output_bias(rng, shape, dtype=jnp.float32):
  """Returns the initial `[A]` bias: 0 for route 0, lower for larger routes."""
  del rng
  (num_routes,) = shape
  # The A - 1 larger routes have exp(logit)s that sum to exp(_HANDOVER_BIAS), so
  # the initial hand-over probability does not depend on the number of routes.
  larger = _HANDOVER_BIAS - jnp.log(num_routes - 1.0)
  return jnp.full(shape, larger, dtype).at[0].set(0.0)


class CausalAttention(nn.Module):
  """One pre-norm transformer block with causal attention over the steps.

  Linear biases (ALiBi) replace position embeddings: in head h, which has slope
  m_h, step t attends to step s with logit q_t.k_s / sqrt(d) - m_h (t - s). So
  no positions are learnt, and the length of a trace is not limited.

  width: number of units of the block, a multiple of the 4 heads.

  Source: Press et al. 2022, "Train Short, Test Long: Attention with Linear
  Biases Enables Input Length Extrapolation".
  """

  width: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps inputs `[..., T, F]` to outputs `[..., T, width]`, causally in T."""
    if self.width % _NUM_HEADS:
      raise ValueError(
          f'network.hidden has {self.width} with network.kind attention; the '
          f'width must be a multiple of {_NUM_HEADS}, the number of heads.'
      )
    # The residual connection adds to x, which needs `width` units for that.
    if x.shape[-1] != self.width:
      x = nn.Dense(self.width)(x)
    y = nn.LayerNorm()(x)
    heads = _NUM_HEADS, self.width // _NUM_HEADS
    query, key, value = (nn.DenseGeneral(heads)(y) for _ in range(3))
    steps = jnp.arange(x.shape[-2])
    distance = steps[:, None] - steps  # [T, T], t - s.
    # The geometric sequence of Press et al.: 1/4, 1/16, 1/64, 1/256.
    slopes = 2.0 ** (-8.0 / _NUM_HEADS * (1 + jnp.arange(_NUM_HEADS)))
    # `bias` is [heads, T, T]. -inf at s > t: a step does not see later steps.
    bias = jnp.where(distance >= 0, -slopes[:, None, None] * distance, -jnp.inf)
    y = nn.dot_product_attention(query, key, value, bias=bias)
    x = x + nn.DenseGeneral(self.width, axis=(-2, -1))(y)
    y = nn.gelu(nn.Dense(2 * self.width)(nn.LayerNorm()(x)))
    return x + nn.Dense(self.width)(y)


class Film(nn.Module):
  """Scales and shifts each unit by learnt functions of one number.

    y = x * (1 + scale(condition)) + shift(condition)

  Sources: Perez et al. 2018, "FiLM: Visual Reasoning with a General
  Conditioning Layer"; Dosovitskiy and Djolonga 2020, "You Only Train Once:
  Loss-Conditional Training of Deep Networks".
  """

  @nn.compact
  def __call__(self, x: jax.Array, condition: chex.Numeric) -> jax.Array:
    """Returns `[..., F]`, `x` scaled and shifted; `condition` fits `[...]`."""
    condition = jnp.broadcast_to(condition, x.shape[:-1])[..., None]
    y = nn.tanh(nn.Dense(_CONDITION_WIDTH)(condition))
    # With zero weights the layer starts as the identity for every condition.
    y = nn.Dense(2 * x.shape[-1], kernel_init=nn.initializers.zeros)(y)
    scale, shift = jnp.split(y, 2, axis=-1)
    return x * (1 + scale) + shift


# Layers that use earlier steps, by kind: width -> module.
_WITH_MEMORY = {
    'gru': lambda width: nn.RNN(nn.GRUCell(width)),
    'attention': CausalAttention,
}


def _hidden_layers(network, features, condition) -> jax.Array:
  """Returns `[H, ...]`, the last hidden layer of a policy or of critics.

  This is a function, not a module, so that the layers become submodules of
  `network` and their parameter names have no extra level.

  Args:
    network: `Policy` or `Critics`.
    features, condition: as in `Policy.__call__`.
  """
  if (condition is not None) != network.is_conditioned:
    expected = 'a number' if network.is_conditioned else 'None'
    raise ValueError(
        f'condition is {condition}; with is_conditioned='
        f'{network.is_conditioned} it must be {expected}.'
    )
  if has_memory(network.kind) and features.ndim < 2:
    raise ValueError(
        f'features have shape {features.shape}; network.kind {network.kind} '
        'takes [..., T, F], since this kind uses earlier steps.'
    )
  x = features
  # `mlp` is made of `layers.Dense`, with units in the first axis. The flax
  # layers of the other kinds have units in the last axis.
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
  """The policy network, which maps observations to one logit per route.

  hidden: width of each hidden layer.
  num_routes: A, number of logits.
  kind: kind of the hidden layers, one of `KINDS`.
  is_conditioned: whether the level of the constraint is an input too, so that
    one network serves all budget levels.
  """

  hidden: Sequence[int]
  num_routes: int
  kind: str = 'mlp'
  is_conditioned: bool = False

  @nn.compact
  def __call__(
      self, features: jax.Array, condition: chex.Numeric | None = None
  ) -> jax.Array:
    """Returns unmasked logits; `categorical.log_softmax` masks them.

    Args:
      features: `[..., T, F]` standardised float32; for `mlp` also `[..., F]`.
      condition: the scaled level of the constraint, of order 1; broadcast
        against `features` without F, e.g. `[B, 1]`. None if the network is not
        conditioned.

    Returns:
      `[..., T, A]` or `[..., A]` float32. The logits at t depend on steps 0..t
      only.
    """
    x = _hidden_layers(self, features, condition)
    logits = layers.Dense(
        self.num_routes,
        # With small weights the bias alone decides the initial hand-over
        # probability, at every observation.
        kernel_init=nn.initializers.variance_scaling(0.01, 'fan_in', 'normal'),
        bias_init=_output_bias,
    )(x)
    return layers.units_last(logits)


class Critics(nn.Module):
  """Two critics, which map observations to future reward and constraint cost.

  hidden, kind, is_conditioned: as in `Policy`.
  """

  hidden: Sequence[int]
  kind: str = 'mlp'
  is_conditioned: bool = False

  @nn.compact
  def __call__(
      self, features: jax.Array, condition: chex.Numeric | None = None
  ) -> tuple[jax.Array, jax.Array]:
    """Returns estimates of the future reward and of the future constraint cost.

    Args:
      features, condition: as in `Policy.__call__`.

    Returns:
      Two arrays `[..., T]` float32, or `[...]` for features without T.
    """
    x = _hidden_layers(self, features, condition)
    # The values start at 0, so that the first advantages do not depend on
    # randomly initialised critics.
    values = layers.Dense(2, kernel_init=nn.initializers.zeros)(x)
    return values[0], values[1]


def has_memory(kind: str) -> bool:
  """Returns whether networks of this kind use earlier observations as well."""
  return check_kind(kind) != 'mlp'


def check_kind(kind: str) -> str:
  """Returns `kind`, or raises ValueError unless it is one of `KINDS`."""
  if kind not in KINDS:
    raise ValueError(
        f'Unknown network kind {kind!r}; allowed: {", ".join(KINDS)}.'
    )
  return kind


def make_network(config: Mapping[str, Any], num_routes: int) -> Policy:
  """Returns the policy network of a configuration.

  Args:
    config: the entry `network` of a configuration, with `kind`, `hidden` and
      optionally `is_conditioned`.
    num_routes: A, number of routes.

  Raises:
    ValueError: if `config['kind']` is not in `KINDS`.
  """
  return Policy(num_routes=num_routes, **_layers(config))


def make_critics(config: Mapping[str, Any]) -> Critics:
  """Returns critics with the same hidden layers as `make_network(config)`."""
  return Critics(**_layers(config))


def _layers(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the arguments that `Policy` and `Critics` share, from `network`."""
  return dict(
      kind=check_kind(config['kind']),
      hidden=tuple(config['hidden']),
      is_conditioned=config.get('is_conditioned', False),
  )


def init_params(
    rng: chex.PRNGKey, network: Policy | Critics, num_features: int
) -> chex.ArrayTree:
  """Returns the initial parameters of a network; consumes `rng`."""
  condition = 0.0 if network.is_conditioned else None
  return network.init(rng, jnp.zeros((1, num_features)), condition)['params']


def apply(
    network: Policy | Critics,
    params: chex.ArrayTree,
    features: chex.Array | layers.Observations,
    level: chex.Numeric,
):
  """Applies a policy or critics to features, and to the level if conditioned.

  Args:
    network: from `make_network` or `make_critics`.
    params: from `init_params`.
    features: as in `Policy`, or `Observations` in place of `[B, T, F]`.
    level: level of the constraint, in (0, 1], broadcast against `features`
      without F; a scalar for `Observations`. Ignored unless the network is
      conditioned.

  Returns:
    The output of the network: see `Policy` and `Critics`.

  Source: Dosovitskiy and Djolonga 2020, "You Only Train Once: Loss-Conditional
  Training of Deep Networks"; here the level determines the loss.
  """
  condition = None
  if network.is_conditioned:
    # The condition is centred, and of order 1 for levels in (0, 1).
    condition = (level - 0.5) / _LEVEL_UNIT
  is_split = isinstance(features, layers.Observations)
  # Only a dense first layer can use split observations; networks without one
  # get `[B, T, F]`.
  if is_split and not (network.kind == 'mlp' and network.hidden):
    is_split, features = False, features.whole()
  out = network.apply({'params': params}, features, condition)
  # For split observations the network's output is [T, B, ...], as
  # `layers._multiply_split` returns it; the caller gets [B, T, ...].
  swap = lambda x: jnp.swapaxes(x, 0, 1)
  return jax.tree.map(swap, out) if is_split else out


def drop_inputs(
    rng: chex.PRNGKey, features: layers.Observations, rate: float
) -> layers.Observations:
  """Drops random input features, the same ones at all steps of a trajectory.

  Args:
    rng: consumed.
    features: features of B trajectories.
    rate: probability to drop a feature, in [0, 1); 0 returns `features`
      unchanged.

  Returns:
    The features: a kept feature is divided by 1 - rate, a dropped one is 0.

  Source: Gal and Ghahramani 2016, "A Theoretically Grounded Application of
  Dropout in Recurrent Neural Networks", section 4.
  """
  if not 0 <= rate < 1:
    raise ValueError(f'network.dropout is {rate}; it must be in [0, 1).')
  if rate == 0:
    return features
  # One mask [B, 1, F] serves all steps. So T times fewer random numbers are
  # drawn, a dropped word does not come back at the next step, and constant
  # features remain constant.
  shape = len(features.constant), 1, features.size
  keep = jax.random.bernoulli(rng, 1 - rate, shape)
  scale = layers.split(keep / (1 - rate), features.place)
  return jax.tree.map(jnp.multiply, features, scale)
