"""A test whose sample may grow and be looked at as often as one likes.

For each candidate the gambler of `bounds.betting_p_value` bets on 'the mean is
below the level', here with a capital that is split once, before the first
problem, over a fixed list of constant stakes:

  capital_n = sum_j w_j prod_{i <= n} (1 - nu_j (X_i - level)).

No stake depends on n, so more problems never change what has been won before.
If the mean is `level` or more, whatever came before, capital is a non-negative
supermartingale that starts at 1, and by Ville's inequality it *ever* reaches
1 / delta with a chance of at most delta. A candidate is rejected from the first
n on at which its capital reaches 1 / delta, and stays rejected.

What is promised: candidates are tested in a fixed order, up to the first that
is not rejected yet. A candidate that breaks the promise can only be proven if
it, or one that breaks it and stands earlier in the order, is ever rejected.
For the first of these that has a chance of at most delta. So with probability
1 - delta no candidate that breaks the promise is proven at any n: one may look
after every problem, stop or go on for any reason, and pick any proven
candidate by any rule.

What must be fixed before the first outcome is known: candidates, their order,
level, cap and delta; and an order of problems, such as the order of arrival or
that of a hash of the question. New problems are appended, and nothing is
shuffled or left out between looks. Problems must be independent draws, or at
least each have a mean of `level` or more given those before it.

Why constant stakes: they need no estimate, and the capital does not depend on
the order of the problems so far. In simulations at a mean close to the level
they prove sooner, and more often, than stakes of the predictable plug-in.

Sources: Ville 1939; Waudby-Smith and Ramdas 2024, "Estimating means of bounded
random variables by betting" (capital, plug-in); Cover 1991, "Universal
portfolios" (a mixture of constant stakes); Angelopoulos et al. 2021, "Learn
then Test", section 2.2 (fixed sequence).
"""

import numpy as np
from scipy import optimize
from scipy import special

# Of the largest stake at which no draw in [0, 1] makes the capital negative.
# The best stake for draws in {0, 1} of mean p is the share 1 - p / level, so
# that a geometric list has one near it for any p.
_SHARES = 0.95 * 0.6 ** np.arange(8)
# More on high stakes: where these are right, few problems are enough, and it is
# there that a late start costs most.
_LOG_WEIGHTS = np.log(0.75 ** np.arange(8) / np.sum(0.75 ** np.arange(8)))


def _check(values: np.ndarray, level: float) -> np.ndarray:
  values = np.asarray(values, np.float64)
  if not 0 < level < 1:
    raise ValueError(f'level must be in (0, 1), got {level}.')
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
    level: the level tested, in (0, 1).

  Returns:
    `[..., n]` float64. Entry i depends on the first i + 1 values alone.

  Raises:
    ValueError: on a value or level that is not allowed.
  """
  values = _check(values, level)
  total = np.full(values.shape, -np.inf)
  for share, log_weight in zip(_SHARES, _LOG_WEIGHTS, strict=True):
    gains = np.log1p(-share / (1 - level) * (values - level))
    total = np.logaddexp(total, log_weight + np.cumsum(gains, axis=-1))
  return total


def p_value(values: np.ndarray, level: float) -> np.ndarray:
  """Returns p-values that stay valid however often the sample has grown.

  Whatever delta is, a mean of `level` or more gives a p-value of delta or less
  at *any* n with a chance of at most delta. They only fall as n grows.

  Args:
    values: `[..., n]` float in [0, 1], in order of arrival.
    level: the level tested, in (0, 1).

  Returns:
    `[...]` float64 in (0, 1], 1 over the highest capital so far.
  """
  highest = log_capital(values, level).max(axis=-1)
  return np.exp(-np.maximum(highest, 0.0))


def proven_from(
    values: np.ndarray, level: float, order: np.ndarray, delta: float
) -> np.ndarray:
  """Returns from how many problems on each candidate is proven.

  Args:
    values: `[..., K, n]` float in [0, 1], in order of arrival.
    level: the level tested, in (0, 1).
    order: `[K]` int, candidates, safest first, fixed without these problems.
    delta: chance that any candidate with a mean of `level` or more is proven at
      any n.

  Returns:
    `[..., K]` int in 1..n + 1; n + 1 = not yet.
  """
  if not 0 < delta < 1:
    raise ValueError(f'delta must be in (0, 1), got {delta}.')
  is_won = log_capital(values, level) >= np.log(1 / delta)
  first = np.where(
      is_won.any(axis=-1), is_won.argmax(axis=-1) + 1, is_won.shape[-1] + 1
  )
  found = np.empty(first.shape, int)
  # A candidate waits for all that come before it in the order.
  found[..., order] = np.maximum.accumulate(first[..., order], axis=-1)
  return found


def num_needed(values: np.ndarray, level: float, delta: float) -> int | None:
  """Returns about how many problems like these prove one candidate, in all.

  Exact where all values are the same.

  Args:
    values: `[n]` float in [0, 1].
    level: in (0, 1).
    delta: in (0, 1).

  Returns:
    The number; None if no number would do.
  """
  values = _check(values, level)
  rates = np.array(
      [
          np.log1p(-share / (1 - level) * (values - level)).mean()
          for share in _SHARES
      ]
  )
  if rates.max() <= 0:
    return None
  # Convex in n, 0 at n = 0 and above at `most`, so it crosses once.
  excess = lambda n: special.logsumexp(_LOG_WEIGHTS + n * rates) + np.log(delta)
  most = (np.log(1 / delta) - _LOG_WEIGHTS.min()) / rates.max() + 1
  return int(np.ceil(optimize.brentq(excess, 0.0, most) - 1e-9))
