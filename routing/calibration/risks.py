"""Risks, and which of many candidates are proven to keep them.

A risk is a mean that must not exceed a level: of relative loss, or of cost. For
each candidate (a threshold, or several together) 'its risk is above the level'
is a hypothesis; a candidate whose hypothesis is rejected is *proven*. With
probability 1 - delta every proven candidate keeps the risk, so that any of them
may be picked afterwards, by any rule, on the same sample.

Two ways to test many hypotheses with one delta:

- `fixed_sequence`: one after another, safest first, each at the full delta, up
  to the first that is not rejected. Costs nothing per candidate, but the order
  must have been fixed without the sample.
- `bonferroni`: each at delta / K, in no order; for risks that rise and fall
  along the candidates. K counts all candidates, tried or not.
- `growing`: a fixed sequence by evidence that is valid at every sample size
  (`calibration.growing`): the one way to go on with a sample after a refusal.

Several risks are proven each by itself, at its own delta and in its own order;
a candidate counts if it is proven for all. Each promise then holds with its own
1 - delta, all together with 1 - the sum; `shared` gives risks whose promises
hold together with 1 - delta. Whoever proves several points or seeds and chooses
among them afterwards needs `corrected` ones.

The chance is over samples: with probability 1 - delta a sample leads to a
promise that is kept or to a refusal. Nothing sharper is known once it was not
refused, and whoever calibrates many times until one is not has no promise. A
refusal says how many problems a *fresh* sample needs.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math

import numpy as np

from routing.calibration import bounds
from routing.calibration import growing
from routing.outcomes import refusal
from routing.routers import promise_text

QUANTITIES = ('loss', 'cost')
P_VALUES = ('auto', 'binomial', 'hoeffding_bentkus', 'betting')
PROCEDURES = ('fixed_sequence', 'bonferroni', 'growing')
Refusal = refusal.Refusal


@dataclasses.dataclass(frozen=True)
class Risk:
  """A mean that must be at most `level`, but for a chance of `delta`.

  quantity: of `QUANTITIES`.
  level: the mean allowed, in (0, cap).
  delta: chance that the promise is broken, in (0, 1).
  cap: what is above it counts as this. Without one nothing can be promised of a
    mean: a problem too rare for any sample may cost any amount. 1 for a loss.
  p_value: 'binomial' (exact; every value is 0 or 1), 'hoeffding_bentkus',
    'betting' (any values in [0, cap]), or 'auto': binomial if all values are 0
    or 1, otherwise Hoeffding-Bentkus. 'auto' decides by what is in the table,
    which is no choice where each outcome is one answer, right or wrong. Where
    several answers are averaged, name the test.
  share: the hypothesis is tested at delta / share, so that `share` promises
    hold together with 1 - delta.

  Raises:
    ValueError: on a value that is not allowed.
  """

  quantity: str
  level: float
  delta: float
  cap: float = 1.0
  p_value: str = 'auto'
  share: int = 1

  def __post_init__(self):
    _check_in('quantity', self.quantity, QUANTITIES)
    _check_in('p_value', self.p_value, P_VALUES)
    if not 0 < self.delta < 1:
      raise ValueError(f'delta must be in (0, 1), got {self.delta}.')
    if not (math.isfinite(self.cap) and 0 < self.level < self.cap):
      raise ValueError(
          f'The level of {self.quantity} must be in (0, {self.cap}), got '
          f'{self.level}.'
      )

  @property
  def tested_at(self) -> float:
    """The level of significance of this hypothesis."""
    return self.delta / self.share

  @property
  def name(self) -> str:
    """What is promised, e.g. 'loss<=0.05@0.9'."""
    return f'{self.quantity}<={self.level:g}@{1 - self.delta:g}'

  def scaled(self, values: np.ndarray) -> np.ndarray:
    """The values, capped, as fractions of the cap."""
    return np.minimum(values, self.cap) / self.cap

  def settled(self, table: np.ndarray) -> 'Risk':
    """The same with a test in the place of 'auto', for a table of values.

    The whole table, not the entries that some threshold leads to: which test is
    used must not depend on where the scores lead.
    """
    if self.p_value != 'auto':
      return self
    is_binary = bool(np.isin(self.scaled(table), (0.0, 1.0)).all())
    return dataclasses.replace(
        self, p_value='binomial' if is_binary else 'hoeffding_bentkus'
    )


def shared(risks: Sequence[Risk]) -> tuple[Risk, ...]:
  """The risks at levels that hold together with the probability of each.

  A union bound: of R risks each is tested at delta / R.
  """
  return corrected(risks, len(risks))


def corrected(risks: Sequence[Risk], num_choices: int) -> tuple[Risk, ...]:
  """The risks at levels that hold for whichever of several points is chosen.

  Args:
    risks: promised of every point.
    num_choices: proven points, or seeds, that are chosen among afterwards.

  Raises:
    ValueError: if `num_choices` is below 1.
  """
  if num_choices < 1:
    raise ValueError(f'num_choices is {num_choices}; allowed: >= 1.')
  return tuple(
      dataclasses.replace(x, share=x.share * num_choices) for x in risks
  )


def _check_in(name: str, value: str, allowed: Sequence[str]) -> None:
  if value not in allowed:
    raise ValueError(
        f'Unknown {name} {value!r}; allowed: {", ".join(allowed)}.'
    )


def p_values(values: np.ndarray, risk: Risk) -> np.ndarray:
  """Evidence against 'the mean is above the level', candidate by candidate.

  Args:
    values: `[K, n]` float >= 0, the risk's quantity on n independent problems.
    risk: level, cap and test; its delta sizes the bets of 'betting'.

  Returns:
    `[K]` valid p-values.

  Raises:
    ValueError: if 'binomial' is asked for values other than 0 and 1.
  """
  scaled = risk.scaled(np.asarray(values, np.float64))
  level, n = risk.level / risk.cap, scaled.shape[1]
  test = risk.settled(values).p_value
  if test == 'betting':
    # Rows may come sorted, by subject say; betting alone minds. One order for
    # all, drawn without looking, keeps independent draws what they are.
    order = np.random.default_rng(0).permutation(n)
    return bounds.betting_p_value(scaled[:, order], level, risk.delta)
  if test == 'hoeffding_bentkus':
    # Rounding may put a mean a hair outside; the values themselves are inside.
    mean = np.clip(scaled.mean(axis=1), 0.0, 1.0)
    return bounds.hoeffding_bentkus_p_value(mean, n, level)
  if not np.isin(scaled, (0.0, 1.0)).all():
    raise ValueError(
        f'The binomial test of {risk.quantity} takes values of 0 and '
        f'{risk.cap:g} alone; use hoeffding_bentkus or betting.'
    )
  return bounds.binomial_p_value(scaled.sum(axis=1), n, level)


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


def check_size(risk: Risk, delta: float, num: int) -> None:
  """Refuses a promise that not even a mean of 0 would prove.

  Args:
    risk: level and cap.
    delta: at which one hypothesis is tested.
    num: problems at hand, >= 0.

  Raises:
    Refusal: if `num` is too small.
  """
  least = bounds.trajectories_needed(0.0, risk.level / risk.cap, delta)
  if num < least:
    raise Refusal(
        f'{_words(risk)} takes {least} problems or more, even at a mean of 0; '
        f'got {num}. It takes {FRESH}.',
        least,
    )


@dataclasses.dataclass(frozen=True)
class Proof:
  """`[K]` bool `is_proven` and `[K]` `p_values` of one risk.

  risk: the risk, its test settled.
  delta: at which each single hypothesis was tested.
  """

  risk: Risk
  delta: float
  is_proven: np.ndarray
  p_values: np.ndarray


def prove(
    values: np.ndarray,
    risk: Risk,
    order: np.ndarray,
    procedure: str = 'fixed_sequence',
) -> Proof:
  """Which candidates keep one risk, all together with probability 1 - delta.

  Args:
    values: `[K, n]` float >= 0, the risk's quantity: K candidates, fixed before
      these n independent problems came.
    risk: what is to be proven.
    order: `[K]` int, candidates, safest first, fixed likewise.
    procedure: of `PROCEDURES`; 'bonferroni' takes no notice of the order.

  Raises:
    Refusal: if n is too small for any candidate, or none is proven.
    ValueError: on an unknown procedure.
  """
  _check_in('procedure', procedure, PROCEDURES)
  risk = risk.settled(values)
  delta = risk.tested_at
  if procedure == 'bonferroni':
    delta /= len(values)
  check_size(risk, delta, values.shape[1])
  if procedure == 'growing':
    scaled = risk.scaled(np.asarray(values, np.float64))
    found = growing.p_values(scaled, risk.level / risk.cap, delta)
  else:
    found = p_values(values, dataclasses.replace(risk, delta=delta, share=1))
  is_proven = found <= delta
  if procedure != 'bonferroni':
    is_proven = np.zeros(len(values), bool)
    is_proven[order[: fixed_sequence(found[order], delta)]] = True
  if not is_proven.any():
    best = np.argmin(found) if procedure == 'bonferroni' else order[0]
    raise _refusal(values[best], risk, delta)
  return Proof(risk, delta, is_proven, found)


def prove_all(
    values: Mapping[str, np.ndarray],
    risks: Sequence[Risk],
    orders: Mapping[str, np.ndarray],
    procedure: str = 'fixed_sequence',
) -> tuple[np.ndarray, list[Proof]]:
  """The candidates proven for every risk, and the proof of each.

  Args:
    values: by quantity, `[K, n]` float >= 0; see `prove`.
    risks: one or several.
    orders: by quantity, `[K]` int, candidates, safest first.
    procedure: of `PROCEDURES`, for each.

  Returns:
    Indices of the candidates, rising, at least one; and a `Proof` per risk.

  Raises:
    Refusal: if no candidate is proven for all.
  """
  proofs = [
      prove(values[risk.quantity], risk, orders[risk.quantity], procedure)
      for risk in risks
  ]
  shared = np.all([proof.is_proven for proof in proofs], axis=0)
  if shared.any():
    return np.flatnonzero(shared), proofs
  names = ' and '.join(risk.name for risk in risks)
  number = _needed_together(values, proofs)
  num_problems = values[risks[0].quantity].shape[1]
  raise Refusal(
      f'{names} can each be promised from {num_problems} problems, but of '
      f'no single threshold; {_remedy(number)}.',
      number,
  )


def _words(risk: Risk) -> str:
  cap = risk.cap if risk.quantity == 'cost' else None
  return promise_text.statement(risk.quantity, risk.level, risk.delta, cap)


FRESH = (
    'a fresh sample of so many: to add to this one and test again is not '
    "covered, except by the procedure 'growing'"
)


def _remedy(needed: int | None) -> str:
  if needed is None:
    return 'at these means no number of problems would do'
  return f'at these means it takes about {needed} problems, {FRESH}'


def num_needed(values: np.ndarray, risk: Risk, delta: float) -> int | None:
  """About how many problems like these prove one candidate; None = no number.

  Args:
    values: `[n]` float >= 0, the risk's quantity at the candidate.
    risk: level, cap and test.
    delta: of this hypothesis alone.
  """
  scaled, level = risk.scaled(values), risk.level / risk.cap
  if risk.p_value == 'betting':
    return bounds.betting_trajectories_needed(scaled, level, delta)
  return bounds.trajectories_needed(float(scaled.mean()), level, delta)


def _needed_together(
    values: Mapping[str, np.ndarray], proofs: Sequence[Proof]
) -> int | None:
  """The least over candidates of the most over risks; None = no number."""
  is_within = np.all(
      [
          x.risk.scaled(values[x.risk.quantity]).mean(axis=1) * x.risk.cap
          < x.risk.level
          for x in proofs
      ],
      axis=0,
  )
  totals = []
  for k in np.flatnonzero(is_within):
    each = [
        num_needed(values[x.risk.quantity][k], x.risk, x.delta) for x in proofs
    ]
    if None not in each:
      totals.append(max(each))
  return min(totals, default=None)


def _refusal(values: np.ndarray, risk: Risk, delta: float) -> Refusal:
  number = num_needed(values, risk, delta)
  mean = risk.scaled(values).mean() * risk.cap
  return Refusal(
      f'{_words(risk)} cannot be promised from {len(values)} problems: the '
      f'safest threshold has mean {risk.quantity} {mean:.4f}; '
      f'{_remedy(number)}.',
      number,
  )
