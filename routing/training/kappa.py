"""Optional training of the policy together with a soft threshold kappa.

With this option the loss is that of a policy which hands over only where its
probability of a larger route exceeds kappa; the threshold is soft, so that it
has a gradient. Without it, the policy itself is trained, and thresholds are
chosen afterwards by calibration.

Source: "Conformal Constrained Policy Optimization for Cost-Effective LLM
Agents" (arXiv 2511.11828).
"""

import chex
import jax

from routing.objectives import soft_threshold
from routing.policy import categorical


def is_used(config) -> bool:
  """Returns whether a configuration trains with a soft threshold."""
  # Configurations older than this option do not have the field.
  return config.get('soft_threshold', {}).get('is_used', False)


def check(config, estimator: str) -> None:
  """Raises ValueError if the soft threshold is used where it is not supported.

  Args:
    config: of the run.
    estimator: name of the estimator, as in `estimators.ESTIMATORS`.
  """
  if not is_used(config):
    return
  # Only `step.descend` applies kappa. The threshold moves action probabilities
  # close to 0 and 1; on trajectories, the importance ratios of such
  # probabilities would have a large variance.
  if estimator != 'exact':
    raise ValueError(
        'soft_threshold.is_used is True with objective.estimator '
        f'{estimator!r}; allowed: exact.'
    )
  if config.objective.form != 'reliability':
    raise ValueError(
        'soft_threshold.is_used is True with objective.form '
        f'{config.objective.form!r}; allowed: reliability, because kappa is '
        'adjusted to the relative loss.'
    )


def initial(config) -> float:
  """Returns kappa before the first update, or 0.5 if the option is off."""
  # It is a number in both cases, so that the state of every run has the same
  # structure.
  return config.soft_threshold.init if is_used(config) else 0.5


def apply_threshold(
    config, logits: chex.Array, kappa: chex.Numeric
) -> jax.Array:
  """Returns the logits of the policy that the loss is computed for.

  Args:
    config: of the run.
    logits: `[..., A]` float, from the network.
    kappa: the soft threshold.

  Returns:
    `[..., A]` float: the logits after the soft threshold, or `logits` unchanged
    if the configuration does not use the threshold.
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
  """Returns kappa after one update, or unchanged if the option is off.

  A miss is a problem that the largest model alone gets right and the router
  gets wrong.

  Args:
    config: of the run.
    kappa: the soft threshold before the update.
    loss: relative loss of the batch, i.e. the share of misses.
    step: number of updates before this one.
    alpha: target share of misses, the level of the constraint.
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
