"""Confidence features: statistics of the log-probabilities of a step.

Where an engine gives no log-probabilities, the features are zeros and a mask
entry says so. Some statistics also appear as log(-x). This transform spreads
out the region near certainty, where log-probabilities of -0.01 and -0.0001
differ in meaning by more than their distance says.
"""

from collections.abc import Sequence

import numpy as np

from routing import types

# Keeps log(-x) finite for a token of probability 1. Differences below 1e-4 nats
# carry no information about how certain a model is.
_FLOOR = 1e-4

# Names of the entries. 'running' ones cover all steps so far, the others only
# the step under view. A `has_` entry is the mask of the entries it precedes.
NAMES = (
    'has_log_probs',
    'mean',
    'minimum',
    'last',
    'sum',
    'log_neg_mean',
    'log_neg_minimum',
    'log_neg_last',
    'has_top_log_probs',
    'entropy_mean',
    'entropy_max',
    'margin_mean',
    'margin_min',
    'num_tokens',
    'running_minimum',
    'running_mean',
    'log_neg_running_minimum',
)


def _log_negative(log_prob: float) -> float:
  # Rounding can make a log-probability slightly positive.
  return float(np.log(max(-log_prob, 0.0) + _FLOOR))


def truncated_entropy(top_log_probs: np.ndarray) -> np.ndarray:
  """Returns the entropy with all tokens outside the top k as one outcome.

  With p_1..p_k the top probabilities and r = 1 - sum p_i, it is
  H = -sum_i p_i log p_i - r log r.

  Args:
    top_log_probs: `[n, k]` float, descending, k >= 1.

  Returns:
    `[n]` float, nats; a lower bound of the entropy over the vocabulary.
  """
  top = np.exp(top_log_probs)
  # Clipped: rounded probabilities may sum to slightly more than 1.
  rest = np.clip(1.0 - top.sum(axis=-1), 0.0, 1.0)
  # -r log r tends to 0 with r. The inner `where` avoids a warning for log(0).
  surprise = np.where(rest > 0, -np.log(np.where(rest > 0, rest, 1.0)), 0.0)
  return -(top * top_log_probs).sum(axis=-1) + rest * surprise


def _own(step: types.Step) -> list[float]:
  """Returns statistics of the log-probabilities of the written tokens."""
  log_probs = step.log_probs
  if not log_probs.size:
    return [0.0] * 8
  mean, minimum = float(log_probs.mean()), float(log_probs.min())
  last = float(log_probs[-1])
  return [
      1.0,
      mean,
      minimum,
      last,
      float(log_probs.sum()),
      _log_negative(mean),
      _log_negative(minimum),
      _log_negative(last),
  ]


def _alternatives(step: types.Step) -> list[float]:
  """Returns entropy, and margin of the most likely over the second token."""
  top = step.top_log_probs
  if top.ndim != 2 or not top.size:
    return [0.0] * 5
  entropy = truncated_entropy(top)
  # With k = 1 the margin is not known; 0 is what a missing signal gives.
  margin = top[:, 0] - top[:, 1] if top.shape[1] > 1 else np.zeros(len(top))
  return [
      1.0,
      float(entropy.mean()),
      float(entropy.max()),
      float(margin.mean()),
      float(margin.min()),
  ]


def _running(steps: Sequence[types.Step]) -> list[float]:
  """Returns statistics over all steps that have log-probabilities.

  They are the minimum over tokens, the mean over steps of each step's mean, and
  the log(-x) of the minimum.
  """
  seen = [step.log_probs for step in steps if step.log_probs.size]
  if not seen:
    return [0.0] * 3
  minimum = min(float(log_probs.min()) for log_probs in seen)
  mean = sum(float(log_probs.mean()) for log_probs in seen) / len(seen)
  return [minimum, mean, _log_negative(minimum)]


def describe(
    viewed: types.Step | None, steps: Sequence[types.Step]
) -> list[float]:
  """Returns the values of `NAMES`, in that order.

  Args:
    viewed: the step under view: the draft, or else the last accepted step; None
      before the first step.
    steps: every step so far, `viewed` included.
  """
  if viewed is None:
    return [0.0] * len(NAMES)
  return [
      *_own(viewed),
      *_alternatives(viewed),
      float(viewed.usage.written),
      *_running(steps),
  ]
