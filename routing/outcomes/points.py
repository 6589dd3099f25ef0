"""The outcomes of policies: grade, cost, relative loss and gain per problem."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools

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

  def stored(self) -> Points:
    """Returns the same outcomes as arrays, for callers that read them often."""
    return self

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


class LookedUp(Points):
  """The outcomes of K policies, looked up where they are asked for.

  All that is stored of a policy and a problem is the ending that the policy
  reaches. 400 policies on 200,000 problems then take .3 GB instead of 3.

  Args:
    endings: `[K, N]` int, index of an ending.
    outcomes: name -> `[L]`, each of the fields of `Points` by ending; 'cut' may
      be None.
  """

  def __init__(
      self, endings: np.ndarray, outcomes: Mapping[str, np.ndarray | None]
  ):
    if endings.ndim != 2:
      raise ValueError(f'endings must be [K, N], got {endings.shape}.')
    # The base class is frozen.
    object.__setattr__(self, 'endings', endings.astype(np.int32, copy=False))
    object.__setattr__(self, 'outcomes', outcomes)

  @property
  def correct(self) -> np.ndarray:  # pyrefly: ignore
    """See `Points`."""
    return self._look_up('correct')

  @property
  def cost(self) -> np.ndarray:  # pyrefly: ignore
    """See `Points`."""
    return self._look_up('cost')

  @property
  def loss(self) -> np.ndarray:  # pyrefly: ignore
    """See `Points`."""
    return self._look_up('loss')

  @property
  def gain(self) -> np.ndarray:  # pyrefly: ignore
    """See `Points`."""
    return self._look_up('gain')

  @property
  def cut(self) -> np.ndarray | None:  # pyrefly: ignore
    """See `Points`."""
    return None if self.outcomes['cut'] is None else self._look_up('cut')

  @functools.cached_property
  def accuracy(self) -> np.ndarray:
    """See `Points`."""
    return self._means('correct')

  @functools.cached_property
  def mean_cost(self) -> np.ndarray:
    """See `Points`."""
    return self._means('cost')

  @functools.cached_property
  def cut_share(self) -> np.ndarray:
    """See `Points`."""
    if self.outcomes['cut'] is None:
      return np.full(len(self.endings), np.nan)
    return self._means('cut')

  def values(self) -> Mapping[str, np.ndarray]:
    """See `Points`; an entry is looked up when it is read."""
    return _Values(self)

  def stored(self) -> Points:
    """See `Points`."""
    return Points(**self.values(), cut=self.cut)

  def take(self, policies: np.ndarray) -> Points:
    """See `Points`."""
    return LookedUp(self.endings[policies], self.outcomes)

  def on(self, problems: np.ndarray | slice) -> Points:
    """See `Points`."""
    return LookedUp(self.endings[:, problems], self.outcomes)

  def _look_up(self, name: str, rows: slice = slice(None)) -> np.ndarray:
    return self.outcomes[name][self.endings[rows]].astype(np.float64)

  def _means(self, name: str) -> np.ndarray:
    """Returns the `[K]` means over problems, looked up row by row."""
    rows = range(len(self.endings))
    means = [self._look_up(name, slice(k, k + 1)).mean(axis=1) for k in rows]
    return np.concatenate(means) if means else np.zeros(0)


class _Values(Mapping):
  """The outcomes of `LookedUp` by name."""

  def __init__(self, points: LookedUp):
    self._points = points

  def __getitem__(self, name: str) -> np.ndarray:
    if name not in NAMES:
      raise KeyError(name)
    return getattr(self._points, name)

  def __iter__(self) -> Iterator[str]:
    return iter(NAMES)

  def __len__(self) -> int:
    return len(NAMES)


def concatenate(points: Sequence[Points]) -> Points:
  """Joins the outcomes of several sets of policies on the same problems."""
  if all(isinstance(x, LookedUp) for x in points):
    outcomes = points[0].outcomes
    if all(x.outcomes[k] is outcomes[k] for x in points for k in outcomes):
      return LookedUp(np.concatenate([x.endings for x in points]), outcomes)
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
