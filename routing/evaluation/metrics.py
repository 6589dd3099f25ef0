"""Metrics of an accuracy-cost curve.

Costs are fractions of the cost of the largest model alone. A curve is a set of
points (cost, accuracy) joined by straight lines. Any point between two
neighbours is attainable: serve a share of the problems with one policy and the
rest with the other.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

AREA_GRID = np.linspace(0.2, 0.8, 61)  # Steps of 0.01 in cost.
BUDGETS = (0.2, 0.4, 0.6)  # Costs at which tables report a curve's accuracy.


@dataclasses.dataclass(frozen=True)
class Anchors:
  """Accuracy and cost of the two models alone.

  The gap metrics measure a curve relative to these two points. `small_cut` and
  `large_cut` are the shares of their answers that the token limit cut off; NaN
  where this was not recorded.
  """

  small_accuracy: float
  small_cost: float
  large_accuracy: float
  large_cost: float = 1.0
  small_cut: float = float('nan')
  large_cut: float = float('nan')

  @property
  def gap(self) -> float:
    """Accuracy of the large model minus accuracy of the small model."""
    return self.large_accuracy - self.small_accuracy


def _ratio(
    numerator: np.ndarray | float, denominator: np.ndarray | float
) -> np.ndarray:
  """Returns the quotient; NaN where the denominator is 0.

  The denominator is 0 e.g. if both models have the same accuracy.
  """
  with np.errstate(divide='ignore', invalid='ignore'):
    return np.where(
        np.equal(denominator, 0), np.nan, np.divide(numerator, denominator)
    )


def upper_hull(cost: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
  """Returns the points of a curve that no mixture of other points beats.

  Args:
    cost: `[K]`.
    accuracy: `[K]`.

  Returns:
    Indices of the vertices of the upper concave hull, from the cheapest point
    to the most accurate one. Of equal points only the first is a vertex.
  """
  hull: list[int] = []
  # Andrew's monotone chain visits the points by rising cost and, at equal cost,
  # by falling accuracy, so that the best of equally cheap points comes first.
  for index in np.lexsort((-accuracy, cost)):
    if hull and accuracy[index] <= accuracy[hull[-1]]:
      continue
    while len(hull) > 1:
      first, last = hull[-2], hull[-1]
      # `last` stays if the slope from `first` to `last` exceeds the slope from
      # `first` to `index`. The slopes are compared by cross-multiplication, so
      # that equal costs need no special case.
      rise = (accuracy[last] - accuracy[first]) * (cost[index] - cost[first])
      if rise > (accuracy[index] - accuracy[first]) * (
          cost[last] - cost[first]
      ):
        break
      hull.pop()  # `last` lies on or below the line from `first` to `index`.
    hull.append(int(index))
  return np.array(hull)


def interpolate(
    cost: np.ndarray, accuracy: np.ndarray, grid: np.ndarray
) -> np.ndarray:
  """Returns the accuracy of R curves at the costs of `grid`, `[R, G]`.

  A curve is flat left of its cheapest point and right of its most expensive
  one: a larger budget than the curve can use does not change the accuracy.

  Args:
    cost: `[R, K]`, points of a curve in any order.
    accuracy: `[R, K]`.
    grid: `[G]` costs.

  Raises:
    ValueError: if the shapes differ or are not `[R, K]`.
  """
  if cost.shape != accuracy.shape or cost.ndim != 2:
    raise ValueError(
        f'Curves must be [R, K], got {cost.shape} and {accuracy.shape}.'
    )
  order = np.argsort(cost, axis=1, kind='stable')
  cost = np.take_along_axis(cost, order, axis=1)
  accuracy = np.take_along_axis(accuracy, order, axis=1)
  # `right` is the index of the first point beyond each grid cost. Counting
  # finds it for all rows at once; `searchsorted` handles only one row.
  right = np.sum(cost[:, None, :] <= grid[:, None], axis=-1)
  left = np.clip(right - 1, 0, cost.shape[1] - 1)
  right = np.clip(right, 0, cost.shape[1] - 1)
  at = lambda values, index: np.take_along_axis(values, index, axis=1)
  span = at(cost, right) - at(cost, left)
  # The share is 0 between two points of equal cost and outside the curve, where
  # `left` and `right` are the same point.
  share = np.where(span > 0, grid - at(cost, left), 0.0)
  share = share / np.where(span > 0, span, 1.0)
  return at(accuracy, left) + share * (at(accuracy, right) - at(accuracy, left))


def accuracy_at(
    cost: np.ndarray, accuracy: np.ndarray, grid: np.ndarray
) -> np.ndarray:
  """Returns the accuracy of one `[K]` curve at the costs of `grid`, `[G]`."""
  return interpolate(cost[None], accuracy[None], np.asarray(grid))[0]


def area_grid(*cheapest: float) -> np.ndarray:
  """Returns the costs of `AREA_GRID` at which all curves exist; may be empty.

  A curve does not exist below its cheapest point: no policy costs so little, so
  areas leave such costs out.

  Args:
    *cheapest: lowest cost of each curve.
  """
  # The tolerance keeps a grid point that equals the lowest cost up to rounding.
  return AREA_GRID[AREA_GRID >= max(cheapest) - 1e-9]


def area(
    cost: np.ndarray, accuracy: np.ndarray, grid: np.ndarray | None = None
) -> float:
  """Returns the area of a curve: its mean accuracy over costs 0.2 to 0.8.

  Costs below the curve's cheapest point are left out.

  Args:
    cost, accuracy: `[K]` points of one curve.
    grid: `[G]` costs to average over; None = `area_grid` of the curve.

  Returns:
    The mean, or NaN if every point costs more than 0.8.
  """
  grid = area_grid(cost.min()) if grid is None else grid
  if not grid.size:
    return float('nan')
  return float(accuracy_at(cost, accuracy, grid).mean())


def area_for_tuning(cost: np.ndarray, accuracy: np.ndarray) -> float:
  """Returns mean accuracy over `AREA_GRID`, with 0 below the curve's start.

  This value compares curves that start at different costs. Averaging each curve
  only over its own costs would favour curves that leave out more cheap costs.

  Args:
    cost, accuracy: `[K]` points of one curve.
  """
  grid = area_grid(cost.min())
  return float(accuracy_at(cost, accuracy, grid).sum() / len(AREA_GRID))


def cost_to_reach(
    cost: np.ndarray, accuracy: np.ndarray, target: float
) -> float:
  """Returns the lowest cost at which a curve has `target` accuracy.

  The cost is inf if the curve never reaches the target.

  Args:
    cost, accuracy: `[K]` points of one curve.
    target: the accuracy to reach.
  """
  order = np.argsort(cost, kind='stable')
  cost, accuracy = cost[order], accuracy[order]
  reached = np.flatnonzero(accuracy >= target)
  if not reached.size:
    return float('inf')
  last = reached[0]
  if last == 0:
    return float(cost[0])
  # All points before `last` are below the target, so the line rises to it here
  # and the denominator is positive.
  share = (target - accuracy[last - 1]) / (accuracy[last] - accuracy[last - 1])
  return float(cost[last - 1] + share * (cost[last] - cost[last - 1]))


def gap_recovered(accuracy: np.ndarray, anchors: Anchors) -> np.ndarray:
  """Returns the share of the models' accuracy gap that is recovered (PGR).

  PGR is (accuracy - small's accuracy) / (large's accuracy - small's accuracy).

  Source: RouteLLM, Ong et al. 2024.
  """
  return _ratio(accuracy - anchors.small_accuracy, anchors.gap)


def _from_small(cost, accuracy, anchors) -> tuple[np.ndarray, np.ndarray]:
  """Prepends the small model alone to a curve if it is the cheapest policy."""
  if cost.min() <= anchors.small_cost + 1e-9:
    return cost, accuracy
  return (
      np.append(anchors.small_cost, cost),
      np.append(anchors.small_accuracy, accuracy),
  )


def mean_gap_recovered(
    cost: np.ndarray, accuracy: np.ndarray, anchors: Anchors
) -> float:
  """Returns the mean share of the gap recovered (APGR), averaged over costs.

  Costs run from that of the small model to 1. Drawing one of the two models at
  random per problem gives 0.5. RouteLLM averages over the share of calls to the
  large model instead of cost. Below its cheapest point the curve is mixed with
  the small model alone.
  """
  cost, accuracy = _from_small(cost, accuracy, anchors)
  grid = np.linspace(anchors.small_cost, anchors.large_cost, 201)
  values = gap_recovered(accuracy_at(cost, accuracy, grid), anchors)
  # 201 points, 200 intervals: the integral over the cost range, scaled to 1.
  return float(np.trapezoid(values, dx=1 / 200))


def relative_ibc_gain(
    cost: np.ndarray, accuracy: np.ndarray, anchors: Anchors, at: np.ndarray
) -> np.ndarray:
  """Returns the relative gain in incremental benefit per cost (IBC), `[G]`.

  IBC is the accuracy gained over the small model per unit of extra cost, and
  the gain is IBC / IBC of the large model - 1. The gain is NaN at costs up to
  that of the small model, and below the curve's cheapest point.

  Args:
    cost, accuracy: `[K]` points of one curve.
    anchors: the two models alone.
    at: `[G]` costs.

  Source: AutoMix, Madaan et al. 2023.
  """
  at = np.asarray(at, np.float64)
  # No policy exists below the cheapest point. A denominator of 0 makes `_ratio`
  # return NaN there.
  extra_cost = np.where(at < cost.min() - 1e-9, 0.0, at - anchors.small_cost)
  extra_accuracy = accuracy_at(cost, accuracy, at) - anchors.small_accuracy
  base = _ratio(anchors.gap, anchors.large_cost - anchors.small_cost)
  return (
      _ratio(
          _ratio(extra_accuracy, np.where(extra_cost > 1e-9, extra_cost, 0.0)),
          base,
      )
      - 1
  )


def average_quality(
    cost: np.ndarray, accuracy: np.ndarray, anchors: Anchors
) -> float:
  """Returns the average improvement in quality (AIQ) of a curve.

  AIQ is the mean accuracy of the curve's concave hull between the costs of the
  two models. Below its cheapest point the curve is mixed with the small model
  alone.

  Source: RouterBench, Hu et al. 2024, section 3.
  """
  # NaN: the small model alone could not be evaluated, so the range of costs is
  # unknown.
  if np.isnan(anchors.small_cost):
    return float('nan')
  cost, accuracy = _from_small(cost, accuracy, anchors)
  hull = upper_hull(cost, accuracy)
  grid = np.linspace(anchors.small_cost, anchors.large_cost, 201)
  values = accuracy_at(cost[hull], accuracy[hull], grid)
  return float(np.trapezoid(values, dx=1 / 200))


def headroom_share(value: float, oracle: float, line: float) -> float:
  """Returns a method's gain in area as a share of the oracle's gain.

  The share is 0 on the straight line between the two models, which routing
  whole questions at random attains, and 1 at the oracle.

  Args:
    value: area of the method.
    oracle: area of the oracle over the same costs.
    line: area of the straight line between the two models, over the same costs.
  """
  return float(_ratio(value - line, oracle - line))


def summary(
    cost: np.ndarray,
    accuracy: np.ndarray,
    anchors: Anchors,
    at: Sequence[float] = BUDGETS,
) -> dict[str, float | dict[str, float]]:
  """Returns all metrics of one curve, by name.

  Values are inf where a target is never reached, and NaN at a budget below the
  cheapest point.

  Args:
    cost, accuracy: `[K]` points of one curve.
    anchors: the two models alone.
    at: costs at which to report the accuracy; see `evaluation.budgets`.
  """
  # `accuracy_at` extends a curve to the left of its cheapest point, but no
  # policy costs so little; hence NaN.
  at_budgets = np.where(
      np.array(at) < cost.min() - 1e-9,
      np.nan,
      accuracy_at(cost, accuracy, np.array(at)),
  )
  reach = lambda target: cost_to_reach(cost, accuracy, target)
  keys = [f'{budget:g}' for budget in at]
  ibc = relative_ibc_gain(cost, accuracy, anchors, np.array(at))
  recovered = gap_recovered(at_budgets, anchors)
  return {
      'accuracy_at': dict(zip(keys, at_budgets.tolist(), strict=True)),
      'gap_recovered_at': dict(zip(keys, recovered.tolist(), strict=True)),
      'mean_gap_recovered': mean_gap_recovered(cost, accuracy, anchors),
      'cost_to_recover': {
          str(percent): reach(
              anchors.small_accuracy + percent / 100 * anchors.gap
          )
          for percent in (50, 80, 95)
      },
      'cost_at_points_lost': {
          str(points): reach(anchors.large_accuracy - points / 100)
          for points in (0.5, 1)
      },
      'relative_ibc_gain_at': dict(zip(keys, ibc.tolist(), strict=True)),
      'average_quality': average_quality(cost, accuracy, anchors),
  }
