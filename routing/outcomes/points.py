"""What policies earn, problem by problem: accuracy, cost, loss and gain."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

import numpy as np

NAMES = ('correct', 'cost', 'loss', 'gain')


@dataclasses.dataclass(frozen=True)
class Points:
  """The outcomes of K policies on the same N problems.

  correct: `[K, N]` float64 in [0, 1], chance of a right answer.
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
      raise ValueError(f'Points must all be [K, N], got {sorted(shapes)}.')

  @property
  def accuracy(self) -> np.ndarray:
    """`[K]` mean over problems."""
    return self.correct.mean(axis=1)

  @property
  def mean_cost(self) -> np.ndarray:
    """`[K]` mean over problems."""
    return self.cost.mean(axis=1)

  def values(self) -> Mapping[str, np.ndarray]:
    """Each quantity by name, `[K, N]`."""
    return {name: getattr(self, name) for name in NAMES}

  def take(self, policies: np.ndarray) -> Points:
    """The same for some of the policies."""
    return Points(**{name: x[policies] for name, x in self.values().items()})

  def on(self, problems: np.ndarray | slice) -> Points:
    """The same on some of the problems."""
    return Points(**{name: x[:, problems] for name, x in self.values().items()})


def concatenate(points: Sequence[Points]) -> Points:
  """The policies of several sets on the same problems, one after another."""
  return Points(
      **{
          name: np.concatenate([getattr(x, name) for x in points])
          for name in NAMES
      }
  )
