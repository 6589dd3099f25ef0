"""A logistic classifier, for routers that predict who answers rightly."""

from __future__ import annotations

import dataclasses

import numpy as np


def sigmoid(z: np.ndarray) -> np.ndarray:
  """Returns 1 / (1 + exp(-z)), without overflow."""
  return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(z, np.float64)))


@dataclasses.dataclass(frozen=True)
class Linear:
  """A logistic classifier: sigmoid(x . weights + constant)."""

  weights: np.ndarray
  constant: float

  def probability(self, vectors: np.ndarray) -> np.ndarray:
    """Returns `[N]`, the probability of class 1."""
    vectors = np.asarray(vectors, np.float64)
    return sigmoid(vectors @ self.weights + self.constant)


def fit(vectors: np.ndarray, labels: np.ndarray, *, strength: float) -> Linear:
  """Fits the classifier; with a single class it predicts that class's share.

  Args:
    vectors: `[N, E]` features.
    labels: `[N]` in {0, 1}.
    strength: C of scikit-learn, the inverse of the penalty.
  """
  from sklearn import linear_model
  import threadpoolctl

  labels = np.asarray(labels, np.int64)
  if len(np.unique(labels)) < 2:
    # A logit of a share that is not quite 0 or 1, as with one more of each.
    share = (labels.sum() + 1) / (len(labels) + 2)
    return Linear(
        np.zeros(vectors.shape[1]), float(np.log(share / (1 - share)))
    )
  model = linear_model.LogisticRegression(C=strength, max_iter=500)
  # The products are small: threads would only wait for one another.
  with threadpoolctl.threadpool_limits(1):
    model.fit(np.asarray(vectors, np.float64), labels)
  return Linear(model.coef_[0], float(model.intercept_[0]))
