"""Thresholds and what they promise.

`for_budget` and `for_loss` pick on the sample: good guesses, no promise.
`learn_then_test`, `for_budget_with_confidence` and `for_risks` test hypotheses
(see `risks`) and promise what was proven.

Why the thresholds are an argument: the guarantee is about hypotheses that were
named before the sample was drawn. A threshold read off the calibration scores
is a random hypothesis; its p-value is that of the luckiest of many, and since
the relative loss need not be monotone in kappa no ordering argument repairs it.
Use `grid` on *training* scores, or any others, never on the calibration ones.
A finer grid costs nothing: a fixed sequence pays no price per test.
"""

from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from routing.calibration import operating_points
from routing.calibration import risks as risks_lib
from routing.outcomes import frontier as frontier_lib
from routing.outcomes import stopping as stopping_lib
from routing.routers import promises as promises_lib

fixed_sequence = risks_lib.fixed_sequence
Promise = operating_points.Promise
OperatingPoint = operating_points.OperatingPoint


def grid(scores: np.ndarray, mask: np.ndarray, size: int = 200) -> np.ndarray:
  """`[K]` ascending thresholds, K <= size + 2, from scores held apart.

  Quantiles of the records (scores above all earlier ones of their problem),
  since only these change a decision; and both ends, -inf and inf.

  Args:
    scores: `[N, T]` float, of problems that are *not* calibrated on.
    mask: `[N, T]` bool, decision t exists.
    size: number of quantiles.
  """
  highest = stopping_lib.running_maximum(scores, mask)
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


def point_at(
    frontier: frontier_lib.Frontier, index: int, promise: Promise
) -> OperatingPoint:
  """One threshold of a frontier as a point."""
  return OperatingPoint(
      threshold=float(frontier.thresholds[index]),
      promises=(promise,),
      **frontier.at(index),
  )


def best(
    candidates: np.ndarray, value: np.ndarray, cost: np.ndarray
) -> np.intp:
  """Index of the highest value among candidates, the cheapest of equals."""
  # Means are sums in another order at each threshold: equal to about 1e-12.
  order = np.lexsort((cost[candidates], -np.round(value[candidates], 10)))
  return candidates[order[0]]


def for_budget(
    scores: np.ndarray, outcomes: stopping_lib.Outcomes, budget: float
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
  index = best(allowed, frontier.accuracy, frontier.cost)
  promise = Promise('cost', budget, None, outcomes.num_problems)
  return point_at(frontier, index, promise)


def for_loss(
    scores: np.ndarray, outcomes: stopping_lib.Outcomes, alpha: float
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
  index = best(allowed, -frontier.cost, frontier.cost)
  promise = Promise('loss', alpha, None, outcomes.num_problems)
  return point_at(frontier, index, promise)


def values_at(
    scores: np.ndarray, outcomes: stopping_lib.Outcomes, thresholds: np.ndarray
) -> dict[str, np.ndarray]:
  """Correct, cost, loss and gain at each threshold; each `[K, N]` float64."""
  times = stopping_lib.stopping_times(scores, outcomes.mask, thresholds)
  return stopping_lib.at_times(outcomes, times)


def below(
    max_cost: float,
    proven: np.ndarray,
    cost: np.ndarray,
    risks: Sequence[risks_lib.Risk],
) -> np.ndarray:
  """Returns the proven candidates that cost less than `max_cost`.

  Which of the proven are kept may hang on the sample: all of them keep the
  promise together.

  Args:
    max_cost: a fraction of all-large; inf = no limit.
    proven: indices of candidates, one or more.
    cost: `[K]` mean cost of each on the sample.
    risks: that are proven.

  Raises:
    risks.Refusal: if none does.
  """
  # Means are sums in another order at each threshold: equal to about 1e-12.
  cheap = proven[cost[proven] < max_cost - 1e-10]
  if cheap.size:
    return cheap
  is_kept = all(x.quantity != 'cost' or x.level >= 1 for x in risks)
  raise risks_lib.Refusal(
      f'{promises_lib.name_of(risks)} is proven only for thresholds that cost '
      f'{cost[proven].min():.3f} of the large model alone, or more; allowed: '
      f'below {max_cost:g}. The large model alone '
      + (
          'keeps this promise at cost 1 and is the answer.'
          if is_kept
          else 'costs 1: promise a lower cost, or use it.'
      ),
      None,
      note='',
  )


def from_values(
    values: Mapping[str, np.ndarray],
    thresholds: np.ndarray,
    risks: Sequence[risks_lib.Risk],
    *,
    orders: Mapping[str, np.ndarray] | None = None,
    procedure: str = 'fixed_sequence',
    max_cost: float = 1.0,
) -> OperatingPoint:
  """The best candidate that is proven to keep every risk.

  Knows nothing of protocols: values may come from ladders, or from trajectories
  collected anew at each of K thresholds.

  Args:
    values: correct, cost, loss, gain, each `[K, n]`, of n independent problems.
    thresholds: `[K]`, or `[K, G]` for G set together; fixed without these
      problems.
    risks: one or several; at most one of a quantity.
    orders: by quantity, `[K]` candidates, safest first, fixed likewise. If
      None, thresholds must rise: loss is tested from the lowest ('always the
      large model') up, cost from the highest ('never') down.
    procedure: of `risks.PROCEDURES`.
    max_cost: candidates whose sample mean cost, uncapped, is this or more are
      no point, since the large model alone costs 1; inf = no limit.

  Returns:
    The cheapest of the proven, or the most accurate where a cost is promised.

  Raises:
    risks.Refusal: if nothing is proven; `needed` says how many it would take.
      If all that is proven is too dear, `needed` is None.
    ValueError: if two risks are of one quantity.
  """
  quantities = [risk.quantity for risk in risks]
  if not risks or len(set(quantities)) != len(quantities):
    raise ValueError(f'Risks must be of different quantities: {quantities}.')
  if orders is None:
    rising = np.arange(len(frontier_lib.check_rising(thresholds)))
    orders = {'loss': rising, 'cost': rising[::-1]}
  proven, proofs = risks_lib.prove_all(values, risks, orders, procedure)
  mean = {name: x.mean(axis=1) for name, x in values.items()}
  value = mean['correct'] if 'cost' in quantities else -mean['cost']
  proven = below(max_cost, proven, mean['cost'], risks)
  index = best(proven, value, mean['cost'])
  threshold = np.asarray(thresholds, np.float64)[index].tolist()
  return OperatingPoint(
      threshold=tuple(threshold) if isinstance(threshold, list) else threshold,
      promises=tuple(
          _promise(proof, index, values['cost'].shape[1]) for proof in proofs
      ),
      accuracy=float(mean['correct'][index]),
      **{name: float(mean[name][index]) for name in ('cost', 'loss', 'gain')},
  )


def _promise(proof: risks_lib.Proof, index: int, num: int) -> Promise:
  risk = proof.risk
  return Promise(
      quantity=risk.quantity,
      level=risk.level,
      delta=risk.delta,
      num_problems=num,
      p_value=float(proof.p_values[index]),
      cost_cap=risk.cap if risk.quantity == 'cost' else None,
      test=proof.test,
      num_joint=risk.num_joint,
      num_choices=risk.num_choices,
  )


def for_risks(
    scores: np.ndarray,
    outcomes: stopping_lib.Outcomes,
    risks: Sequence[risks_lib.Risk],
    *,
    thresholds: np.ndarray,
    procedure: str = 'fixed_sequence',
    max_cost: float = 1.0,
) -> OperatingPoint:
  """The best threshold that keeps every risk, each with its own 1 - delta.

  For independent problems of the same source; all promises hold together with
  probability 1 - the sum of the deltas.

  Args:
    scores: `[N, T]` float, of a policy frozen before these problems came.
    outcomes: the table of the same problems.
    risks: e.g. `(Risk('loss', 0.05, 0.1), Risk('cost', 0.6, 0.1, cap=2.0))`.
    thresholds: `[K]` rising, fixed without these problems (see `grid`).
    procedure: of `risks.PROCEDURES`.
    max_cost: see `from_values`.

  Returns:
    The cheapest of the proven, or the most accurate where a cost is promised;
    its figures are those of the sample, uncapped.

  Raises:
    risks.Refusal: if it cannot be promised; `needed` says how many trajectories
      it would take.

  Source: Angelopoulos et al. 2021, "Learn then Test", theorem 1.
  """
  thresholds = frontier_lib.check_rising(thresholds)
  risks = [risk.settled(getattr(outcomes, risk.quantity)) for risk in risks]
  values = values_at(scores, outcomes, thresholds)
  return from_values(
      values, thresholds, risks, procedure=procedure, max_cost=max_cost
  )


def learn_then_test(
    scores: np.ndarray,
    outcomes: stopping_lib.Outcomes,
    *,
    alpha: float,
    delta: float,
    thresholds: np.ndarray,
    p_value: str = 'auto',
    procedure: str = 'fixed_sequence',
    max_cost: float = 1.0,
) -> OperatingPoint:
  """The cheapest threshold whose relative loss is <= alpha, with 1 - delta.

  Tests 'E[loss] > alpha' from the lowest threshold ('always the large model',
  whose loss is 0) upwards; see `for_risks` for arguments and errors.

  Args:
    scores: `[N, T]` float, of a policy frozen before these problems came.
    outcomes: the table of the same problems.
    alpha: relative loss promised, in (0, 1).
    delta: chance that the promise is broken, in (0, 1).
    thresholds: `[K]` rising, fixed without these problems (see `grid`).
    p_value: of `risks.P_VALUES`.
    procedure: of `risks.PROCEDURES`.
    max_cost: see `from_values`.
  """
  risk = risks_lib.Risk('loss', alpha, delta, p_value=p_value)
  return for_risks(
      scores,
      outcomes,
      [risk],
      thresholds=thresholds,
      procedure=procedure,
      max_cost=max_cost,
  )


def for_budget_with_confidence(
    scores: np.ndarray,
    outcomes: stopping_lib.Outcomes,
    *,
    budget: float,
    delta: float,
    thresholds: np.ndarray,
    cost_cap: float = 2.0,
    p_value: str = 'hoeffding_bentkus',
    procedure: str = 'fixed_sequence',
) -> OperatingPoint:
  """The most accurate threshold whose mean cost is <= budget, with 1 - delta.

  Tests 'E[min(cost, cap)] > budget' from 'never' downwards; see `for_risks` for
  arguments and errors. 'betting' spends far more of the budget.

  Args:
    scores: `[N, T]` float, of a policy frozen before these problems came.
    outcomes: the table of the same problems.
    budget: mean cost promised, a fraction of all-large, in [small cost, 1].
    delta: chance that the promise is broken, in (0, 1).
    thresholds: `[K]` rising, fixed without these problems (see `grid`).
    cost_cap: dearer problems count as this, a fraction of all-large.
    p_value: of `risks.P_VALUES`.
    procedure: of `risks.PROCEDURES`.
  """
  check_budget(budget, outcomes.cost[:, -1].mean())
  risk = risks_lib.Risk('cost', budget, delta, cost_cap, p_value)
  return for_risks(
      scores, outcomes, [risk], thresholds=thresholds, procedure=procedure
  )
