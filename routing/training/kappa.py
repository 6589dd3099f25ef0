"""Training behind a soft threshold kappa, where a configuration asks for it.

Otherwise the policy itself is trained, and thresholds are chosen afterwards by
calibration.

Source: "Conformal Constrained Policy Optimization for Cost-Effective LLM
Agents" (arXiv 2511.11828).
"""

import chex
import jax

from routing.objectives import soft_threshold
from routing.policy import categorical


def is_used(config) -> bool:
  """Returns whether a configuration trains behind a threshold."""
  # Configurations older than this option do not have the field.
  return config.get('soft_threshold', {}).get('is_used', False)


def check(config, estimator: str) -> None:
  """Raises ValueError if a threshold is used where it is not supported."""
  if not is_used(config):
    return
  # Only `step.descend` trains behind kappa. On trajectories, importance ratios
  # of action probabilities near 0 and 1 would have a large variance.
  if estimator != 'exact':
    raise ValueError(
        f'soft_threshold.is_used with objective.estimator {estimator!r}; '
        'allowed: exact.'
    )
  if config.objective.form != 'reliability':
    raise ValueError(
        'soft_threshold.is_used with objective.form '
        f'{config.objective.form!r}; allowed: reliability, since kappa follows '
        'the relative loss.'
    )


def initial(config) -> float:
  """Returns kappa before the first update; 0.5 where none is used."""
  # A number in either case, so that all runs have a state of one structure.
  return config.soft_threshold.init if is_used(config) else 0.5


def apply_threshold(
    config, logits: chex.Array, kappa: chex.Numeric
) -> jax.Array:
  """Returns the `[..., A]` logits that are trained.

  These are the logits behind the threshold kappa, or `logits` unchanged if the
  configuration uses none.
  """
  if not is_used(config):
    return logits
  return soft_threshold.thresholded(
      categorical.log_softmax(logits),
      kappa,
      epsilon=config.soft_threshold.epsilon,
  )


def update(
    config,
    kappa: chex.Numeric,
    loss: chex.Numeric,
    step: chex.Numeric,
    alpha: chex.Numeric,
) -> jax.Array:
  """Returns kappa after one update; unchanged if the configuration uses none.

  Args:
    config: of the run.
    kappa: before the update.
    loss: relative loss of the batch, which is the share of misses.
    step: number of updates before this one.
    alpha: target share of misses.
  """
  if not is_used(config):
    return kappa
  return soft_threshold.update_kappa(
      kappa,
      loss,
      step + 1,  # `update_kappa` counts from 1.
      alpha=alpha,
      learning_rate=config.soft_threshold.learning_rate,
      xi=config.soft_threshold.xi,
  )
