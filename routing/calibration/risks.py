"""Risks, and the tests that prove which candidates keep them.

A risk is the mean relative loss, or the mean cost, that must not exceed a
level. A candidate is a threshold, or several thresholds set together. Its null
hypothesis is 'the mean at this candidate is above the level'. A candidate whose
hypothesis is rejected is *proven* (to keep the risk). With probability 1 -
delta every proven candidate keeps the risk. So any proven candidate may be
picked, by any rule, on the same sample.

Three procedures control the family-wise error at delta:

- `fixed_sequence`: tests in a fixed order, safest first, each at the full
  delta, up to the first hypothesis that is not rejected. More candidates cost
  nothing, but the order must be fixed without the sample.
- `bonferroni`: tests each of K candidates at delta / K, in any order; for risks
  that rise and fall along the candidates.
- `growing`: a fixed sequence with a test that stays valid while the sample
  grows; the module `growing` says what must be fixed beforehand.

Several risks are each tested at their own delta and in their own order; a
candidate must be proven for every risk. Each promise holds with its own
probability 1 - delta, and all of them together with 1 - the sum of the deltas
(`shared` splits one delta).

The probability is over calibration samples. It does not cover testing a sample
again after adding problems (use `growing`), or choosing among several proven
operating points or training seeds (use `corrected`).
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
num_needed = sample_size.num_needed


@dataclasses.dataclass(frozen=True)
class Risk:
  """A mean that must be at most `level`, except with probability `delta`.

  quantity: whose mean is bounded, one of `QUANTITIES`.
  level: the largest mean allowed, in (0, cap).
  delta: probability that the promise is broken, in (0, 1).
  cap: values above the cap count as the cap; 1 for a loss.
  p_value: the test: 'binomial' (exact; every value is 0 or the cap),
    'hoeffding_bentkus', 'betting' (both for any values in [0, cap]), or 'auto':
    binomial if all values are 0 or the cap, otherwise Hoeffding-Bentkus. 'auto'
    depends on the data, so name the test where a problem's value averages
    several answers.
  num_joint: number of risks that share one delta, this one included; see
    `shared`.
  num_choices: number of proven operating points or training seeds to choose
    among afterwards, each tested at this delta; see `corrected`.

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
    # Without a finite cap no sample bounds a mean: a problem too rare to be
    # sampled may have any cost.
    if not (math.isfinite(self.cap) and 0 < self.level < self.cap):
      raise ValueError(
          f'The level of {self.quantity} must be in (0, {self.cap}), got '
          f'{self.level}.'
      )
    _check_number('num_joint', self.num_joint)
    _check_number('num_choices', self.num_choices)

  @property
  def name(self) -> str:
    """The name of the promise, e.g. 'loss<=0.05@0.9'."""
    return promises.name_of([self])

  def to_json(self) -> dict[str, Any]:
    """Returns the promise in the form that `promises.claim` reads."""
    content = {'what': self.quantity, 'level': self.level, 'delta': self.delta}
    return content | ({'cost_cap': self.cap} if self.quantity == 'cost' else {})

  def scaled(self, values: np.ndarray) -> np.ndarray:
    """Returns `values` >= 0 capped and divided by the cap, hence in [0, 1]."""
    return np.minimum(values, self.cap) / self.cap

  def settled(self, table: np.ndarray) -> 'Risk':
    """Returns this risk with 'auto' replaced by a test that fits `table`.

    Args:
      table: the quantity's values, of any shape, for *all* stopping times.
    """
    if self.p_value != 'auto':
      return self
    # The whole table decides, not the entries that some threshold selects: the
    # choice of the test must not depend on the scores.
    is_binary = bool(np.isin(self.scaled(table), (0.0, 1.0)).all())
    return dataclasses.replace(
        self, p_value='binomial' if is_binary else 'hoeffding_bentkus'
    )


def _check_in(name: str, value: str, allowed: Sequence[str]) -> None:
  """Raises ValueError unless `value`, of the argument `name`, is allowed."""
  if value not in allowed:
    raise ValueError(
        f'Unknown {name} {value!r}; allowed: {", ".join(allowed)}.'
    )


def _check_number(name: str, value: int) -> None:
  """Raises ValueError unless the argument `name` is an integer >= 1."""
  if not (isinstance(value, (int, np.integer)) and value >= 1):
    raise ValueError(f'{name} must be an integer of at least 1, got {value}.')


def shared(risks: Sequence[Risk], delta: float) -> tuple[Risk, ...]:
  """Returns the risks, each at a share of one delta that covers all of them.

  With probability 1 - delta all promises hold together. The operating point's
  name states this one probability: 'loss<=0.05&cost<=0.6@0.9'.

  Args:
    risks: R risks; the delta of each is replaced.
    delta: probability that any of the promises is broken, in (0, 1).
  """
  return tuple(
      dataclasses.replace(
          risk,
          # Union bound over the R risks. A risk that went through `corrected`
          # before keeps its division by num_choices.
          delta=delta / len(risks) / risk.num_choices,
          num_joint=len(risks),
      )
      for risk in risks
  )


def corrected(risk: Risk | float, num_choices: int) -> Risk | float:
  """Returns the risk, or delta, corrected for a choice among proven points.

  Suppose somebody picks one of G proven points or seeds after seeing their
  promises or results. The picked promise holds with probability 1 - delta only
  if all G promises hold together, so each is tested at delta / G. The points'
  names state the probability after the choice, 1 - delta.

  Args:
    risk: a `Risk`, or a number, the delta of a risk.
    num_choices: G >= 1, the points that may be picked, refused ones included.

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
  """Returns `[K]` p-values of 'the mean is above the level', one per candidate.

  Args:
    values: `[K, n]` float >= 0, the risk's quantity on n independent problems.
    risk: gives level, cap and test, and the delta for the stakes of 'betting'.
    procedure: one of `PROCEDURES`; 'growing' has a test of its own and needs
      the problems in their order of arrival.

  Raises:
    ValueError: if the test is 'binomial' and a value is neither 0 nor the cap.
  """
  scaled = risk.scaled(np.asarray(values, np.float64))
  level, n = risk.level / risk.cap, scaled.shape[1]
  if procedure == 'growing':
    return growing.p_value(scaled, level)
  # `settled` changes nothing unless the caller left the test at 'auto'.
  test = risk.settled(values).p_value
  if test == 'betting':
    # Unlike the tests below, betting depends on the order, and problems may be
    # sorted, e.g. by subject. The fixed seed makes the p-value reproducible.
    order = np.random.default_rng(0).permutation(n)
    return bounds.betting_p_value(scaled[:, order], level, risk.delta)
  if test == 'hoeffding_bentkus':
    # Rounding may put the mean of values in [0, 1] slightly outside.
    mean = np.clip(scaled.mean(axis=1), 0.0, 1.0)
    return bounds.hoeffding_bentkus_p_value(mean, n, level)
  if not np.isin(scaled, (0.0, 1.0)).all():
    raise ValueError(
        f'The binomial test of {risk.quantity} needs every value to be 0 or '
        f'{risk.cap:g}; use hoeffding_bentkus or betting.'
    )
  return bounds.binomial_p_value(scaled.sum(axis=1), n, level)


def fixed_sequence(p_values: np.ndarray, delta: float) -> int:
  """Returns how many hypotheses are rejected before the first that is retained.

  Args:
    p_values: `[K]`, in an order fixed before the sample was seen.
    delta: family-wise error rate, in (0, 1).

  Source: Angelopoulos et al. 2021, "Learn then Test", section 2.2, with one
  starting point.
  """
  is_retained = np.asarray(p_values) > delta
  # argmax of all False is 0, which would mean that none is rejected.
  return int(np.argmax(is_retained)) if is_retained.any() else len(p_values)


def check_size(
    risk: Risk, delta: float, num: int, procedure: str = 'fixed_sequence'
) -> None:
  """Raises Refusal if `num` problems cannot prove the risk even at a mean of 0.

  Args:
    risk: gives level and cap.
    delta: level at which one hypothesis is tested, in (0, 1).
    num: number of problems in the sample, >= 0.
    procedure: one of `PROCEDURES`.

  Raises:
    Refusal: if `num` is too small.
  """
  minimum = sample_size.minimum(risk.level / risk.cap, delta, procedure)
  if num < minimum:
    raise Refusal(
        f'{promises.claim(risk)} needs at least {minimum} trajectories, even '
        f'at a mean of 0; got {num}.',
        minimum,
        note=sample_size.note(procedure),
    )


@dataclasses.dataclass(frozen=True)
class Proof:
  """The result of testing K candidates for one risk.

  risk: the risk, with the test that was used in place of 'auto'.
  delta: level at which each single hypothesis was tested, in (0, 1).
  is_proven: `[K]` bool, the candidate is proven to keep the risk.
  p_values: `[K]` float, of 'the mean at this candidate is above the level'.
  procedure: one of `PROCEDURES`.
  """

  risk: Risk
  delta: float
  is_proven: np.ndarray
  p_values: np.ndarray
  procedure: str = 'fixed_sequence'

  @property
  def test(self) -> str:
    """The test behind the p-values: one of `P_VALUES`, or 'growing'."""
    return 'growing' if self.procedure == 'growing' else self.risk.p_value


def prove(
    values: np.ndarray,
    risk: Risk,
    order: np.ndarray,
    procedure: str = 'fixed_sequence',
) -> Proof:
  """Tests every candidate for one risk, with family-wise error at most delta.

  Args:
    values: `[K, n]` float >= 0, the risk's quantity at K candidates, fixed
      before these n independent problems came; for 'growing' the problems are
      in order of arrival.
    risk: what is to be proven.
    order: `[K]` int, the candidates' indices, safest first; fixed before these
      problems came.
    procedure: one of `PROCEDURES`; 'bonferroni' ignores the order.

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
  # Stakes of 'betting' are sized for the delta of one hypothesis, which
  # Bonferroni has divided by K.
  found = p_values(values, dataclasses.replace(risk, delta=delta), procedure)
  # Bonferroni needs no more than this comparison.
  is_proven = found <= delta
  if procedure != 'bonferroni':
    # A small p-value after the first one above delta proves nothing: a fixed
    # sequence may test each hypothesis at the full delta only because it stops
    # at the first one that is retained.
    is_proven = np.zeros(len(values), bool)
    is_proven[order[: fixed_sequence(found[order], delta)]] = True
  if not is_proven.any():
    # The error reports the candidate that was nearest to being proven; a fixed
    # sequence has stopped at the first one of its order.
    best = np.argmin(found) if procedure == 'bonferroni' else order[0]
    raise _refusal(values[best], risk, delta, procedure)
  return Proof(risk, delta, is_proven, found, procedure)


def prove_all(
    values: Mapping[str, np.ndarray],
    risks: Sequence[Risk],
    orders: Mapping[str, np.ndarray],
    procedure: str = 'fixed_sequence',
) -> tuple[np.ndarray, list[Proof]]:
  """Returns the candidates that are proven for every risk, and the proofs.

  Args:
    values: by quantity, `[K, n]` float >= 0; see `prove`.
    risks: one or several.
    orders: by quantity, `[K]` int, the candidates' indices, safest first.
    procedure: one of `PROCEDURES`, used for each risk.

  Returns:
    Ascending indices of the candidates, at least one; and a `Proof` per risk.

  Raises:
    Refusal: if no candidate is proven for all risks.
  """
  proofs = [
      prove(values[risk.quantity], risk, orders[risk.quantity], procedure)
      for risk in risks
  ]
  # Each proof holds for all its proven candidates at once. So for the
  # candidates in every proof, all risks hold with 1 - the sum of the deltas.
  is_proven = np.all([proof.is_proven for proof in proofs], axis=0)
  if is_proven.any():
    return np.flatnonzero(is_proven), proofs
  names = ' and '.join(map(promises.claim, risks))
  number = sample_size.needed_together(values, proofs)
  num_problems = values[risks[0].quantity].shape[1]
  raise Refusal(
      f'{names} can each be promised from {num_problems} trajectories, but no '
      f'single threshold keeps them all; {sample_size.advice(number)}.',
      number,
      note=sample_size.note(procedure),
  )


def _refusal(
    values: np.ndarray, risk: Risk, delta: float, procedure: str
) -> Refusal:
  """Returns the error for a risk that no candidate is proven to keep.

  Args:
    values: `[n]`, the risk's quantity at the candidate that the error reports.
    risk, procedure: as in `prove`.
    delta: level at which one hypothesis was tested, in (0, 1).
  """
  number = num_needed(values, risk, delta, procedure)
  # The mean of capped values, since the promise is about capped values.
  mean = risk.scaled(values).mean() * risk.cap
  return Refusal(
      f'{promises.claim(risk)} cannot be promised from {len(values)} '
      f'trajectories: the safest threshold has mean {risk.quantity} '
      f'{mean:.4f}; {sample_size.advice(number)}.',
      number,
      note=sample_size.note(procedure),
  )
