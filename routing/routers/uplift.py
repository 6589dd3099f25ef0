"""Supervised learners where control returns: what does rewriting change?

Gradient boosting with the policy's own features, two ways, each a score that is
held against a threshold:

`fit_effect`, from behaviour trajectories: one learner for each route predicts
from the observation whether the final answer is right, given that the route was
named here; the score is how much more likely it is after the largest route than
after the small one (a T-learner).

`fit_change`, from trees: predicts whether naming the largest route now, and the
small one ever after, mends an answer that is otherwise wrong.

Source: Kuenzel et al. 2019, "Metalearners for Estimating Heterogeneous
Treatment Effects using Machine Learning".
"""

import dataclasses

import numpy as np

from routing import types
from routing.features import forests
from routing.routers import supervised


@dataclasses.dataclass(frozen=True)
class Effect:
  """Two fitted scorers; `score` is `with_large` minus `with_small`."""

  with_small: supervised.Scorer
  with_large: supervised.Scorer

  def score(self, features: np.ndarray) -> np.ndarray:
    """`[...]` float64 in [-1, 1] from `[..., F]`."""
    return self.with_large.score(features) - self.with_small.score(features)


def fit_effect(batch: types.TrajectoryBatch, **settings: int) -> Effect:
  """Fits both learners on every decision of (training) trajectories.

  Args:
    batch: with features as the scores will be given them.
    **settings: of `supervised.fit_labels`.

  Raises:
    ValueError: if one of the two routes was never named.
  """
  mask = np.asarray(batch.mask, bool)
  actions = np.asarray(batch.actions)
  right = np.broadcast_to(np.asarray(batch.correct)[:, None] > 0.5, mask.shape)
  scorers = []
  for route in (0, batch.available.shape[-1] - 1):
    rows = mask & (actions == route)
    if not rows.any():
      raise ValueError(
          f'No trajectory names route {route}: its effect cannot be learnt.'
      )
    scorers.append(
        supervised.fit_labels(
            np.asarray(batch.features)[rows], right[rows], **settings
        )
    )
  return Effect(*scorers)


def mended(forest: forests.Forest) -> np.ndarray:
  """`[M]` bool: right if the largest route is named now alone, else wrong."""
  small = _kept_to_end(forest)
  now = _outcome(forest, forest.children[:, -1], small)
  return now & ~small


def _kept_to_end(forest: forests.Forest) -> np.ndarray:
  """`[M]` bool: right if from each decision on the small route is named."""
  right = np.zeros(len(forest.depth), bool)
  for depth in reversed(range(forest.max_depth)):
    here = np.flatnonzero(forest.depth == depth)
    right[here] = _outcome(forest, forest.children[here, 0], right)
  return right


def _outcome(
    forest: forests.Forest, places: np.ndarray, right: np.ndarray
) -> np.ndarray:
  """Of leaves, whether they are right; of decisions, what `right` says."""
  leaf = forest.leaf_correct[np.maximum(-1 - places, 0)] > 0.5
  return np.where(places < 0, leaf, right[np.maximum(places, 0)])


def fit_change(forest: forests.Forest, **settings: int) -> supervised.Scorer:
  """Fits the learner on every decision of (training) trees.

  Args:
    forest: with features as the scores will be given them.
    **settings: of `supervised.fit_labels`.
  """
  return supervised.fit_labels(forest.features, mended(forest), **settings)
