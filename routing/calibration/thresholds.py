"""Chooses thresholds, and proves what they promise.

`for_budget` and `for_loss` pick the threshold that is best on the sample, which
promises nothing about new problems. `learn_then_test`,
`for_budget_with_confidence` and `for_risks` test hypotheses (see `risks`) and
promise what was proven.

The candidate thresholds are an argument because the guarantee holds for
hypotheses that were named before the sample was drawn. A threshold chosen from
the calibration scores is a random hypothesis, so its p-value is not valid. The
relative loss need not be monotone in kappa, so no argument from ordering
repairs this. Use `grid` on *training* scores, or on any others, but never on
the calibration scores. A finer grid costs no confidence, since a fixed sequence
tests each threshold at the full delta.
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
  """Returns `[K]` ascending thresholds from -inf to inf, K <= size + 2.

  The inner thresholds are quantiles of the records: scores above all earlier
  scores of their problem. No other score can be the first to reach a threshold.

  Args:
    scores: `[N, T]` float, of problems that are *not* calibrated on.
    mask: `[N, T]` bool, decision t exists.
    size: number of quantiles.
  """
  highest = stopping_lib.running_maximum(scores, mask)
  # The first decision of every problem is a record, as no score comes before.
  # `np.array` copies, so that the caller's mask is not changed below.
  is_record = np.array(mask, bool)
  is_record[:, 1:] &= highest[:, 1:] > highest[:, :-1]
  # 'lower' makes every threshold a score that occurs. A threshold between two
  # scores could separate values that other problems have as ties.
  inner = np.quantile(
      highest[is_record], np.linspace(0, 1, size), method='lower'
  )
  return np.concatenate([[-np.inf], np.unique(inner), [np.inf]])


def check_budget(budget: float, small_cost: float) -> float:
  """Returns `budget`, or raises ValueError if it is outside [small cost, 1].

  Args:
    budget: mean cost, as a fraction of the all-large cost.
    small_cost: mean cost of the small model alone, in the same unit.
  """
  if not small_cost <= budget <= 1:
    raise ValueError(
        f'Budget {budget:g} is outside [{small_cost:.3f}, 1]: the small model '
        f'alone costs {small_cost:.3f} of all-large, the large model alone 1.'
    )
  return budget


def point_at(
    frontier: frontier_lib.Frontier, index: int, promise: Promise
) -> OperatingPoint:
  """Returns threshold number `index` of a frontier as an operating point."""
  return OperatingPoint(
      threshold=float(frontier.thresholds[index]),
      promises=(promise,),
      **frontier.at(index),
  )


def best(
    candidates: np.ndarray, value: np.ndarray, cost: np.ndarray
) -> np.intp:
  """Returns the candidate of highest value; among equal values the cheapest.

  Args:
    candidates: indices into `value` and `cost`, one or more.
    value: `[K]`, higher is better.
    cost: `[K]`.
  """
  # Means at different thresholds are sums in different orders, so equal means
  # agree only to about 1e-12. Rounding `value` makes such means exact ties.
  order = np.lexsort((cost[candidates], -np.round(value[candidates], 10)))
  return candidates[order[0]]


def for_budget(
    scores: np.ndarray, outcomes: stopping_lib.Outcomes, budget: float
) -> OperatingPoint:
  """Returns the threshold of best sample accuracy with sample cost <= budget.

  Args:
    scores: `[N, T]` float, higher means hand over.
    outcomes: outcomes of the same problems, by stopping time.
    budget: allowed mean cost, a fraction of the all-large cost.

  Returns:
    The operating point; among equal accuracies the cheapest. It promises
    nothing (its delta is None): on new problems about half of such points
    exceed the budget.

  Raises:
    ValueError: if `budget` is outside [small cost, 1].
  """
  frontier = frontier_lib.frontier(scores, outcomes)
  # The last point of a frontier is 'never hand over': the small model alone.
  check_budget(budget, frontier.cost[-1])
  allowed = np.flatnonzero(frontier.cost <= budget)
  index = best(allowed, frontier.accuracy, frontier.cost)
  promise = Promise('cost', budget, None, outcomes.num_problems)
  return point_at(frontier, index, promise)


def for_loss(
    scores: np.ndarray, outcomes: stopping_lib.Outcomes, alpha: float
) -> OperatingPoint:
  """Returns the cheapest threshold with sample loss <= alpha.

  A low loss on the sample promises nothing about new problems.

  Args:
    scores: `[N, T]` float, higher means hand over.
    outcomes: outcomes of the same problems, by stopping time.
    alpha: allowed mean relative loss.

  Raises:
    ValueError: if no threshold has a sample loss <= alpha.
  """
  frontier = frontier_lib.frontier(scores, outcomes)
  allowed = np.flatnonzero(frontier.loss <= alpha)
  if not allowed.size:
    raise ValueError(
        f'No threshold has a relative loss of {alpha:g} or less; the lowest is '
        f'{frontier.loss.min():.3f}. Raise alpha.'
    )
  index = best(allowed, -frontier.cost, frontier.cost)
  promise = Promise('loss', alpha, None, outcomes.num_problems)
  return point_at(frontier, index, promise)


def values_at(
    scores: np.ndarray, outcomes: stopping_lib.Outcomes, thresholds: np.ndarray
) -> dict[str, np.ndarray]:
  """Returns correct, cost, loss and gain at each threshold, `[K, N]` float64.

  Args:
    scores: `[N, T]` float, higher means hand over.
    outcomes: outcomes of the same problems, by stopping time.
    thresholds: `[K]` float.
  """
  times = stopping_lib.stopping_times(scores, outcomes.mask, thresholds)
  return stopping_lib.at_times(outcomes, times)


def below(
    max_cost: float,
    proven: np.ndarray,
    cost: np.ndarray,
    risks: Sequence[risks_lib.Risk],
) -> np.ndarray:
  """Returns the proven candidates that cost less than `max_cost`.

  Args:
    max_cost: a fraction of the all-large cost; inf = no limit.
    proven: indices of the proven candidates, one or more.
    cost: `[K]` mean cost of each candidate on the sample.
    risks: the risks that these candidates are proven to keep.

  Raises:
    risks.Refusal: if no proven candidate costs less than `max_cost`.
  """
  # Which candidates are cut may depend on the sample, because the promise holds
  # for all proven candidates together. 1e-10: rounding may move a mean cost of
  # exactly 1, the large model's own, slightly below 1.
  cheap = proven[cost[proven] < max_cost - 1e-10]
  if cheap.size:
    return cheap
  # The largest model alone has relative loss 0 and cost 1 by definition.
  is_kept_by_largest = all(x.quantity != 'cost' or x.level >= 1 for x in risks)
  raise risks_lib.Refusal(
      f'{promises_lib.name_of(risks)} needs thresholds that cost '
      f'{cost[proven].min():.3f} or more, as a fraction of the large model '
      f'alone; the cost must be below {max_cost:g}. '
      + (
          'Use the large model alone, which keeps this promise.'
          if is_kept_by_largest
          else 'Promise a lower cost, or use the large model alone.'
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
  """Returns the best candidate that is proven to keep every risk.

  The values may come from ladders, or from trajectories collected anew at each
  of K thresholds, under any protocol.

  Args:
    values: correct, cost, loss, gain, each `[K, n]`, of n independent problems.
    thresholds: `[K]`, or `[K, G]` for G thresholds set together; fixed without
      these problems.
    risks: one or several; at most one for each quantity.
    orders: by quantity, `[K]` candidates, safest first, fixed like them. None:
      thresholds must rise, and are tested upwards for loss, downwards for cost.
    procedure: one of `risks.PROCEDURES`.
    max_cost: candidates whose sample mean cost, uncapped, is this or more are
      excluded, since the large model alone costs 1; inf = no limit.

  Returns:
    The cheapest proven candidate, or the most accurate if a cost is promised.

  Raises:
    risks.Refusal: if no candidate is proven; `needed` says how many problems
      are needed. If every proven candidate is too expensive, `needed` is None.
    ValueError: if two risks are of one quantity.
  """
  quantities = [risk.quantity for risk in risks]
  if not risks or len(set(quantities)) != len(quantities):
    raise ValueError(
        'There must be one or more risks, of different quantities; got '
        f'{quantities}.'
    )
  if orders is None:
    # Safest first. Threshold -inf, 'always hand over', has relative loss 0;
    # inf, 'never hand over', has the lowest cost.
    rising = np.arange(len(frontier_lib.check_rising(thresholds)))
    orders = {'loss': rising, 'cost': rising[::-1]}
  proven, proofs = risks_lib.prove_all(values, risks, orders, procedure)
  # If a cost is promised, the most accurate candidate is best; if only a loss
  # is promised, the cheapest one.
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
  """Returns the promise of the proven candidate `index`, with its p-value.

  Args:
    proof: the test of all candidates for one risk.
    index: index of the candidate.
    num: number of problems that the candidate was tested on.
  """
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
  """Returns the best threshold that is proven to keep every risk.

  The problems must be independent draws from the distribution that is served.
  Each promise holds with its own probability 1 - delta, and all promises
  together with probability 1 - the sum of the deltas.

  Args:
    scores: `[N, T]` float, of a policy frozen before these problems came.
    outcomes: outcomes of the same problems, by stopping time.
    risks: e.g. `(Risk('loss', 0.05, 0.1), Risk('cost', 0.6, 0.1, cap=2.0))`.
    thresholds: `[K]` rising, fixed without these problems (see `grid`).
    procedure: one of `risks.PROCEDURES`.
    max_cost: see `from_values`.

  Returns:
    The cheapest proven threshold, or the most accurate if a cost is promised.
    Its accuracy, cost, loss and gain are sample means, the cost uncapped.

  Raises:
    risks.Refusal: if no threshold can be promised; `needed` says how many
      trajectories are needed.

  Source: Angelopoulos et al. 2021, "Learn then Test", theorem 1.
  """
  thresholds = frontier_lib.check_rising(thresholds)
  # 'auto' is settled on all stopping times, so that the choice of the test does
  # not depend on the scores.
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
  """Returns the cheapest threshold whose relative loss is proved <= alpha.

  With probability 1 - delta the relative loss on new problems is <= alpha. The
  function tests 'E[loss] > alpha' from the lowest threshold ('always the large
  model', whose loss is 0) upwards.

  Args:
    scores, outcomes, thresholds, procedure, max_cost: see `for_risks`.
    alpha: relative loss promised, in (0, 1).
    delta: probability that the promise is broken, in (0, 1).
    p_value: one of `risks.P_VALUES`.

  Returns, Raises: as `for_risks`.
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
  """Returns the most accurate threshold whose mean cost is proved <= budget.

  With probability 1 - delta the mean capped cost on new problems is <= budget.
  The function tests 'E[min(cost, cap)] > budget' from 'never hand over'
  downwards. With p_value='betting' the result uses far more of the budget.

  Args:
    scores, outcomes, thresholds, procedure: see `for_risks`.
    budget: mean cost promised, a fraction of all-large, in [small cost, 1].
    delta: probability that the promise is broken, in (0, 1).
    cost_cap: a problem's cost above the cap counts as the cap.
    p_value: one of `risks.P_VALUES`.

  Returns, Raises: as `for_risks`; ValueError if `budget` is outside its range.
  """
  check_budget(budget, outcomes.cost[:, -1].mean())
  risk = risks_lib.Risk('cost', budget, delta, cost_cap, p_value)
  return for_risks(
      scores, outcomes, [risk], thresholds=thresholds, procedure=procedure
  )
