"""The entries of `operating_points.json`."""

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
  """One entry of `operating_points.json`.

  Scores are chances, so 0 is 'always' and 2 is 'never' as well as -inf and inf
  are, and JSON knows these.

  Args:
    name: of the point.
    policy_index: index of the policy.
    point: the point.
    hashes: of checkpoint and shards.
    **extra: what else to say of the promise, JSON-like.
  """
  measured = {
      key: round(getattr(point, key), 4)
      for key in ('accuracy', 'cost', 'loss', 'gain')
  }
  return {
      'name': name,
      'policy_index': policy_index,
      'threshold': np.clip(point.threshold, 0.0, 2.0).tolist(),
      'promise': {
          **point.to_json(),
          **extra,
          'measured': measured,
      },
      **hashes,
  }
