"""Promises from the trajectories of a behaviour policy, without new rollouts.

This is `thresholds.from_values` for off-policy data. A threshold is proven to
keep a risk if the upper end of its one-sided off-policy confidence interval is
at most the level. If the threshold does not keep the risk, the probability of
this is at most delta. So a fixed sequence, safest first, needs no correction
for the number of thresholds.
"""

from collections.abc import Sequence
import math

import numpy as np

from routing import types
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from routing.outcomes import frontier as frontier_lib
from routing.outcomes import importance
from routing.routers import promises as promises_lib

TEST = 'empirical_bernstein'


def for_risks(
    scores: np.ndarray,
    batch: types.TrajectoryBatch,
    risks: Sequence[risks_lib.Risk],
    *,
    thresholds: np.ndarray,
    routes: np.ndarray | None = None,
    problems: np.ndarray | None = None,
    min_effective_size: float = 100.0,
    max_cost: float = 1.0,
) -> thresholds_lib.OperatingPoint:
  """Returns the best threshold that is proven to keep every risk.

  Args:
    scores: `[B, T]` float, of a policy frozen before these trajectories came.
    batch: trajectories of the behaviour policy.
    risks: one or several, each with a delta below 1/2. Their `p_value` is
      ignored: the confidence interval is the test.
    thresholds: `[K]` rising, fixed without these trajectories.
    routes, problems, min_effective_size: see `importance.estimate`.
    max_cost: see `thresholds.from_values`; bounds the weighted cost estimate.

  Returns:
    The cheapest proven threshold, or the most accurate if a cost is promised.
    Its accuracy, cost, loss and gain are importance-weighted estimates.

  Raises:
    risks.Refusal: if no threshold is proven, or only too expensive ones;
      `needed` says about how many problems are needed, if any number is enough.
    ValueError: on a delta of 1/2 or more, and as `importance.estimate`.
  """
  thresholds = frontier_lib.check_rising(thresholds)
  estimated = lambda k, **kwargs: importance.estimate(
      scores,
      batch,
      thresholds[k : k + 1],
      routes=routes,
      problems=problems,
      min_effective_size=min_effective_size,
      **kwargs,
  )
  # N counts problems: several trajectories of one problem are not independent.
  num = len(batch.mask) if problems is None else len(np.unique(problems))
  proven = [_proven(estimated, len(thresholds), x, num) for x in risks]
  shared = sorted(set.intersection(*map(set, proven)))
  if not shared:
    raise _no_common_threshold(risks, num)
  # Point estimates, uncapped, may choose: every proven threshold is promised.
  found = [estimated(k).weighted.at(0) for k in shared]
  accuracy, cost = (
      np.array([x[name] for x in found]) for name in ('accuracy', 'cost')
  )
  value = accuracy if any(x.quantity == 'cost' for x in risks) else -cost
  cheap = thresholds_lib.below(max_cost, np.arange(len(shared)), cost, risks)
  index = thresholds_lib.best(cheap, value, cost)
  return thresholds_lib.OperatingPoint(
      threshold=float(thresholds[shared[index]]),
      promises=tuple(_promise(risk, num) for risk in risks),
      **found[index],
  )


def _no_common_threshold(risks, num) -> risks_lib.Refusal:
  """Returns the error for risks that no single threshold keeps together.

  Args:
    risks: each is kept by some threshold.
    num: number of problems.
  """
  names = ' and '.join(map(promises_lib.claim, risks))
  return risks_lib.Refusal(
      f'{names} can each be promised from {num} problems, but no single '
      'threshold keeps them all.',
      None,
  )


def _promise(risk: risks_lib.Risk, num: int) -> thresholds_lib.Promise:
  """Returns the promise of a risk that is proven from `num` problems."""
  return thresholds_lib.Promise(
      quantity=risk.quantity,
      level=risk.level,
      delta=risk.delta,
      num_problems=num,
      cost_cap=risk.cap if risk.quantity == 'cost' else None,
      test=TEST,
      num_joint=risk.num_joint,
      num_choices=risk.num_choices,
  )


def _proven(estimated, num_thresholds, risk, num) -> list[int]:
  """Returns the thresholds that a fixed sequence proves to keep one risk.

  Args:
    estimated: (index of a threshold, delta, cost_cap) -> its `estimate`.
    num_thresholds: K.
    risk: the risk.
    num: number of problems.

  Returns:
    Indices of thresholds, safest first, at least one.

  Raises:
    risks.Refusal: if not even the safest threshold is proven.
    ValueError: on a delta of 1/2 or more.
  """
  if not risk.delta < 0.5:
    raise ValueError(f'delta must be below 1/2, got {risk.delta}.')
  # Safest first: 'always hand over' for a loss, 'never hand over' for a cost.
  order = range(num_thresholds)
  cap = {}
  if risk.quantity == 'cost':
    order, cap = order[::-1], {'cost_cap': risk.cap}
  proven = []
  for k in order:
    try:
      # The interval is two-sided and spends half of its delta on the upper end,
      # the only end that is used here.
      found = estimated(k, delta=2 * risk.delta, **cap)
    # `estimate` refuses where the effective sample size is too small. This size
    # follows from actions and scores alone, not from outcomes, so ending the
    # sequence here breaks no promise.
    except risks_lib.Refusal:
      if not proven:
        raise
      break
    if getattr(found.upper, risk.quantity)[0] > risk.level:
      if not proven:
        raise _refusal(found, risk, num)
      break
    proven.append(k)
  return proven


def _refusal(found, risk, num) -> risks_lib.Refusal:
  """Returns the error for a risk that the safest threshold does not prove.

  Args:
    found: the estimate and its interval at the safest threshold.
    risk: the risk.
    num: number of problems.
  """
  upper = float(getattr(found.upper, risk.quantity)[0])
  mean = float(getattr(found.weighted, risk.quantity)[0])
  needed = None
  remedy = 'at this estimate no number of problems is enough'
  if mean < risk.level:
    # The distance upper - mean shrinks about as 1 / sqrt(N), and must shrink to
    # level - mean.
    needed = math.ceil(num * ((upper - mean) / (risk.level - mean)) ** 2)
    remedy = f'about {needed:,} problems of this behaviour policy are needed'
  return risks_lib.Refusal(
      f'{promises_lib.claim(risk)} cannot be promised from {num} problems '
      'answered by the behaviour policy: the safest threshold has estimated '
      f'{risk.quantity} {mean:.4f} and upper bound {upper:.4f}; {remedy}.',
      needed,
  )
