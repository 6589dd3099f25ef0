"""Zero mean, unit spread: statistics of the training set, kept with weights."""

from collections.abc import Iterable
import dataclasses

import numpy as np

# Beyond five standard deviations lies a rare bucket or a broken engine; neither
# should be able to saturate every hidden unit.
CLIP = 5.0
_LEAST_STD = 1e-3  # Constant columns become zeros rather than noise.


@dataclasses.dataclass(frozen=True)
class Statistics:
  """Of each feature over the training set's decisions.

  mean, std: `[F]` float32; std >= 1e-3.
  """

  mean: np.ndarray
  std: np.ndarray


def measure(features: np.ndarray, mask: np.ndarray) -> Statistics:
  """Mean and standard deviation over the decisions that exist.

  Args:
    features: `[N, T, F]` float.
    mask: `[N, T]` bool, decision exists.

  Raises:
    ValueError: if no decision exists.
  """
  return measure_parts([(features, mask)])


def measure_decisions(features: np.ndarray) -> Statistics:
  """`measure` of `[M, F]` decisions, all of which exist."""
  return measure(features[None], np.ones((1, len(features)), bool))


def measure_parts(
    parts: Iterable[tuple[np.ndarray, np.ndarray]],
) -> Statistics:
  """`measure` of what is never in memory together: features and mask of each.

  Source: Chan, Golub and LeVeque 1983, "Algorithms for Computing the Sample
  Variance", equation 2.1.
  """
  count, mean, squares = 0, 0.0, 0.0
  for features, mask in parts:
    valid = features[mask].astype(np.float64)
    if not len(valid):
      continue
    middle, total = valid.mean(axis=0), count + len(valid)
    shift = middle - mean
    squares = squares + ((valid - middle) ** 2).sum(axis=0)
    squares = squares + shift**2 * (count * len(valid) / total)
    mean = mean + shift * (len(valid) / total)
    count = total
  if not count:
    raise ValueError('There is no decision to measure features on.')
  std = np.sqrt(squares / count)
  return Statistics(
      mean=mean.astype(np.float32),
      std=np.maximum(std, _LEAST_STD).astype(np.float32),
  )


def apply(features: np.ndarray, statistics: Statistics) -> np.ndarray:
  """Standardises `[..., F]` features to float32, clipped at +-5."""
  scaled = (features - statistics.mean) / statistics.std
  return np.clip(scaled, -CLIP, CLIP).astype(np.float32)
