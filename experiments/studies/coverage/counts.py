"""Counts how often each procedure of calibration breaks its promise.

The p-values come from the library, for all samples of a case at once. Each
procedure is written anew for S samples side by side; tests check that it gives
the same result as the library's own function on every sample. A sample is a
vector of counts over the problems of the pool, so its means at all thresholds
are one matrix product.
"""

import dataclasses
import functools

import numpy as np

from experiments.studies.coverage import data as data_lib
from routing.calibration import bounds
from routing.calibration import conformal
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib

Risk = risks_lib.Risk
COST_CAP = 2.0  # A promise of cost is about min(cost, cap), which is bounded.
_SLACK = (
    1e-9  # Relative. A true mean equal to its level up to rounding is kept.
)


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What became of S calibration samples.

  broken: `[S]` bool, a promise was made and is not true.
  refused: `[S]` bool, no promise could be made.
  cost: `[S]` float, true cost of the chosen point; nan where refused.
  best: true cost of the cheapest candidate that keeps the promise; for a
    promise of cost, of the most accurate one. nan if there is none.
  """

  broken: np.ndarray
  refused: np.ndarray
  cost: np.ndarray
  best: float


class Sample:
  """S samples of n problems of a case, and their means at K thresholds.

  case, n: as given.
  rows: `[S, n]`, indices of problems of the pool.
  values: quantity -> `[K, N]`, outcomes of the pool. 'paid' is the cost up to
    `COST_CAP`, which a promise of cost is about.
  truth: quantity -> `[K]`, true means.
  """

  def __init__(
      self, case: data_lib.Case, num_splits: int, size: int, seed: int
  ):
    self.case, self.n, self.seed = case, size, seed
    self.rows = case.draw(num_splits, size, seed)
    self.values = _values(case.pool, case.grid)
    self.truth = {
        name: x @ case.truth.weights
        for name, x in _values(case.truth, case.grid).items()
    }

  @functools.cached_property
  def counts(self) -> np.ndarray:
    """`[S, N]` float, how often each sample has each problem of the pool."""
    return count(self.rows, len(self.case.pool.weights))

  @functools.cached_property
  def means(self) -> dict[str, np.ndarray]:
    """Quantity -> `[S, K]`, sample means."""
    return {name: self.counts @ x.T / self.n for name, x in self.values.items()}


def _values(problems: data_lib.Problems, grid) -> dict[str, np.ndarray]:
  values = thresholds_lib.values_at(problems.scores, problems.outcomes, grid)
  values['paid'] = np.minimum(values['cost'], COST_CAP)
  return values


def count(rows: np.ndarray, num: int) -> np.ndarray:
  """Returns `[S, num]` float64 counts of the indices in `[S, n]` rows."""
  # One bincount for all samples: sample s has the indices s * num and on.
  places = rows + num * np.arange(len(rows))[:, None]
  counts = np.bincount(places.ravel(), minlength=num * len(rows))
  return counts.reshape(len(rows), num).astype(np.float64)


# Tests: which thresholds are proven on which samples.


def p_values(
    sample: Sample, risk: Risk, procedure: str = 'fixed_sequence'
) -> np.ndarray:
  """Returns `[S, K]` p-values of a risk, those of `risks.p_values`."""
  if procedure == 'growing':
    values = sample.values[_of(risk)]
    return np.array(
        [risks_lib.p_values(values[:, r], risk, procedure) for r in sample.rows]
    )
  mean, level = sample.means[_of(risk)], risk.level / risk.cap
  if risk.p_value == 'binomial':
    return bounds.binomial_p_value(np.round(mean * sample.n), sample.n, level)
  if risk.p_value == 'hoeffding_bentkus':
    scaled = np.clip(mean / risk.cap, 0.0, 1.0)
    return bounds.hoeffding_bentkus_p_value(scaled, sample.n, level)
  values = sample.values[_of(risk)]
  return np.array([risks_lib.p_values(values[:, r], risk) for r in sample.rows])


def _of(risk: Risk) -> str:
  """Returns the quantity in `Sample.values` that a risk is about."""
  return 'paid' if risk.quantity == 'cost' else risk.quantity


def proven(
    sample: Sample, risk: Risk, procedure: str = 'fixed_sequence'
) -> np.ndarray:
  """Returns `[S, K]` bool, which thresholds are proven; as `risks.prove`.

  A sample on which nothing is proven has a row of False.
  """
  if procedure == 'bonferroni':
    part = risk.delta / len(sample.case.grid)
    return p_values(sample, dataclasses.replace(risk, delta=part)) <= part
  # Fixed sequence: from the safest threshold on, up to the first failure. For
  # a loss the safest is the first (hands over most), for a cost the last.
  rejected = p_values(sample, risk, procedure) <= risk.delta
  turn = slice(None, None, 1 if risk.quantity == 'loss' else -1)
  return np.logical_and.accumulate(rejected[:, turn], axis=1)[:, turn]


def pick(sample: Sample, allowed: np.ndarray, *, by_cost: bool) -> np.ndarray:
  """Returns `[S]`, the best allowed threshold of each sample; -1 if none.

  Args:
    sample: its means decide which is best.
    allowed: `[S, K]` bool.
    by_cost: True where a cost is promised: the most accurate threshold is best,
      and among equals the cheapest. False: the cheapest is best.
  """
  # Sums in another order at each threshold differ by about 1e-12. Rounding
  # makes equal means equal, so that ties are broken as the library does.
  cost = np.round(sample.means['cost'], 10)
  if by_cost:
    right = np.where(allowed, np.round(sample.means['correct'], 10), -np.inf)
    allowed = allowed & (right == right.max(axis=1, keepdims=True))
  index = np.where(allowed, cost, np.inf).argmin(axis=1)
  return np.where(allowed.any(axis=1), index, -1)


def judge(sample: Sample, index: np.ndarray, risk: Risk) -> Verdict:
  """Returns what became of the chosen thresholds, by one of their risks.

  Args:
    sample: its `truth` decides.
    index: `[S]`, the chosen thresholds; -1 = none.
    risk: the promise.
  """
  truth, cost = sample.truth[_of(risk)], sample.truth['cost']
  is_kept = truth <= risk.level * (1 + _SLACK)
  best = np.nan
  if is_kept.any():
    value = sample.truth['correct'] if risk.quantity == 'cost' else -cost
    best = cost[np.where(is_kept, value, -np.inf).argmax()]
  refused = index < 0
  return Verdict(
      broken=~refused & ~is_kept[index],
      refused=refused,
      cost=np.where(refused, np.nan, cost[index]),
      best=float(best),
  )


# Procedures. Each is a function of (sample, risk).


def tested(
    sample: Sample, risk: Risk, procedure: str = 'fixed_sequence'
) -> Verdict:
  """Returns the verdict on `thresholds.for_risks` with one risk."""
  allowed = proven(sample, risk, procedure)
  index = pick(sample, allowed, by_cost=risk.quantity == 'cost')
  return judge(sample, index, risk)


def picked(sample: Sample, risk: Risk) -> Verdict:
  """Returns the verdict on `for_loss` or `for_budget`, which promise nothing.

  They pick by the sample means alone.
  """
  allowed = sample.means[_of(risk)] <= risk.level * (1 + _SLACK)
  index = pick(sample, allowed, by_cost=risk.quantity == 'cost')
  return judge(sample, index, risk)


def both(sample: Sample, risk: Risk, other: Risk) -> Verdict:
  """Returns the verdict on `for_risks` with two risks, judged by `risk`."""
  allowed = proven(sample, risk) & proven(sample, other)
  return judge(sample, pick(sample, allowed, by_cost=True), risk)


def grouped(sample: Sample, risk: Risk) -> Verdict:
  """Returns the verdict on `groups.for_groups`.

  It is broken if the promise to any group is. A group without a promise is
  handed over entirely. A sample is refused if no group has a promise.
  """
  pool, truth = sample.case.pool, sample.case.truth
  names = np.unique(pool.labels)
  broken, cost, made = (np.zeros(len(sample.rows)) for _ in range(3))
  best = 0.0
  for name in names:
    own = _Group(sample, name)
    # Bonferroni: all groups together hold with probability 1 - delta.
    part = dataclasses.replace(risk, delta=risk.delta / len(names))
    found = tested(own, part)
    weight = truth.weights[truth.labels == name].sum()
    broken += found.broken
    made += ~found.refused
    handed_over = own.truth['cost'][0]
    cost += weight * np.where(found.refused, handed_over, found.cost)
    best += weight * found.best
  cost[made == 0] = np.nan
  return Verdict(broken > 0, made == 0, cost, best)


class _Group(Sample):
  """The problems of one group in S samples; `n` is `[S, 1]`, one per sample."""

  def __init__(self, sample: Sample, name: int):
    is_own = sample.case.pool.labels == name
    self.case, self.rows = sample.case, sample.rows
    self.counts = sample.counts[:, is_own]
    drawn = self.counts.sum(axis=1, keepdims=True).astype(int)
    self.n = np.maximum(drawn, 1)
    self.values = {k: x[:, is_own] for k, x in sample.values.items()}
    truth = sample.case.truth
    weights = np.where(truth.labels == name, truth.weights, 0.0)
    weights = weights / weights.sum()
    self.truth = {
        k: x @ weights for k, x in _values(truth, self.case.grid).items()
    }


def conformal_sets(
    sample: Sample, risk: Risk, *, is_marginal: bool = False
) -> Verdict:
  """Returns the verdict on `split_conformal`.

  The promise is about the probability that the sets miss, given the sample. A
  marginal promise is about one new problem after each sample: one is drawn, and
  `broken` says that the sets missed it.
  """
  case, num = sample.case, len(sample.rows)
  kappas, all_kappas = _kappas(sample, risk, is_marginal)
  order = np.argsort(all_kappas)
  reached = np.cumsum(case.pool.weights[order])
  below = np.searchsorted(all_kappas[order], kappas)
  missed = np.concatenate([[0.0], reached])[below]
  refused = kappas == -np.inf
  if is_marginal:
    new = case.redraw(num, 1, sample.seed + 1)[:, 0]
    broken = ~refused & (all_kappas[new] < kappas)
  else:
    broken = ~refused & (missed > risk.level * (1 + _SLACK))
  found, where = np.unique(
      np.append(kappas, _least(all_kappas, case, risk.level)),
      return_inverse=True,
  )
  times, _ = conformal.exits(
      _probabilities_of_actions(case), case.pool.outcomes.mask, found
  )
  costs = np.take_along_axis(case.pool.outcomes.cost, times.T, axis=1)
  cost = (case.pool.weights @ costs)[where]
  return Verdict(
      broken, refused, np.where(refused, np.nan, cost[:-1]), float(cost[-1])
  )


def _probabilities_of_actions(case: data_lib.Case) -> np.ndarray:
  return np.stack([1 - case.pool.scores, case.pool.scores], axis=-1)


def _kappas(
    sample: Sample, risk: Risk, is_marginal: bool
) -> tuple[np.ndarray, np.ndarray]:
  """Returns `[S]` calibrated kappas and `[N]` conformities of the pool.

  A kappa of -inf means that the sample is too small for the level.
  """
  case, n = sample.case, sample.n
  pool = conformal.conformity(
      _probabilities_of_actions(case), [case.pool.outcomes]
  )
  if is_marginal:
    # floor(alpha (n + 1)); rounded first, since 0.29 * 100 < 29 in floats.
    rank = int(np.floor(np.round(risk.level * (n + 1), 9)))
  else:
    probabilities = bounds.binomial_p_value(np.arange(n), n, risk.level)
    # As many misses as are proven to be within the level at delta.
    rank = int(np.sum(probabilities <= risk.delta))
  # The truth used here is that of the pool, so samples must be drawn from it,
  # also in a case that has fresh problems.
  rows = case.redraw(len(sample.rows), n, sample.seed)
  if rank < 1:
    return np.full(len(rows), -np.inf), pool
  return np.partition(pool[rows], rank - 1, axis=1)[:, rank - 1], pool


def _least(kappas: np.ndarray, case: data_lib.Case, level: float) -> float:
  """Returns the highest kappa whose true miss probability is <= `level`."""
  order = np.argsort(kappas)
  missed = np.cumsum(case.pool.weights[order]) - case.pool.weights[order]
  fits = np.flatnonzero(missed <= level * (1 + _SLACK))
  return float(kappas[order][fits[-1]])
