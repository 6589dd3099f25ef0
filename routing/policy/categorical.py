"""Distributions over the routes that are available.

Everything is a function of `log_probs`, as `log_softmax` gives them: the one
place where unavailable routes are masked.
"""

import chex
import jax
import jax.numpy as jnp

# Its exponential is exactly 0, yet 0 times it is 0 and not NaN, so entropies
# and their gradients need no second mask.
_LOG_ZERO = -1e9


def log_softmax(
    logits: chex.Array, available: chex.Array | None = None
) -> jax.Array:
  """Log-probabilities of the routes, with chance 0 for what is not available.

  Args:
    logits: `[..., A]` float; where a route is not available, anything.
    available: `[..., A]` bool, broadcast against `logits`; None = all are.

  Returns:
    `[..., A]` float. Not available: -1e9 or less. A row without any available
    route is padding: it gets equal chances and passes no gradient.
  """
  if available is not None:
    chex.assert_type(available, bool)
    logits = jnp.where(available, logits, _LOG_ZERO)
  return jax.nn.log_softmax(logits)


def log_prob(log_probs: chex.Array, actions: chex.Array) -> jax.Array:
  """`[...]` log-probability of each of the `[...]` int actions taken."""
  chex.assert_equal_shape_prefix([log_probs, actions], log_probs.ndim - 1)
  return jnp.take_along_axis(log_probs, actions[..., None], axis=-1)[..., 0]


def entropy(log_probs: chex.Array) -> jax.Array:
  """`[...]` entropy of each `[..., A]` distribution, in nats."""
  return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)


def kl_divergence(log_probs: chex.Array, other: chex.Array) -> jax.Array:
  """`[...]` divergence KL(p || q) of `log_probs` p from `other` q, in nats.

  Both are `[..., A]`. It is about 1e9 where p takes a route that q excludes.
  """
  return jnp.sum(jnp.exp(log_probs) * (log_probs - other), axis=-1)


def sample(rng: chex.PRNGKey, log_probs: chex.Array) -> jax.Array:
  """`[...]` int32 routes drawn from `[..., A]`, available ones only.

  `rng` is consumed.
  """
  return jax.random.categorical(rng, log_probs).astype(jnp.int32)
