"""The threshold that a policy is trained behind, where a run asks for one.

Otherwise a policy is trained as it is, and thresholds are picked afterwards.

Source: "Conformal Constrained Policy Optimization for Cost-Effective LLM
Agents" (arXiv 2511.11828).
"""

import chex
import jax

from routing.objectives import soft_threshold
from routing.policy import categorical


def is_used(config) -> bool:
  """Whether a configuration trains behind a threshold."""
  # Configurations from before there was one name none.
  return config.get('soft_threshold', {}).get('is_used', False)


def check(config, estimator: str) -> None:
  """Raises ValueError if it is used where it cannot be."""
  if not is_used(config):
    return
  if estimator != 'exact':
    raise ValueError(
        f'soft_threshold.is_used with objective.estimator {estimator!r}; '
        'allowed: exact.'
    )
  if config.objective.form != 'reliability':
    raise ValueError(
        'soft_threshold.is_used with objective.form '
        f'{config.objective.form!r}; allowed: reliability, since kappa follows '
        'the misses.'
    )


def initial(config) -> float:
  """The threshold before the first update; 0.5 where none is used."""
  return config.soft_threshold.init if is_used(config) else 0.5


def behind(config, logits: chex.Array, kappa: chex.Numeric) -> jax.Array:
  """`[..., A]` logits of what is trained: behind kappa, or as they are."""
  if not is_used(config):
    return logits
  return soft_threshold.thresholded(
      categorical.log_softmax(logits),
      kappa,
      epsilon=config.soft_threshold.epsilon,
  )


def moved(
    config,
    kappa: chex.Numeric,
    loss: chex.Numeric,
    step: chex.Numeric,
    alpha: chex.Numeric,
) -> jax.Array:
  """The threshold after an update.

  Args:
    config: of the run.
    kappa: before the update.
    loss: relative loss of the batch, the share of misses.
    step: updates before this one.
    alpha: the share of misses to be had.
  """
  if not is_used(config):
    return kappa
  return soft_threshold.update_kappa(
      kappa,
      loss,
      step + 1,
      alpha=alpha,
      learning_rate=config.soft_threshold.learning_rate,
      xi=config.soft_threshold.xi,
  )
