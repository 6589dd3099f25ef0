"""Builds the content of `results.json`: plain numbers, enough for all reports.

results = {
  'schema': 5,
  'cost_metric': the cost metric of the constraint,
  'source': 'known', 'recorded' or 'live', the kind of source,
  'num_problems': {split: N}, 'seeds': [...], 'resamples': R,
  'config', 'checkpoints', 'shards', 'points_sha256': the configuration, and
    hashes of routers, splits and operating points that the results depend on,
  'step_scores': which step scorer scored `select` and `test`; [] without one,
  'cost_metrics': {metric: see `of_metric`},
  'tuning': {learner: best setting, area on select per trial, decisions used},
  'operating_points': [test outcomes of each named point of the first seed],
  'refused_points': [name of each promise without enough data, and the reason],
  'points_left_out': [names of points that the source cannot evaluate],
  'live': [live answers compared with records, per named point and seed],
  'coverage': how often a promise was broken (see `broken_promises.count`); null
    if the source does not know all outcomes,
}
A target that is never reached, and a figure that does not exist, is null.
`cost_metrics[metric]['left_out']` gives the reason for each method that cannot
be evaluated.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from routing.calibration import bounds
from routing.evaluation import bootstrap
from routing.evaluation import budgets as budgets_lib
from routing.evaluation import methods as methods_lib
from routing.evaluation import metrics
from routing.outcomes import points as points_lib

SCHEMA = 5  # Increase when keys change; `check` refuses files of other schemas.
# Points of a curve that is plotted. Areas use the policies' own points instead.
_CURVE_POINTS = 161
_INTERVAL_DELTA = 0.05  # All intervals are 95 % intervals.

Method = Sequence[methods_lib.Candidates]  # One set of candidates per seed.


def anchors_of(
    small: points_lib.Points, large: points_lib.Points
) -> metrics.Anchors:
  """Returns accuracy and cost of the two models alone, on test problems.

  Args:
    small: `[1, N]` outcomes of the small model alone.
    large: `[1, N]` outcomes of the largest model alone.
  """
  return metrics.Anchors(
      small_accuracy=float(small.accuracy[0]),
      small_cost=float(small.mean_cost[0]),
      large_accuracy=float(large.accuracy[0]),
      large_cost=float(large.mean_cost[0]),
      small_cut=float(small.cut_share[0]),
      large_cut=float(large.cut_share[0]),
  )


def rate(values: np.ndarray) -> dict[str, float]:
  """Returns the mean of `[N]` values with its 95 % interval.

  Args:
    values: outcomes in [0, 1], or contributions to a weighted estimate.
  """
  mean = float(values.mean())
  if values.min() >= 0 and values.max() <= 1:
    # This interval is exact for values in [0, 1], without a normal
    # approximation.
    low, high = bounds.interval(values, _INTERVAL_DELTA)
  else:
    # Contributions to a weighted estimate may exceed 1, so they get the normal
    # approximation. The true mean lies in [0, 1], so clipping does not reduce
    # the coverage.
    spread = 1.96 * float(values.std(ddof=1)) / math.sqrt(len(values))
    low, high = max(mean - spread, 0.0), min(mean + spread, 1.0)
  return {'mean': mean, 'low': low, 'high': high}


def _at_budget(method: Method, budget: float) -> dict[str, Any]:
  """Returns test figures of the policy chosen for a budget, one per seed."""
  picked = [candidates.at_budget(budget) for candidates in method]
  return {
      'accuracy': [float(p.accuracy[0]) for p in picked],
      'cost': [float(p.mean_cost[0]) for p in picked],
      'loss': [rate(p.loss[0]) for p in picked],
      'gain': [rate(p.gain[0]) for p in picked],
  }


def _cut_at(
    choose: Sequence[Callable[[float], points_lib.Points]],
    budgets: Sequence[float],
) -> dict[str, float]:
  """Returns the share of cut answers at each budget, a mean over seeds.

  NaN where this was not recorded.

  Args:
    choose: for each seed, maps a budget to the outcomes of the chosen policy.
    budgets: the budgets.
  """
  return {
      f'{budget:g}': float(np.mean([x(budget).cut_share[0] for x in choose]))
      for budget in budgets
  }


def _oracle_at(oracle: points_lib.Points, budget: float) -> points_lib.Points:
  """Returns the oracle's most accurate point within a budget, else the first.

  Points are ordered from the most accurate to the cheapest.
  """
  within = np.flatnonzero(oracle.mean_cost <= budget)
  return oracle.take(within[:1] if within.size else np.array([-1]))


def _curve(
    hulls: Sequence[points_lib.Points], draws: bootstrap.Draws
) -> dict[str, list[float]]:
  """Returns the curve of a method, a mean over seeds, with its 95 % band.

  Args:
    hulls: one set of points per seed.
    draws: resamples of problems and seeds.
  """
  # The range of costs that the curves of all seeds cover.
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
  """Returns a method's area with interval and cost range, and headroom share.

  Args:
    hulls: one set of points per seed.
    draws: resamples of problems and seeds.
    anchors: the two models alone.
    oracle: the oracle's points; None if unknown, which leaves out the headroom
      share.
  """
  # All seeds use the same costs, and so do the oracle and the line between the
  # models below.
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
  # The line between the two models is what random routing per question attains.
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
    budgets: Sequence[float] = metrics.BUDGETS,
) -> dict[str, Any]:
  """Returns all figures of one method, given one set of points per seed.

  Args:
    hulls: the points of each seed that form the method's curve.
    draws: resamples of problems and seeds.
    anchors: the two models alone.
    oracle: the oracle's points; None if unknown.
    budgets: costs at which to report the accuracy.
  """
  curve = _curve(hulls, draws)
  # The summary describes the mean curve over seeds. A mean of per-seed figures
  # would be infinite if one seed never reaches a target.
  figures = metrics.summary(
      np.array(curve['cost']), np.array(curve['accuracy']), anchors, budgets
  )
  return {
      'points': [
          np.stack([p.mean_cost, p.accuracy], axis=1).tolist() for p in hulls
      ],
      'curve': curve,
      **figures,
      # The area is computed from the points; the plotted curve only samples the
      # lines between them.
      **_area(hulls, draws, anchors, oracle),
  }


def of_metric(
    methods: Mapping[str, Method],
    oracle: points_lib.Points | None,
    anchors: metrics.Anchors,
    draws: bootstrap.Draws,
    reference: str,
    budgets: Sequence[float] | None = None,
) -> dict[str, Any]:
  """Returns the figures of all methods in one cost metric.

  Args:
    methods: name -> one set of candidates per seed.
    oracle: the oracle's points on the test problems; None if unknown.
    anchors: the two models alone.
    draws: resamples of the test problems and of the seeds.
    reference: name of the method that all other methods are compared with.
    budgets: costs at which to report accuracies; None = `budgets.within`.

  Returns:
    `anchors`; `budgets`; `methods` (including the oracle): points, curve, area,
    the figures of `metrics.summary`, `at_budget`, `cut_at` (share of answers
    that the token limit cut off, by budget) and `select_area`; `differences`:
    area of `reference` minus area of each other method, paired.
  """
  if budgets is None:
    budgets = budgets_lib.within(anchors.small_cost)
  # `candidates.points` chooses policies on `select` and returns test outcomes.
  hulls = {
      name: [candidates.points() for candidates in method]
      for name, method in methods.items()
  }
  # The oracle has no candidates to choose from, so it gets neither `at_budget`
  # nor `select_area`.
  known = {} if oracle is None else {'oracle': [oracle]}
  figures = {
      name: of_method(points, draws, anchors, oracle, budgets)
      for name, points in {**hulls, **known}.items()
  }
  for name, method in methods.items():
    figures[name]['at_budget'] = {
        f'{budget:g}': _at_budget(method, budget) for budget in budgets
    }
    figures[name]['cut_at'] = _cut_at([x.at_budget for x in method], budgets)
    figures[name]['select_area'] = float(
        np.mean([candidates.select_area() for candidates in method])
    )
  if oracle is not None:
    figures['oracle']['cut_at'] = _cut_at(
        [lambda budget: _oracle_at(oracle, budget)], budgets
    )
  return {
      'anchors': dataclasses.asdict(anchors),
      'budgets': list(budgets),
      'methods': figures,
      'reference': reference,
      'differences': _differences(hulls, reference, draws),
  }


def _differences(
    hulls: Mapping[str, Sequence[points_lib.Points]],
    reference: str,
    draws: bootstrap.Draws,
) -> dict[str, Any]:
  """Returns the area of `reference` minus that of each other method."""
  intervals = {
      name: bootstrap.area_difference(hulls[reference], points, draws)
      for name, points in hulls.items()
      if name != reference
  }
  return {
      name: dataclasses.asdict(x) if x else None
      for name, x in intervals.items()
  }


def to_json(value: Any) -> Any:
  """Converts nested results to plain Python values that JSON can store.

  NaN and infinity become None (null), since JSON has neither.
  """
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
  """Checks that results have the current schema, and returns them.

  Raises:
    ValueError: if the results have another schema.
  """
  if results.get('schema') != SCHEMA:
    raise ValueError(
        f'The results have schema {results.get("schema")!r}; allowed: '
        f'{SCHEMA}. Evaluate again with this version.'
    )
  return results
