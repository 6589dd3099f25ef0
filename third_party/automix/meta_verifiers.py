"""What AutoMix makes of the share of samples that call an answer right.

The threshold compares the share v itself. The POMDP does not know whether the
small and the large model are right; with four such states s, it learns P(s) and
P(v | s) from `train`, and takes the large model where
  sum_s P(s | v) (large right in s - small right in s)
reaches a price. The belief is updated once, since there is one observation.
Source: Aggarwal et al. 2024, "AutoMix", section 3.2.
"""

from __future__ import annotations

import dataclasses

import numpy as np

# The states: (small right, large right).
STATES = ((0, 0), (0, 1), (1, 0), (1, 1))
_PSEUDO = 0.5  # Counts added to each cell, so that no share is impossible.


@dataclasses.dataclass(frozen=True)
class Pomdp:
  """The expected gain of the large model, given how many samples said yes.

  gains: `[k + 1]` numbers in [-1, 1], for 0..k such samples.
  """

  gains: tuple[float, ...]

  def __call__(self, num_yes: int) -> float:
    """Returns the expected gain, rounded so that ties stay ties."""
    return round(self.gains[num_yes], 9)


@dataclasses.dataclass(frozen=True)
class Share:
  """The share of samples that did not call the answer right.

  num_samples: k.
  """

  num_samples: int

  def __call__(self, num_yes: int) -> float:
    """Returns a number in [0, 1]."""
    return 1.0 - num_yes / self.num_samples


def fit_pomdp(
    num_yes: np.ndarray,
    small_correct: np.ndarray,
    large_correct: np.ndarray,
    num_samples: int,
) -> Pomdp:
  """Fits the beliefs to N training problems.

  Args:
    num_yes: `[N]` int in 0..k.
    small_correct, large_correct: `[N]` grades in [0, 1].
    num_samples: k.
  """
  counts = np.full((len(STATES), num_samples + 1), _PSEUDO)
  for state, (small, large) in enumerate(STATES):
    is_here = (small_correct > 0.5) == small
    is_here &= (large_correct > 0.5) == large
    counts[state] += np.bincount(
        np.asarray(num_yes, int)[is_here], minlength=num_samples + 1
    )
  # The counts are those of P(s, v), so each column is proportional to P(s | v).
  belief = counts / counts.sum(axis=0)
  gain = np.array([large - small for small, large in STATES])
  return Pomdp(tuple((gain @ belief).tolist()))
