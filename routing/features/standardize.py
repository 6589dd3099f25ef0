"""Zero mean, unit spread: statistics of the training set, kept with weights."""

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
  if not mask.any():
    raise ValueError('There is no decision to measure features on.')
  valid = features[mask].astype(np.float64)
  return Statistics(
      mean=valid.mean(axis=0).astype(np.float32),
      std=np.maximum(valid.std(axis=0), _LEAST_STD).astype(np.float32),
  )


def apply(features: np.ndarray, statistics: Statistics) -> np.ndarray:
  """Standardises `[..., F]` features to float32, clipped at +-5."""
  scaled = (features - statistics.mean) / statistics.std
  return np.clip(scaled, -CLIP, CLIP).astype(np.float32)
