"""Evidence that may be looked at while the sample grows.

A test of fixed size holds for one look at one sample. Who is refused, adds
problems to the same sample and tests again, has several chances to be lucky,
and breaks more promises than allowed. Here a gambler bets, problem by problem
in their order of arrival, that the mean is below the level. Each stake looks at
earlier problems only, and never at how many there will be. Where the mean is at
the level or above, the capital ever reaches 1 / delta with probability delta at
most (Ville's inequality). So with probability 1 - delta nothing is proven
wrongly at *any* sample size, however often one looks and whenever one stops.

The price: such evidence grows more slowly than that of a test of fixed size.

Source: Waudby-Smith and Ramdas 2024, "Estimating means of bounded random
variables by betting", section 4 (stakes for any sample size).
"""

import numpy as np

from routing.calibration import bounds


def stakes(values: np.ndarray, delta: float) -> np.ndarray:
  """`[..., n]` stakes in (0, 1]; the i-th depends on the i - 1 values before.

  Source: Waudby-Smith and Ramdas 2024, equation 26, stakes capped at 1.
  """
  count = np.arange(1, values.shape[-1] + 1)
  mean = (0.5 + np.cumsum(values, axis=-1)) / (1 + count)
  squares = np.cumsum((values - mean) ** 2, axis=-1)
  variance = np.full(values.shape, 0.25)  # The first bet has seen nothing.
  variance[..., 1:] = ((0.25 + squares) / (1 + count))[..., :-1]
  spread = variance * count * np.log1p(count)
  return np.minimum(1.0, np.sqrt(2 * np.log(1 / delta) / spread))


def p_values(values: np.ndarray, level: float, delta: float) -> np.ndarray:
  """Evidence against 'E[X] > level' that is valid at every sample size at once.

  Args:
    values: `[..., n]` float in [0, 1], independent, in their order of arrival.
      When the sample grows, new values are appended and none is moved.
    level: the level tested, in (0, 1).
    delta: the failure probability that the stakes are sized for, in (0, 1).

  Returns:
    `[...]` in (0, 1]; falls, or stays, as values are appended. The chance that
    it is ever at most p is at most p.
  """
  values = bounds.check_values(values)
  gains = np.log1p(-stakes(values, delta) * (values - level))
  best = np.cumsum(gains, axis=-1).max(axis=-1)
  return np.exp(-np.maximum(best, 0.0))
