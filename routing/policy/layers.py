"""A dense layer, and observations that store constant features once.

The unit axis comes first here and the trajectory axis last. A run maps these
layers over K policies that share their inputs. In this layout such a layer is
one matrix product in the forward and in the backward pass, and its result needs
no transpose before the next layer.
"""

import chex
from flax import linen as nn
import flax.struct
import jax
import jax.numpy as jnp

# Up to this many units a layer is an output layer: routes, or the two critics.
_FEW = 4


@flax.struct.dataclass
class Observations:
  """Features of trajectories, some of which are the same at every decision.

  For example, the hashed words of a question do not change within a trajectory.

  constant: `[B, C]` float32, one row per trajectory.
  varying: `[B, T, V]` float32, one row per decision.
  start: index among the varying features before which the constant ones go.
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
    """Returns `[B, T, F]`, the features as they were before `split`."""
    shape = *self.varying.shape[:2], self.constant.shape[-1]
    constant = jnp.broadcast_to(self.constant[:, None], shape)
    before, after = jnp.split(self.varying, [self.start], axis=-1)
    return jnp.concatenate([before, constant, after], axis=-1)


def split(features: chex.Array, constant: slice) -> Observations:
  """Returns `[B, T, F]` features with the columns `constant` stored once.

  The values of step 0 are kept; `training.sources.with_constant` checks that
  those of the other steps are the same.
  """
  chex.assert_rank(features, 3)
  parts = features[..., : constant.start], features[..., constant.stop :]
  return Observations(
      constant=features[:, 0, constant],
      # NumPy arrays stay on the host, JAX arrays on the device.
      varying=features.__array_namespace__().concat(parts, axis=-1),
      start=constant.start,
  )


def units_first(x: jax.Array | Observations) -> jax.Array | Observations:
  """Returns `[F, ...]` for `[..., F]`, and `Observations` unchanged."""
  return x if isinstance(x, Observations) else jnp.moveaxis(x, -1, 0)


def units_last(x: jax.Array) -> jax.Array:
  """Returns `[..., F]` for `[F, ...]`."""
  return jnp.moveaxis(x, 0, -1)


class Dense(nn.Module):
  """A dense layer as `nn.Dense`, but with units in the first axis.

  width: H, number of units.
  kernel_init, bias_init: initialisers of the weights, `[F, H]` and `[H]`.
  """

  width: int
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  bias_init: nn.initializers.Initializer = nn.initializers.zeros

  @nn.compact
  def __call__(self, x: jax.Array | Observations) -> jax.Array:
    """Maps `[F, ...]` to `[H, ...]`, and observations to `[H, T, B]`."""
    is_split = isinstance(x, Observations)
    num_inputs = x.size if is_split else len(x)
    # One kernel in either case, with its rows in the order of `whole`: the
    # weights do not depend on which features a run found to be constant.
    kernel = self.param('kernel', self.kernel_init, (num_inputs, self.width))
    bias = self.param('bias', self.bias_init, (self.width,))
    y = _multiply_split(kernel, x) if is_split else _multiply(kernel, x)
    return y + bias.reshape(-1, *[1] * (y.ndim - 1))


def _multiply(kernel: jax.Array, x: jax.Array) -> jax.Array:
  """Multiplies an `[F, H]` kernel with `[F, ...]` inputs, to `[H, ...]`."""
  rows = x.reshape(len(x), -1)  # XLA is fastest with two axes per operand.
  if kernel.shape[1] <= _FEW:
    # One product per unit. The gradient of a single product would come out with
    # the trajectory axis first, and its transpose takes longer than all else in
    # this layer.
    y = jnp.stack([weights @ rows for weights in kernel.T])
  else:
    y = kernel.T @ rows
  return y.reshape(len(y), *x.shape[1:])


def _multiply_split(kernel: jax.Array, x: Observations) -> jax.Array:
  """Returns `[H, T, B]`, `_multiply` of the whole observations.

    W x = W_constant x_constant + W_varying x_varying

  The first product is computed once per trajectory, the second per decision.
  """
  end = x.start + x.constant.shape[-1]
  of_constant = kernel[x.start : end]
  of_varying = jnp.concatenate([kernel[: x.start], kernel[end:]])
  # [T, B, V], so that the product per trajectory, [H, B], is added along the
  # last, contiguous axis.
  rows = jnp.swapaxes(x.varying, 0, 1)
  y = of_varying.T @ rows.reshape(-1, rows.shape[-1]).T
  y = y.reshape(len(y), *rows.shape[:2])  # [H, T, B]
  return y + (of_constant.T @ x.constant.T)[:, None]  # + [H, 1, B]
