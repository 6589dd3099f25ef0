"""The exact accuracy-cost frontier of a score: one sort, no loop.

As kappa falls, problem i moves only when kappa passes a *record*: a score above
all earlier scores of the problem. It then leaves its later column ('never' at
first) for the record's. Summing these moves in falling order of score gives
every threshold at once, in n log n time and linear memory.
"""

import dataclasses

import numpy as np

from routing.calibration import outcomes as outcomes_lib


@dataclasses.dataclass(frozen=True)
class Frontier:
  """Means over problems at every threshold that tells two policies apart.

  thresholds: `[K]` float64, ascending, from -inf ('always at the first step')
    to inf ('never').
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


def frontier(scores: np.ndarray, outcomes: outcomes_lib.Outcomes) -> Frontier:
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
  mask = outcomes.mask
  highest = outcomes_lib.running_maximum(scores, mask)
  is_record = mask.copy()
  is_record[:, 1:] &= highest[:, 1:] > highest[:, :-1]
  # Row-major order keeps the records of one problem together, rising.
  rows, columns = np.nonzero(is_record)
  later = np.full(len(columns), outcomes.num_steps)
  later[:-1] = np.where(rows[1:] == rows[:-1], columns[1:], later[:-1])
  records = highest[rows, columns]

  order = np.argsort(-records)  # Ties are cut below, their order is no matter.
  ranked = records[order]
  last_of_tie = np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)]
  thresholds = ranked[last_of_tie][::-1].astype(np.float64)
  if len(thresholds):
    thresholds[0] = -np.inf

  def means(table: np.ndarray) -> np.ndarray:
    move = (table[rows, columns] - table[rows, later])[order]
    total = table[:, -1].sum() + np.cumsum(move)[last_of_tie][::-1]
    return np.append(total, table[:, -1].sum()) / outcomes.num_problems

  return Frontier(
      thresholds=np.append(thresholds, np.inf),
      accuracy=means(outcomes.correct),
      cost=means(outcomes.cost),
      loss=means(outcomes.loss),
      gain=means(outcomes.gain),
  )
