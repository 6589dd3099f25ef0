"""The outcomes of policies: grade, cost, relative loss and gain per problem."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

import numpy as np

NAMES = ('correct', 'cost', 'loss', 'gain')  # The fields of `Points`.


@dataclasses.dataclass(frozen=True)
class Points:
  """The outcomes of K policies on the same N problems.

  A policy with two thresholds counts as two policies. From a `Recorded` source
  the entries are weighted contributions, which may exceed 1.

  correct: `[K, N]` float64 in [0, 1], probability of a right answer.
  cost: `[K, N]` float64 >= 0, as a fraction of the all-large cost, which is the
    cost of answering this problem with the largest model alone.
  loss: `[K, N]` float64 in [0, 1], relative loss: probability that the largest
    model alone is right and the policy is wrong.
  gain: `[K, N]` float64 in [0, 1], relative gain: the reverse.
  """

  correct: np.ndarray
  cost: np.ndarray
  loss: np.ndarray
  gain: np.ndarray

  def __post_init__(self):
    shapes = {getattr(self, name).shape for name in NAMES}
    if len(shapes) != 1 or self.correct.ndim != 2:
      raise ValueError(
          'correct, cost, loss and gain must have the same shape [K, N]; got '
          f'{sorted(shapes)}.'
      )

  @property
  def accuracy(self) -> np.ndarray:
    """`[K]`, the mean of `correct` over problems."""
    return self.correct.mean(axis=1)

  @property
  def mean_cost(self) -> np.ndarray:
    """`[K]`, the mean of `cost` over problems."""
    return self.cost.mean(axis=1)

  def values(self) -> Mapping[str, np.ndarray]:
    """Returns correct, cost, loss and gain by name, each `[K, N]`."""
    return {name: getattr(self, name) for name in NAMES}

  def take(self, policies: np.ndarray) -> Points:
    """Returns the outcomes of the chosen `policies` (indices or `[K]` bool)."""
    return Points(**{name: x[policies] for name, x in self.values().items()})

  def on(self, problems: np.ndarray | slice) -> Points:
    """Returns the outcomes of each policy restricted to `problems`.

    Nothing is averaged.

    Args:
      problems: indices, possibly repeated, or a slice.
    """
    return Points(**{name: x[:, problems] for name, x in self.values().items()})


def concatenate(points: Sequence[Points]) -> Points:
  """Joins the outcomes of several sets of policies on the same problems."""
  return Points(
      **{
          name: np.concatenate([getattr(x, name) for x in points])
          for name in NAMES
      }
  )
