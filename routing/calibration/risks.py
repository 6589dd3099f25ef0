"""Risks, and which of many candidates are proven to keep them.

A risk is a mean that must not exceed a level: of relative loss, or of cost. For
each candidate (a threshold, or several together) 'its risk is above the level'
is a hypothesis; a candidate whose hypothesis is rejected is *proven*. With
probability 1 - delta every proven candidate keeps the risk, so that any of them
may be picked afterwards, by any rule, on the same sample.

Three ways to test many hypotheses with one delta:

- `fixed_sequence`: one after another, safest first, each at the full delta, up
  to the first that is not rejected. Costs nothing per candidate, but the order
  must have been fixed without the sample.
- `bonferroni`: each of all K at delta / K, in no order; for risks that rise and
  fall along the candidates.
- `growing`: a fixed sequence whose sample may grow and be tested again, with a
  test of its own; see `growing` for what must be fixed beforehand.

Several risks are each proven at their own delta and in their own order; a
candidate counts if it is proven for all. Each promise then holds with its own
1 - delta, and all together with 1 - the sum (`shared` divides one delta).

The probability is over calibration samples. It does not cover testing a sample
again after adding to it (`growing` does), or choosing among several proven
points or seeds (`corrected` does).
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from routing.calibration import bounds
from routing.calibration import growing
from routing.calibration import sample_size
from routing.outcomes import refusal
from routing.routers import promises

QUANTITIES = ('loss', 'cost')
P_VALUES = ('auto', 'binomial', 'hoeffding_bentkus', 'betting')
PROCEDURES = ('fixed_sequence', 'bonferroni', 'growing')
Refusal = refusal.Refusal


@dataclasses.dataclass(frozen=True)
class Risk:
  """A mean that must be at most `level`, but for a chance of `delta`.

  quantity: of `QUANTITIES`.
  level: the mean allowed, in (0, cap).
  delta: chance that the promise is broken, in (0, 1), at which it is tested.
  cap: what is above it counts as this. Without one nothing can be promised of a
    mean: a problem too rare for any sample may cost any amount. 1 for a loss.
  p_value: 'binomial' (exact; every value is 0 or 1), 'hoeffding_bentkus',
    'betting' (any values in [0, cap]), or 'auto': binomial if all values are 0
    or 1, otherwise Hoeffding-Bentkus. 'auto' decides by what is in the table,
    which is no choice where each outcome is one answer, right or wrong. Where
    several answers are averaged, name the test.
  num_joint: how many risks share one delta, this one included; see `shared`.
  num_choices: how many proven points or seeds somebody may choose among, each
    with this delta; see `corrected`.

  Raises:
    ValueError: on a value that is not allowed.
  """

  quantity: str
  level: float
  delta: float
  cap: float = 1.0
  p_value: str = 'auto'
  num_joint: int = 1
  num_choices: int = 1

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
    _check_number('num_joint', self.num_joint)
    _check_number('num_choices', self.num_choices)

  @property
  def name(self) -> str:
    """What is promised, e.g. 'loss<=0.05@0.9'."""
    return promises.name_of([self])

  def to_json(self) -> dict[str, Any]:
    """What is promised, as `promises.claim` reads it."""
    content = {'what': self.quantity, 'level': self.level, 'delta': self.delta}
    return content | ({'cost_cap': self.cap} if self.quantity == 'cost' else {})

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


def _check_in(name: str, value: str, allowed: Sequence[str]) -> None:
  if value not in allowed:
    raise ValueError(
        f'Unknown {name} {value!r}; allowed: {", ".join(allowed)}.'
    )


def _check_number(name: str, value: int) -> None:
  if not (isinstance(value, (int, np.integer)) and value >= 1):
    raise ValueError(f'{name} must be an integer of at least 1, got {value}.')


def shared(risks: Sequence[Risk], delta: float) -> tuple[Risk, ...]:
  """The same risks, to be kept all at once with probability 1 - delta.

  By a union bound each of R risks is tested at delta / R. The name of a point
  has the one probability, e.g. 'loss<=0.05&cost<=0.6@0.9'.

  Args:
    risks: R of them; their own delta is replaced.
    delta: chance that any of the promises is broken, in (0, 1).
  """
  return tuple(
      dataclasses.replace(
          risk,
          delta=delta / len(risks) / risk.num_choices,
          num_joint=len(risks),
      )
      for risk in risks
  )


def corrected(risk: Risk | float, num_choices: int) -> Risk | float:
  """The same risk, or delta, for a choice among several proven points.

  Points, or seeds, are proven one by one. Whoever picks one of G by what it
  promised or showed has a promise of 1 - delta only if all G hold together, so
  each is tested at delta / G. Names keep the probability after the choice.

  Args:
    risk: a risk, or its delta alone.
    num_choices: G >= 1, all points that may be picked, refused ones included.

  Raises:
    ValueError: if `num_choices` is not an integer of at least 1.
  """
  _check_number('num_choices', num_choices)
  if not isinstance(risk, Risk):
    return risk / num_choices
  return dataclasses.replace(
      risk,
      delta=risk.delta / num_choices,
      num_choices=risk.num_choices * num_choices,
  )


def p_values(
    values: np.ndarray, risk: Risk, procedure: str = 'fixed_sequence'
) -> np.ndarray:
  """Evidence against 'the mean is above the level', candidate by candidate.

  Args:
    values: `[K, n]` float >= 0, the risk's quantity on n independent problems.
    risk: level, cap and test; its delta sizes the bets of 'betting'.
    procedure: of `PROCEDURES`; 'growing' has a test of its own, for which
      problems must stand in their order of arrival.

  Returns:
    `[K]` valid p-values.

  Raises:
    ValueError: if 'binomial' is asked for values other than 0 and 1.
  """
  scaled = risk.scaled(np.asarray(values, np.float64))
  level, n = risk.level / risk.cap, scaled.shape[1]
  if procedure == 'growing':
    return growing.p_value(scaled, level)
  test = risk.settled(values).p_value
  if test == 'betting':
    # Problems may come sorted, e.g. by subject, which only betting depends on.
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

  Source: Angelopoulos et al. 2021, "Learn then Test", section 2.2, one start.
  """
  is_kept = np.asarray(p_values) > delta
  return int(np.argmax(is_kept)) if is_kept.any() else len(p_values)


def check_size(
    risk: Risk, delta: float, num: int, procedure: str = 'fixed_sequence'
) -> None:
  """Refuses a promise that not even a mean of 0 would prove.

  Args:
    risk: level and cap.
    delta: at which one hypothesis is tested.
    num: problems at hand, >= 0.
    procedure: of `PROCEDURES`.

  Raises:
    Refusal: if `num` is too small.
  """
  least = sample_size.minimum(risk.level / risk.cap, delta, procedure)
  if num < least:
    raise Refusal(
        f'{promises.claim(risk)} takes {least} trajectories or more, even at a '
        f'mean of 0; got {num}.',
        least,
        note=sample_size.note(procedure),
    )


@dataclasses.dataclass(frozen=True)
class Proof:
  """`[K]` bool `is_proven` and `[K]` `p_values` of one risk.

  risk: the risk, its test settled.
  delta: at which each single hypothesis was tested.
  procedure: of `PROCEDURES`.
  """

  risk: Risk
  delta: float
  is_proven: np.ndarray
  p_values: np.ndarray
  procedure: str = 'fixed_sequence'

  @property
  def test(self) -> str:
    """How the p-values were had: of `P_VALUES`, or 'growing'."""
    return 'growing' if self.procedure == 'growing' else self.risk.p_value


def prove(
    values: np.ndarray,
    risk: Risk,
    order: np.ndarray,
    procedure: str = 'fixed_sequence',
) -> Proof:
  """Which candidates keep one risk, all together with probability 1 - delta.

  Args:
    values: `[K, n]` float >= 0, the risk's quantity: K candidates, fixed before
      these n independent problems came; 'growing' takes these in their order
      of arrival.
    risk: what is to be proven.
    order: `[K]` int, candidates, safest first, fixed likewise.
    procedure: of `PROCEDURES`; 'bonferroni' takes no notice of the order.

  Raises:
    Refusal: if n is too small for any candidate, or none is proven.
    ValueError: on an unknown procedure.
  """
  _check_in('procedure', procedure, PROCEDURES)
  risk = risk.settled(values)
  delta = risk.delta
  if procedure == 'bonferroni':
    delta /= len(values)
  check_size(risk, delta, values.shape[1], procedure)
  found = p_values(values, dataclasses.replace(risk, delta=delta), procedure)
  is_proven = found <= delta
  if procedure != 'bonferroni':
    is_proven = np.zeros(len(values), bool)
    is_proven[order[: fixed_sequence(found[order], delta)]] = True
  if not is_proven.any():
    best = np.argmin(found) if procedure == 'bonferroni' else order[0]
    raise _refusal(values[best], risk, delta, procedure)
  return Proof(risk, delta, is_proven, found, procedure)


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
  is_proven = np.all([proof.is_proven for proof in proofs], axis=0)
  if is_proven.any():
    return np.flatnonzero(is_proven), proofs
  names = ' and '.join(map(promises.claim, risks))
  number = _needed_together(values, proofs)
  num_problems = values[risks[0].quantity].shape[1]
  raise Refusal(
      f'{names} can each be promised from {num_problems} trajectories, but of '
      f'no single threshold; {sample_size.advice(number)}.',
      number,
      note=sample_size.note(procedure),
  )


def num_needed(
    values: np.ndarray,
    risk: Risk,
    delta: float,
    procedure: str = 'fixed_sequence',
) -> int | None:
  """About how many problems like these prove one candidate; None = no number.

  Args:
    values: `[n]` float >= 0, the risk's quantity at the candidate.
    risk: level, cap and test.
    delta: of this hypothesis alone.
    procedure: of `PROCEDURES`.
  """
  test = procedure if procedure == 'growing' else risk.p_value
  return sample_size.needed(
      risk.scaled(values), risk.level / risk.cap, delta, test
  )


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
        num_needed(values[x.risk.quantity][k], x.risk, x.delta, x.procedure)
        for x in proofs
    ]
    if None not in each:
      totals.append(max(each))
  return min(totals, default=None)


def _refusal(
    values: np.ndarray, risk: Risk, delta: float, procedure: str
) -> Refusal:
  number = num_needed(values, risk, delta, procedure)
  mean = risk.scaled(values).mean() * risk.cap
  return Refusal(
      f'{promises.claim(risk)} cannot be promised from {len(values)} '
      f'trajectories: the safest threshold has mean {risk.quantity} '
      f'{mean:.4f}; {sample_size.advice(number)}.',
      number,
      note=sample_size.note(procedure),
  )
