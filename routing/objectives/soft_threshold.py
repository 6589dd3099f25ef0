"""A differentiable threshold, to train the policy in the form that is served.

In service a router hands over where the policy's hand-over probability reaches
kappa. Here that step function is a steep sigmoid, so that gradients pass
through it, and kappa follows the misses by online conformal prediction. A lower
kappa means more hand-overs.

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
  """Returns logits of the policy behind a soft threshold on hand-overs.

  With p = 1 - pi(0), the probability of any larger route:

    P(hand over) = sigmoid((p - kappa) / epsilon)
    P(route a | hand over) = pi(a) / p

  With two routes this is the paper's sigmoid((pi(a) - kappa) / epsilon).

  Args:
    log_probs: `[..., A]` from `categorical.log_softmax`.
    kappa: broadcast against `[...]`.
    epsilon: > 0, width of the sigmoid in units of probability. As it tends to 0
      the sigmoid tends to the hard threshold.

  Returns:
    `[..., A]` float log-probabilities. The threshold ignores availability, so
    where some routes are not available, mask these logits again.
  """
  larger = log_probs[..., 1:]
  # A sum, since 1 - pi(0) would round all small probabilities to the same
  # float32.
  leave = jnp.exp(larger).sum(axis=-1, keepdims=True)
  margin = (leave - jnp.asarray(kappa)[..., None]) / epsilon
  to_whom = categorical.log_softmax(larger)  # log pi(a) - log p.
  # log(1 - sigmoid(m)) = log_sigmoid(-m). Margins reach +-1 / epsilon = +-100,
  # where the logarithm of a float32 sigmoid would be -inf.
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
  """Returns kappa after one step of online conformal prediction.

    kappa <- kappa - eta_k (miss - alpha),
    eta_k = learning_rate * k^(-1/2 - xi)

  A miss *lowers* kappa: more is handed over, and misses become rarer. The mean
  of the misses tends to alpha for any sequence of problems, however their
  distribution drifts, provided that below some kappa there is never a miss and
  above some larger one there always is.

  Args:
    kappa: the threshold before the update.
    misses: in [0, 1], 1 for a miss, or the share of a batch that missed.
    step: k >= 1, the number of this update.
    alpha: in [0, 1], the target share of misses.
    learning_rate: > 0, eta_1, in units of probability.
    xi: in (0, 1/2).

  Source: Angelopoulos, Barber and Bates 2024, "Online conformal prediction with
  decaying step sizes".
  """
  eta = learning_rate * jnp.asarray(step, jnp.float32) ** (-0.5 - xi)
  # Not clipped to [0, 1]: the guarantee needs kappa to be free to leave the
  # range in which it has an effect, as it records the accumulated misses.
  return kappa - eta * (misses - alpha)
