"""A mixture of two Gaussians over the confidence of steps.

With weights w_k, means m_k and standard deviations s_k, the posterior of the
confident component (that of the larger mean, k = 1) at confidence c is
  w_1 N(c; m_1, s_1) / (w_0 N(c; m_0, s_0) + w_1 N(c; m_1, s_1)).
"""

from __future__ import annotations

import dataclasses

import numpy as np

_SMALLEST_VARIANCE = 1e-6  # Keeps a component from shrinking to one point.


@dataclasses.dataclass(frozen=True)
class Mixture:
  """The parameters, the component with the smaller mean first.

  weights, means, deviations: two numbers each.
  """

  weights: tuple[float, float]
  means: tuple[float, float]
  deviations: tuple[float, float]

  def posterior(self, confidence: np.ndarray) -> np.ndarray:
    """Returns the probability of the confident component, in [0, 1].

    Above the larger mean it cannot fall. A wider Gaussian has the heavier tails
    on both sides, so without this a very confident step could count as unsure;
    and likewise below the smaller mean.

    Args:
      confidence: any shape.
    """
    at = np.clip(np.asarray(confidence, np.float64), *self.means)
    log_density = [
        np.log(weight)
        - np.log(deviation)
        - 0.5 * ((at - mean) / deviation) ** 2
        for weight, mean, deviation in zip(
            self.weights, self.means, self.deviations, strict=True
        )
    ]
    # Clipped, because the exponential overflows beyond.
    return 1.0 / (
        1.0 + np.exp(np.clip(log_density[0] - log_density[1], -700, 700))
    )


def fit(confidence: np.ndarray) -> Mixture:
  """Fits the mixture by expectation maximisation.

  Args:
    confidence: `[M]` float, M >= 2.

  Raises:
    ValueError: if there are fewer than 2 numbers.
  """
  from sklearn import mixture

  confidence = np.asarray(confidence, np.float64)
  if len(confidence) < 2:
    raise ValueError(
        f'A mixture of two components needs 2 steps or more; got '
        f'{len(confidence)}.'
    )
  # From the two halves of the sorted numbers: no randomness, and the order of
  # the components is that of their means.
  low, high = np.array_split(np.sort(confidence), 2)
  model = mixture.GaussianMixture(
      2,
      means_init=[[low.mean()], [high.mean()]],
      reg_covar=_SMALLEST_VARIANCE,
      max_iter=200,
      random_state=0,
  ).fit(confidence[:, None])
  order = np.argsort(model.means_[:, 0], kind='stable')
  pair = lambda x: tuple(float(v) for v in np.ravel(x)[order])
  return Mixture(
      pair(model.weights_),
      pair(model.means_),
      pair(np.sqrt(model.covariances_)),
  )
