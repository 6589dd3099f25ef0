"""Training the policy as it will be served: behind a threshold.

In service a router hands over where its chance to leave reaches kappa. Here the
step at kappa is a steep sigmoid, so that the policy can be trained through it,
and kappa follows the misses. Lower kappa, more hand-overs.

Source: "Conformal Constrained Policy Optimization for Cost-Effective LLM
Agents" (arXiv 2511.11828).
"""

import chex
import jax
import jax.numpy as jnp

from routing.policy import categorical


def thresholded(
    log_probs: chex.Array, kappa: chex.Numeric, *, epsilon: float = 0.01
) -> jax.Array:
  """Logits of the policy that hands over where its chance to leave is >= kappa.

  With p = 1 - pi(0), it leaves with chance sigmoid((p - kappa) / epsilon), and
  then to route a with pi(a) / p. With two routes that is the paper's
  sigmoid((pi(a) - kappa) / epsilon).

  Args:
    log_probs: `[..., A]`, as `categorical.log_softmax` gives them.
    kappa: broadcast against `[...]`.
    epsilon: > 0, in units of chance; towards 0 it becomes the threshold itself.

  Returns:
    `[..., A]` float logits, already log-probabilities where all routes are
    available. Where some are not, mask them again: a threshold knows no masks.
  """
  larger = log_probs[..., 1:]
  # Summed, not 1 - pi(0), which would round small chances to the same number.
  leave = jnp.exp(larger).sum(axis=-1, keepdims=True)
  margin = (leave - jnp.asarray(kappa)[..., None]) / epsilon
  to_whom = categorical.log_softmax(larger)
  return jnp.concatenate(
      [jax.nn.log_sigmoid(-margin), jax.nn.log_sigmoid(margin) + to_whom], -1
  )


def update_kappa(
    kappa: chex.Numeric,
    misses: chex.Numeric,
    step: chex.Numeric,
    *,
    alpha: chex.Numeric,
    learning_rate: float = 1.0,
    xi: float = 0.1,
) -> jax.Array:
  """Online conformal prediction: kappa <- kappa - eta_k (miss - alpha).

  A miss *lowers* kappa, so more is handed over, and misses get rarer. The mean
  of the misses tends to alpha for any sequence of problems, however they
  drift, provided that below some kappa nothing is missed and above some other
  one everything may be. Hence kappa is not clipped to [0, 1].

  Args:
    kappa: the threshold before the update.
    misses: in [0, 1], 1 for a miss, or the share of a batch that missed.
    step: k >= 1, the number of this update.
    alpha: in [0, 1], the share of misses to be had.
    learning_rate: > 0, of the first update, in units of chance.
    xi: in (0, 1/2); eta_k = learning_rate * k^(-1/2 - xi).

  Source: Angelopoulos, Barber and Bates 2024, "Online conformal prediction with
  decaying step sizes".
  """
  eta = learning_rate * jnp.asarray(step, jnp.float32) ** (-0.5 - xi)
  return kappa - eta * (misses - alpha)
