"""A test that stays valid while the sample grows and is tested repeatedly.

For each candidate the gambler of `bounds.betting_p_value` bets on 'the mean is
below the level'. Here the capital is split once, before the first problem, over
a fixed list of constant stakes:

  capital_n = sum_j w_j prod_{i <= n} (1 - nu_j (X_i - level)).

No stake depends on n, so more problems never change what was won before. If the
mean is `level` or more, whatever came before, the capital is a non-negative
supermartingale that starts at 1. By Ville's inequality it *ever* reaches
1 / delta with probability at most delta. A candidate is rejected from the first
n at which its capital reaches 1 / delta, and stays rejected.

What is promised: candidates are tested in a fixed order, up to the first that
is not rejected yet. Take the first candidate in the order that breaks the
promise. No candidate that breaks it is proven at any n unless this one is ever
rejected, which has probability at most delta. So one may test after every
problem, stop or continue for any reason, and pick any proven candidate by any
rule.

What must be fixed before the first outcome is known: the candidates, their
order, level, cap and delta; and an order of the problems, such as the order of
arrival or of a hash of the question. New problems are appended, and none is
moved or left out between tests. Problems must be independent draws. If they are
not, a candidate that breaks the promise must still have a mean of `level` or
more on each problem, given those before it.

Sources: Ville 1939; Waudby-Smith and Ramdas 2024, "Estimating means of bounded
random variables by betting" (capital, plug-in); Cover 1991, "Universal
portfolios" (a mixture of constant stakes); Angelopoulos et al. 2021, "Learn
then Test", section 2.2 (fixed sequence).
"""

import numpy as np
from scipy import optimize
from scipy import special

# Stakes as shares of 1 / (1 - level): at this stake a draw of 1 takes the whole
# capital, and a larger stake would make it negative. For draws in {0, 1} of
# mean p the best share is 1 - p / level, so a geometric list has one near it
# for any p. Constant stakes need no estimate. In simulations at a mean close to
# the level they prove sooner, and more often, than the predictable plug-in of
# `bounds`.
_SHARES = 0.95 * 0.6 ** np.arange(8)
# More weight on high stakes: if these are right, few problems are enough, and a
# small starting capital delays a proof most.
_LOG_WEIGHTS = np.log(0.75 ** np.arange(8) / np.sum(0.75 ** np.arange(8)))


def _check(values: np.ndarray, level: float) -> np.ndarray:
  values = np.asarray(values, np.float64)
  if not 0 < level < 1:
    raise ValueError(f'level must be in (0, 1), got {level}.')
  # `initial` lets the error report empty arrays, which have no minimum.
  if not values.shape[-1] or not np.all((values >= 0) & (values <= 1)):
    raise ValueError(
        'values must be [..., n], n > 0, and in [0, 1], got shape '
        f'{values.shape}, {values.min(initial=1)} to {values.max(initial=0)}.'
    )
  return values


def log_capital(values: np.ndarray, level: float) -> np.ndarray:
  """Returns the gambler's log-capital after each problem.

  Args:
    values: `[..., n]` float in [0, 1], in order of arrival.
    level: the mean that is tested, in (0, 1).

  Returns:
    `[..., n]` float64. Entry i depends on the first i + 1 values only.

  Raises:
    ValueError: on a value or level that is not allowed.
  """
  values = _check(values, level)
  total = np.full(values.shape, -np.inf)
  for share, log_weight in zip(_SHARES, _LOG_WEIGHTS, strict=True):
    gains = np.log1p(-share / (1 - level) * (values - level))
    # Log of w_j prod (1 - nu_j (X_i - level)), added over j. Over one stake at
    # a time, since `[J, ..., n]` at once would take eight times the memory.
    total = np.logaddexp(total, log_weight + np.cumsum(gains, axis=-1))
  return total


def p_value(values: np.ndarray, level: float) -> np.ndarray:
  """Returns p-values that stay valid however often the sample has grown.

  If the mean is `level` or more, the p-value ever falls to delta with
  probability at most delta, for every delta. A p-value never rises as n grows.

  Args:
    values: `[..., n]` float in [0, 1], in order of arrival.
    level: the mean that is tested, in (0, 1).

  Returns:
    `[...]` float64 in (0, 1], 1 over the highest capital so far.
  """
  highest = log_capital(values, level).max(axis=-1)
  # The capital before the first problem, 1, counts too.
  return np.exp(-np.maximum(highest, 0.0))


def proven_from(
    values: np.ndarray, level: float, order: np.ndarray, delta: float
) -> np.ndarray:
  """Returns the number of problems from which on each candidate is proven.

  Args:
    values: `[..., K, n]` float in [0, 1], in order of arrival.
    level: the mean that is tested, in (0, 1).
    order: `[K]` int, candidates, safest first, fixed without these problems.
    delta: probability that any candidate with a mean of `level` or more is
      proven at any n, in (0, 1).

  Returns:
    `[..., K]` int in 1..n + 1; n + 1 = not yet.
  """
  if not 0 < delta < 1:
    raise ValueError(f'delta must be in (0, 1), got {delta}.')
  # `[..., K, n]` bool: the capital of a candidate has reached 1 / delta.
  # `argmax` finds the first n at which it has.
  is_rejected = log_capital(values, level) >= np.log(1 / delta)
  first = np.where(
      is_rejected.any(axis=-1),
      is_rejected.argmax(axis=-1) + 1,
      is_rejected.shape[-1] + 1,
  )
  found = np.empty(first.shape, int)
  # A fixed sequence: a candidate is proven only when all before it in the order
  # are rejected too.
  found[..., order] = np.maximum.accumulate(first[..., order], axis=-1)
  return found


def num_needed(values: np.ndarray, level: float, delta: float) -> int | None:
  """Returns about how many problems like these prove one candidate, in total.

  The number is exact if all values are the same.

  Args:
    values: `[n]` float in [0, 1], the candidate's values on the sample.
    level: the mean to be proved, in (0, 1).
    delta: failure probability, in (0, 1).

  Returns:
    The number; None if no number of problems is enough.
  """
  values = _check(values, level)
  # `[J]` growth of the log-capital per problem, for each stake.
  rates = np.array(
      [
          np.log1p(-share / (1 - level) * (values - level)).mean()
          for share in _SHARES
      ]
  )
  if rates.max() <= 0:
    return None
  # Capital after n problems is sum_j w_j exp(n rate_j), which must reach 1 /
  # delta. Its log is convex in n, 0 at n = 0, and above the target at `most`,
  # where the smallest weight with the best rate would be enough. So it crosses
  # once.
  excess = lambda n: special.logsumexp(_LOG_WEIGHTS + n * rates) + np.log(delta)
  most = (np.log(1 / delta) - _LOG_WEIGHTS.min()) / rates.max() + 1
  # 1e-9 keeps an exact integer from being rounded up to the next one.
  return int(np.ceil(optimize.brentq(excess, 0.0, most) - 1e-9))
