"""The outcomes of policies: grade, cost, relative loss and gain per problem."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

import numpy as np

# The fields of `Points` that every source has.
NAMES = ('correct', 'cost', 'loss', 'gain')


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
  cut: `[K, N]` float64 in [0, 1], probability that the token limit cuts the
    answer off; NaN where this was not recorded, None = nowhere recorded.
  """

  correct: np.ndarray
  cost: np.ndarray
  loss: np.ndarray
  gain: np.ndarray
  cut: np.ndarray | None = None

  def __post_init__(self):
    shapes = {getattr(self, name).shape for name in NAMES}
    if self.cut is not None:
      shapes.add(self.cut.shape)
    if len(shapes) != 1 or self.correct.ndim != 2:
      raise ValueError(
          'correct, cost, loss, gain and cut must have the same shape [K, N]; '
          f'got {sorted(shapes)}.'
      )

  @property
  def accuracy(self) -> np.ndarray:
    """`[K]`, the mean of `correct` over problems."""
    return self.correct.mean(axis=1)

  @property
  def mean_cost(self) -> np.ndarray:
    """`[K]`, the mean of `cost` over problems."""
    return self.cost.mean(axis=1)

  @property
  def cut_share(self) -> np.ndarray:
    """`[K]`, the share of answers that were cut off; NaN where not recorded."""
    if self.cut is None:
      return np.full(len(self.correct), np.nan)
    return self.cut.mean(axis=1)

  def values(self) -> Mapping[str, np.ndarray]:
    """Returns correct, cost, loss and gain by name, each `[K, N]`."""
    return {name: getattr(self, name) for name in NAMES}

  def take(self, policies: np.ndarray) -> Points:
    """Returns the outcomes of the chosen `policies` (indices or `[K]` bool)."""
    return self._map(lambda x: x[policies])

  def on(self, problems: np.ndarray | slice) -> Points:
    """Returns the outcomes of each policy restricted to `problems`.

    Nothing is averaged.

    Args:
      problems: indices, possibly repeated, or a slice.
    """
    return self._map(lambda x: x[:, problems])

  def _map(self, change: Callable[[np.ndarray], np.ndarray]) -> Points:
    """Returns the outcomes with each array changed."""
    return Points(
        **{name: change(x) for name, x in self.values().items()},
        cut=None if self.cut is None else change(self.cut),
    )


def concatenate(points: Sequence[Points]) -> Points:
  """Joins the outcomes of several sets of policies on the same problems."""
  are_recorded = all(x.cut is not None for x in points)
  return Points(
      **{
          name: np.concatenate([getattr(x, name) for x in points])
          for name in NAMES
      },
      cut=np.concatenate([x.cut for x in points]) if are_recorded else None,
  )


def of_largest(correct: np.ndarray, cut: np.ndarray | None) -> Points:
  """Returns the outcomes of the largest model alone, as `[1, N]` points.

  Costs are fractions of its cost, so its cost is 1.

  Args:
    correct: `[N]`, its grades.
    cut: `[N]`, where its answer was cut off; None = not recorded.
  """
  correct = correct[None].astype(np.float64)
  zeros = np.zeros_like(correct)
  return Points(
      correct=correct,
      cost=zeros + 1,
      loss=zeros,
      gain=zeros,
      cut=None if cut is None else cut[None].astype(np.float64),
  )
