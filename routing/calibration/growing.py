"""A test that stays valid while the sample grows and is tested repeatedly.

For each candidate the gambler of `bounds.betting_p_value` bets on 'the mean is
below the level'. Here the capital is split once, before the first problem, over
a fixed list of constant stakes:

  capital_n = sum_j w_j prod_{i <= n} (1 - nu_j (X_i - level)).

No stake depends on n, so more problems never change earlier gains. If each
problem's mean, given the problems before, is `level` or more, the capital is a
non-negative supermartingale that starts at 1. By Ville's inequality the
probability that the capital *ever* reaches 1 / delta is then at most delta. The
null hypothesis of a candidate is rejected from the first n at which the capital
reaches 1 / delta, and stays rejected.

What is promised: hypotheses are tested in a fixed order, up to the first that
is not rejected yet. A candidate is bad if its mean is `level` or more. No bad
candidate is proven at any n unless the hypothesis of the first bad candidate in
the order is ever rejected, which has probability at most delta. So one may test
after every problem, stop or continue for any reason, and pick any proven
candidate by any rule.

What must be fixed before the first outcome is known: the candidates, their
order, level, cap and delta; and an order of the problems, such as the order of
arrival or of a hash of the question. New problems are appended, and none is
moved or left out between tests. Problems must be independent draws. If they are
not, a bad candidate must still have a mean of `level` or more on each problem,
given the problems before.

Sources: Ville 1939; Waudby-Smith and Ramdas 2024, "Estimating means of bounded
random variables by betting" (capital, plug-in); Cover 1991, "Universal
portfolios" (a mixture of constant stakes); Angelopoulos et al. 2021, "Learn
then Test", section 2.2 (fixed sequence).
"""

import numpy as np
import scipy

# The stakes nu_j as shares of 1 / (1 - level). At a share of 1 a draw of 1
# takes the whole capital; a larger stake would make the capital negative. For
# draws in {0, 1} of mean p the best share is 1 - p / level, so a geometric list
# has a share near the best one for any p. Constant stakes need no estimate. In
# simulations at a mean close to the level they prove sooner, and more often,
# than the predictable plug-in of `bounds`.
_SHARES = 0.95 * 0.6 ** np.arange(8)
# The logs of w_j. High stakes get more weight: where a high stake is the best
# one, few problems are enough, and a small starting capital delays the proof
# most.
_LOG_WEIGHTS = np.log(0.75 ** np.arange(8) / np.sum(0.75 ** np.arange(8)))


def _check(values: np.ndarray, level: float) -> np.ndarray:
  """Returns `values` as float64; raises ValueError on a bad value or level."""
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
  """Returns the gambler's log-capital after each problem (see the module).

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
    # Adds w_j prod (1 - nu_j (X_i - level)) to the sum over j, in logarithms.
    # The loop takes one stake at a time, since an array `[J, ..., n]` of all
    # eight would take eight times the memory.
    total = np.logaddexp(total, log_weight + np.cumsum(gains, axis=-1))
  return total


def p_value(values: np.ndarray, level: float) -> np.ndarray:
  """Returns p-values of 'the mean is above the level', valid at any n.

  If the mean is `level` or more, the probability that the p-value ever falls to
  delta as problems are added is at most delta, for every delta. A p-value never
  rises as n grows.

  Args:
    values: `[..., n]` float in [0, 1], in order of arrival.
    level: the mean that is tested, in (0, 1).

  Returns:
    `[...]` float64 in (0, 1], 1 over the highest capital so far.
  """
  highest = log_capital(values, level).max(axis=-1)
  # The maximum includes the capital before the first problem, which is 1.
  return np.exp(-np.maximum(highest, 0.0))


def proven_from(
    values: np.ndarray, level: float, order: np.ndarray, delta: float
) -> np.ndarray:
  """Returns the sample size from which on each candidate is proven.

  Args:
    values: `[..., K, n]` float in [0, 1], in order of arrival.
    level: the mean that is tested, in (0, 1).
    order: `[K]` int, the candidates' indices, safest first, fixed without these
      problems.
    delta: bound on the probability that any candidate with a mean of `level` or
      more is proven at any n, in (0, 1).

  Returns:
    `[..., K]` int in 1..n + 1; n + 1 means that n problems do not prove it.
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
  # A fixed sequence: a candidate is proven only when the hypotheses of all
  # candidates before it in the order are rejected too.
  found[..., order] = np.maximum.accumulate(first[..., order], axis=-1)
  return found


def num_needed(values: np.ndarray, level: float, delta: float) -> int | None:
  """Returns the approximate sample size that proves one candidate.

  The size is for problems distributed like `values`, and includes these n. The
  size is exact if all values are the same.

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
  # The capital after n problems is sum_j w_j exp(n rate_j), which must reach
  # 1 / delta. Its log is convex in n and 0 at n = 0. It is above log(1 / delta)
  # at n = `most`, where the term of the best rate would be enough even with the
  # smallest weight. So it crosses log(1 / delta) exactly once in between.
  excess = lambda n: scipy.special.logsumexp(_LOG_WEIGHTS + n * rates) + np.log(
      delta
  )
  most = (np.log(1 / delta) - _LOG_WEIGHTS.min()) / rates.max() + 1
  # 1e-9 keeps an exact integer from being rounded up to the next one.
  return int(np.ceil(scipy.optimize.brentq(excess, 0.0, most) - 1e-9))
