"""What the log-probabilities of a step say of it; zeros where there are none.

The transform log(-x) spreads out the region near certainty, where a log-
probability of -0.01 and one of -0.0001 are far apart in meaning.
"""

from collections.abc import Sequence

import numpy as np

from routing import types

# Keeps log(-x) finite for a token of probability 1; 1e-4 nats is below what a
# model's calibration can tell apart.
_FLOOR = 1e-4

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
  return float(np.log(max(-log_prob, 0.0) + _FLOOR))


def truncated_entropy(top_log_probs: np.ndarray) -> np.ndarray:
  """Entropy of the k most likely tokens, the rest counted as one outcome.

  Args:
    top_log_probs: `[n, k]` float, descending, k >= 1.

  Returns:
    `[n]` float, nats; a lower bound of the entropy over the vocabulary.
  """
  top = np.exp(top_log_probs)
  rest = np.clip(1.0 - top.sum(axis=-1), 0.0, 1.0)
  surprise = np.where(rest > 0, -np.log(np.where(rest > 0, rest, 1.0)), 0.0)
  return -(top * top_log_probs).sum(axis=-1) + rest * surprise


def _own(step: types.Step) -> list[float]:
  """Statistics of the tokens' own log-probabilities."""
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
  """Entropy, and margin of the first over the second choice."""
  top = step.top_log_probs
  if top.ndim != 2 or not top.size:
    return [0.0] * 5
  entropy = truncated_entropy(top)
  # One alternative only: the margin is not known, so nothing is claimed.
  margin = top[:, 0] - top[:, 1] if top.shape[1] > 1 else np.zeros(len(top))
  return [
      1.0,
      float(entropy.mean()),
      float(entropy.max()),
      float(margin.mean()),
      float(margin.min()),
  ]


def _running(steps: Sequence[types.Step]) -> list[float]:
  """Over all steps that carry log-probabilities: minimum and mean of means."""
  seen = [step.log_probs for step in steps if step.log_probs.size]
  if not seen:
    return [0.0] * 3
  minimum = min(float(log_probs.min()) for log_probs in seen)
  mean = sum(float(log_probs.mean()) for log_probs in seen) / len(seen)
  return [minimum, mean, _log_negative(minimum)]


def describe(
    viewed: types.Step | None, steps: Sequence[types.Step]
) -> list[float]:
  """Values of `NAMES` for the step under view and all steps up to it.

  Args:
    viewed: the draft, or the last accepted step; None before the first.
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
