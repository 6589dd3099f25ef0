"""Standardises features to mean 0 and standard deviation 1 on the training set.

The statistics are saved with the weights of a policy, and the router applies
them to its observations in service.
"""

from collections.abc import Iterable
import dataclasses

import numpy as np

# Standardised features are clipped to [-CLIP, CLIP]. A value beyond five
# standard deviations comes from a rare hash bucket or a broken engine, and must
# not be able to saturate every hidden unit.
CLIP = 5.0
# Lower bound of the standard deviation. Without it, division would amplify the
# rounding noise of a constant column; with it, the column becomes zeros.
_MIN_STD = 1e-3


@dataclasses.dataclass(frozen=True)
class Statistics:
  """Mean and standard deviation of each feature over the training decisions.

  mean: `[F]` float32.
  std: `[F]` float32, at least 1e-3.
  """

  mean: np.ndarray
  std: np.ndarray


def measure(features: np.ndarray, mask: np.ndarray) -> Statistics:
  """Returns mean and standard deviation of each feature, leaving out padding.

  Args:
    features: `[N, T, F]` float.
    mask: `[N, T]` bool, True where the decision exists; the rest is padding.

  Raises:
    ValueError: if no decision exists.
  """
  return measure_parts([(features, mask)])


def measure_decisions(features: np.ndarray) -> Statistics:
  """Returns the statistics of features `[M, F]` of M decisions, no padding."""
  return measure(features[None], np.ones((1, len(features)), bool))


def measure_parts(
    parts: Iterable[tuple[np.ndarray, np.ndarray]],
) -> Statistics:
  """Returns the statistics of data that arrives in parts, e.g. shard by shard.

  The result is that of `measure` on all data together, but only one part is in
  memory at a time. Source: Chan, Golub and LeVeque 1983, "Algorithms for
  Computing the Sample Variance", equation 2.1.

  Args:
    parts: (features, mask) of each part, with the shapes of `measure`.

  Raises:
    ValueError: if no decision exists in any part.
  """
  # With n, m, S the count, mean and sum of squared deviations of a set, two
  # sets A and B together have
  #   n = n_A + n_B,  m = m_A + (m_B - m_A) n_B / n,
  #   S = S_A + S_B + (m_B - m_A)^2 n_A n_B / n.
  # The textbook form S = sum(x^2) - n m^2 would lose digits by cancellation if
  # the mean is large compared with the standard deviation.
  count = 0
  mean = squares = np.zeros(())  # `[F]` from the first part on.
  for features, mask in parts:
    valid = features[mask].astype(np.float64)
    if not len(valid):
      continue
    part_mean, total = valid.mean(axis=0), count + len(valid)
    shift = part_mean - mean
    squares = squares + ((valid - part_mean) ** 2).sum(axis=0)
    squares = squares + shift**2 * (count * len(valid) / total)
    mean = mean + shift * (len(valid) / total)
    count = total
  if not count:
    raise ValueError(
        'There is no decision to measure features on; at least 1 is needed.'
    )
  std = np.sqrt(squares / count)
  return Statistics(
      mean=mean.astype(np.float32),
      std=np.maximum(std, _MIN_STD).astype(np.float32),
  )


def apply(features: np.ndarray, statistics: Statistics) -> np.ndarray:
  """Returns standardised features `[..., F]` as float32, clipped to [-5, 5]."""
  scaled = (features - statistics.mean) / statistics.std
  return np.clip(scaled, -CLIP, CLIP).astype(np.float32)
