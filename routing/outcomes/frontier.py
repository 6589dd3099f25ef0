"""The accuracy-cost frontier of a score: exact from one sort, or on a grid.

Under `escalate`, ladders give the exact frontier. As the threshold kappa rises,
the stopping time of a problem changes only when kappa passes a *record*: a
score above all earlier scores of the problem. The problem then hands over at
its next record instead, or never after its last record. Cumulative sums of
these moves, in rising order of score, give the means at every threshold in
O(n log n) time and linear memory.

Under `switch` and `redraft` another threshold produces another text, so no such
sum exists. Each threshold of a grid is either rolled out (`from_rollouts`) or
estimated off-policy from other trajectories (`importance`).
"""

import dataclasses

import numpy as np

from routing.outcomes import stopping as stopping_lib

_NAMES = ('correct', 'cost', 'loss', 'gain')  # The columns of `_moves`.
# Problems per block, small enough for its arrays to stay in the CPU cache.
_BLOCK = 4_096


@dataclasses.dataclass(frozen=True)
class Frontier:
  """Accuracy, cost, relative loss and gain at K thresholds, as problem means.

  thresholds: `[K]` float64, strictly rising. -inf always hands over, inf never
    does. The exact frontier has both, and every threshold between them that
    gives a different policy on these problems.
  accuracy: `[K]` in [0, 1].
  cost: `[K]` >= 0, as a fraction of the cost of the largest model alone.
  loss: `[K]` in [0, 1], share of problems that the largest model alone gets
    right and the router wrong.
  gain: `[K]` in [0, 1], share of problems for which the reverse is true.
  """

  thresholds: np.ndarray
  accuracy: np.ndarray
  cost: np.ndarray
  loss: np.ndarray
  gain: np.ndarray

  def at(self, index: int) -> dict[str, float]:
    """Returns accuracy, cost, loss and gain at threshold number `index`."""
    return {
        name: float(getattr(self, name)[index])
        for name in ('accuracy', 'cost', 'loss', 'gain')
    }


def check_rising(thresholds: np.ndarray) -> np.ndarray:
  """Checks that thresholds rise strictly, and returns them as `[K]` float64.

  Raises:
    ValueError: if there is no threshold or the thresholds do not rise strictly.
  """
  thresholds = np.asarray(thresholds, np.float64)
  if thresholds.ndim != 1 or not thresholds.size:
    raise ValueError(f'Thresholds must be [K], K > 0, got {thresholds.shape}.')
  if not np.all(thresholds[1:] > thresholds[:-1]):
    raise ValueError(f'Thresholds must rise strictly, got {thresholds}.')
  return thresholds


def frontier(scores: np.ndarray, outcomes: stopping_lib.Outcomes) -> Frontier:
  """Returns accuracy, cost, relative loss and gain at every distinct threshold.

  Args:
    scores: `[N, T]` float, higher means hand over. Equal scores share a
      threshold.
    outcomes: outcomes by stopping time of the same problems.

  Returns:
    K points, K - 1 <= the number of distinct records. The lowest threshold is
    -inf rather than the lowest score. Both thresholds always hand over on these
    problems, but only -inf does so on other problems.

  Raises:
    ValueError: on a wrong shape or a score that is not finite.
  """
  scores = stopping_lib.check_scores(scores, outcomes.mask)
  blocks = [
      _moves(scores[start : start + _BLOCK], outcomes, start)
      for start in range(0, outcomes.num_problems, _BLOCK)
  ]
  records, moves = (np.concatenate(x) for x in zip(*blocks, strict=True))
  order = _argsort(records)
  thresholds = np.append(records[order], np.inf).astype(np.float64)
  # Of several equal scores only the first becomes a point. Its cumulative sum
  # contains the moves of lower scores only, as it must: at kappa = score the
  # problem still hands over.
  is_point = np.append(True, thresholds[1:] != thresholds[:-1])
  if len(order):
    thresholds[0] = -np.inf
  moves = np.take(moves, order, axis=0)

  def means(column: int, name: str) -> np.ndarray:
    never = getattr(outcomes, name)[:, -1].sum()
    totals = np.zeros(len(thresholds))
    np.cumsum(moves[:, column], out=totals[1:])
    # The running sum was started from the policy that always hands over. Anchor
    # it at its exact end, the policy that never does, so that rounding does not
    # accumulate.
    totals += never - totals[-1]
    totals[-1] = never
    totals /= outcomes.num_problems
    return totals[is_point]

  return Frontier(
      thresholds[is_point],
      *(means(column, name) for column, name in enumerate(_NAMES)),
  )


def _argsort(values: np.ndarray) -> np.ndarray:
  """Returns the indices that sort `values`, with ties in any order.

  The order of ties does not matter, because equal scores form one point.
  """
  if values.dtype != np.float32:
    return np.argsort(values)
  # The bits of a float32 sort like the float once the lower 31 bits of negative
  # values are flipped. The index goes into the lower half of an int64, so that
  # one plain sort replaces an argsort and takes a third of its time.
  bits = values.view(np.int32)
  keys = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int64) << 32
  keys |= np.arange(len(keys))
  keys.sort()
  return keys & 0xFFFFFFFF


def _moves(
    scores: np.ndarray, outcomes: stopping_lib.Outcomes, start: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the records of a block of problems, and how outcomes change there.

  Args:
    scores: `[n, T]` float.
    outcomes: outcomes by stopping time of all problems.
    start: index of the block's first problem.

  Returns:
    `[M]` record scores; `[M, 4]` float64, the change of each quantity as kappa
    passes the record.
  """
  stop = start + len(scores)
  highest = stopping_lib.running_maximum(scores, outcomes.mask[start:stop])
  is_record = highest > -np.inf
  is_record[:, 1:] = highest[:, 1:] > highest[:, :-1]
  # Row-major order keeps the records of a problem adjacent and rising. `index`
  # holds flat indices into the `[n, T]` scores, `here` into the `[n, T + 1]`
  # outcomes, where row i starts i entries later. Flat indices take half the
  # time of (row, column) pairs.
  index = np.flatnonzero(is_record)
  rows = index // max(outcomes.num_steps, 1)
  here = index + rows
  # `later` is where the problem moves: to column 'never' of its row or, if it
  # has another record, to that record.
  later = (rows + 1) * (outcomes.num_steps + 1) - 1
  np.copyto(later[:-1], here[1:], where=rows[1:] == rows[:-1])
  moves = np.empty((len(index), len(_NAMES)))
  for column, name in enumerate(_NAMES):
    flat = getattr(outcomes, name)[start:stop].ravel()
    moves[:, column] = flat[later] - flat[here]
  return highest.ravel()[index], moves


def from_rollouts(
    thresholds: np.ndarray,
    *,
    correct: np.ndarray,
    cost: np.ndarray,
    loss: np.ndarray,
    gain: np.ndarray,
) -> Frontier:
  """Returns the frontier on a grid of thresholds, from rollouts at each one.

  Works for any protocol. Nothing is known about thresholds between grid points.

  Args:
    thresholds: `[K]` strictly rising.
    correct, loss, gain: `[K, N]` in [0, 1], outcome of problem n at threshold
      k; the mean where a problem has several trajectories.
    cost: `[K, N]` >= 0, as a fraction of the cost of the largest model alone on
      problem n.

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
      # argmin of booleans: the first threshold with a bad value.
      index = int(np.argmin(np.isfinite(values).all(axis=1)))
      raise ValueError(
          f'{name} at threshold {thresholds[index]:g} is NaN or infinite for '
          'some problem; it must be finite.'
      )
    means[name] = values.mean(axis=1)
  return Frontier(thresholds=thresholds, **means)
