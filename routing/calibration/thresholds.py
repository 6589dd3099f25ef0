"""Thresholds and what they promise.

`for_budget` and `for_loss` pick on the sample: good guesses, no promise. The
other two test hypotheses, 'the risk at kappa is above the level', one threshold
after another along a *fixed sequence*, and stop at the first that cannot be
rejected at delta. All those rejected hold together with probability 1 - delta,
so any of them may then be picked, by any rule, on the same sample.

Why the thresholds are an argument: the guarantee is about hypotheses that were
named before the sample was drawn. A threshold read off the calibration scores
is a random hypothesis; its p-value is that of the luckiest of many, and since
the relative loss need not be monotone in kappa no ordering argument repairs it.
Use `grid` on *training* scores, or any others, never on the calibration ones.
A finer grid costs nothing: a fixed sequence pays no price per test.
"""

import dataclasses
import math

import numpy as np

from routing.calibration import bounds
from routing.calibration import frontier as frontier_lib
from routing.calibration import outcomes as outcomes_lib


@dataclasses.dataclass(frozen=True)
class Promise:
  """What is promised of a threshold, and by how much evidence.

  quantity: 'cost' or 'loss'.
  level: its mean is at most this.
  delta: chance that the promise is broken; None for a pick on the sample, which
    promises nothing.
  num_problems: calibration problems.
  p_value: of the test at this threshold; None without a test.
  cost_cap: a promise about cost counts dearer problems as this; else None.
  """

  quantity: str
  level: float
  delta: float | None
  num_problems: int
  p_value: float | None = None
  cost_cap: float | None = None


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
  """A threshold, its promise, and what the calibration sample showed."""

  threshold: float
  promise: Promise
  accuracy: float
  cost: float
  loss: float
  gain: float


def grid(scores: np.ndarray, mask: np.ndarray, size: int = 200) -> np.ndarray:
  """`[K]` ascending thresholds, K <= size + 2, from scores held apart.

  Quantiles of the records (scores above all earlier ones of their problem),
  since only these change a decision; and both ends, -inf and inf.

  Args:
    scores: `[N, T]` float, of problems that are *not* calibrated on.
    mask: `[N, T]` bool, decision t exists.
    size: number of quantiles.
  """
  highest = outcomes_lib.running_maximum(scores, mask)
  is_record = np.array(mask, bool)
  is_record[:, 1:] &= highest[:, 1:] > highest[:, :-1]
  # 'lower' keeps thresholds on scores that occur, so ties stay ties.
  inner = np.quantile(
      highest[is_record], np.linspace(0, 1, size), method='lower'
  )
  return np.concatenate([[-np.inf], np.unique(inner), [np.inf]])


def check_budget(budget: float, small_cost: float) -> float:
  """Returns `budget`, or raises ValueError if it is outside [small cost, 1]."""
  if not small_cost <= budget <= 1:
    raise ValueError(
        f'Budget {budget:g} is outside [{small_cost:.3f}, 1]: the small model '
        f'alone costs {small_cost:.3f} of all-large, the large alone 1.'
    )
  return budget


def _at(
    frontier: frontier_lib.Frontier, index: int, promise: Promise
) -> OperatingPoint:
  return OperatingPoint(
      threshold=float(frontier.thresholds[index]),
      promise=promise,
      **frontier.at(index),
  )


def _best(
    candidates: np.ndarray, value: np.ndarray, cost: np.ndarray
) -> np.intp:
  """Index of the highest value among candidates, the cheapest of equals."""
  # Means are sums in another order at each threshold: equal to about 1e-12.
  order = np.lexsort((cost[candidates], -np.round(value[candidates], 10)))
  return candidates[order[0]]


def for_budget(
    scores: np.ndarray, outcomes: outcomes_lib.Outcomes, budget: float
) -> OperatingPoint:
  """The threshold of highest sample accuracy with sample cost <= budget.

  Args:
    scores: `[N, T]` float, higher means hand over.
    outcomes: the table of the same problems.
    budget: allowed mean cost, a fraction of all-large.

  Returns:
    The point; of equal accuracies the cheapest. It promises nothing (delta is
    None): about half of all such picks exceed the budget on new problems.

  Raises:
    ValueError: if `budget` is outside [small cost, 1].
  """
  frontier = frontier_lib.frontier(scores, outcomes)
  check_budget(budget, frontier.cost[-1])
  allowed = np.flatnonzero(frontier.cost <= budget)
  index = _best(allowed, frontier.accuracy, frontier.cost)
  promise = Promise('cost', budget, None, outcomes.num_problems)
  return _at(frontier, index, promise)


def for_loss(
    scores: np.ndarray, outcomes: outcomes_lib.Outcomes, alpha: float
) -> OperatingPoint:
  """The cheapest threshold with sample loss <= alpha: a pick, not a promise.

  Raises:
    ValueError: if no threshold has a sample loss <= alpha.
  """
  frontier = frontier_lib.frontier(scores, outcomes)
  allowed = np.flatnonzero(frontier.loss <= alpha)
  if not allowed.size:
    raise ValueError(
        f'No threshold loses {alpha:g} or less; the least is '
        f'{frontier.loss.min():.3f}.'
    )
  index = _best(allowed, -frontier.cost, frontier.cost)
  promise = Promise('loss', alpha, None, outcomes.num_problems)
  return _at(frontier, index, promise)


def fixed_sequence(p_values: np.ndarray, delta: float) -> int:
  """How many hypotheses are rejected, in order, before the first that is not.

  Args:
    p_values: `[K]`, in an order fixed before the sample was seen.
    delta: family-wise error rate.

  Source: Angelopoulos et al. 2021, "Learn then Test", section 2.2 (fixed
  sequence testing, one start).
  """
  is_kept = np.asarray(p_values) > delta
  return int(np.argmax(is_kept)) if is_kept.any() else len(p_values)


def _p_values(values: np.ndarray, level: float, is_binary: bool) -> np.ndarray:
  """`[K]` p-values of 'mean > level' from `[K, n]` values in [0, 1]."""
  n = values.shape[1]
  if is_binary:
    return bounds.binomial_p_value(values.sum(axis=1), n, level)
  # Rounding may put a mean a hair outside; the values themselves are inside.
  mean = np.clip(values.mean(axis=1), 0.0, 1.0)
  return bounds.hoeffding_bentkus_p_value(mean, n, level)


def _check_thresholds(thresholds: np.ndarray) -> np.ndarray:
  thresholds = np.asarray(thresholds, np.float64)
  if thresholds.ndim != 1 or not thresholds.size:
    raise ValueError(f'Thresholds must be [K], got {thresholds.shape}.')
  if not np.all(thresholds[1:] > thresholds[:-1]):
    raise ValueError('Thresholds must rise strictly.')
  return thresholds


def _tested(
    values: dict[str, np.ndarray],
    index: int,
    threshold: float,
    promise: Promise,
) -> OperatingPoint:
  mean = {name: float(x[index].mean()) for name, x in values.items()}
  accuracy = mean.pop('correct')
  return OperatingPoint(
      threshold=float(threshold), promise=promise, accuracy=accuracy, **mean
  )


def learn_then_test(
    scores: np.ndarray,
    outcomes: outcomes_lib.Outcomes,
    *,
    alpha: float,
    delta: float,
    thresholds: np.ndarray,
) -> OperatingPoint:
  """The cheapest threshold whose relative loss is <= alpha, with 1 - delta.

  Tests 'E[loss] > alpha' from the lowest threshold ('always the large model',
  whose loss is 0) upwards. Exact binomial p-values if every loss is 0 or 1,
  Hoeffding-Bentkus otherwise. For independent problems of the same source.

  Args:
    scores: `[N, T]` float, of a policy frozen before these problems came.
    outcomes: the table of the same problems.
    alpha: relative loss promised, in (0, 1).
    delta: chance that the promise is broken, in (0, 1).
    thresholds: `[K]` rising, fixed without these problems (see `grid`).

  Returns:
    The point.

  Raises:
    ValueError: if no threshold can be promised, saying how many trajectories it
      would take.

  Source: Angelopoulos et al. 2021, "Learn then Test", theorem 1.
  """
  thresholds = _check_thresholds(thresholds)
  num = outcomes.num_problems
  needed = bounds.trajectories_needed(0.0, alpha, delta)
  if num < needed:
    raise ValueError(
        f'loss <= {alpha:g} with probability {1 - delta:g} takes {needed} '
        f'trajectories or more, even without a single loss; got {num}.'
    )
  times = outcomes_lib.stopping_times(scores, outcomes.mask, thresholds)
  values = outcomes_lib.at_times(outcomes, times)
  # Of the whole table, not of the columns that happened to be looked at: which
  # bound is used must not depend on where the scores lead.
  is_binary = bool(np.isin(outcomes.loss, (0.0, 1.0)).all())
  p_values = _p_values(values['loss'], alpha, is_binary)
  accepted = np.arange(fixed_sequence(p_values, delta))
  if not accepted.size:
    raise ValueError(
        _refusal('loss', values['loss'][0].mean(), alpha, delta, num)
    )
  cost = values['cost'].mean(axis=1)
  index = _best(accepted, -cost, cost)
  promise = Promise('loss', alpha, delta, num, float(p_values[index]))
  return _tested(values, index, thresholds[index], promise)


def _refusal(
    quantity: str,
    mean: float,
    level: float,
    delta: float,
    num: int,
    scale: float = 1.0,
) -> str:
  needed = bounds.trajectories_needed(mean / scale, level / scale, delta)
  remedy = (
      f'at this mean it takes about {needed} trajectories'
      if needed
      else 'no number of trajectories would do'
  )
  return (
      f'{quantity} <= {level:g} with probability {1 - delta:g} cannot be '
      f'promised from {num} trajectories: the safest threshold has mean '
      f'{quantity} {mean:.4f}; {remedy}.'
  )


def for_budget_with_confidence(
    scores: np.ndarray,
    outcomes: outcomes_lib.Outcomes,
    *,
    budget: float,
    delta: float,
    thresholds: np.ndarray,
    cost_cap: float = 2.0,
) -> OperatingPoint:
  """The most accurate threshold whose mean cost is <= budget, with 1 - delta.

  Tests 'E[min(cost, cap)] > budget' from 'never' downwards, by
  Hoeffding-Bentkus. Without a cap nothing can be promised of a mean: a problem
  too rare for any sample may cost any amount.

  Args:
    scores: `[N, T]` float, of a policy frozen before these problems came.
    outcomes: the table of the same problems.
    budget: mean cost promised, a fraction of all-large.
    delta: chance that the promise is broken, in (0, 1).
    thresholds: `[K]` rising, fixed without these problems (see `grid`).
    cost_cap: dearer problems count as this, a fraction of all-large.

  Returns:
    The point; its figures are those of the sample, uncapped.

  Raises:
    ValueError: if `budget` is outside [small cost, 1], or not even 'never' can
      be promised, saying how many trajectories it would take.
  """
  thresholds = _check_thresholds(thresholds)
  check_budget(budget, outcomes.cost[:, -1].mean())
  if not (math.isfinite(cost_cap) and cost_cap > budget):
    raise ValueError(f'cost_cap must be above {budget:g}, got {cost_cap}.')
  times = outcomes_lib.stopping_times(scores, outcomes.mask, thresholds)
  values = outcomes_lib.at_times(outcomes, times)
  capped = np.minimum(values['cost'], cost_cap) / cost_cap
  p_values = _p_values(capped, budget / cost_cap, is_binary=False)
  num_accepted = fixed_sequence(p_values[::-1], delta)
  num = outcomes.num_problems
  if not num_accepted:
    mean = capped[-1].mean() * cost_cap
    raise ValueError(_refusal('cost', mean, budget, delta, num, cost_cap))
  accepted = np.arange(len(thresholds))[-num_accepted:]
  index = _best(
      accepted, values['correct'].mean(axis=1), values['cost'].mean(axis=1)
  )
  promise = Promise(
      'cost', budget, delta, num, float(p_values[index]), cost_cap
  )
  return _tested(values, index, thresholds[index], promise)
