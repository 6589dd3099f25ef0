"""An alarm for promises that have stopped to hold: a bet against them.

The promise is that the chance of a miss is at most alpha, whatever came before:
E[m_k | m_1..m_{k-1}] <= alpha for losses m_k in [0, 1], in graded answers of
service. A gambler doubts it and bets; if it holds, no bet makes money.

A bet on rate r > alpha pays b_r(m) = 1 + lambda (m - alpha) with lambda =
(r - alpha) / (alpha (1 - alpha)): r / alpha at a miss, (1 - r) / (1 - alpha) at
none, never negative, and at most 1 in expectation. It grows fastest where the
rate is r, and grows wherever the rate is well above alpha. Money on several
rates adapts by itself: the winning bet soon is most of the capital.

**Late shifts.** A capital that has been bet since the first answer is worth
almost nothing after a long quiet time, and would take as long to recover. So
most of it is kept back: of a capital of 1 the share h / (h + k) is still in the
purse after k answers, and w_k = h / (h + k - 1) - h / (h + k) is put on the
table before answer k, the share s_r of it on rate r. The capital is

  M_k = h / (h + k) + sum_r A_k(r),    M_0 = 1,
  A_k(r) = (A_{k-1}(r) + s_r w_k) b_r(m_k).

**No false alarm, for ever.** While the promise holds E[A_k(r) | past] <=
A_{k-1}(r) + s_r w_k, hence E[M_k | past] <= h / (h + k) + w_k + sum_r
A_{k-1}(r) = M_{k-1}: a non-negative supermartingale that starts at 1. Ville's
inequality: P(some k has M_k >= 1 / delta) <= delta. Nothing is assumed about
how answers depend on each other, and k is not limited. (The Shiryaev-Roberts
sum, which puts 1 on the table each time, has mean k and no such bound.)

**Delay.** Money put down around the shift must grow from s_r w_k to 1 / delta,
so the alarm comes about log(1 / (delta s_r w_k)) / KL(r, alpha) answers later,
less what the bets shortly before and after it add. From 1 / h at first w_k
falls to h / k^2, so ten times the quiet costs 2 log(10) / KL more answers. Some
growth with log k is the price of 'for ever': the false alarms allowed in the
windows k..2k, k = 1, 2, 4, ..., must sum to delta. No alarm whatever is soon
where KL is small; `most_within` says how soon any could be.

Sources: Ville 1939; Waudby-Smith and Ramdas 2024, "Estimating means of bounded
random variables by betting"; Shin, Ramdas, Rinaldo 2024, "E-detectors".
"""

from collections.abc import Mapping

import flax.struct
import numpy as np
from scipy import stats

# Most of the money on ten points, which are to be seen soon; a little on what
# is smaller, since bets on ten points lose there, and on what is larger.
SHIFTS = {0.02: 1.0, 0.05: 2.0, 0.1: 4.0, 0.3: 1.0}


@flax.struct.dataclass
class State:
  """A gambler's books, for one stream or an array of them; float64 arrays.

  It holds its settings: what was saved is all that service needs
  (`flax.serialization.to_bytes`, `from_bytes`).

  count: `[]` graded answers so far.
  table: `[..., L]` log A_k(r), the money on each rate.
  highest: `[...]` log of the largest M so far, 0 at first.
  alpha: `[]` the chance of a miss that was promised, in (0, 1).
  rates: `[L]` what is bet on, in (alpha, 1).
  shares: `[L]` of the money put down on each, summing to 1.
  half_life: `[]` h: after so many answers half of the purse is on the table.
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
  """The state before the first answer.

  Args:
    alpha: the chance of a miss that was promised, in (0, 1).
    shifts: by how much the rates that are bet on exceed alpha, each with its
      weight > 0 among them; those that would reach 1 are left out.
    half_life: h > 0, in answers. Shifts around this time are seen soonest.
    streams: `[...]`, the shape of an array of independent alarms.

  Raises:
    ValueError: if alpha or half_life is outside its range, or no rate is left.
  """
  if not 0 < alpha < 1:
    raise ValueError(f'alpha must be in (0, 1), got {alpha}.')
  if not 0 < half_life < np.inf:
    raise ValueError(f'half_life must be positive, got {half_life}.')
  rates = alpha + np.array(list(shifts), np.float64)
  weights = np.array(list(shifts.values()), np.float64)[rates < 1]
  rates = rates[rates < 1]
  if not rates.size or np.any(rates <= alpha):
    raise ValueError(
        f'Shifts must be in (0, 1 - alpha), 1 - alpha = {1 - alpha:g}, got '
        f'{tuple(shifts)}.'
    )
  if not np.all((weights > 0) & np.isfinite(weights)):
    raise ValueError(f'Weights must be positive, got {weights}.')
  return State(
      count=np.float64(0),
      table=np.full((*streams, len(rates)), -np.inf),
      highest=np.zeros(streams),
      alpha=np.float64(alpha),
      rates=rates,
      shares=weights / weights.sum(),
      half_life=np.float64(half_life),
  )


def update(state: State, loss: np.ndarray | float) -> State:
  """The state after one more graded answer.

  Args:
    state: before it.
    loss: `[...]` in [0, 1], 1 for a miss.

  Raises:
    ValueError: if a loss is outside [0, 1].
  """
  loss = np.asarray(loss, np.float64)
  if not np.all((loss >= 0) & (loss <= 1)):
    raise ValueError(f'A loss must be in [0, 1], got {loss}.')
  state = state.replace(count=state.count + 1.0)
  after = state.half_life + state.count
  # s_r w_k, without the difference of two close numbers.
  put = state.shares * state.half_life / ((after - 1) * after)
  bet = (state.rates - state.alpha) / (state.alpha * (1 - state.alpha))
  pays = np.log1p(bet * (loss - state.alpha)[..., None])
  state = state.replace(table=np.logaddexp(state.table, np.log(put)) + pays)
  return state.replace(highest=np.maximum(state.highest, log_capital(state)))


def log_capital(state: State) -> np.ndarray:
  """`[...]` log M now; 0 at first. Logs, since a lasting shift has no limit."""
  purse = np.log(state.half_life / (state.half_life + state.count))
  return np.logaddexp(np.logaddexp.reduce(state.table, axis=-1), purse)


def p_value(state: State) -> np.ndarray:
  """`[...]` in (0, 1], evidence against the promise, valid at any time.

  1 / the largest capital so far: with the promise kept, the chance that it
  ever falls to delta is at most delta.
  """
  return np.exp(-state.highest)


def is_alarm(state: State, delta: float) -> np.ndarray:
  """`[...]` bool, the promise is given up; once True it stays True.

  Args:
    state: now.
    delta: chance of ever raising it while the promise holds, in (0, 1). After a
      new calibration start from `init`, with a delta of its own.

  Raises:
    ValueError: if delta is outside (0, 1).
  """
  if not 0 < delta < 1:
    raise ValueError(f'delta must be in (0, 1), got {delta}.')
  return state.highest >= -np.log(delta)


def most_within(
    alpha: float, shift: float, answers: int, *, delta: float, horizon: int
) -> float:
  """How often an alarm, of whatever kind, can come in time: an upper bound.

  `horizon` quiet answers hold horizon / answers windows, and the chances that
  the first false alarm falls into each sum to delta at most. A shift at the
  start of a window is seen within it by what is, given all before, a test of
  `answers` misses; the best test of so small a size (Neyman and Pearson 1933)
  finds it with the chance that is returned. The average over windows cannot
  exceed this, since that chance is concave in the size.

  Args:
    alpha: the chance of a miss that was promised.
    shift: what it rises by, alpha + shift < 1.
    answers: within so many.
    delta: chance of an alarm in `horizon` quiet answers.
    horizon: >= answers.

  Returns:
    The bound on the chance that an alarm comes within `answers` after a shift,
    given none came before; shifts are at random times within the horizon.
  """
  # Given no alarm so far, which has a chance of 1 - delta or more.
  size = min(delta / (1 - delta) / (horizon // answers), 1.0)
  quiet = stats.binom(answers, alpha)
  least = int(quiet.isf(size))  # Rejects above it, and at it by a coin.
  draw = (size - quiet.sf(least)) / quiet.pmf(least)
  shifted = stats.binom(answers, alpha + shift)
  return float(shifted.sf(least) + draw * shifted.pmf(least))
