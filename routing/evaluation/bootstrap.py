"""Paired bootstrap intervals over problems and, where there are any, seeds.

One set of drawn problems serves every method, so that differences are paired.
A method trained from S seeds is S sets of points; each draw also draws S seeds
with replacement and averages their curves (two-level bootstrap). Methods with
equally many seeds share the drawn seeds.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from routing.evaluation import metrics
from routing.outcomes import points as points_lib


@dataclasses.dataclass(frozen=True)
class Interval:
  """An estimate with its 95 % percentile interval and standard error."""

  mean: float
  low: float
  high: float
  standard_error: float


@dataclasses.dataclass(frozen=True)
class Draws:
  """R resamples; the first row is the sample itself, the estimate.

  problems: `[R + 1, N]` float64 weights, rows sum to 1.
  seeds: number of seeds S -> `[R + 1, S]` float64 weights, rows sum to 1.
  """

  problems: np.ndarray
  seeds: dict[int, np.ndarray]


def draw(
    num_problems: int, num_seeds: Sequence[int], resamples: int, seed: int
) -> Draws:
  """Draws problems and seeds with replacement, once for all methods."""
  rng = np.random.default_rng(seed)

  def weights(num: int) -> np.ndarray:
    counts = rng.multinomial(num, np.full(num, 1 / num), size=resamples)
    return np.concatenate([np.ones((1, num)), counts]) / num

  problems = weights(num_problems)
  return Draws(problems, {num: weights(num) for num in sorted(set(num_seeds))})


def curves(
    method: Sequence[points_lib.Points], draws: Draws, grid: np.ndarray
) -> np.ndarray:
  """`[R + 1, G]` accuracy at the costs of `grid`, a row per resample.

  Each accuracy is clipped to [0, 1]. A resample of contributions to a weighted
  estimate may exceed 1, since its weights no longer average 1; the accuracy
  that it estimates cannot, so that clipping only brings it nearer.

  Args:
    method: one set of points per seed, all on the same N problems.
    draws: the resamples, with weights for `len(method)` seeds.
    grid: `[G]` costs.
  """
  total = np.zeros((len(draws.problems), len(grid)))
  seeds = draws.seeds[len(method)]
  for points, share in zip(method, seeds.T, strict=True):
    cost = draws.problems @ points.cost.T
    accuracy = np.clip(draws.problems @ points.correct.T, 0.0, 1.0)
    total += share[:, None] * metrics.interpolate(cost, accuracy, grid)
  return total


def interval(samples: np.ndarray) -> Interval:
  """The 95 % percentile interval of `[R + 1]` values, the estimate first."""
  low, high = np.quantile(samples[1:], [0.025, 0.975])
  return Interval(
      mean=float(samples[0]),
      low=float(low),
      high=float(high),
      standard_error=float(samples[1:].std(ddof=1)),
  )


def cheapest(method: Sequence[points_lib.Points]) -> float:
  """The least cost at which every seed's curve exists, on the sample."""
  return max(float(points.mean_cost.min()) for points in method)


def area_difference(
    method: Sequence[points_lib.Points],
    other: Sequence[points_lib.Points],
    draws: Draws,
) -> Interval | None:
  """Area of `method` minus area of `other`, on the same draws.

  Over the costs at which both exist; None if there are none.
  """
  grid = metrics.area_grid(cheapest(method), cheapest(other))
  if not grid.size:
    return None
  difference = curves(method, draws, grid) - curves(other, draws, grid)
  return interval(difference.mean(axis=1))
