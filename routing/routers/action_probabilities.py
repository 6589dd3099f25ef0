"""The action probabilities of trained policies, at one or at many decisions."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from routing.policy import categorical
from routing.policy import networks


class Weights:
  """The weights of K policies, moved to the device once for all decisions.

  Args:
    params: pytree of arrays `[K, ...]`, one row per policy.
  """

  def __init__(self, params: Any):
    self._params, self._rows = params, {}

  @functools.cached_property
  def of_all(self) -> Any:
    """The weights of all policies, `[K, ...]`."""
    return jax.device_put(self._params)

  def of(self, row: int) -> Any:
    """Returns the weights of one policy."""
    if row not in self._rows:
      chosen = jax.tree.map(lambda x: x[row], self._params)
      self._rows[row] = jax.device_put(chosen)
    return self._rows[row]


def _softmax(
    network: networks.Policy,
    params: Any,
    features: jax.Array,
    level: jax.typing.ArrayLike,
    available: np.ndarray | None,
) -> jax.Array:
  """Returns `[..., A]` action probabilities of one policy."""
  logits = networks.apply(network, params, features, level)
  # None is not a mask of ones: masking rounds differently, and the scores of an
  # unrestricted router must be those that it was calibrated with.
  if available is not None:
    # Log-probabilities are logits too; the softmax below gives masked routes 0.
    logits = categorical.log_softmax(logits, available)
  return jax.nn.softmax(logits)


# Both functions are jitted at module level with the network as static argument,
# so that all routers with equal networks share the compiled code.
@functools.partial(jax.jit, static_argnums=0)
def of_one(
    network: networks.Policy,
    params: Any,
    features: jax.Array,
    level: float,
    available: np.ndarray | None,
) -> jax.Array:
  """Returns `[..., A]` action probabilities of one policy.

  Args:
    network: of the policy.
    params: its weights.
    features: `[..., F]` float32, standardised.
    level: its level; see `networks.apply`.
    available: `[A]` bool, the routes that may be chosen; None = all.
  """
  return _softmax(network, params, features, level, available)


@functools.partial(jax.jit, static_argnums=0)
def of_each(
    network: networks.Policy,
    params: Any,
    features: jax.Array,
    rows: jax.Array,
    levels: jax.Array,
    available: np.ndarray | None,
) -> jax.Array:
  """Returns action probabilities at N decisions, each under its own policy.

  The results differ from those of `of_one` by rounding: in another program XLA
  adds up the terms of a matrix product in another order.

  Args:
    network: of the policies.
    params: `[K, ...]`, the weights of K policies.
    features: `[N, ..., F]` float32, standardised.
    rows: `[N]` int, the policy of each decision.
    levels: `[N]` float, the level of each.
    available: `[A]` bool, the routes that may be chosen; None = all.

  Returns:
    `[N, ..., A]` float32.
  """

  # All policies at all decisions: one product with shared inputs. To gather the
  # weights of each decision would move more memory than it saves arithmetic.
  levels = levels.reshape(-1, *[1] * (features.ndim - 2))
  every = jax.vmap(
      lambda chosen: _softmax(network, chosen, features, levels, available)
  )(params)
  return every[rows, jnp.arange(len(features))]
