"""The accuracy-cost frontier of a score: exact in one sort, or on a grid.

Under `escalate` it follows from ladders exactly. As kappa rises, a problem
moves only when kappa passes a *record*: a score above all earlier scores of the
problem. It then leaves the record's column for that of its next record, 'never'
after the last. Summing these moves in rising order of score gives every
threshold at once, in n log n time and linear memory.

Under `switch` and `redraft` another threshold writes another text, so there is
nothing to sort: each threshold of a grid is rolled out anew (`from_rollouts`),
or estimated from what another policy did (`off_policy`).
"""

import dataclasses

import numpy as np

from routing.outcomes import stopping as stopping_lib

_NAMES = ('correct', 'cost', 'loss', 'gain')
# Problems at a time: what they need stays in the cache of a processor.
_BLOCK = 4_096


@dataclasses.dataclass(frozen=True)
class Frontier:
  """Means over problems at K thresholds.

  thresholds: `[K]` float64, strictly ascending. -inf is 'at every chance', inf
    is 'never'. The exact frontier has both, and between them every threshold
    that tells two policies apart.
  accuracy: `[K]` in [0, 1].
  cost: `[K]` >= 0, fraction of all-large.
  loss, gain: `[K]` in [0, 1], relative to the largest model.
  """

  thresholds: np.ndarray
  accuracy: np.ndarray
  cost: np.ndarray
  loss: np.ndarray
  gain: np.ndarray

  def at(self, index: int) -> dict[str, float]:
    """The figures at one threshold, by name."""
    return {
        name: float(getattr(self, name)[index])
        for name in ('accuracy', 'cost', 'loss', 'gain')
    }


def check_rising(thresholds: np.ndarray) -> np.ndarray:
  """Returns `[K]` float64 thresholds, K > 0, or raises ValueError."""
  thresholds = np.asarray(thresholds, np.float64)
  if thresholds.ndim != 1 or not thresholds.size:
    raise ValueError(f'Thresholds must be [K], K > 0, got {thresholds.shape}.')
  if not np.all(thresholds[1:] > thresholds[:-1]):
    raise ValueError(f'Thresholds must rise strictly, got {thresholds}.')
  return thresholds


def frontier(scores: np.ndarray, outcomes: stopping_lib.Outcomes) -> Frontier:
  """Accuracy, cost, relative loss and gain at every distinct threshold.

  Args:
    scores: `[N, T]` float, higher means hand over; ties move together.
    outcomes: the table of the same problems.

  Returns:
    K points, K - 1 <= the number of distinct records. The lowest threshold is
    -inf, not the lowest score seen: on these problems both are 'always', on
    other problems only -inf is.

  Raises:
    ValueError: on a wrong shape or a score that is not finite.
  """
  scores = stopping_lib.check_scores(scores, outcomes.mask)
  blocks = [
      _moves(scores[start : start + _BLOCK], outcomes, start)
      for start in range(0, outcomes.num_problems, _BLOCK)
  ]
  records, moves = (np.concatenate(x) for x in zip(*blocks, strict=True))
  order = _rising(records)
  thresholds = np.append(records[order], np.inf).astype(np.float64)
  is_point = np.append(True, thresholds[1:] != thresholds[:-1])
  if len(order):
    thresholds[0] = -np.inf
  moves = np.take(moves, order, axis=0)

  def means(column: int, name: str) -> np.ndarray:
    never = getattr(outcomes, name)[:, -1].sum()
    totals = np.zeros(len(thresholds))
    np.cumsum(moves[:, column], out=totals[1:])
    totals += never - totals[-1]  # From 'always' on.
    totals[-1] = never  # To the last digit.
    totals /= outcomes.num_problems
    return totals[is_point]

  return Frontier(
      thresholds[is_point],
      *(means(column, name) for column, name in enumerate(_NAMES)),
  )


def _rising(values: np.ndarray) -> np.ndarray:
  """As `argsort`; ties in any order, since they are cut afterwards."""
  if values.dtype != np.float32:
    return np.argsort(values)
  # Integers that are ordered as the floats are, each with its place in the
  # lower half: these sort in a third of the time.
  bits = values.view(np.int32)
  keys = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int64) << 32
  keys |= np.arange(len(keys))
  keys.sort()
  return keys & 0xFFFFFFFF


def _moves(
    scores: np.ndarray, outcomes: stopping_lib.Outcomes, start: int
) -> tuple[np.ndarray, np.ndarray]:
  """`[M]` records of some problems; `[M, 4]` what changes as each is passed."""
  stop = start + len(scores)
  highest = stopping_lib.running_maximum(scores, outcomes.mask[start:stop])
  is_record = highest > -np.inf
  is_record[:, 1:] = highest[:, 1:] > highest[:, :-1]
  # Row-major order keeps the records of one problem together, rising. They are
  # named by their place in the flat `[n * T]` scores and, one column wider, in
  # the flat `[n * (T + 1)]` tables: half the time of pairs of indices.
  kept = np.flatnonzero(is_record)
  rows = kept // max(outcomes.num_steps, 1)
  here = kept + rows
  later = (rows + 1) * (outcomes.num_steps + 1) - 1
  np.copyto(later[:-1], here[1:], where=rows[1:] == rows[:-1])
  moves = np.empty((len(kept), len(_NAMES)))
  for column, name in enumerate(_NAMES):
    flat = getattr(outcomes, name)[start:stop].ravel()
    moves[:, column] = flat[later] - flat[here]
  return highest.ravel()[kept], moves


def from_rollouts(
    thresholds: np.ndarray,
    *,
    correct: np.ndarray,
    cost: np.ndarray,
    loss: np.ndarray,
    gain: np.ndarray,
) -> Frontier:
  """The frontier on a grid, from trajectories rolled out at each threshold.

  For any protocol. Between two thresholds of the grid it says nothing.

  Args:
    thresholds: `[K]` strictly rising.
    correct, loss, gain: `[K, N]` in [0, 1], of problem n answered at threshold
      k; means over its trajectories where there are several.
    cost: `[K, N]` >= 0, fraction of the problem's all-large cost.

  Raises:
    ValueError: on a wrong shape or an outcome that is not finite.
  """
  thresholds = check_rising(thresholds)
  outcomes = {'accuracy': correct, 'cost': cost, 'loss': loss, 'gain': gain}
  means = {}
  for name, values in outcomes.items():
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or len(values) != len(thresholds) or not values.size:
      raise ValueError(
          f'{name} must be [K, N], K = {len(thresholds)}, N > 0, got '
          f'{values.shape}.'
      )
    if not np.isfinite(values).all():
      index = int(np.argmin(np.isfinite(values).all(axis=1)))
      raise ValueError(f'{name} at {thresholds[index]:g} is not finite.')
    means[name] = values.mean(axis=1)
  return Frontier(thresholds=thresholds, **means)
