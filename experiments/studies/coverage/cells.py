"""All cells of the count: case x procedure x level x delta x sample size."""

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
    0.01  # Chance that any true promise of the whole table is called broken.
)
PLAIN = ('picked loss', 'picked cost')
_BUDGETS = (0.2, 0.4, 0.6, 0.8)  # Of the way from the small model's cost to 1.
_NUM_BETS = 16

Risk = risks_lib.Risk
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is counted.

  alphas, deltas, sizes: of the cells.
  num_splits: S, samples of each cell.
  num_joint: samples of the procedure that runs them one by one.
  num_bets: samples of the bets, which are dear.
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
  """A thinner grid, about a minute."""
  return Plan(
      alphas=(0.05, 0.2),
      deltas=(0.1,),
      num_splits=200,
      num_joint=50,
      num_bets=50,
  )


def of_ladders(case: data_lib.Case, plan: Plan, size: int) -> Iterator[Row]:
  """Rows of a case, one per procedure and cell; see `row`."""
  is_binary = bool(np.isin(case.pool.outcomes.loss, (0.0, 1.0)).all())
  test = 'binomial' if is_binary else 'hoeffding_bentkus'
  sample = counts_lib.Sample(case, plan.num_splits, size, plan.seed)
  step = max(len(case.grid) // _NUM_BETS, 1)
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
    # A marginal promise has no delta; it is missed with a chance of alpha.
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
  """Rows of a threshold per larger route."""
  rows = data_lib.draw(case.pool.weights, plan.num_joint, size, plan.seed)
  risks = losses(plan, 'binomial')
  found = joint_lib.searched(case.pool, case.pool, rows, risks)
  about = About(case, size)
  for risk, verdict in zip(risks, found, strict=True):
    yield row(about, 'a threshold per route', risk, verdict)


def of_rollouts(
    case: rollouts_lib.Rollouts, plan: Plan, size: int
) -> Iterator[Row]:
  """Rows of rollouts at each threshold, and of the off-policy interval."""
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
  """Every level and delta of a plan."""
  return [
      Risk('loss', alpha, delta, p_value=test)
      for delta in plan.deltas
      for alpha in plan.alphas
  ]


def _budgets(sample: counts_lib.Sample, num: int) -> list[tuple[str, float]]:
  """Shares of the way from the small model's cost to 1, and what they are."""
  small = sample.truth['paid'][-1]
  chosen = _BUDGETS if num == len(_BUDGETS) else _BUDGETS[1::2][:num]
  return [(f'{x:.0%}', float(small + x * (1 - small))) for x in chosen]


def _of_loss(sample, coarse, risk) -> Iterator[Row]:
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
  # A budget with a fifth to spare, or few samples could promise both.
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
  hoeffding = dataclasses.replace(risk, p_value='hoeffding_bentkus')
  for name, own, promise, count in (
      ('cost, Hoeffding-Bentkus', sample, hoeffding, counts_lib.tested),
      ('cost, betting', coarse, risk, counts_lib.tested),
      ('picked cost', sample, risk, counts_lib.picked),
  ):
    yield row(own, name, promise, count(own, promise), setting=share)


@dataclasses.dataclass(frozen=True)
class About:
  """What a row says of its sample: the case, and n."""

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
  """One cell: `broken` and `refused` of `splits` samples, cost, `p_value`.

  `p_value` is the chance of so many broken promises or more, if each sample
  breaks its own with a chance of `nominal` (delta if None): exact, binomial.
  `ratio` is the mean true cost of the promised points over the best there is;
  `setting` names the level within the plan (alpha if None).
  """
  nominal = risk.delta if nominal is None else nominal
  splits, broken = len(verdict.broken), int(verdict.broken.sum())
  made = ~verdict.refused
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
      'p_value': float(stats.binom.sf(broken - 1, splits, nominal)),
  }


def judge(rows: Sequence[Row]) -> list[Row]:
  """The cells whose count cannot be the binomial error of a kept promise.

  Bonferroni over all cells but those of plain picks, which promise nothing:
  with probability 1 - `FAMILY` not one true promise is in the list.
  """
  promised = [x for x in rows if x['procedure'] not in PLAIN]
  return [x for x in promised if x['p_value'] < FAMILY / len(promised)]
