"""STEER as a method of the comparison.

The confidence of the small model in a step is the mean over the step's tokens
of its largest log-probability. A mixture of two Gaussians, fitted to the
confidence of steps in `train`, gives the posterior of the confident component.
The large model writes the next step if this posterior is low.
Source: Lee et al. 2025, "Confidence-Guided Stepwise Model Routing for
Cost-Efficient Reasoning", arXiv 2511.06190.
"""

import dataclasses

import numpy as np

from routing import types
from routing.features import observation
from routing.outcomes import refusal
from routing.routers import informants
from routing.routers import live_thresholds
from routing.routers import router
from third_party.steer import mixture

NAME = 'STEER'
# Where the confidence comes from, before a step is written: from the tokens of
# the last step, or from the first token of the next one, as a probe gives it.
SETTINGS = (dict(evidence='last step'), dict(evidence='probe'))
# Posteriors of the unsure component from which the large model writes.
THRESHOLDS = (0.99, 0.95, 0.9, 0.8, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.01)


def step_confidence(step: types.Step) -> float:
  """Returns the mean of the largest log-probability, in nats.

  Raises:
    ValueError: if the engine gave no log-probabilities.
  """
  top = np.asarray(step.top_log_probs)
  if top.ndim == 2 and top.size:
    return float(top[:, 0].mean())
  if not step.log_probs.size:
    raise ValueError(
        'STEER needs log-probabilities, but the engine returned none; use an '
        'engine that returns them.'
    )
  # Of a greedy model the written token is the most likely one.
  return float(step.log_probs.mean())


@dataclasses.dataclass(frozen=True)
class Unsureness:
  """The posterior of the unsure component, before a step is written.

  fitted: the mixture.
  """

  fitted: mixture.Mixture

  def __call__(self, trace: types.Trace) -> float:
    """Returns the posterior in [0, 1]; 0 where the small model has no say.

    That is at the first step, and after a step of the large model: then the
    small model goes on.
    """
    if trace.evidence:
      return self._of(trace.evidence[1])
    if not trace.steps or trace.steps[-1].route != 0:
      return 0.0
    return self._of(step_confidence(trace.steps[-1]))

  def _of(self, confidence: float) -> float:
    # Rounded, as a posterior in a batch may differ in the last digits.
    return round(1.0 - float(self.fitted.posterior(confidence)), 9)


def fit(train, *, setting, seed):
  """Fits the mixture to the small model's steps, and returns the thresholds."""
  del seed  # The fit starts from the data.
  probes = setting['evidence'] == 'probe'
  statistic = 'first' if probes else 'mean'
  index = observation.UNCERTAINTIES.index(statistic)
  decisions = train.source.table.decisions
  # Before the first step of a problem there is none to be confident in.
  known = -decisions.uncertainty[decisions.depth > 0, index].astype(np.float64)
  known = known[np.isfinite(known)]
  if len(known) < 2:
    raise refusal.Refusal(
        f'{NAME} needs log-probabilities of 2 steps or more; `train` has '
        f'{len(known)}.',
        None,
        note='',
    )
  fitted = mixture.fit(known)
  large = train.num_routes - 1
  parameters = ','.join(
      f'{x:.9g}' for x in (*fitted.weights, *fitted.means, *fitted.deviations)
  )
  return [
      live_thresholds.Thresholds(
          Unsureness(fitted),
          live_thresholds.between_extremes(THRESHOLDS),
          f'{NAME}/{statistic}/{parameters}/{large}',
          informants.FirstToken() if probes else None,
          large,
      )
  ]


METHOD = router.Method(
    NAME,
    router.Needs(router.SWITCH, log_probs=True, probe=True),
    fit,
    SETTINGS,
)
