"""A differentiable threshold: trains the policy with the rule used in service.

In service a router hands over where the policy's hand-over probability reaches
kappa. In training a steep sigmoid replaces this step function, so that
gradients pass through it. Online conformal prediction adapts kappa to the
misses: problems that the policy loses. A lower kappa means more hand-overs.

Source: "Conformal Constrained Policy Optimization for Cost-Effective LLM
Agents" (CCPO, arXiv 2511.11828).
"""

import chex
import jax
import jax.numpy as jnp

from routing.policy import categorical


def thresholded(
    log_probs: chex.Array, kappa: chex.Numeric, *, epsilon: float = 0.01
) -> jax.Array:
  """Returns log-probabilities of a policy with a soft hand-over threshold.

  The thresholded policy hands over where the probability p = 1 - pi(0) of a
  larger route exceeds kappa, up to a soft edge of width epsilon:

    P(hand over) = sigmoid((p - kappa) / epsilon)
    P(route a | hand over) = pi(a) / p

  With two routes P(hand over) is CCPO's sigmoid((pi(1) - kappa) / epsilon).

  Args:
    log_probs: `[..., A]` log pi, from `categorical.log_softmax`.
    kappa: threshold in units of probability, broadcast against `[...]`.
    epsilon: > 0, width of the sigmoid in units of probability. As it tends to 0
      the sigmoid tends to the hard threshold.

  Returns:
    `[..., A]` float log-probabilities. A route that is not available may have
    got a positive probability by the threshold: mask these logits again.
  """
  larger = log_probs[..., 1:]
  # p is computed as a sum: 1 - pi(0) would lose the digits of a small p in
  # float32.
  leave = jnp.exp(larger).sum(axis=-1, keepdims=True)
  margin = (leave - jnp.asarray(kappa)[..., None]) / epsilon
  # log P(route a | hand over) = log pi(a) - log p.
  to_whom = categorical.log_softmax(larger)
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
  distribution drifts. The condition is that every problem is no miss below some
  kappa, and every problem is a miss above some larger kappa.

  Args:
    kappa: the threshold before the update.
    misses: in [0, 1]: 1 if the problem is a miss, or the share of misses in a
      batch.
    step: k >= 1, the number of this update.
    alpha: in [0, 1], the target share of misses.
    learning_rate: > 0, eta_1, in units of probability.
    xi: in (0, 1/2).

  Source: Angelopoulos, Barber and Bates 2024, "Online conformal prediction with
  decaying step sizes".
  """
  eta = learning_rate * jnp.asarray(step, jnp.float32) ** (-0.5 - xi)
  # kappa is not clipped to [0, 1], although it has no further effect outside:
  # the guarantee needs it to record the accumulated misses there too.
  return kappa - eta * (misses - alpha)
