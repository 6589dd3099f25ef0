"""Entries of `operating_points.json`."""

from typing import Any

import numpy as np

from routing.calibration import thresholds as thresholds_lib


def to_json(
    name: str,
    policy_index: int,
    point: thresholds_lib.OperatingPoint,
    hashes: dict[str, str],
    **extra: Any,
) -> dict[str, Any]:
  """Returns one entry of `operating_points.json`.

  Args:
    name: of the point.
    policy_index: index of the policy in the router.
    point: the operating point.
    hashes: of checkpoint and shards.
    **extra: further entries of the promise, JSON-like.
  """
  # Means on the calibration sample. Four digits are more than its size
  # supports.
  measured = {
      key: round(getattr(point, key), 4)
      for key in ('accuracy', 'cost', 'loss', 'gain')
  }
  return {
      'name': name,
      'policy_index': policy_index,
      # JSON has no infinities. Scores are probabilities in [0, 1], so 0 is
      # 'always' as -inf is, and 2 is 'never' as inf is.
      'threshold': np.clip(point.threshold, 0.0, 2.0).tolist(),
      'promise': {
          **point.to_json(),
          **extra,
          'measured': measured,
      },
      **hashes,
  }
