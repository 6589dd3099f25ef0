"""Finite-sample bounds and p-values for the mean of n independent draws.

All bounds and p-values hold at every n; none is asymptotic. Three tests:

- exact binomial (Clopper-Pearson), for outcomes in {0, 1};
- Hoeffding-Bentkus, for outcomes in [0, 1]; it uses the sample mean only;
- betting (Waudby-Smith and Ramdas), for outcomes in [0, 1]; it uses every
  value, and is far tighter where the variance is small.
"""

import numpy as np
import scipy


def _check_rate(name: str, value: np.ndarray | float) -> np.ndarray:
  """Returns `value` as float64; raises ValueError unless all are in (0, 1)."""
  value = np.asarray(value, np.float64)
  if not np.all((value > 0) & (value < 1)):
    raise ValueError(f'{name} must be in (0, 1), got {value}.')
  return value


def _check_values(values: np.ndarray) -> np.ndarray:
  """Returns `[..., n]` draws as float64; raises ValueError outside [0, 1]."""
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
  """Returns the exact upper bound on a rate: P(rate > bound) <= delta.

  Args:
    count: number of successes, 0..n; scalars or arrays that broadcast with n.
    n: number of draws.
    delta: probability that the bound fails, in (0, 1).

  Source: Clopper and Pearson 1934.
  """
  _check_rate('delta', delta)
  count, n = np.asarray(count, np.float64), np.asarray(n, np.float64)
  # The bound solves P(Bin(n, bound) <= count) = delta: a quantile of
  # Beta(count + 1, n - count). At count = n this Beta distribution does not
  # exist and betaincinv gives nan; the bound is 1 there.
  with np.errstate(invalid='ignore'):
    bound = scipy.special.betaincinv(count + 1, n - count, 1 - delta)
  return np.where(count >= n, 1.0, bound)


def clopper_pearson_lower(
    count: np.ndarray | int, n: np.ndarray | int, delta: float
) -> np.ndarray:
  """Returns the exact lower bound on a rate: P(rate < bound) <= delta.

  Args: as in `clopper_pearson_upper`.
  """
  count, n = np.asarray(count, np.float64), np.asarray(n, np.float64)
  # A lower bound on successes is one minus the upper bound on failures.
  return 1.0 - clopper_pearson_upper(n - count, n, delta)


def binomial_p_value(
    count: np.ndarray | int, n: np.ndarray | int, level: float
) -> np.ndarray:
  """Returns the exact p-value P(Binomial(n, level) <= count).

  The null hypothesis is 'rate > level'. Where the rate is `level` or more, the
  p-value is super-uniform, hence valid.

  Args:
    count: number of successes, 0..n; scalars or arrays that broadcast with n.
    n: number of draws.
    level: the rate that is tested, in (0, 1).
  """
  _check_rate('level', level)
  return scipy.special.bdtr(np.asarray(count, np.float64), n, level)


def hoeffding_bentkus_p_value(
    mean: np.ndarray | float, n: int, level: float
) -> np.ndarray:
  """Returns the Hoeffding-Bentkus p-value of 'E[X] > level', X in [0, 1].

  min(exp(-n KL(min(mean, level) | level)), e P(Bin(n, level) <= ceil(n mean))).

  Args:
    mean: sample mean(s) of independent draws, in [0, 1].
    n: number of draws.
    level: the mean that is tested, in (0, 1).

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
  # KL(low | level) of two Bernoulli distributions. rel_entr(0, x) = 0, so a
  # mean of exactly 0 gives the p-value (1 - level)^n.
  kl = scipy.special.rel_entr(low, level) + scipy.special.rel_entr(
      1 - low, 1 - level
  )
  # In floating point n * mean may be slightly above an integer. Without
  # rounding, `ceil` would count one success too many.
  count = np.ceil(np.round(n * mean, 9))
  bentkus = np.e * scipy.special.bdtr(count, n, level)
  return np.minimum(np.minimum(np.exp(-n * kl), bentkus), 1.0)


def hoeffding_bentkus_upper(mean: float, n: int, delta: float) -> float:
  """Returns an upper bound on E[X], X in [0, 1]: P(E[X] > bound) <= delta.

  The bound is the level whose Hoeffding-Bentkus p-value equals delta.

  Args:
    mean: sample mean of independent draws, in [0, 1].
    n: number of draws.
    delta: failure probability, in (0, 1).
  """
  _check_rate('delta', delta)
  # The p-value is defined for levels strictly inside (0, 1).
  edge = 1e-12
  low, high = max(float(mean), edge), 1.0 - edge
  excess = lambda level: hoeffding_bentkus_p_value(mean, n, level) - delta
  if low >= high or excess(high) > 0:
    return 1.0
  # The p-value is 1 at level = mean and falls as the level rises, so one level
  # in [low, high] has the p-value delta.
  return float(scipy.optimize.brentq(excess, low, high, xtol=1e-10))


def _bets(values: np.ndarray, delta: float) -> np.ndarray:
  """Returns `[..., n]` stakes in (0, 1] for `betting_p_value`.

  The stake on draw i is the predictable plug-in of Waudby-Smith and Ramdas: the
  best constant stake for n draws whose variance is that of draws 0..i-1.

  Args:
    values: `[..., n]` float64 in [0, 1], the draws.
    delta: failure probability that the stakes are sized for, in (0, 1).
  """
  n = values.shape[-1]
  count = np.arange(1, n + 1)
  # The estimates include one artificial draw of mean 1/2 and variance 1/4. It
  # keeps the variance above 0, so a run of equal values gives a finite stake.
  mean = (0.5 + np.cumsum(values, axis=-1)) / (1 + count)
  squares = np.cumsum((values - mean) ** 2, axis=-1)
  # The estimates are shifted by one draw: if a stake depended on the draw that
  # it is bet on, the capital would not be a supermartingale, and the p-value
  # would not be valid.
  variance = np.full(values.shape, 0.25)
  variance[..., 1:] = ((0.25 + squares) / (1 + count))[..., :-1]
  # A stake of at most 1 keeps 1 - stake (X - level) >= level > 0, so no draw
  # can make the capital negative.
  return np.minimum(1.0, np.sqrt(2 * np.log(1 / delta) / (n * variance)))


def _best_log_capital(
    values: np.ndarray, bets: np.ndarray, level: float
) -> np.ndarray:
  """Returns `[...]` the highest log-capital of the gambler after 1..n draws.

  The gambler of `betting_p_value` bets on 'the mean is below level'.

  Args:
    values: `[..., n]` float64 in [0, 1], the draws.
    bets: `[..., n]` stake on each draw.
    level: the mean that is tested, in (0, 1).
  """
  gains = np.log1p(-bets * (values - level))
  return np.cumsum(gains, axis=-1).max(axis=-1)


def betting_p_value(
    values: np.ndarray, level: float, delta: float
) -> np.ndarray:
  """Returns the betting p-value of 'E[X] > level', X in [0, 1].

  A gambler starts with capital 1. Stake nu_i is fixed before draw i, which then
  multiplies the capital by 1 - nu_i (X_i - level). If the mean is `level` or
  more, the capital is a non-negative supermartingale. By Ville's inequality the
  probability that the capital *ever* reaches 1 / p is then at most p. So the
  p-value is 1 over the highest capital, not over the last one.

  Unlike the other tests, this one depends on the order of the values. Shuffle
  rows that were sorted by anything related to X.

  Args:
    values: `[..., n]` float in [0, 1], in an order that is independent of them.
    level: the mean that is tested, in (0, 1).
    delta: the failure probability that the stakes are sized for, in (0, 1). The
      p-value is valid for every other failure probability too.

  Returns:
    `[...]` p-values in (0, 1].

  Source: Waudby-Smith and Ramdas 2024, "Estimating means of bounded random
  variables by betting", the one-sided capital of theorem 3 with the predictable
  plug-in; stakes capped at 1 as in Bates et al. 2021, proposition 5.
  """
  _check_rate('level', level)
  values = _check_values(values)
  bets = _bets(values, _check_rate('delta', delta))
  # The capital before the first draw counts too, so the maximum is at least 1.
  return np.exp(-np.maximum(_best_log_capital(values, bets, level), 0.0))


def betting_upper(values: np.ndarray, delta: float) -> float:
  """Returns the betting upper bound on E[X]: P(E[X] > bound) <= delta.

  Args:
    values: `[n]` float in [0, 1], in an order that is independent of them.
    delta: failure probability, in (0, 1).
  """
  values = _check_values(values)
  bets = _bets(values, _check_rate('delta', delta))
  log_target = np.log(1 / delta)
  # The stakes are the same at every level, and each gain rises with the level.
  # So the capital rises with the level, and the levels that are rejected are an
  # interval that ends at 1. Its lower end is the root of `excess`.
  excess = lambda level: _best_log_capital(values, bets, level) - log_target
  edge = 1e-12
  if excess(1.0 - edge) < 0:
    return 1.0
  # At level 0 no draw increases the capital, which stays at most 1 < 1 / delta.
  # So `excess` is negative there, and its sign changes, as brentq needs.
  return float(scipy.optimize.brentq(excess, edge, 1.0 - edge, xtol=1e-12))


def betting_trajectories_needed(
    values: np.ndarray, level: float, delta: float
) -> int | None:
  """Returns about how many draws a betting proof of 'E[X] <= level' needs.

  The number is for draws distributed like `values`. It is slightly too low: it
  assumes the best constant stake, which `betting_p_value` has to learn.

  Args:
    values: `[n]` float in [0, 1], the draws so far.
    level: the mean to be proved, in (0, 1).
    delta: failure probability, in (0, 1).

  Returns:
    The number. None if the mean of `values` is not below `level`, or differs
    from `level` by rounding only: then no number of draws is enough.
  """
  _check_rate('level', level)
  _check_rate('delta', delta)
  values = _check_values(values)
  if values.mean() >= level:
    return None
  # The log-capital must reach log(1 / delta) and grows by the mean gain with
  # each draw, so it takes log(1 / delta) / (mean gain) draws.
  best = scipy.optimize.minimize_scalar(
      lambda bet: -np.log1p(-bet * (values - level)).mean(),
      bounds=(0.0, 1.0),
      method='bounded',
      options={'xatol': 1e-9},
  )
  return int(np.ceil(np.log(1 / delta) / -best.fun)) if best.fun < 0 else None


def interval(values: np.ndarray, delta: float) -> tuple[float, float]:
  """Returns a two-sided confidence interval of a mean, at level 1 - delta.

  Args:
    values: `[N]` float in [0, 1]. The interval is exact binomial if all values
      are 0 or 1, otherwise Hoeffding-Bentkus on both sides.
    delta: failure probability of both sides together, in (0, 1).

  Returns:
    The lower and the upper bound, both in [0, 1].
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
      # The lower bound on E[X] is one minus the upper bound on E[1 - X].
      1.0 - hoeffding_bentkus_upper(1.0 - mean, n, half),
      hoeffding_bentkus_upper(mean, n, half),
  )


def trajectories_needed(mean: float, level: float, delta: float) -> int | None:
  """Returns a sample size n at which `mean` proves 'E[X] <= level'.

  Args:
    mean: sample mean of draws in [0, 1].
    level: the mean to be proved, in (0, 1).
    delta: failure probability, in (0, 1).

  Returns:
    The n at which the Hoeffding p-value falls to delta. For a mean of 0 it is
    the smallest such n, log(delta) / log(1 - level) rounded up; otherwise the
    Bentkus part may need slightly fewer. None if `mean` is not below `level`:
    then no n is enough.
  """
  _check_rate('level', level)
  _check_rate('delta', delta)
  if mean >= level:
    return None
  # exp(-n KL(mean | level)) <= delta  <=>  n >= log(1 / delta) / KL. 1e-9 keeps
  # an exact integer from being rounded up to the next one.
  kl = float(
      scipy.special.rel_entr(mean, level)
      + scipy.special.rel_entr(1 - mean, 1 - level)
  )
  return int(np.ceil(np.log(1 / delta) / kl - 1e-9))
