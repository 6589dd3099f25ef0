"""The content of `results.json`: plain numbers that suffice for any report.

results = {
  'schema': 4,
  'cost_metric': the cost metric of the constraint,
  'source': 'known', 'recorded' or 'live', the kind of source,
  'num_problems': {split: N}, 'seeds': [...], 'resamples': R,
  'config', 'checkpoints', 'shards', 'points_sha256': the configuration, and
    hashes of routers, splits and operating points that the results depend on,
  'cost_metrics': {metric: see `of_metric`},
  'tuning': {learner: best setting, area on select per trial, decisions used},
  'operating_points': [test outcomes of each named point of the first seed],
  'refused_points': [name of each promise without enough data, and the reason],
  'points_left_out': [names of points that the source cannot evaluate],
  'live': [one entry per named point and seed],
  'coverage': how often a promise was broken, where the truth is known, or null,
}
A target that is never reached, and a figure that does not exist, is null.
`cost_metrics[metric]['left_out']` gives the reason for each method that cannot
be evaluated.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from routing.calibration import bounds
from routing.evaluation import bootstrap
from routing.evaluation import methods as methods_lib
from routing.evaluation import metrics
from routing.outcomes import points as points_lib

SCHEMA = 4  # Raise it when keys change; `check` refuses other files.
_CURVE_POINTS = 161  # Of a drawn curve; areas use the exact points.
_INTERVAL_DELTA = 0.05  # 95 % intervals everywhere.

Method = Sequence[methods_lib.Candidates]  # One per policy seed.


def anchors_of(
    small: points_lib.Points, large: points_lib.Points
) -> metrics.Anchors:
  """Returns accuracy and cost of the two models alone, on test problems."""
  return metrics.Anchors(
      small_accuracy=float(small.accuracy[0]),
      small_cost=float(small.mean_cost[0]),
      large_accuracy=float(large.accuracy[0]),
      large_cost=float(large.mean_cost[0]),
  )


def rate(values: np.ndarray) -> dict[str, float]:
  """Returns the mean of `[N]` values with its 95 % interval.

  Args:
    values: outcomes in [0, 1], or contributions to a weighted estimate.
  """
  mean = float(values.mean())
  if values.min() >= 0 and values.max() <= 1:
    # Exact for values in [0, 1].
    low, high = bounds.interval(values, _INTERVAL_DELTA)
  else:
    # Contributions to a weighted estimate may exceed 1: the normal interval.
    # The mean lies in [0, 1], so clipping does not reduce the coverage.
    spread = 1.96 * float(values.std(ddof=1)) / math.sqrt(len(values))
    low, high = max(mean - spread, 0.0), min(mean + spread, 1.0)
  return {'mean': mean, 'low': low, 'high': high}


def _at_budget(method: Method, budget: float) -> dict[str, Any]:
  """Returns the figures of the policies chosen for a budget, one per seed."""
  picked = [candidates.at_budget(budget) for candidates in method]
  return {
      'accuracy': [float(p.accuracy[0]) for p in picked],
      'cost': [float(p.mean_cost[0]) for p in picked],
      'loss': [rate(p.loss[0]) for p in picked],
      'gain': [rate(p.gain[0]) for p in picked],
  }


def _curve(
    hulls: Sequence[points_lib.Points], draws: bootstrap.Draws
) -> dict[str, list[float]]:
  """Returns the mean curve over seeds with its 95 % band."""
  # Only costs that the curve of every seed reaches.
  low = max(float(points.mean_cost.min()) for points in hulls)
  high = min(float(points.mean_cost.max()) for points in hulls)
  grid = np.linspace(low, high, _CURVE_POINTS)
  samples = bootstrap.curves(hulls, draws, grid)
  # Row 0 is the estimate, not a resample.
  band = np.quantile(samples[1:], [0.025, 0.975], axis=0)
  return {
      'cost': grid.tolist(),
      'accuracy': samples[0].tolist(),
      'low': band[0].tolist(),
      'high': band[1].tolist(),
  }


def _area(
    hulls: Sequence[points_lib.Points],
    draws: bootstrap.Draws,
    anchors: metrics.Anchors,
    oracle: points_lib.Points | None,
) -> dict[str, Any]:
  """Returns the area with interval and cost range, and the headroom share."""
  # The same costs for all seeds and for the oracle and the line below.
  grid = metrics.area_grid(bootstrap.cheapest(hulls))
  if not grid.size:
    return {'area': None, 'headroom_share': None}
  samples = bootstrap.curves(hulls, draws, grid).mean(axis=1)
  area = dataclasses.asdict(bootstrap.interval(samples))
  area['range'] = [float(grid[0]), float(grid[-1])]
  area['per_seed'] = [
      metrics.area(p.mean_cost, p.accuracy, grid) for p in hulls
  ]
  if oracle is None:
    return {'area': area, 'headroom_share': None}
  # The line between the two models: routing at random per question.
  line = metrics.area(
      np.array([anchors.small_cost, anchors.large_cost]),
      np.array([anchors.small_accuracy, anchors.large_accuracy]),
      grid,
  )
  best = metrics.area(oracle.mean_cost, oracle.accuracy, grid)
  share = metrics.headroom_share(area['mean'], best, line)
  return {'area': area, 'headroom_share': share}


def of_method(
    hulls: Sequence[points_lib.Points],
    draws: bootstrap.Draws,
    anchors: metrics.Anchors,
    oracle: points_lib.Points | None,
) -> dict[str, Any]:
  """Returns all figures of one method, given one set of points per seed."""
  curve = _curve(hulls, draws)
  # From the mean curve over seeds, not the mean of per-seed figures: a target
  # that one seed never reaches would make the mean infinite.
  figures = metrics.summary(
      np.array(curve['cost']), np.array(curve['accuracy']), anchors
  )
  return {
      'points': [
          np.stack([p.mean_cost, p.accuracy], axis=1).tolist() for p in hulls
      ],
      'curve': curve,
      **figures,
      # From the points themselves; the drawn curve only samples them.
      **_area(hulls, draws, anchors, oracle),
  }


def of_metric(
    methods: Mapping[str, Method],
    oracle: points_lib.Points | None,
    anchors: metrics.Anchors,
    draws: bootstrap.Draws,
    reference: str,
) -> dict[str, Any]:
  """Returns the figures of all methods in one cost metric.

  Args:
    methods: name -> candidates, one per policy seed.
    oracle: the oracle's points on the test problems; None if unknown.
    anchors: the two models alone.
    draws: resamples of the test problems and of the seeds.
    reference: name of the method that all others are compared with.

  Returns:
    `anchors`; `methods` (including the oracle): points, curve, area and the
    figures of `metrics.summary`, `at_budget`, `select_area`; `differences`:
    area of `reference` minus area of each other method, paired.
  """
  # Chosen on `select`, evaluated on test.
  hulls = {
      name: [candidates.points() for candidates in method]
      for name, method in methods.items()
  }
  # The oracle has no candidates, so it gets no `at_budget` and no tuning area.
  known = {} if oracle is None else {'oracle': [oracle]}
  figures = {
      name: of_method(points, draws, anchors, oracle)
      for name, points in {**hulls, **known}.items()
  }
  for name, method in methods.items():
    figures[name]['at_budget'] = {
        f'{budget:g}': _at_budget(method, budget) for budget in metrics.BUDGETS
    }
    figures[name]['select_area'] = float(
        np.mean([candidates.select_area() for candidates in method])
    )
  differences = {
      name: bootstrap.area_difference(hulls[reference], points, draws)
      for name, points in hulls.items()
      if name != reference
  }
  return {
      'anchors': dataclasses.asdict(anchors),
      'methods': figures,
      'reference': reference,
      'differences': {
          name: dataclasses.asdict(found) if found else None
          for name, found in differences.items()
      },
  }


def to_json(value: Any) -> Any:
  """Returns plain Python numbers, with null for values that are not finite."""
  if isinstance(value, Mapping):
    return {str(key): to_json(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [to_json(item) for item in value]
  if isinstance(value, np.ndarray):
    return to_json(value.tolist())
  if isinstance(value, np.generic):
    return to_json(value.item())
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def check(results: Mapping[str, Any]) -> Mapping[str, Any]:
  """Returns `results` if they have the current schema.

  Raises:
    ValueError: if they have another one.
  """
  if results.get('schema') != SCHEMA:
    raise ValueError(
        f'The results have schema {results.get("schema")!r}; allowed: '
        f'{SCHEMA}. Evaluate again with this version.'
    )
  return results
