"""Paired bootstrap intervals over problems and training seeds.

All methods use the same resampled problems, so differences between methods are
paired. A method trained from S seeds has S sets of points; each draw also
resamples the S seeds and averages their curves (two-level bootstrap). Methods
with the same number of seeds share the resampled seeds.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from routing.evaluation import metrics
from routing.outcomes import points as points_lib

# Above this number of problems, groups of them are drawn: 2,000 draws of
# 200,000 problems would be 3 GB of weights.
MAX_DRAWN = 10_000


@dataclasses.dataclass(frozen=True)
class Interval:
  """An estimate with its 95 % percentile interval and standard error.

  mean: the estimate on the original sample.
  low, high: ends of the interval.
  standard_error: standard deviation of the bootstrap values.
  """

  mean: float
  low: float
  high: float
  standard_error: float


@dataclasses.dataclass(frozen=True)
class Draws:
  """R bootstrap resamples as weights; row 0 is the original sample.

  problems: `[R + 1, N]` float64 weights, rows sum to 1; `[R + 1, G]` where
    groups of problems are drawn.
  seeds: number of seeds S -> `[R + 1, S]` float64 weights, rows sum to 1.
  groups: `[N]` int in 0..G-1, the group of each problem; None = each problem is
    drawn by itself.
  """

  problems: np.ndarray
  seeds: dict[int, np.ndarray]
  groups: np.ndarray | None = None

  def means(self, values: np.ndarray) -> np.ndarray:
    """Returns the mean of each row of `[K, N]` values, `[R + 1, K]`."""
    # `[R + 1, N] @ [N, K]`.
    if self.groups is None:
      return self.problems @ values.T
    num = self.problems.shape[1]
    # Groups may differ in size by one. Divided by the fixed N, that difference
    # would count as spread; so each resample is divided by its own size.
    sums = np.stack([np.bincount(self.groups, x, num) for x in values])
    sizes = self.problems @ np.bincount(self.groups, minlength=num)
    return (self.problems @ sums.T) / sizes[:, None]


def draw(
    num_problems: int, num_seeds: Sequence[int], resamples: int, seed: int
) -> Draws:
  """Resamples problems and seeds with replacement, once for all methods.

  Of more than `MAX_DRAWN` problems, `MAX_DRAWN` groups are drawn in place of
  single problems. Groups are of equal size (within 1), and of problems at
  random, so the means of groups are as independent as problems are, and their
  spread gives the same standard errors; it is known to within 1 %.

  Args:
    num_problems: N.
    num_seeds: every S for which some method has S training seeds.
    resamples: R.
    seed: seed of the draws.
  """
  rng = np.random.default_rng(seed)

  def weights(num: int) -> np.ndarray:
    # The weight of an item is how often it is drawn. The means of all resamples
    # are then one matrix product instead of a gather of R samples.
    counts = rng.multinomial(num, np.full(num, 1 / num), size=resamples)
    return np.concatenate([np.ones((1, num)), counts]) / num

  num_drawn = min(num_problems, MAX_DRAWN)
  problems = weights(num_drawn)
  seeds = {num: weights(num) for num in sorted(set(num_seeds))}
  if num_drawn == num_problems:
    return Draws(problems, seeds)
  # Problems may be sorted, e.g. by subject.
  return Draws(problems, seeds, rng.permutation(num_problems) % num_drawn)


def curves(
    method: Sequence[points_lib.Points], draws: Draws, grid: np.ndarray
) -> np.ndarray:
  """Returns a method's accuracy at each cost of a grid, for each resample.

  Args:
    method: one set of points per seed, all on the same N problems.
    draws: the resamples, with weights for `len(method)` seeds.
    grid: `[G]` costs.

  Returns:
    `[R + 1, G]`, the mean over seeds; row 0 is the original sample.
  """
  total = np.zeros((len(draws.problems), len(grid)))
  seeds = draws.seeds[len(method)]
  for points, share in zip(method, seeds.T, strict=True):
    # Cost and accuracy of a point both depend on the resample.
    cost = draws.means(points.cost)
    # Importance-weighted contributions may average above 1 in a resample, since
    # the importance weights no longer average 1 there. The true accuracy lies
    # in [0, 1], so clipping only reduces the error.
    accuracy = np.clip(draws.means(points.correct), 0.0, 1.0)
    total += share[:, None] * metrics.interpolate(cost, accuracy, grid)
  return total


def interval(samples: np.ndarray) -> Interval:
  """Returns the 95 % percentile interval of bootstrap values.

  Args:
    samples: `[R + 1]` values; the first is the estimate.
  """
  low, high = np.quantile(samples[1:], [0.025, 0.975])
  return Interval(
      mean=float(samples[0]),
      low=float(low),
      high=float(high),
      standard_error=float(samples[1:].std(ddof=1)),
  )


def cheapest(method: Sequence[points_lib.Points]) -> float:
  """Returns the lowest cost at which the curves of all seeds exist.

  Args:
    method: one set of points per seed.
  """
  return max(float(points.mean_cost.min()) for points in method)


def area_difference(
    method: Sequence[points_lib.Points],
    other: Sequence[points_lib.Points],
    draws: Draws,
) -> Interval | None:
  """Returns the area of `method` minus the area of `other`, on the same draws.

  Both areas are over the costs at which both curves exist; the result is None
  if no cost of `metrics.AREA_GRID` is shared.
  """
  grid = metrics.area_grid(cheapest(method), cheapest(other))
  if not grid.size:
    return None
  # The subtraction comes before the quantiles: noise that both methods share,
  # because they answer the same problems, cancels.
  difference = curves(method, draws, grid) - curves(other, draws, grid)
  return interval(difference.mean(axis=1))
