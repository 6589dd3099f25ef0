"""Confidence features: statistics of the log-probabilities of a step.

If an engine gives no log-probabilities, the features are 0 and a mask entry is
0 too. Some statistics x are also given as log(-x). This spreads out the values
near 0: log-probabilities of -0.01 and -0.0001 are close to each other, but the
second means a hundred times less doubt.
"""

from collections.abc import Sequence

import numpy as np

from routing import types

# This constant is added to -x, so that log(-x) is finite for a token of
# probability 1. It may blur differences below 1e-4 nats, which carry no
# information about how certain a model is.
FLOOR = 1e-4

# Names of the features, in order. Features with 'running' in their name are
# computed over all steps so far, the others over the viewed step only (the
# draft, or else the last accepted step). `has_log_probs` is the mask of `mean`
# to `log_neg_last`; `has_top_log_probs` is the mask of `entropy_mean` to
# `margin_min`.
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
  """Returns log(-x) of a log-probability x, kept finite at x = 0."""
  # Rounding can make a log-probability slightly positive.
  return float(np.log(max(-log_prob, 0.0) + FLOOR))


def truncated_entropy(top_log_probs: np.ndarray) -> np.ndarray:
  """Returns the entropy of the next token if only the top k are known.

  All tokens outside the top k are treated as one outcome. With p_1..p_k the
  top probabilities and r = 1 - sum p_i the rest, the entropy is
  H = -sum_i p_i log p_i - r log r.

  Args:
    top_log_probs: `[n, k]` float, log p_i at each of n token positions,
      descending, k >= 1.

  Returns:
    `[n]` float, nats; a lower bound of the entropy over the vocabulary.
  """
  top = np.exp(top_log_probs)
  # Rounded probabilities may sum to slightly more than 1, so r is clipped.
  rest = np.maximum(np.minimum(1.0 - np.add.reduce(top, axis=-1), 1.0), 0.0)
  # -r log r tends to 0 as r does. The inner `where` avoids a warning at log(0).
  is_some = rest > 0
  surprise = np.where(is_some, -np.log(np.where(is_some, rest, 1.0)), 0.0)
  return -np.add.reduce(top * top_log_probs, axis=-1) + rest * surprise


# An array's own methods go through functions in Python, which take longer than
# the sum over a step's tokens. These are the ufuncs behind them, bit by bit.
_sum, _minimum = np.add.reduce, np.minimum.reduce


def _mean(values: np.ndarray) -> np.floating:
  """Returns the mean of `[n]` float32 values."""
  return _sum(values) / len(values)


def _own(step: types.Step) -> list[float]:
  """Returns a mask and 7 statistics of a step's token log-probabilities.

  These are the features from `has_log_probs` to `log_neg_last` in `NAMES`.
  """
  log_probs = step.log_probs
  if not log_probs.size:
    return [0.0] * 8
  mean, minimum = float(_mean(log_probs)), float(_minimum(log_probs))
  last = float(log_probs[-1])
  return [
      1.0,
      mean,
      minimum,
      last,
      float(_sum(log_probs)),
      _log_negative(mean),
      _log_negative(minimum),
      _log_negative(last),
  ]


def _alternatives(step: types.Step) -> list[float]:
  """Returns a mask, and statistics of entropy and margin over a step's tokens.

  The margin of a token position is the log-probability of the most likely token
  minus that of the second. These are the features from `has_top_log_probs` to
  `margin_min` in `NAMES`.
  """
  top = step.top_log_probs
  if top.ndim != 2 or not top.size:
    return [0.0] * 5
  entropy = truncated_entropy(top)
  # With k = 1 the margin is not known, and is 0 like every missing feature.
  margin = top[:, 0] - top[:, 1] if top.shape[1] > 1 else np.zeros(len(top))
  return [
      1.0,
      float(_mean(entropy)),
      float(np.maximum.reduce(entropy)),
      float(_mean(margin)),
      float(_minimum(margin)),
  ]


def _running(steps: Sequence[types.Step]) -> list[float]:
  """Returns three statistics over all steps that have log-probabilities.

  These are the minimum over all tokens, the mean over steps of each step's
  mean, and log(-x) of the minimum. All are 0 if no step has log-probabilities.
  """
  seen = [step.log_probs for step in steps if step.log_probs.size]
  if not seen:
    return [0.0] * 3
  minimum = min(float(_minimum(log_probs)) for log_probs in seen)
  mean = sum(float(_mean(log_probs)) for log_probs in seen) / len(seen)
  return [minimum, mean, _log_negative(minimum)]


def describe(
    viewed: types.Step | None, steps: Sequence[types.Step]
) -> list[float]:
  """Returns the confidence features of a trace, in the order of `NAMES`.

  Args:
    viewed: the viewed step: the draft, or else the last accepted step; None
      before the first step.
    steps: every step so far, including `viewed`.
  """
  if viewed is None:
    return [0.0] * len(NAMES)
  return [
      *_own(viewed),
      *_alternatives(viewed),
      float(viewed.num_tokens),
      *_running(steps),
  ]
