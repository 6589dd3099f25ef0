"""Categorical distributions over the available routes.

All functions take `log_probs` from `log_softmax`, the only function that masks
unavailable routes.
"""

import chex
import jax
import jax.numpy as jnp

# A finite number in place of log 0. exp(-1e9) is exactly 0 in float32, and
# 0 * -1e9 is 0, whereas 0 * -inf is NaN. So entropies, divergences and their
# gradients need no second mask.
_LOG_ZERO = -1e9


def log_softmax(
    logits: chex.Array, available: chex.Array | None = None
) -> jax.Array:
  """Returns log-probabilities, with probability 0 for unavailable routes.

  Args:
    logits: `[..., A]` float; any value where a route is not available.
    available: `[..., A]` bool, broadcast against `logits`; None if all routes
      are available.

  Returns:
    `[..., A]` float, at most -1e9 where a route is not available. A row without
    an available route is padding; it gets equal probabilities and no gradient.
  """
  if available is not None:
    chex.assert_type(available, bool)
    # Masked logits are replaced rather than lowered by a large number: an
    # infinite or NaN logit must not reach the softmax.
    logits = jnp.where(available, logits, _LOG_ZERO)
  return jax.nn.log_softmax(logits)


def log_prob(log_probs: chex.Array, actions: chex.Array) -> jax.Array:
  """Returns `[...]` log-probabilities of the actions taken, `[...]` int."""
  chex.assert_equal_shape_prefix([log_probs, actions], log_probs.ndim - 1)
  return jnp.take_along_axis(log_probs, actions[..., None], axis=-1)[..., 0]


def entropy(log_probs: chex.Array) -> jax.Array:
  """Returns the `[...]` entropies of `[..., A]` distributions, in nats."""
  return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)


def kl_divergence(log_probs: chex.Array, other: chex.Array) -> jax.Array:
  """Returns `[...]` divergences KL(p || q), in nats.

  p is given by `log_probs` and q by `other`, both `[..., A]`. Where p gives a
  route probability that q gives none, the divergence is not infinite but about
  1e9 times that probability.
  """
  return jnp.sum(jnp.exp(log_probs) * (log_probs - other), axis=-1)


def sample(rng: chex.PRNGKey, log_probs: chex.Array) -> jax.Array:
  """Draws `[...]` int32 routes from `[..., A]` log-probabilities.

  Unavailable routes are never drawn. Consumes `rng`.
  """
  return jax.random.categorical(rng, log_probs).astype(jnp.int32)
