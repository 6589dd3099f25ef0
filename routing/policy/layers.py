"""The dense layer, and observations that hold what never changes only once.

Units come first here, trajectories last: mapped over the members of a run,
which share their inputs, a layer is one matrix product, forwards as backwards,
and its result lies as the next layer wants it.
"""

import chex
from flax import linen as nn
import flax.struct
import jax
import jax.numpy as jnp

_FEW = 4  # Units, as of a last layer: routes, or the two critics.


@flax.struct.dataclass
class Observations:
  """Features of trajectories, some of them the same at every decision.

  constant: `[B, C]` float32, of each trajectory.
  varying: `[B, T, V]` float32, of each decision.
  start: the constant ones come before the `start`-th of the varying ones.
  """

  constant: chex.Array
  varying: chex.Array
  start: int = flax.struct.field(pytree_node=False)

  @property
  def size(self) -> int:
    """F = C + V."""
    return self.constant.shape[-1] + self.varying.shape[-1]

  @property
  def place(self) -> slice:
    """Of the constant ones among all F."""
    return slice(self.start, self.start + self.constant.shape[-1])

  def whole(self) -> jax.Array:
    """`[B, T, F]`, the features as they were before `split`."""
    shape = *self.varying.shape[:2], self.constant.shape[-1]
    constant = jnp.broadcast_to(self.constant[:, None], shape)
    before, after = jnp.split(self.varying, [self.start], axis=-1)
    return jnp.concatenate([before, constant, after], axis=-1)


def split(features: chex.Array, constant: slice) -> Observations:
  """`[B, T, F]` features, of the columns `constant` those of step 0 alone."""
  chex.assert_rank(features, 3)
  parts = features[..., : constant.start], features[..., constant.stop :]
  return Observations(
      constant=features[:, 0, constant],
      varying=features.__array_namespace__().concat(parts, axis=-1),
      start=constant.start,
  )


def units_first(x: jax.Array | Observations) -> jax.Array | Observations:
  """`[..., F]` to `[F, ...]`; observations as they are."""
  return x if isinstance(x, Observations) else jnp.moveaxis(x, -1, 0)


def units_last(x: jax.Array) -> jax.Array:
  """`[F, ...]` to `[..., F]`."""
  return jnp.moveaxis(x, 0, -1)


class Dense(nn.Module):
  """`nn.Dense` from units first to units first.

  width: H, number of units.
  kernel_init, bias_init: of the weights, `[F, H]` and `[H]`.
  """

  width: int
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  bias_init: nn.initializers.Initializer = nn.initializers.zeros

  @nn.compact
  def __call__(self, x: jax.Array | Observations) -> jax.Array:
    """`[F, ...]` to `[H, ...]`; observations to `[H, T, B]`."""
    is_split = isinstance(x, Observations)
    num_inputs = x.size if is_split else len(x)
    kernel = self.param('kernel', self.kernel_init, (num_inputs, self.width))
    bias = self.param('bias', self.bias_init, (self.width,))
    y = _multiply_split(kernel, x) if is_split else _multiply(kernel, x)
    return y + bias.reshape(-1, *[1] * (y.ndim - 1))


def _multiply(kernel: jax.Array, x: jax.Array) -> jax.Array:
  """`[F, H]` by `[F, ...]`; XLA is at its best with two axes each."""
  rows = x.reshape(len(x), -1)
  if kernel.shape[1] <= _FEW:
    # The gradient of one product for all would come out trajectories first, and
    # turning that round takes longer than all else that the layer does.
    y = jnp.stack([weights @ rows for weights in kernel.T])
  else:
    y = kernel.T @ rows
  return y.reshape(len(y), *x.shape[1:])


def _multiply_split(kernel: jax.Array, x: Observations) -> jax.Array:
  """A product a trajectory and one a decision, `[H, T, B]`.

  Steps come before trajectories, so that adding what is of a trajectory runs
  along the last axis.
  """
  end = x.start + x.constant.shape[-1]
  of_constant = kernel[x.start : end]
  of_varying = jnp.concatenate([kernel[: x.start], kernel[end:]])
  rows = jnp.swapaxes(x.varying, 0, 1)
  y = of_varying.T @ rows.reshape(-1, rows.shape[-1]).T
  y = y.reshape(len(y), *rows.shape[:2])
  return y + (of_constant.T @ x.constant.T)[:, None]
