"""How many problems a promise takes, and how a refusal says so."""

import numpy as np

from routing.calibration import bounds
from routing.calibration import growing
from routing.outcomes import refusal


def needed(
    values: np.ndarray, level: float, delta: float, test: str
) -> int | None:
  """Returns about how many problems like these prove one candidate.

  Args:
    values: `[n]` float in [0, 1].
    level: in (0, 1).
    delta: of this hypothesis alone.
    test: 'growing', 'betting', or any other of `risks.P_VALUES`.

  Returns:
    The number; None if no number would do.
  """
  if test == 'growing':
    return growing.num_needed(values, level, delta)
  if test == 'betting':
    return bounds.betting_trajectories_needed(values, level, delta)
  return bounds.trajectories_needed(float(values.mean()), level, delta)


def minimum(level: float, delta: float, procedure: str) -> int:
  """Returns the fewest problems that prove anything, even at a mean of 0."""
  if procedure == 'growing':
    return growing.num_needed(np.zeros(1), level, delta)
  return bounds.trajectories_needed(0.0, level, delta)


def advice(needed: int | None) -> str:
  """Returns the end of a refusal: how many problems it would take."""
  if needed is None:
    return 'at these means no number of trajectories would do'
  return f'at these means it takes about {needed} trajectories'


def note(procedure: str) -> str:
  """Returns the sentence that says whether the same sample may grow."""
  return refusal.GROWING if procedure == 'growing' else refusal.FRESH
