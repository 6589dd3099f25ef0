"""The policy network, which maps observations to logits, and the critics.

The networks are small and have pure `init` and `apply`. Parameters are a plain
dict of arrays, so a run stacks those of several policies and maps over them.
Policy and critics share no weights: only the policy ships, and a trust region
limits the change of the policy alone.

`mlp` uses the current observation; `gru` and causal `attention` use all
observations up to it. Padding follows the last decision, where a causal layer
never looks.
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
# rarely enough to reach later steps, often enough to learn from each.
_HANDOVER_BIAS = -1.0
_NUM_HEADS = 4
# Levels that differ by this much give conditions that differ by 1, far enough
# for random tanh units to tell them apart from the first step on.
_LEVEL_UNIT = 0.1
# Each tanh unit is a soft threshold on the level; 16 of them resolve (0, 1).
_CONDITION_WIDTH = 16


def _output_bias(rng, shape, dtype=jnp.float32):
  """Returns the initial `[A]` bias: 0 for route 0, lower for larger routes."""
  del rng
  (num_routes,) = shape
  # exp(larger) summed over A - 1 routes is exp(_HANDOVER_BIAS), so the initial
  # hand-over probability does not depend on the number of routes.
  larger = _HANDOVER_BIAS - jnp.log(num_routes - 1.0)
  return jnp.full(shape, larger, dtype).at[0].set(0.0)


class CausalAttention(nn.Module):
  """One pre-norm transformer block with causal attention over the steps.

  Linear biases (ALiBi) replace position embeddings: with slope m_h of head h,
  the attention logit of step s at step t is q_t.k_s / sqrt(d) - m_h (t - s).
  So no positions are learnt, and the length of a trace is not limited.

  width: number of units of the block, a multiple of the 4 heads.

  Source: Press et al. 2022, "Train Short, Test Long: Attention with Linear
  Biases Enables Input Length Extrapolation".
  """

  width: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[..., T, F]` to `[..., T, width]`."""
    if self.width % _NUM_HEADS:
      raise ValueError(
          f'network.hidden has {self.width} with network.kind attention; the '
          f'width must be a multiple of {_NUM_HEADS}, the number of heads.'
      )
    # The residual connection needs `width` units.
    if x.shape[-1] != self.width:
      x = nn.Dense(self.width)(x)
    y = nn.LayerNorm()(x)
    heads = _NUM_HEADS, self.width // _NUM_HEADS
    query, key, value = (nn.DenseGeneral(heads)(y) for _ in range(3))
    steps = jnp.arange(x.shape[-2])
    distance = steps[:, None] - steps  # [T, T], t - s.
    # The geometric sequence of Press et al.: 1/4, 1/16, 1/64, 1/256.
    slopes = 2.0 ** (-8.0 / _NUM_HEADS * (1 + jnp.arange(_NUM_HEADS)))
    # [heads, T, T]; -inf hides the future.
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
    """Maps `[..., F]`, and a condition broadcast to `[...]`, to `[..., F]`."""
    condition = jnp.broadcast_to(condition, x.shape[:-1])[..., None]
    y = nn.tanh(nn.Dense(_CONDITION_WIDTH)(condition))
    # Zero weights: the layer starts as the identity for every condition.
    y = nn.Dense(2 * x.shape[-1], kernel_init=nn.initializers.zeros)(y)
    scale, shift = jnp.split(y, 2, axis=-1)
    return x * (1 + scale) + shift


_WITH_MEMORY = {
    'gru': lambda width: nn.RNN(nn.GRUCell(width)),
    'attention': CausalAttention,
}


def _hidden_layers(network, features, condition) -> jax.Array:
  """Returns `[H, ...]`, the last hidden layer of a policy or of critics.

  A function, not a module, so that the layers become submodules of `network`
  and their parameter names have no extra level.
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
        'takes [..., T, F], since it uses earlier steps.'
    )
  x = features
  # Only `mlp` uses the layers with units first; the flax layers of the others
  # have them last.
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
  """The policy network: observations to one logit per route.

  hidden: width of each hidden layer.
  num_routes: A, number of logits.
  kind: kind of the hidden layers, one of `KINDS`.
  is_conditioned: the network takes the level of its constraint as an input too.
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
      condition: of order 1, broadcast against `features` without F, e.g.
        `[B, 1]`; None if the network is not conditioned.

    Returns:
      `[..., T, A]` or `[..., A]` float32. At t they depend on steps 0..t only.
    """
    x = _hidden_layers(self, features, condition)
    logits = layers.Dense(
        self.num_routes,
        # Small weights: the initial hand-over probability is near that of the
        # bias at every observation, rather than random.
        kernel_init=nn.initializers.variance_scaling(0.01, 'fan_in', 'normal'),
        bias_init=_output_bias,
    )(x)
    return layers.units_last(logits)


class Critics(nn.Module):
  """Two critics: observations to the future reward and constraint cost.

  hidden, kind, is_conditioned: as in `Policy`.
  """

  hidden: Sequence[int]
  kind: str = 'mlp'
  is_conditioned: bool = False

  @nn.compact
  def __call__(
      self, features: jax.Array, condition: chex.Numeric | None = None
  ) -> tuple[jax.Array, jax.Array]:
    """Returns `[..., T]` values of the reward, and of the constraint cost.

    Arguments are those of `Policy`.
    """
    x = _hidden_layers(self, features, condition)
    # Values start at 0: the first advantages do not depend on random critics.
    values = layers.Dense(2, kernel_init=nn.initializers.zeros)(x)
    return values[0], values[1]


def has_memory(kind: str) -> bool:
  """Returns whether networks of this kind use earlier steps as well."""
  return check_kind(kind) != 'mlp'


def check_kind(kind: str) -> str:
  """Returns `kind`, or raises ValueError with the allowed names."""
  if kind not in KINDS:
    raise ValueError(
        f'Unknown network kind {kind!r}; allowed: {", ".join(KINDS)}.'
    )
  return kind


def make_network(config: Mapping[str, Any], num_routes: int) -> Policy:
  """Returns the policy network of a configuration.

  Args:
    config: a configuration's `network`, with `kind`, `hidden` and optionally
      `is_conditioned`.
    num_routes: A.

  Raises:
    ValueError: if `config.kind` is not in `KINDS`.
  """
  return Policy(num_routes=num_routes, **_layers(config))


def make_critics(config: Mapping[str, Any]) -> Critics:
  """Returns critics with the same hidden layers as `make_network(config)`."""
  return Critics(**_layers(config))


def _layers(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the arguments that `Policy` and `Critics` have in common."""
  return dict(
      kind=check_kind(config['kind']),
      hidden=tuple(config['hidden']),
      is_conditioned=config.get('is_conditioned', False),
  )


def init_params(
    rng: chex.PRNGKey, network: Policy | Critics, num_features: int
) -> chex.ArrayTree:
  """Returns the parameters of an untrained network; consumes `rng`."""
  condition = 0.0 if network.is_conditioned else None
  return network.init(rng, jnp.zeros((1, num_features)), condition)['params']


def apply(
    network: Policy | Critics,
    params: chex.ArrayTree,
    features: chex.Array | layers.Observations,
    level: chex.Numeric,
):
  """Applies a network to features, and to the level if it is conditioned.

  Args:
    network: from `make_network` or `make_critics`.
    params: from `init_params`.
    features: as in `Policy`, or `Observations` that stand for `[B, T, F]`.
    level: of the constraint, broadcast against `features` without F; a scalar
      if they are `Observations`. Ignored unless the network is conditioned.

  Returns:
    The output of the network: see `Policy` and `Critics`.

  Source: Dosovitskiy and Djolonga 2020, "You Only Train Once: Loss-Conditional
  Training of Deep Networks"; here the loss follows from the level.
  """
  condition = None
  if network.is_conditioned:
    condition = (level - 0.5) / _LEVEL_UNIT  # Of order 1 for levels in (0, 1).
  is_split = isinstance(features, layers.Observations)
  # Only a dense first layer can use the split; others get `[B, T, F]`.
  if is_split and not (network.kind == 'mlp' and network.hidden):
    is_split, features = False, features.whole()
  out = network.apply({'params': params}, features, condition)
  # For split observations the network's output is [T, B, ...]; see
  # `layers._multiply_split`.
  swap = lambda x: jnp.swapaxes(x, 0, 1)
  return jax.tree.map(swap, out) if is_split else out


def drop_inputs(
    rng: chex.PRNGKey, features: layers.Observations, rate: float
) -> layers.Observations:
  """Drops input features at random, the same ones at all steps of a trajectory.

  Args:
    rng: consumed.
    features: of B trajectories.
    rate: probability to drop, in [0, 1); 0 returns `features` unchanged.

  Returns:
    The features, kept ones divided by 1 - rate, dropped ones 0.

  Source: Gal and Ghahramani 2016, "A Theoretically Grounded Application of
  Dropout in Recurrent Neural Networks", section 4.
  """
  if not 0 <= rate < 1:
    raise ValueError(f'network.dropout is {rate}; it must be in [0, 1).')
  if rate == 0:
    return features
  # One mask for all steps, [B, 1, F]: T times fewer random numbers; a dropped
  # word does not come back at the next step; and constant features stay so.
  shape = len(features.constant), 1, features.size
  keep = jax.random.bernoulli(rng, 1 - rate, shape)
  scale = layers.split(keep / (1 - rate), features.place)
  return jax.tree.map(jnp.multiply, features, scale)
