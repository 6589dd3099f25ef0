"""Finite-sample bounds on a mean, from n independent draws. No asymptotics.

Exact binomial for outcomes in {0, 1}; Hoeffding-Bentkus for any in [0, 1].
"""

import numpy as np
from scipy import optimize
from scipy import special


def _check_rate(name: str, value: np.ndarray | float) -> np.ndarray:
  value = np.asarray(value, np.float64)
  if not np.all((value > 0) & (value < 1)):
    raise ValueError(f'{name} must be in (0, 1), got {value}.')
  return value


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
