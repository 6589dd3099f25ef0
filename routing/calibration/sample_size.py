"""How many problems a promise needs, and how an error message says so."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from routing.calibration import bounds
from routing.calibration import growing
from routing.outcomes import refusal


def needed(
    values: np.ndarray, level: float, delta: float, test: str
) -> int | None:
  """Returns about how many problems like these prove one candidate.

  Args:
    values: `[n]` float in [0, 1], the candidate's values on the sample.
    level: the mean to be proved, in (0, 1).
    delta: failure probability of this hypothesis alone, in (0, 1).
    test: 'growing', 'betting', or any other of `risks.P_VALUES`.

  Returns:
    The number; None if no number of problems is enough.
  """
  if test == 'growing':
    return growing.num_needed(values, level, delta)
  if test == 'betting':
    return bounds.betting_trajectories_needed(values, level, delta)
  # Exact for the binomial test at a mean of 0, and about right for both others
  # elsewhere: their p-values fall as exp(-n KL(mean | level)).
  return bounds.trajectories_needed(float(values.mean()), level, delta)


def num_needed(
    values: np.ndarray,
    risk: Any,
    delta: float,
    procedure: str = 'fixed_sequence',
) -> int | None:
  """Returns about how many problems like these prove a candidate for a risk.

  Args:
    values: `[n]` float >= 0, the risk's quantity at the candidate.
    risk: `risks.Risk`, which gives level, cap and test.
    delta: failure probability of this hypothesis alone, in (0, 1).
    procedure: of `risks.PROCEDURES`.

  Returns:
    The number; None if no number of problems is enough.
  """
  test = procedure if procedure == 'growing' else risk.p_value
  return needed(risk.scaled(values), risk.level / risk.cap, delta, test)


def needed_together(
    values: Mapping[str, np.ndarray], proofs: Sequence[Any]
) -> int | None:
  """Returns about how many problems prove one candidate for all risks.

  Args:
    values: by quantity, `[K, n]` float >= 0.
    proofs: a `risks.Proof` for each risk.

  Returns:
    The minimum over candidates of the maximum over risks; None if no number of
    problems is enough for any candidate.
  """
  # A larger sample only helps a candidate whose means are all below the levels.
  is_within = np.all(
      [
          x.risk.scaled(values[x.risk.quantity]).mean(axis=1) * x.risk.cap
          < x.risk.level
          for x in proofs
      ],
      axis=0,
  )
  numbers = []
  for k in np.flatnonzero(is_within):
    by_risk = [
        num_needed(values[x.risk.quantity][k], x.risk, x.delta, x.procedure)
        for x in proofs
    ]
    if None not in by_risk:
      numbers.append(max(by_risk))
  return min(numbers, default=None)


def minimum(level: float, delta: float, procedure: str) -> int:
  """Returns the fewest problems that prove anything, even at a mean of 0.

  Args:
    level: the mean to be proved, in (0, 1).
    delta: failure probability of one hypothesis, in (0, 1).
    procedure: of `risks.PROCEDURES`.
  """
  if procedure == 'growing':
    # The count does not depend on how many values of 0 are given.
    return growing.num_needed(np.zeros(1), level, delta)
  # No other test is stronger than the exact one: (1 - level)^n <= delta.
  return bounds.trajectories_needed(0.0, level, delta)


def advice(needed: int | None) -> str:
  """Returns the end of an error message: how many problems are needed."""
  if needed is None:
    return 'at these means no number of trajectories is enough'
  return f'at these means about {needed} trajectories are needed'


def note(procedure: str) -> str:
  """Returns the sentence that says whether the same sample may grow."""
  return refusal.GROWING if procedure == 'growing' else refusal.FRESH
