"""Estimates how many problems a promise needs, and words the error messages."""

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
  """Returns about how many problems are needed to prove 'mean <= level'.

  The number is for problems distributed like `values`.

  Args:
    values: `[n]` float in [0, 1], one candidate's values on the sample.
    level: the mean to be proved, in (0, 1).
    delta: level at which this one hypothesis is tested, in (0, 1).
    test: 'growing', 'betting', or any other of `risks.P_VALUES`.

  Returns:
    The number; None if no number of problems is enough.
  """
  # A mean that is below the level by rounding alone would give some 1e16.
  if values.mean() >= level - 1e-9:
    return None
  if test == 'growing':
    return growing.num_needed(values, level, delta)
  if test == 'betting':
    return bounds.betting_trajectories_needed(values, level, delta)
  # This serves the binomial and the Hoeffding-Bentkus test: the p-values of
  # both fall about as exp(-n KL(mean | level)). At a mean of 0 the number is
  # exact.
  return bounds.trajectories_needed(float(values.mean()), level, delta)


def num_needed(
    values: np.ndarray,
    risk: Any,
    delta: float,
    procedure: str = 'fixed_sequence',
) -> int | None:
  """Returns about how many problems are needed to prove a candidate for a risk.

  The number is for problems distributed like `values`.

  Args:
    values: `[n]` float >= 0, the risk's quantity at one candidate.
    risk: a `risks.Risk`, which gives level, cap and test.
    delta: level at which this one hypothesis is tested, in (0, 1).
    procedure: one of `risks.PROCEDURES`.

  Returns:
    The number; None if no number of problems is enough.
  """
  test = procedure if procedure == 'growing' else risk.p_value
  return needed(risk.scaled(values), risk.level / risk.cap, delta, test)


def needed_together(
    values: Mapping[str, np.ndarray], proofs: Sequence[Any]
) -> int | None:
  """Returns about how many problems prove one candidate for all risks together.

  Args:
    values: by quantity, `[K, n]` float >= 0, at K candidates on n problems.
    proofs: a `risks.Proof` for each risk.

  Returns:
    The minimum over candidates of the maximum over risks; None if no number of
    problems is enough for any candidate.
  """
  # A larger sample helps only the candidates at which every mean is below the
  # level of its risk.
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
  """Returns the fewest problems that prove 'mean <= level' if all values are 0.

  A sample smaller than this can prove nothing.

  Args:
    level: the mean to be proved, in (0, 1).
    delta: level at which one hypothesis is tested, in (0, 1).
    procedure: one of `risks.PROCEDURES`.
  """
  if procedure == 'growing':
    # One value of 0 is enough: the result depends on the mean growth rate only.
    return growing.num_needed(np.zeros(1), level, delta)
  # At a mean of 0 no test has a smaller p-value than the exact binomial one, so
  # (1 - level)^n <= delta is needed for every test.
  return bounds.trajectories_needed(0.0, level, delta)


def advice(needed: int | None) -> str:
  """Returns the end of an error message, which says how many problems to bring.

  Args:
    needed: the number; None if no number is enough.
  """
  if needed is None:
    return 'at these means no number of trajectories is enough'
  return f'at these means about {needed} trajectories are needed'


def note(procedure: str) -> str:
  """Returns the sentence that says whether the tested sample may be extended.

  Args:
    procedure: one of `risks.PROCEDURES`.
  """
  return refusal.GROWING if procedure == 'growing' else refusal.FRESH
