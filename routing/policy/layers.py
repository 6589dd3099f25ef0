"""A dense layer, and observations that store constant features once.

In this layer the axis of units (features) comes first and the axis of
trajectories last. Training maps the layer over K policies that share their
inputs (`vmap`). In this layout the mapped layer is one matrix product in the
forward and in the backward pass, and the result needs no transpose before the
next layer.
"""

import chex
from flax import linen as nn
import flax.struct
import jax
import jax.numpy as jnp

# A layer of at most this many units is taken for an output layer: one unit per
# route, or one per critic.
_FEW = 4


@flax.struct.dataclass
class Observations:
  """Features of trajectories, with those that never change stored once.

  For example, the hashed words of a question do not change within a trajectory.

  constant: `[B, C]` float32, features with one value per trajectory.
  varying: `[B, T, V]` float32, features with one value per decision.
  start: index of the first constant feature among all F = C + V features; the
    constant features are adjacent.
  """

  constant: chex.Array
  varying: chex.Array
  start: int = flax.struct.field(pytree_node=False)

  @property
  def size(self) -> int:
    """The number of features, F = C + V."""
    return self.constant.shape[-1] + self.varying.shape[-1]

  @property
  def place(self) -> slice:
    """The columns of the constant features among all F."""
    return slice(self.start, self.start + self.constant.shape[-1])

  def whole(self) -> jax.Array:
    """Returns all features as one array `[B, T, F]`; the inverse of `split`."""
    shape = *self.varying.shape[:2], self.constant.shape[-1]
    constant = jnp.broadcast_to(self.constant[:, None], shape)
    before, after = jnp.split(self.varying, [self.start], axis=-1)
    return jnp.concatenate([before, constant, after], axis=-1)


def split(features: chex.Array, constant: slice) -> Observations:
  """Returns `Observations` that store some columns once per trajectory.

  Only the values at step 0 of these columns are kept. This function does not
  check that the other steps have the same values;
  `training.sources.with_constant` does.

  Args:
    features: `[B, T, F]` float32.
    constant: the columns to store once.
  """
  chex.assert_rank(features, 3)
  parts = features[..., : constant.start], features[..., constant.stop :]
  return Observations(
      constant=features[:, 0, constant],
      # The array's own `concat` keeps NumPy arrays on the host and JAX arrays
      # on the device.
      varying=features.__array_namespace__().concat(parts, axis=-1),
      start=constant.start,
  )


def units_first(x: jax.Array | Observations) -> jax.Array | Observations:
  """Moves the last axis, of units, to the front; `Observations` stay as is."""
  return x if isinstance(x, Observations) else jnp.moveaxis(x, -1, 0)


def units_last(x: jax.Array) -> jax.Array:
  """Moves the first axis, of units, to the end."""
  return jnp.moveaxis(x, 0, -1)


class Dense(nn.Module):
  """A dense layer like `nn.Dense`, but with units in the first axis.

  width: H, number of output units.
  kernel_init, bias_init: initialisers of the weights, `[F, H]` and `[H]`.
  """

  width: int
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  bias_init: nn.initializers.Initializer = nn.initializers.zeros

  @nn.compact
  def __call__(self, x: jax.Array | Observations) -> jax.Array:
    """Maps `[F, ...]` to `[H, ...]`, and `Observations` to `[H, T, B]`."""
    is_split = isinstance(x, Observations)
    num_inputs = x.size if is_split else len(x)
    # The kernel is the same in both cases, with its rows in the order of
    # `Observations.whole`. So a checkpoint does not depend on which features a
    # training run found to be constant.
    kernel = self.param('kernel', self.kernel_init, (num_inputs, self.width))
    bias = self.param('bias', self.bias_init, (self.width,))
    y = _multiply_split(kernel, x) if is_split else _multiply(kernel, x)
    return y + bias.reshape(-1, *[1] * (y.ndim - 1))


def _multiply(kernel: jax.Array, x: jax.Array) -> jax.Array:
  """Returns the product `[H, ...]` of kernel `[F, H]` and inputs `[F, ...]`."""
  rows = x.reshape(len(x), -1)  # XLA is fastest with two axes per operand.
  if kernel.shape[1] <= _FEW:
    # There is one product per unit. The gradient of a single product would come
    # out with the trajectory axis first, and the transpose of this gradient
    # takes longer than the rest of the layer.
    y = jnp.stack([weights @ rows for weights in kernel.T])
  else:
    y = kernel.T @ rows
  return y.reshape(len(y), *x.shape[1:])


def _multiply_split(kernel: jax.Array, x: Observations) -> jax.Array:
  """Returns the product `[H, T, B]` of a kernel `[F, H]` and observations.

    W x = W_constant x_constant + W_varying x_varying

  The first product is computed once per trajectory, the second one for every
  decision.
  """
  end = x.start + x.constant.shape[-1]
  of_constant = kernel[x.start : end]
  of_varying = jnp.concatenate([kernel[: x.start], kernel[end:]])
  # `rows` is [T, B, V], so that `y` becomes [H, T, B]: the product per
  # trajectory, [H, B], is then added along the last, contiguous axis.
  rows = jnp.swapaxes(x.varying, 0, 1)
  y = of_varying.T @ rows.reshape(-1, rows.shape[-1]).T
  y = y.reshape(len(y), *rows.shape[:2])  # [H, T, B]
  return y + (of_constant.T @ x.constant.T)[:, None]  # + [H, 1, B]
