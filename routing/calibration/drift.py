"""An alarm in service for a promise of loss that no longer holds.

A miss is an answer that the router lost (relative loss 1). The promise says
that the probability of a miss is at most alpha, whatever came before:
E[m_k | m_1..m_{k-1}] <= alpha for losses m_k in [0, 1] of graded answers in
service. A gambler bets against the promise. While the promise holds, no bet
gains money in expectation. After a shift of the miss rate the gambler's capital
grows, and its size is the evidence. The proof stands in the code of `update`.

**Bets.** A bet on rate r > alpha multiplies its money by

  b_r(m) = 1 + lambda (m - alpha),  lambda = (r - alpha) / (alpha (1 - alpha)),

i.e. by r / alpha after a miss and by (1 - r) / (1 - alpha) otherwise. The
factor b_r is never negative, and at most 1 in expectation while the promise
holds. The bet's money grows fastest if the rate of misses is r, and grows for
any rate well above alpha. The money is split over several rates; the best bet
soon has most of the capital.

**Late shifts.** If all money were bet from the first answer on, almost nothing
would be left after a long quiet time. So most of the money is kept in reserve.
Of a starting capital of 1, the share h / (h + k) is still in reserve after k
answers. The amount w_k = h / (h + k - 1) - h / (h + k) is taken from the
reserve and bet before answer k, the share s_r of it on rate r. The capital is

  M_k = h / (h + k) + sum_r A_k(r),    M_0 = 1,
  A_k(r) = (A_{k-1}(r) + s_r w_k) b_r(m_k).

**No false alarm, at any time.** The alarm is raised when M_k >= 1 / delta.
While the promise holds, the probability that this ever happens is at most
delta. Nothing is assumed about how answers depend on each other, and k is not
limited.

**Delay.** Money that is bet near the shift must grow from s_r w_k to 1 / delta.
So the alarm comes about log(1 / (delta s_r w_k)) / KL(r, alpha) answers after
the shift, or slightly sooner, as bets of neighbouring answers help. w_k falls
from 1 / h at first to h / k^2, so a quiet time ten times as long costs
2 log(10) / KL more answers. Some growth with log k is unavoidable: the
false-alarm probabilities of the windows k..2k, k = 1, 2, 4, ..., must sum to
delta at most. No alarm of any kind is fast where KL is small; `most_within`
bounds the speed of every possible alarm.

Sources: Ville 1939; Waudby-Smith and Ramdas 2024, "Estimating means of bounded
random variables by betting"; Shin, Ramdas, Rinaldo 2024, "E-detectors".
"""

from collections.abc import Mapping

import flax.struct
import numpy as np
import scipy

# Rates to bet on, as {rate - alpha: weight}; the money is split by weight. Half
# of the money bets on a shift of 0.1, which should be noticed soon. The rest
# bets on smaller shifts, in which the bet on 0.1 loses money, and on a larger
# one, which the bet on 0.1 notices late.
SHIFTS = {0.02: 1.0, 0.05: 2.0, 0.1: 4.0, 0.3: 1.0}


@flax.struct.dataclass
class State:
  """The capital of one alarm, or of an array `[...]` of alarms; float64 arrays.

  The state includes the settings, so that service needs to save nothing else
  (`flax.serialization.to_bytes`, `from_bytes`).

  count: `[]` k, the number of graded answers so far.
  table: `[..., L]` log A_k(r), the money on each of L rates after answer k.
  highest: `[...]` log of the largest M_k so far, 0 at first.
  alpha: `[]` the promised probability of a miss, in (0, 1).
  rates: `[L]` the rates that are bet on, in (alpha, 1).
  shares: `[L]` s_r, the shares of new bets, summing to 1.
  half_life: `[]` h: after h answers half of the reserve has been bet.
  """

  count: np.ndarray
  table: np.ndarray
  highest: np.ndarray
  alpha: np.ndarray
  rates: np.ndarray
  shares: np.ndarray
  half_life: np.ndarray


def init(
    alpha: float,
    *,
    shifts: Mapping[float, float] = SHIFTS,
    half_life: float = 3_000.0,
    streams: tuple[int, ...] = (),
) -> State:
  """Returns the state of an alarm before the first graded answer.

  Args:
    alpha: the promised probability of a miss, in (0, 1).
    shifts: the rates to bet on, as differences rate - alpha > 0, each with a
      weight > 0 by which the money is split. Rates of 1 or more are left out.
    half_life: h > 0, in answers. Shifts around answer h are noticed soonest.
    streams: the shape of an array of independent alarms; () for one alarm.

  Raises:
    ValueError: if an argument is outside its range, or no rate is below 1.
  """
  if not 0 < alpha < 1:
    raise ValueError(f'alpha must be in (0, 1), got {alpha}.')
  if not 0 < half_life < np.inf:
    raise ValueError(f'half_life must be in (0, inf), got {half_life}.')
  rates = alpha + np.array(list(shifts), np.float64)
  weights = np.array(list(shifts.values()), np.float64)[rates < 1]
  rates = rates[rates < 1]
  if not rates.size or np.any(rates <= alpha):
    raise ValueError(
        f'shifts must be in (0, 1 - alpha), 1 - alpha = {1 - alpha:g}, got '
        f'{tuple(shifts)}.'
    )
  if not np.all((weights > 0) & np.isfinite(weights)):
    raise ValueError(
        f'The weights of shifts must be in (0, inf), got {weights}.'
    )
  return State(
      count=np.float64(0),
      # Nothing is bet before the first answer: log 0.
      table=np.full((*streams, len(rates)), -np.inf),
      highest=np.zeros(streams),
      alpha=np.float64(alpha),
      rates=rates,
      shares=weights / weights.sum(),
      half_life=np.float64(half_life),
  )


def update(state: State, loss: np.ndarray | float) -> State:
  """Returns the state after one more graded answer.

  Args:
    state: the state before this answer.
    loss: `[...]` relative loss of the answer in [0, 1], 1 for a miss.

  Raises:
    ValueError: if a loss is outside [0, 1].
  """
  loss = np.asarray(loss, np.float64)
  if not np.all((loss >= 0) & (loss <= 1)):
    raise ValueError(f'loss must be in [0, 1], got {loss}.')
  state = state.replace(count=state.count + 1.0)
  # While the promise holds, E[b_r(m_k) | past] <= 1, so
  #   E[A_k(r) | past] <= A_{k-1}(r) + s_r w_k,
  #   E[M_k | past] <= h / (h + k) + w_k + sum_r A_{k-1}(r) = M_{k-1}.
  # M is a non-negative supermartingale that starts at 1. By Ville's inequality
  # P(some k has M_k >= 1 / delta) <= delta. New bets must be paid from the
  # reserve. The usual Shiryaev-Roberts statistic adds fresh money 1 before each
  # answer instead; its mean is k, so no bound holds for all k.
  after = state.half_life + state.count
  # s_r w_k = s_r h / ((h + k - 1) (h + k)). Written as a product, since the
  # difference of two close numbers would lose digits for large k.
  new_bets = state.shares * state.half_life / ((after - 1) * after)
  # `[L]` lambda, then `[..., L]` log b_r(m_k).
  bet = (state.rates - state.alpha) / (state.alpha * (1 - state.alpha))
  log_payoffs = np.log1p(bet * (loss - state.alpha)[..., None])
  # The capital is kept as a logarithm: after a lasting shift it would overflow
  # a float64.
  state = state.replace(
      table=np.logaddexp(state.table, np.log(new_bets)) + log_payoffs
  )
  return state.replace(highest=np.maximum(state.highest, log_capital(state)))


def log_capital(state: State) -> np.ndarray:
  """Returns `[...]` log M_k, the capital after k answers; 0 at k = 0."""
  log_reserve = np.log(state.half_life / (state.half_life + state.count))
  return np.logaddexp(np.logaddexp.reduce(state.table, axis=-1), log_reserve)


def p_value(state: State) -> np.ndarray:
  """Returns `[...]` p-values of the promise in (0, 1], valid at any time.

  The p-value is 1 / the largest capital so far. While the promise holds, the
  probability that the p-value ever falls to delta is at most delta.
  """
  return np.exp(-state.highest)


def is_alarm(state: State, delta: float) -> np.ndarray:
  """Returns `[...]` bool, True from the answer on that raises the alarm.

  After a new calibration, start again from `init`, with a new delta.

  Args:
    state: the state after all graded answers so far.
    delta: bound on the probability of ever raising the alarm while the promise
      holds, in (0, 1).

  Raises:
    ValueError: if delta is outside (0, 1).
  """
  if not 0 < delta < 1:
    raise ValueError(f'delta must be in (0, 1), got {delta}.')
  # The highest capital decides, not the present one: Ville's inequality bounds
  # the highest one too, and an alarm should not go away by itself.
  return state.highest >= -np.log(delta)


def most_within(
    alpha: float, shift: float, answers: int, *, delta: float, horizon: int
) -> float:
  """Returns an upper bound on how often *any* alarm can come in time.

  The bounded quantity is the probability of an alarm within `answers` after a
  shift, given no alarm before, averaged over shifts at random times within the
  horizon. No method with the same false-alarm probability can exceed the bound.

  Args:
    alpha: the promised probability of a miss.
    shift: increase of that probability, alpha + shift < 1.
    answers: number of answers after the shift within which an alarm counts.
    delta: probability of a false alarm within `horizon` answers.
    horizon: number of answers that are observed, >= `answers`.

  Returns:
    The bound, in [0, 1].

  Source: Neyman and Pearson 1933, for the best test of a given size.
  """
  # The horizon contains horizon // answers windows of `answers` answers. The
  # first false alarm falls into one of them; these probabilities sum to at most
  # delta. Given no alarm so far, which has probability 1 - delta or more, an
  # alarm in a window is a test whose size is at most `size` on average. The
  # power below is concave in the size, so unequal sizes cannot raise the
  # average over windows.
  size = min(delta / (1 - delta) / (horizon // answers), 1.0)
  quiet = scipy.stats.binom(answers, alpha)
  # The most powerful test (Neyman-Pearson): reject above a critical number of
  # misses, and at that number with the probability that makes the size exact.
  # For a size of 1 `isf` gives -1, where the binomial has no mass to divide by.
  critical = max(int(quiet.isf(size)), 0)
  reject_at_critical = (size - quiet.sf(critical)) / quiet.pmf(critical)
  shifted = scipy.stats.binom(answers, alpha + shift)
  return float(
      shifted.sf(critical) + reject_at_critical * shifted.pmf(critical)
  )
