"""Thresholds on a number that is known only while an answer is written.

Records do not hold what an informant says, so these families name their knobs
and are evaluated by live answers.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from routing import types
from routing.routers import fixed

Measure = Callable[[types.Trace], float]


@dataclasses.dataclass(frozen=True)
class Thresholds:
  """A family of thresholds on a measure of the trace and its evidence.

  measure: a higher number speaks for the larger route.
  knobs: thresholds, from the cheapest to the dearest.
  fingerprint: identifies the measure and its informant.
  informant: what is asked before each decision; None = nothing.
  route: the larger route.
  final_route: the route that writes the final answer in any case; see
    `rollout.driver`. None = whoever comes to write it.
  is_shared: see `router.Family`.
  """

  measure: Measure
  knobs: tuple[float, ...]
  fingerprint: str
  informant: Any = None
  route: int = 1
  final_route: int | None = None
  is_shared: bool = False

  def __post_init__(self):
    fixed.check_route(self.route)

  def at(self, knob: float) -> 'ThresholdRouter':
    """Returns the live router at a threshold."""
    return ThresholdRouter(
        self.measure, knob, self.informant, self.route, self.final_route
    )


@dataclasses.dataclass(frozen=True)
class ThresholdRouter:
  """A live router of `Thresholds`; the fields are those of the family.

  threshold: the larger route writes where the measure reaches it.
  """

  measure: Measure
  threshold: float
  informant: Any = None
  route: int = 1
  final_route: int | None = None

  def decide(self, trace: types.Trace) -> types.Decision:
    """Has the larger route write if the measure reaches the threshold."""
    score = float(self.measure(trace))
    is_large = score >= self.threshold
    return types.Decision(self.route if is_large else 0, score)


def between_extremes(values: Sequence[float]) -> tuple[float, ...]:
  """Returns knobs from inf (never) down to -inf (always), without repeats."""
  inner = sorted({float(x) for x in values if math.isfinite(x)}, reverse=True)
  return (math.inf, *inner, -math.inf)


def quantile_knobs(
    measures: np.ndarray, size: int, *further: float
) -> tuple[float, ...]:
  """Returns quantiles of measures on `train` as knobs, with the extremes.

  Args:
    measures: `[M]` measures of training decisions.
    size: number of quantiles; equal ones count once.
    *further: thresholds to try as well, e.g. that of a paper.
  """
  inner = np.quantile(measures, np.linspace(0, 1, size), method='lower')
  return between_extremes([*inner.tolist(), *further])
