"""Plain gradient boosting: a baseline that knows neither cost nor waiting.

From known outcomes it learns, decision by decision, 'naming the largest route
now, and the small one ever after, is right where keeping the small one is
wrong'. From trajectories one classifier for each of the two routes predicts
whether the answer ends right, given that the route was named here; the score is
the difference (a T-learner).

Source: Kuenzel et al. 2019, "Metalearners for Estimating Heterogeneous
Treatment Effects using Machine Learning".
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from routing.features import observation
from routing.outcomes import sources
from routing.outcomes import table as table_lib
from routing.routers import families

# The first is what was used before there were others.
SETTINGS = (
    dict(max_iter=150, learning_rate=0.06, max_leaf_nodes=12),
    dict(max_iter=60, learning_rate=0.06, max_leaf_nodes=6),
    dict(max_iter=300, learning_rate=0.03, max_leaf_nodes=8),
    dict(max_iter=150, learning_rate=0.1, max_leaf_nodes=31),
    dict(max_iter=300, learning_rate=0.06, max_leaf_nodes=4),
    dict(max_iter=80, learning_rate=0.1, max_leaf_nodes=12),
)


@dataclasses.dataclass(frozen=True)
class Classifier:
  """A fitted classifier; `model` None if all labels were alike."""

  model: Any
  constant: float = 0.0

  def score(self, features: np.ndarray) -> np.ndarray:
    """`[M]` float64 in [0, 1], probability of the label, from `[M, F]`."""
    if self.model is None:
      return np.full(len(features), self.constant)
    return self.model.predict_proba(features)[:, 1]


@dataclasses.dataclass(frozen=True)
class Effect:
  """Two fitted classifiers; the score is `with_large` minus `with_small`."""

  with_small: Classifier
  with_large: Classifier

  def score(self, features: np.ndarray) -> np.ndarray:
    """`[M]` float64 in [-1, 1] from `[M, F]`."""
    return self.with_large.score(features) - self.with_small.score(features)


def fit(
    data: table_lib.OutcomeTable | sources.Recorded,
    *,
    metric: str,
    features: observation.FeatureConfig,
    setting: Mapping[str, Any],
    seed: int,
) -> list[families.Scored]:
  """Fits the learner on every decision; see `learners.Learner.fit`.

  Raises:
    ValueError: if trajectories never name one of the two routes.
  """
  del metric  # It knows no cost.
  if isinstance(data, table_lib.OutcomeTable):
    scorer = fit_labels(
        data.decisions.features, is_fixed_by_handover(data), setting, seed
    )
  else:
    scorer = _fit_effect(data, setting, seed)
  return [families.Scored(scorer, features, features.num_routes - 1)]


def is_fixed_by_handover(table: table_lib.OutcomeTable) -> np.ndarray:
  """`[M]` bool: right if the largest route is named now alone, else wrong.

  An answer counts as right if most of its samples are.
  """
  small = np.zeros(len(table.children), bool)  # Kept to the end from here on.
  for here in reversed(list(table.levels())):
    small[here] = _is_right(table, table.children[here, 0], small)
  return _is_right(table, table.children[:, -1], small) & ~small


def _is_right(
    table: table_lib.OutcomeTable, places: np.ndarray, right: np.ndarray
) -> np.ndarray:
  """Of endings, whether they are right; of decisions, what `right` says."""
  ending = table.ending_correct[np.maximum(-1 - places, 0)] > 0.5
  return np.where(places < 0, ending, right[np.maximum(places, 0)])


def fit_labels(
    features: np.ndarray,
    labels: np.ndarray,
    setting: Mapping[str, Any],
    seed: int,
) -> Classifier:
  """Fits a classifier on labelled observations.

  Args:
    features: `[M, F]`.
    labels: `[M]` bool.
    setting: of `HistGradientBoostingClassifier`.
    seed: of its binning.
  """
  from sklearn import ensemble

  if labels.all() or not labels.any():
    return Classifier(None, float(labels.mean()))
  model = ensemble.HistGradientBoostingClassifier(
      l2_regularization=1.0,
      early_stopping=False,
      random_state=seed,
      **setting,
  )
  return Classifier(model.fit(features, labels))


def _fit_effect(
    data: sources.Recorded, setting: Mapping[str, Any], seed: int
) -> Effect:
  batch = data.batch
  mask, actions = np.asarray(batch.mask, bool), np.asarray(batch.actions)
  right = np.broadcast_to(np.asarray(batch.correct)[:, None] > 0.5, mask.shape)
  fitted = []
  for route in (0, batch.available.shape[-1] - 1):
    rows = mask & (actions == route)
    if not rows.any():
      raise ValueError(
          f'No trajectory names route {route}: its effect cannot be learnt.'
      )
    fitted.append(
        fit_labels(np.asarray(batch.features)[rows], right[rows], setting, seed)
    )
  return Effect(*fitted)
