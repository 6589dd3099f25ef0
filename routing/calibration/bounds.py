"""Finite-sample bounds on a mean, from n independent draws. No asymptotics.

Exact binomial for outcomes in {0, 1}. For any in [0, 1] Hoeffding-Bentkus, by
the mean alone, or betting (Waudby-Smith and Ramdas), which is far tighter where
the variance is small.
"""

import numpy as np
from scipy import optimize
from scipy import special


def _check_rate(name: str, value: np.ndarray | float) -> np.ndarray:
  value = np.asarray(value, np.float64)
  if not np.all((value > 0) & (value < 1)):
    raise ValueError(f'{name} must be in (0, 1), got {value}.')
  return value


def _check_values(values: np.ndarray) -> np.ndarray:
  values = np.asarray(values, np.float64)
  if not values.shape[-1]:
    raise ValueError(f'values must be [..., n], n > 0, got {values.shape}.')
  if not np.all((values >= 0) & (values <= 1)):
    raise ValueError(
        f'values must be in [0, 1], got {values.min()} to {values.max()}.'
    )
  return values


def clopper_pearson_upper(
    count: np.ndarray | int, n: np.ndarray | int, delta: float
) -> np.ndarray:
  """Exact upper bound on a rate: P(rate > bound) <= delta.

  Args:
    count: successes, 0..n; scalars or arrays that broadcast.
    n: draws.
    delta: failure probability, in (0, 1).

  Source: Clopper and Pearson 1934.
  """
  _check_rate('delta', delta)
  count, n = np.asarray(count, np.float64), np.asarray(n, np.float64)
  with np.errstate(invalid='ignore'):
    bound = special.betaincinv(count + 1, n - count, 1 - delta)
  return np.where(count >= n, 1.0, bound)


def clopper_pearson_lower(
    count: np.ndarray | int, n: np.ndarray | int, delta: float
) -> np.ndarray:
  """Exact lower bound on a rate: P(rate < bound) <= delta."""
  count, n = np.asarray(count, np.float64), np.asarray(n, np.float64)
  return 1.0 - clopper_pearson_upper(n - count, n, delta)


def binomial_p_value(
    count: np.ndarray | int, n: np.ndarray | int, level: float
) -> np.ndarray:
  """P(Binomial(n, level) <= count): evidence against 'rate > level'.

  Super-uniform whenever the true rate is >= level, hence a valid p-value.
  """
  _check_rate('level', level)
  return special.bdtr(np.asarray(count, np.float64), n, level)


def hoeffding_bentkus_p_value(
    mean: np.ndarray | float, n: int, level: float
) -> np.ndarray:
  """Evidence against 'E[X] > level' for independent X in [0, 1].

  min(exp(-n KL(min(mean, level) | level)), e P(Bin(n, level) <= ceil(n mean))).

  Args:
    mean: sample mean(s), in [0, 1].
    n: draws.
    level: the level tested, in (0, 1).

  Returns:
    p-value(s) in [0, 1], shape of `mean`.

  Source: Angelopoulos et al. 2021, "Learn then Test", proposition 1; Bates et
  al. 2021, "Distribution-Free, Risk-Controlling Prediction Sets", theorem 4.
  """
  _check_rate('level', level)
  mean = np.asarray(mean, np.float64)
  if not np.all((mean >= 0) & (mean <= 1)):
    raise ValueError(f'mean must be in [0, 1], got {mean}.')
  low = np.minimum(mean, level)
  # rel_entr(0, x) = 0, so a mean of exactly 0 gives (1 - level)^n.
  kl = special.rel_entr(low, level) + special.rel_entr(1 - low, 1 - level)
  # A sum such as 0.1 * 30 may land a hair above 3; that is rounding, not data.
  count = np.ceil(np.round(n * mean, 9))
  bentkus = np.e * special.bdtr(count, n, level)
  return np.minimum(np.minimum(np.exp(-n * kl), bentkus), 1.0)


def hoeffding_bentkus_upper(mean: float, n: int, delta: float) -> float:
  """Upper bound on E[X], X in [0, 1]: the level whose p-value is delta."""
  _check_rate('delta', delta)
  edge = 1e-12
  low, high = max(float(mean), edge), 1.0 - edge
  excess = lambda level: hoeffding_bentkus_p_value(mean, n, level) - delta
  if low >= high or excess(high) > 0:
    return 1.0
  # The p-value is 1 at level = mean and falls from there.
  return float(optimize.brentq(excess, low, high, xtol=1e-10))


def _bets(values: np.ndarray, delta: float) -> np.ndarray:
  """`[..., n]` stakes in (0, 1]; the i-th looks at the values before it only.

  The predictable plug-in: what would be best for n draws of the variance seen
  so far, half a draw of mean 1/2 and variance 1/4 counted in.
  """
  n = values.shape[-1]
  count = np.arange(1, n + 1)
  mean = (0.5 + np.cumsum(values, axis=-1)) / (1 + count)
  squares = np.cumsum((values - mean) ** 2, axis=-1)
  variance = np.full(values.shape, 0.25)  # The first bet has seen nothing.
  variance[..., 1:] = ((0.25 + squares) / (1 + count))[..., :-1]
  return np.minimum(1.0, np.sqrt(2 * np.log(1 / delta) / (n * variance)))


def _best_log_capital(
    values: np.ndarray, bets: np.ndarray, level: float
) -> np.ndarray:
  """`[...]` highest log-capital ever held by who bets on a mean below level."""
  gains = np.log1p(-bets * (values - level))
  return np.cumsum(gains, axis=-1).max(axis=-1)


def betting_p_value(
    values: np.ndarray, level: float, delta: float
) -> np.ndarray:
  """Evidence against 'E[X] > level' for independent X in [0, 1]: a lost bet.

  A gambler starts with 1 and stakes nu_i on X_i < level, winning the factor
  1 - nu_i (X_i - level). If the mean is `level` or more the capital is a
  non-negative supermartingale, so by Ville's inequality it *ever* reaches 1 / p
  with a chance of at most p: the highest capital counts, and stopping early
  would break nothing.

  It hangs on the order of the values, as the others do not. Rows that were
  sorted by anything that tells of X must be shuffled first.

  Args:
    values: `[..., n]` float in [0, 1], in an order that tells nothing of them.
    level: the level tested, in (0, 1).
    delta: the failure probability that the bets are sized for, in (0, 1). The
      p-value is valid at every other, too.

  Returns:
    `[...]` p-values in (0, 1].

  Source: Waudby-Smith and Ramdas 2024, "Estimating means of bounded random
  variables by betting", the one-sided capital of theorem 3 with the predictable
  plug-in; stakes capped at 1 as in Bates et al. 2021, proposition 5.
  """
  _check_rate('level', level)
  values = _check_values(values)
  bets = _bets(values, _check_rate('delta', delta))
  return np.exp(-np.maximum(_best_log_capital(values, bets, level), 0.0))


def betting_upper(values: np.ndarray, delta: float) -> float:
  """Upper bound on E[X], X in [0, 1]: P(E[X] > bound) <= delta.

  The bets are the same at every level and each gain rises with it, so that the
  levels which are not rejected form one interval, found by bisection.

  Args:
    values: `[n]` float in [0, 1], in an order that tells nothing of them.
    delta: failure probability, in (0, 1).
  """
  values = _check_values(values)
  bets = _bets(values, _check_rate('delta', delta))
  settings = np.log(1 / delta)
  excess = lambda level: _best_log_capital(values, bets, level) - settings
  edge = 1e-12
  if excess(1.0 - edge) < 0:
    return 1.0
  # At level 0 no draw gains anything, so the capital is never above 1.
  return float(optimize.brentq(excess, edge, 1.0 - edge, xtol=1e-12))


def betting_trajectories_needed(
    values: np.ndarray, level: float, delta: float
) -> int | None:
  """About how many draws like these let betting prove 'E[X] <= level'.

  log(1 / delta) over the growth rate of the best constant bet in hindsight; a
  gambler who must learn it takes somewhat more. None if the mean of `values` is
  not below `level`, or cannot be told from it.

  Args:
    values: `[n]` float in [0, 1].
    level: in (0, 1).
    delta: failure probability, in (0, 1).
  """
  _check_rate('level', level)
  _check_rate('delta', delta)
  values = _check_values(values)
  if values.mean() >= level:
    return None
  best = optimize.minimize_scalar(
      lambda bet: -np.log1p(-bet * (values - level)).mean(),
      bounds=(0.0, 1.0),
      method='bounded',
      options={'xatol': 1e-9},
  )
  return int(np.ceil(np.log(1 / delta) / -best.fun)) if best.fun < 0 else None


def interval(values: np.ndarray, delta: float) -> tuple[float, float]:
  """Two-sided interval of a mean in [0, 1] that holds with 1 - delta.

  Args:
    values: `[N]` in [0, 1]; exact binomial when all are 0 or 1, otherwise
      Hoeffding-Bentkus on both sides.
    delta: failure probability of both sides together.
  """
  values = np.asarray(values, np.float64)
  n, half = len(values), delta / 2
  if np.isin(values, (0.0, 1.0)).all():
    count = values.sum()
    return (
        float(clopper_pearson_lower(count, n, half)),
        float(clopper_pearson_upper(count, n, half)),
    )
  mean = float(values.mean())
  return (
      1.0 - hoeffding_bentkus_upper(1.0 - mean, n, half),
      hoeffding_bentkus_upper(mean, n, half),
  )


def trajectories_needed(mean: float, level: float, delta: float) -> int | None:
  """An n at which a sample mean of `mean` suffices to prove 'E[X] <= level'.

  With mean 0 it is the least such n, log(delta) / log(1 - level) rounded up;
  otherwise Bentkus may get there a little sooner. None if `mean` is not below
  `level`: then no n does.
  """
  _check_rate('level', level)
  _check_rate('delta', delta)
  if mean >= level:
    return None
  kl = float(
      special.rel_entr(mean, level) + special.rel_entr(1 - mean, 1 - level)
  )
  return int(np.ceil(np.log(1 / delta) / kl - 1e-9))
