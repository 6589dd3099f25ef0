"""Promises from what another policy did, without a rollout.

The twin of `thresholds.from_values`. A threshold is proven to keep a risk if
the upper end of its off-policy interval, one-sided, is within the level: that
happens to one that does not keep it with a chance of at most delta. A fixed
sequence, safest first, then has the promise at no price per threshold; it ends,
too, where the effective number of problems gets too small to say anything,
which is seen from actions and scores alone.
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
  """The best threshold that is proven to keep every risk.

  Args:
    scores: `[B, T]` float, of a policy frozen before these trajectories came.
    batch: behaviour trajectories.
    risks: one or several, each with a delta below 1/2. Their `p_value` has no
      say: the test is the interval's.
    thresholds: `[K]` rising, fixed without these trajectories.
    routes, problems, min_effective_size: see `importance.estimate`.
    max_cost: see `thresholds.from_values`; by the weighted estimate of the
      cost.

  Returns:
    The cheapest of the proven, or the most accurate where a cost is promised,
    by the weighted estimates, which are its figures.

  Raises:
    risks.Refusal: if nothing is proven; `needed` says about how many problems
      it would take, if any number would. Also if all that is proven is too
      dear.
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
  num = len(batch.mask) if problems is None else len(np.unique(problems))
  proven = [_proven(estimated, len(thresholds), x, num) for x in risks]
  shared = sorted(set.intersection(*map(set, proven)))
  if not shared:
    raise _of_no_single(risks, num)
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


def _of_no_single(risks, num) -> risks_lib.Refusal:
  names = ' and '.join(map(promises_lib.claim, risks))
  return risks_lib.Refusal(
      f'{names} can each be promised from {num} problems, but of no single '
      'threshold.',
      None,
  )


def _promise(risk: risks_lib.Risk, num: int) -> thresholds_lib.Promise:
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
  """Thresholds of the fixed sequence up to the first that is not proven."""
  if not risk.delta < 0.5:
    raise ValueError(f'delta must be below 1/2, got {risk.delta}.')
  order = range(num_thresholds)
  cap = {}
  if risk.quantity == 'cost':
    order, cap = order[::-1], {'cost_cap': risk.cap}
  proven = []
  for k in order:
    try:
      # Half of a two-sided delta is spent on the upper end.
      found = estimated(k, delta=2 * risk.delta, **cap)
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
  """Of the safest threshold; widths shrink about as 1 / sqrt(N)."""
  upper = float(getattr(found.upper, risk.quantity)[0])
  mean = float(getattr(found.weighted, risk.quantity)[0])
  needed = None
  remedy = 'at this estimate no number of problems would do'
  if mean < risk.level:
    needed = math.ceil(num * ((upper - mean) / (risk.level - mean)) ** 2)
    remedy = f'it takes about {needed:,} problems under this behaviour policy'
  return risks_lib.Refusal(
      f'{promises_lib.claim(risk)} cannot be promised from {num} problems that '
      f'another policy answered: the safest threshold has {risk.quantity} '
      f'{mean:.4f}, and {upper:.4f} is not excluded; {remedy}.',
      needed,
  )
