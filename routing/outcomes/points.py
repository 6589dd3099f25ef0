"""Accuracy, cost, loss and gain of policies on each problem."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

import numpy as np

NAMES = ('correct', 'cost', 'loss', 'gain')  # The fields of `Points`.


@dataclasses.dataclass(frozen=True)
class Points:
  """The outcomes of K policies on the same N problems.

  correct: `[K, N]` float64 in [0, 1], probability of a right answer.
  cost: `[K, N]` float64 >= 0, fraction of the problem's all-large cost.
  loss, gain: `[K, N]` float64 in [0, 1], relative to the largest model.
  """

  correct: np.ndarray
  cost: np.ndarray
  loss: np.ndarray
  gain: np.ndarray

  def __post_init__(self):
    shapes = {getattr(self, name).shape for name in NAMES}
    if len(shapes) != 1 or self.correct.ndim != 2:
      raise ValueError(f'All outcomes must be [K, N], got {sorted(shapes)}.')

  @property
  def accuracy(self) -> np.ndarray:
    """`[K]` mean of `correct` over problems."""
    return self.correct.mean(axis=1)

  @property
  def mean_cost(self) -> np.ndarray:
    """`[K]` mean of `cost` over problems."""
    return self.cost.mean(axis=1)

  def values(self) -> Mapping[str, np.ndarray]:
    """Returns the four quantities by name, `[K, N]` each."""
    return {name: getattr(self, name) for name in NAMES}

  def take(self, policies: np.ndarray) -> Points:
    """Returns the outcomes of some policies on all problems."""
    return Points(**{name: x[policies] for name, x in self.values().items()})

  def on(self, problems: np.ndarray | slice) -> Points:
    """Returns the outcomes of all policies on some problems."""
    return Points(**{name: x[:, problems] for name, x in self.values().items()})


def concatenate(points: Sequence[Points]) -> Points:
  """Joins sets of policies that share the same problems."""
  return Points(
      **{
          name: np.concatenate([getattr(x, name) for x in points])
          for name in NAMES
      }
  )
