"""Writes operating points as entries of `operating_points.json`."""

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
  """Returns one operating point as an entry of `operating_points.json`.

  Args:
    name: name of the point, e.g. 'loss<=0.05@0.9'.
    policy_index: index of its policy in the router.
    point: the operating point.
    hashes: hashes of the checkpoint and of the calibration shards, by name.
    **extra: further entries of the promise, JSON-like.
  """
  # These are means on the calibration sample; it is too small for more than
  # four digits to mean anything.
  measured = {
      key: round(getattr(point, key), 4)
      for key in ('accuracy', 'cost', 'loss', 'gain')
  }
  return {
      'name': name,
      'policy_index': policy_index,
      # JSON has no infinities. Scores are probabilities in [0, 1], so a
      # threshold of 0 always hands over, as -inf does, and 2 never does, as
      # inf.
      'threshold': np.clip(point.threshold, 0.0, 2.0).tolist(),
      'promise': {
          **point.to_json(),
          **extra,
          'measured': measured,
      },
      **hashes,
  }
