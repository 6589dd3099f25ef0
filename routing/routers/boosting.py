"""Gradient boosting on outcomes: a baseline that ignores cost and waiting.

With known outcomes, a classifier predicts a label of each decision: taking the
largest route here, and the small route afterwards, turns a wrong answer into a
right one. With trajectories, two classifiers predict the grade of the answer,
one given that the small route is taken here, one given the largest route. The
score is the difference of their predictions (a T-learner).

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
from routing.routers import boosted_trees
from routing.routers import families

# Trials take settings from the front, so the order decides which settings a few
# trials try. The first setting must stay first: results with one trial are
# compared with one another.
SETTINGS = (
    dict(num_iterations=150, learning_rate=0.06, num_leaves=12),
    dict(num_iterations=60, learning_rate=0.06, num_leaves=6),
    dict(num_iterations=300, learning_rate=0.03, num_leaves=8),
    dict(num_iterations=150, learning_rate=0.1, num_leaves=31),
    dict(num_iterations=300, learning_rate=0.06, num_leaves=4),
    dict(num_iterations=80, learning_rate=0.1, num_leaves=12),
)


@dataclasses.dataclass(frozen=True)
class Classifier:
  """A fitted binary classifier, or a constant where all labels were equal.

  model: the trees; None if all labels were equal.
  constant: the probability of the label where `model` is None.
  """

  model: boosted_trees.Trees | None
  constant: float = 0.0

  def score(self, features: np.ndarray) -> np.ndarray:
    """Returns `[M]` float64 label probabilities of `[M, F]` features."""
    if self.model is None:
      return np.full(len(features), self.constant)
    return self.model(features)


@dataclasses.dataclass(frozen=True)
class Effect:
  """The estimated gain in correctness from taking the largest route.

  with_small: predicts a right answer, given that the small route is taken.
  with_large: predicts a right answer, given that the largest route is taken.
  """

  with_small: Classifier
  with_large: Classifier

  def score(self, features: np.ndarray) -> np.ndarray:
    """Returns the gain, `[M]` float64 in [-1, 1], from `[M, F]` features."""
    return self.with_large.score(features) - self.with_small.score(features)


def fit(
    data: table_lib.OutcomeTable | sources.Recorded,
    *,
    metric: str,
    features: observation.FeatureConfig,
    setting: Mapping[str, Any],
    seed: int,
) -> list[families.Scored]:
  """Fits gradient boosting on every decision; see `learners.Learner.fit`.

  Raises:
    ValueError: if no trajectory chooses the small or the largest route.
  """
  # The labels depend on grades only, not on costs, and trees draw nothing.
  del metric, seed
  if isinstance(data, table_lib.OutcomeTable):
    scorer = fit_labels(
        data.decisions.features, is_fixed_by_handover(data), setting
    )
  else:
    scorer = _fit_effect(data, setting)
  return [families.Scored(scorer, features, features.num_routes - 1)]


def is_fixed_by_handover(table: table_lib.OutcomeTable) -> np.ndarray:
  """Labels the decisions where one large step turns a wrong answer right.

  An answer counts as right if more than half of its graded samples are right.

  Returns:
    `[M]` bool. True where the largest route here and the small route afterwards
    give a right answer, while the small route throughout gives a wrong one.
  """
  # small[i]: the small route from decision i to the end gives a right answer.
  # The deepest level comes first, because each decision reads the entries of
  # the decisions that follow it.
  small = np.zeros(len(table.children), bool)
  for here in reversed(list(table.levels())):
    small[here] = _is_right(table, table.children[here, 0], small)
  return _is_right(table, table.children[:, -1], small) & ~small


def _is_right(
    table: table_lib.OutcomeTable, children: np.ndarray, right: np.ndarray
) -> np.ndarray:
  """Returns a bool for each child: it leads to a right answer.

  Args:
    table: the outcome table.
    children: any shape; an index >= 0 is a decision, -1 - i is ending i.
    right: `[M]` bool, the result for decisions. Endings are looked up by grade.
  """
  # `maximum` keeps both look-ups in range; `where` discards the entries of the
  # wrong kind.
  ending = table.ending_correct[np.maximum(-1 - children, 0)] > 0.5
  return np.where(children < 0, ending, right[np.maximum(children, 0)])


def fit_labels(
    features: np.ndarray,
    labels: np.ndarray,
    setting: Mapping[str, Any],
) -> Classifier:
  """Fits a classifier of labels given features.

  Args:
    features: `[M, F]` features at M decisions.
    labels: `[M]` bool.
    setting: see `boosted_trees.learner`.
  """
  if labels.all() or not labels.any():
    return Classifier(None, float(labels.mean()))
  return Classifier(boosted_trees.learner(features, setting, 'binary')(labels))


def _fit_effect(data: sources.Recorded, setting: Mapping[str, Any]) -> Effect:
  """Fits one classifier of the final grade per route: small and largest."""
  batch = data.batch
  # Only the action that was taken has an outcome. The classifier of a route is
  # fitted on the decisions that took this route, labelled with the grade of the
  # whole answer.
  mask, actions = np.asarray(batch.mask, bool), np.asarray(batch.actions)
  right = np.broadcast_to(np.asarray(batch.correct)[:, None] > 0.5, mask.shape)
  fitted = []
  for route in (0, batch.available.shape[-1] - 1):
    rows = mask & (actions == route)
    if not rows.any():
      raise ValueError(
          f'No trajectory chooses route {route}, so its effect cannot be '
          'estimated; collect with a behaviour policy that chooses it.'
      )
    fitted.append(
        fit_labels(np.asarray(batch.features)[rows], right[rows], setting)
    )
  return Effect(*fitted)
