"""Computes all cells: set x procedure x level x delta x sample size."""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np
from scipy import stats

from experiments.studies.coverage import counts as counts_lib
from experiments.studies.coverage import data as data_lib
from experiments.studies.coverage import joint as joint_lib
from experiments.studies.coverage import rollouts as rollouts_lib
from routing.calibration import risks as risks_lib

FAMILY = (
    0.01  # Family-wise error: any kept promise of the table is called broken.
)
PLAIN = ('picked loss', 'picked cost')  # Procedures that promise nothing.
_BUDGETS = (0.2, 0.4, 0.6, 0.8)  # Between the small model's cost (0) and 1 (1).
_NUM_BETS = 16  # Thresholds that the betting test is run at; it is slow.

Risk = risks_lib.Risk
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is counted.

  alphas, deltas, sizes: levels, failure probabilities and sample sizes.
  num_splits: S, calibration samples per cell.
  num_joint: samples of procedures that are run sample by sample.
  num_bets: samples of the betting test, which is slow.
  seed: of all draws.
  """

  alphas: Sequence[float] = (0.02, 0.05, 0.1, 0.2)
  deltas: Sequence[float] = (0.05, 0.1)
  sizes: Sequence[int] = (200, 1000)
  num_splits: int = 2_000
  num_joint: int = 2_000
  num_bets: int = 2_000
  seed: int = 0


def quick() -> Plan:
  """Returns a smaller plan that takes about a minute."""
  return Plan(
      alphas=(0.05, 0.2),
      deltas=(0.1,),
      num_splits=200,
      num_joint=50,
      num_bets=50,
  )


def of_ladders(case: data_lib.Case, plan: Plan, size: int) -> Iterator[Row]:
  """Yields the rows of a case of ladders, one per procedure and cell."""
  is_binary = bool(np.isin(case.pool.outcomes.loss, (0.0, 1.0)).all())
  # The binomial test is exact, but only for losses that are 0 or 1.
  test = 'binomial' if is_binary else 'hoeffding_bentkus'
  sample = counts_lib.Sample(case, plan.num_splits, size, plan.seed)
  step = max(len(case.grid) // _NUM_BETS, 1)
  # A thinner grid that keeps both ends; used by the slow betting test.
  coarse = counts_lib.Sample(
      dataclasses.replace(
          case, grid=np.append(case.grid[:-1:step], case.grid[-1])
      ),
      plan.num_bets,
      size,
      plan.seed,
  )
  for delta in plan.deltas:
    for alpha in plan.alphas:
      loss = Risk('loss', alpha, delta, p_value=test)
      yield from _of_loss(sample, coarse, loss)
    for share, budget in _budgets(sample, len(plan.alphas)):
      cost = Risk('cost', budget, delta, counts_lib.COST_CAP, 'betting')
      yield from _of_cost(sample, coarse, cost, share)
  for alpha in plan.alphas:
    # A marginal promise has no delta: a new problem is missed with probability
    # alpha. The delta of this risk is not used.
    risk = Risk('loss', alpha, 0.5)
    found = counts_lib.conformal_sets(sample, risk, is_marginal=True)
    yield row(sample, 'conformal, marginal', risk, found, nominal=alpha)
  if case.pool.scores.shape[1] > 1:
    rows = case.draw(plan.num_joint, size, plan.seed)
    pool, truth = (joint_lib.by_steps(x) for x in (case.pool, case.truth))
    risks = losses(plan, test)
    found = joint_lib.searched(pool, truth, rows, risks)
    for risk, verdict in zip(risks, found, strict=True):
      yield row(sample, 'early and late steps', risk, verdict)


def of_routes(case: joint_lib.Case, plan: Plan, size: int) -> Iterator[Row]:
  """Yields the rows of a joint calibration with one threshold per route."""
  rows = data_lib.draw(case.pool.weights, plan.num_joint, size, plan.seed)
  risks = losses(plan, 'binomial')
  found = joint_lib.searched(case.pool, case.pool, rows, risks)
  about = About(case, size)
  for risk, verdict in zip(risks, found, strict=True):
    yield row(about, 'a threshold per route', risk, verdict)


def of_rollouts(
    case: rollouts_lib.Rollouts, plan: Plan, size: int
) -> Iterator[Row]:
  """Yields the rows of rollouts, and of the off-policy interval."""
  sample = rollouts_lib.Sample(case, plan.num_splits, size, plan.seed)
  for risk in losses(plan, 'binomial'):
    found = counts_lib.tested(sample, risk)
    yield row(sample, 'rollouts, fixed sequence', risk, found)
    yield row(sample, 'picked loss', risk, counts_lib.picked(sample, risk))
  for delta in plan.deltas:
    for share, budget in _budgets(sample, len(plan.alphas)):
      cost = Risk('cost', budget, delta, counts_lib.COST_CAP)
      cost = dataclasses.replace(cost, p_value='hoeffding_bentkus')
      for name, count in (
          ('rollouts, cost', counts_lib.tested),
          ('picked cost', counts_lib.picked),
      ):
        yield row(sample, name, cost, count(sample, cost), setting=share)
  risks = losses(plan, 'auto')
  found = rollouts_lib.intervals(
      case.protocol, risks, plan.num_joint, size, plan.seed
  )
  for risk, verdict in zip(risks, found, strict=True):
    yield row(sample, 'off-policy interval', risk, verdict)


def losses(plan: Plan, test: str) -> list[Risk]:
  """Returns a risk of loss for every level and delta of a plan."""
  return [
      Risk('loss', alpha, delta, p_value=test)
      for delta in plan.deltas
      for alpha in plan.alphas
  ]


def _budgets(sample: counts_lib.Sample, num: int) -> list[tuple[str, float]]:
  """Returns `num` budgets: (share of the way, cost).

  The way is from the small model's cost to 1, the large model's.
  """
  small = sample.truth['paid'][-1]
  chosen = _BUDGETS if num == len(_BUDGETS) else _BUDGETS[1::2][:num]
  return [(f'{x:.0%}', float(small + x * (1 - small))) for x in chosen]


def _of_loss(sample, coarse, risk) -> Iterator[Row]:
  """Yields the rows of one promise of loss, by every procedure."""
  hoeffding = dataclasses.replace(risk, p_value='hoeffding_bentkus')
  betting = dataclasses.replace(risk, p_value='betting')
  yield row(sample, 'fixed sequence', risk, counts_lib.tested(sample, risk))
  found = counts_lib.tested(sample, risk, 'bonferroni')
  yield row(sample, 'Bonferroni', risk, found)
  if hoeffding != risk:
    found = counts_lib.tested(sample, hoeffding)
    yield row(sample, 'Hoeffding-Bentkus', hoeffding, found)
  yield row(coarse, 'betting', betting, counts_lib.tested(coarse, betting))
  yield row(sample, 'groups', risk, counts_lib.grouped(sample, risk))
  yield row(sample, 'conformal', risk, counts_lib.conformal_sets(sample, risk))
  keeps = sample.truth['loss'] <= risk.level
  # The cheapest true budget plus 20 %: with less, few samples could promise
  # both.
  budget = 1.2 * float(sample.truth['paid'][keeps].min())
  cost = Risk(
      'cost',
      min(budget, 0.9 * counts_lib.COST_CAP),
      risk.delta,
      counts_lib.COST_CAP,
      'hoeffding_bentkus',
  )
  found = counts_lib.both(sample, risk, cost)
  yield row(sample, 'loss and cost: loss', risk, found)
  found = counts_lib.both(sample, cost, risk)
  setting = f'{risk.level:g}'
  yield row(sample, 'loss and cost: cost', cost, found, setting=setting)
  yield row(sample, 'picked loss', risk, counts_lib.picked(sample, risk))


def _of_cost(sample, coarse, risk, share) -> Iterator[Row]:
  """Yields the rows of one promise of cost, by every procedure."""
  hoeffding = dataclasses.replace(risk, p_value='hoeffding_bentkus')
  for name, own, promise, count in (
      ('cost, Hoeffding-Bentkus', sample, hoeffding, counts_lib.tested),
      ('cost, betting', coarse, risk, counts_lib.tested),
      ('picked cost', sample, risk, counts_lib.picked),
  ):
    yield row(own, name, promise, count(own, promise), setting=share)


@dataclasses.dataclass(frozen=True)
class About:
  """The part of a sample that a row records: the case, and n."""

  case: Any
  n: int


def row(
    sample: counts_lib.Sample | About,
    procedure: str,
    risk: Risk,
    verdict: counts_lib.Verdict,
    *,
    nominal: float | None = None,
    setting: str | None = None,
) -> Row:
  """Returns one cell as a row.

  Args:
    sample: the samples, or what a row records of them.
    procedure: its name.
    risk: what was promised.
    verdict: what became of the samples.
    nominal: probability with which a promise may be broken; None = delta.
    setting: name of the level within the plan; None = the level itself.

  Returns:
    Among others: `broken` and `refused`, how many of `splits` samples; `ratio`,
    the mean true cost of the promised points over the cheapest true one; and
    `p_value`, the probability of at least `broken` broken promises if each is
    broken with probability `nominal` (exact binomial).
  """
  nominal = risk.delta if nominal is None else nominal
  splits, broken = len(verdict.broken), int(verdict.broken.sum())
  made = ~verdict.refused  # A promise was made.
  cost = float(verdict.cost[made].mean()) if made.any() else np.nan
  ratio = cost / verdict.best
  finite = lambda x: float(x) if np.isfinite(x) else None
  return {
      'case': sample.case.name,
      'kind': sample.case.kind,
      'procedure': procedure,
      'quantity': risk.quantity,
      'level': risk.level,
      'setting': setting or f'{risk.level:g}',
      'delta': nominal,
      'n': sample.n,
      'splits': splits,
      'broken': broken,
      'refused': int(verdict.refused.sum()),
      'cost': finite(cost),
      'best': finite(verdict.best),
      'ratio': finite(ratio),
      # P(X >= broken) with X ~ Binomial(splits, nominal).
      'p_value': float(stats.binom.sf(broken - 1, splits, nominal)),
  }


def judge(rows: Sequence[Row]) -> list[Row]:
  """Returns the cells whose promise is broken more often than it may be.

  Bonferroni over all cells except those of `PLAIN`, which promise nothing: if
  all promises are kept, the list is empty with probability 1 - `FAMILY`.
  """
  promised = [x for x in rows if x['procedure'] not in PLAIN]
  return [x for x in promised if x['p_value'] < FAMILY / len(promised)]
