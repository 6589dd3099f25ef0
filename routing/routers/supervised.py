"""Gradient boosting on labelled decisions: the learner to beat.

It sees the same features as the policy and is trained, decision by decision, on
'handing over now is right and never handing over is wrong'. Its label knows
neither cost nor what waiting would bring.
"""

import dataclasses
from typing import Any

import numpy as np

from routing import types
from routing.features import observation
from routing.routers import fixed


def labels(batch: types.LadderBatch) -> np.ndarray:
  """`[N, T]` bool: right if handed to the largest model now, wrong if never."""
  is_right = np.asarray(batch.handover_correct)[..., -1] > 0.5
  return is_right & (np.asarray(batch.stay_correct) < 0.5)[:, None]


@dataclasses.dataclass(frozen=True)
class Scorer:
  """The fitted model. classifier: None if all training labels were alike."""

  classifier: Any
  constant: float = 0.0

  def score(self, features: np.ndarray) -> np.ndarray:
    """`[...]` float64 in [0, 1], chance of the label, from `[..., F]`."""
    flat = features.reshape(-1, features.shape[-1])
    if self.classifier is None:
      values = np.full(len(flat), self.constant)
    else:
      values = self.classifier.predict_proba(flat)[:, 1]
    return values.reshape(features.shape[:-1])


def fit(
    batch: types.LadderBatch, *, max_iter: int = 150, seed: int = 0
) -> Scorer:
  """Fits the boosting learner on every decision of a (training) batch.

  Args:
    batch: ladders with unstandardised or standardised features; score with the
      same.
    max_iter: trees.
    seed: of the learner's binning.
  """
  mask = np.asarray(batch.mask, bool)
  return fit_labels(
      np.asarray(batch.features)[mask],
      labels(batch)[mask],
      max_iter=max_iter,
      seed=seed,
  )


def fit_labels(
    features: np.ndarray,
    targets: np.ndarray,
    *,
    max_iter: int = 150,
    seed: int = 0,
) -> Scorer:
  """Fits the boosting learner on labelled observations.

  Args:
    features: `[D, F]`.
    targets: `[D]` bool.
    max_iter: trees.
    seed: of the learner's binning.
  """
  from sklearn import ensemble

  if targets.all() or not targets.any():
    return Scorer(None, float(targets.mean()))
  classifier = ensemble.HistGradientBoostingClassifier(
      max_iter=max_iter,
      learning_rate=0.06,
      max_leaf_nodes=12,
      l2_regularization=1.0,
      early_stopping=False,
      random_state=seed,
  )
  classifier.fit(features, targets)
  return Scorer(classifier)


@dataclasses.dataclass(frozen=True)
class SupervisedRouter:
  """The learner as a live router.

  scorer: the fitted model.
  features: what it was fitted on, unstandardised.
  threshold: hand over when the score is at or above.
  route: whom to.
  """

  scorer: Scorer
  features: observation.FeatureConfig
  threshold: float
  route: int = 1

  def __post_init__(self):
    fixed.check_route(self.route)

  def decide(self, trace: types.Trace) -> types.Decision:
    """Scores the trace and compares with the threshold."""
    row = observation.observe(trace, self.features)
    score = float(self.scorer.score(row[None])[0])
    route = self.route if score >= self.threshold else 0
    return types.Decision(route=route, score=score)
