"""Outcomes of ladders by stopping time, as dense tables for large studies.

Under `escalate`, a router with threshold kappa hands a problem over at the
first step whose score is >= kappa, or never. For any scores the result is one
of T + 1 columns, so accuracy, cost and loss are look-ups.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np

from routing import types
from routing.outcomes import table as table_lib


@dataclasses.dataclass(frozen=True)
class Outcomes:
  """Outcomes of N ladders by stopping time.

  Column t < T is the outcome of a hand-over at decision t, column T ('never')
  that of no hand-over.

  mask: `[N, T]` bool, decision t exists.
  correct: `[N, T + 1]` float64 in [0, 1], probability of a right answer.
  cost: `[N, T + 1]` float64 >= 0, as a fraction of the all-large cost: the cost
    of the largest model alone on this problem.
  loss: `[N, T + 1]` float64 in [0, 1], relative loss: the largest model alone
    is right and this answer is wrong.
  gain: `[N, T + 1]` float64 in [0, 1], relative gain: this answer is right and
    the largest model alone is wrong.
  """

  mask: np.ndarray
  correct: np.ndarray
  cost: np.ndarray
  loss: np.ndarray
  gain: np.ndarray

  def __post_init__(self):
    if self.mask.ndim != 2 or not self.mask.shape[0]:
      raise ValueError(f'mask must be [N, T], N > 0, got {self.mask.shape}.')
    expected = (self.mask.shape[0], self.mask.shape[1] + 1)
    for name in ('correct', 'cost', 'loss', 'gain'):
      shape = getattr(self, name).shape
      if shape != expected:
        raise ValueError(
            f'{name} must be [N, T + 1] = {expected}, got {shape}.'
        )

  @property
  def num_problems(self) -> int:
    """N, the number of problems."""
    return self.mask.shape[0]

  @property
  def num_steps(self) -> int:
    """T, the largest number of decisions; also the index of column 'never'."""
    return self.mask.shape[1]

  def take(self, problems: np.ndarray) -> Outcomes:
    """Returns the outcomes restricted to `problems`.

    Args:
      problems: indices, possibly repeated, or `[N]` bool.
    """
    return Outcomes(
        **{
            field.name: getattr(self, field.name)[problems]
            for field in dataclasses.fields(self)
        }
    )


def from_batch(
    batch: types.OutcomeBatch, routes: np.ndarray | None = None
) -> Outcomes:
  """Returns the outcomes by stopping time of a batch of ladders.

  Args:
    batch: ladders of N problems; every level is one decision wide.
    routes: `[N, T]` int in 1..A-1, the route that takes over on a hand-over at
      decision t; None = the largest.

  Raises:
    ValueError: if a level is wider, a route is not in 1..A-1, or an outcome is
      not finite.
  """
  if not batch.is_chain:
    raise ValueError(
        f'The levels are {batch.widths} decisions wide; stopping times exist '
        'only for ladders, whose levels are all 1 wide.'
    )
  mask = np.asarray(batch.mask, bool)
  found = [
      np.asarray(x, np.float64) for x in (batch.correct, batch.cost, batch.loss)
  ]
  num_larger = found[0].shape[-1] - 1
  if routes is None:
    routes = np.full(mask.shape, num_larger)
  if routes.min() < 1 or routes.max() > num_larger:
    raise ValueError(
        f'Routes must be in 1..{num_larger}, got {routes.min()} to '
        f'{routes.max()}.'
    )
  columns = []
  for values in found:
    chosen = np.take_along_axis(values, routes[..., None], axis=-1)[..., 0]
    # Padding may hold any value, even NaN. Zeros pass the check below and add
    # nothing to sums over columns.
    chosen = np.where(mask, chosen, 0.0)
    stayed = _stay_outcome(values)[:, None]
    columns.append(np.concatenate([chosen, stayed], axis=1))
  correct, cost, loss = columns
  if not all(np.isfinite(x).all() for x in columns):
    raise ValueError(
        'Outcomes must be finite; the batch contains NaN or infinity.'
    )
  # A batch does not store the gain. It follows from
  #   right - right_of_largest = gain - loss,
  # which is true of each sample and therefore of the means. A hand-over at step
  # 0 keeps no step of the small model, so its answer is that of the largest
  # model alone.
  largest = found[0][:, :1, -1]
  gain = np.clip(correct - largest + loss, 0.0, 1.0)
  gain[:, :-1][~mask] = 0.0
  return Outcomes(mask=mask, correct=correct, cost=cost, loss=loss, gain=gain)


def stay_loss(batch: types.OutcomeBatch) -> np.ndarray:
  """Returns `[N]`, the relative loss of never handing over, for ladders."""
  return _stay_outcome(np.asarray(batch.loss))


def _stay_outcome(values: np.ndarray) -> np.ndarray:
  """Returns `[N]`, the outcomes of never handing over, from `[N, T, A]`."""
  # Route 0 ends the answer only at the last decision. Its entries at earlier
  # decisions are 0, so the sum is the entry of the last decision.
  return values[..., 0].sum(axis=1)


def from_table(
    table: table_lib.OutcomeTable,
    scores: np.ndarray,
    routes: np.ndarray | None,
    metric: str,
) -> tuple[Outcomes, np.ndarray]:
  """Converts an outcome table of ladders to outcomes by stopping time.

  Args:
    table: outcome table of N ladders.
    scores: `[M]` float, one per decision of the table.
    routes: `[M]` int, the route that takes over on a hand-over at each
      decision; None = the largest.
    metric: cost metric.

  Returns:
    The outcomes by stopping time, and the scores rearranged to `[N, T]`, with 0
    where no decision exists.

  Raises:
    ValueError: if a larger route leads to another decision.
  """
  depth, children = table.decisions.depth, table.children
  if (children[:, 1:] >= 0).any():
    raise ValueError(
        'Stopping times exist only for ladders, but in this table a larger '
        'route leads to another decision.'
    )
  if routes is None:
    routes = np.full(len(depth), table.num_routes - 1)
  shape = table.num_problems, table.decisions.max_depth
  at = table.problem, depth
  mask, score_rows = np.zeros(shape, bool), np.zeros(shape)
  mask[at], score_rows[at] = True, scores
  # In a ladder every larger route ends the answer. Its child is thus -1 - i for
  # ending i.
  ending = -1 - children[np.arange(len(depth)), routes]
  # Route 0 ends the answer only at the last decision of a problem, so `stays`
  # has one decision per problem, in order of problems.
  stays = np.flatnonzero(children[:, 0] < 0)
  fields = {}
  for name, values in (
      ('correct', table.ending_correct),
      ('cost', table.ending_cost[metric]),
      ('loss', table.ending_loss),
      ('gain', table.ending_gain),
  ):
    columns = np.zeros((shape[0], shape[1] + 1))
    columns[at] = values[ending]
    columns[:, -1] = values[-1 - children[stays, 0]]
    fields[name] = columns
  return Outcomes(mask=mask, **fields), score_rows


def check_scores(scores: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Checks that `[N, T]` scores are finite at every decision; returns them.

  Raises:
    ValueError: if shapes differ or the score of a decision is not finite.
  """
  scores, mask = np.asarray(scores), np.asarray(mask, bool)
  if scores.shape != mask.shape or scores.ndim != 2:
    raise ValueError(
        f'Scores must be [N, T] = {mask.shape}, got {scores.shape}.'
    )
  is_bad = ~np.isfinite(scores)
  # `is_bad.any()` comes first because it is cheap: tables are large, and scores
  # that are not finite are rare.
  if is_bad.any() and (is_bad & mask).any():
    row, step = np.argwhere(is_bad & mask)[0]
    raise ValueError(
        f'Score of problem {row} at step {step} is {scores[row, step]}; '
        'scores must be finite.'
    )
  return scores


def running_maximum(scores: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Returns the highest score up to each step, `[N, T]`.

  Entries before the first decision of a problem are -inf.

  Args:
    scores: `[N, T]` float, higher means more in need of a larger model.
    mask: `[N, T]` bool, decision t exists.

  Raises:
    ValueError: if shapes differ or the score of a decision is not finite.
  """
  highest = np.where(mask, check_scores(scores, mask), -np.inf)
  # T is small and N large: T vectorised updates of a column are faster than
  # `np.maximum.accumulate` along N short rows.
  for step in range(1, highest.shape[1]):
    now = highest[:, step]
    np.maximum(now, highest[:, step - 1], out=now)
  return highest


def stopping_times(
    scores: np.ndarray, mask: np.ndarray, thresholds: np.ndarray
) -> np.ndarray:
  """Returns the stopping time of each problem at each threshold, `[K, N]` int.

  It is the first t with score >= kappa_k, or T ('never') if there is none.

  Args:
    scores: `[N, T]` float.
    mask: `[N, T]` bool, decision t exists.
    thresholds: `[K]` float; -inf hands over at the first decision.
  """
  highest = running_maximum(scores, mask)
  # The running maximum rises along a row, so the first t at kappa or above
  # equals the number of entries below kappa. Entries before the first decision
  # count as below, also for kappa = -inf.
  exists = np.maximum.accumulate(np.asarray(mask, bool), axis=1)
  return np.stack(
      [np.sum((highest < kappa) | ~exists, axis=1) for kappa in thresholds]
  )


def at_times(outcomes: Outcomes, times: np.ndarray) -> dict[str, np.ndarray]:
  """Returns the outcomes of K policies, given the stopping times they choose.

  Args:
    outcomes: outcomes by stopping time of N problems.
    times: `[K, N]` int in 0..T, T for 'never'.

  Returns:
    correct, cost, loss and gain, each `[K, N]` float64.
  """
  return at_exits((outcomes,), times, np.zeros_like(times))


def at_exits(
    tables: Sequence[Outcomes], times: np.ndarray, channels: np.ndarray
) -> dict[str, np.ndarray]:
  """Returns outcomes, given a stopping time and a table for each problem.

  Args:
    tables: G tables of the same N problems, e.g. one per larger route.
    times: `[K, N]` int in 0..T, the stopping time. Column T ('never') is the
      same in every table.
    channels: `[K, N]` int in 0..G-1, the table in which the outcome of policy k
      on problem n is looked up.

  Returns:
    correct, cost, loss and gain, each `[K, N]` float64.
  """
  # Broadcasts to `[K, N]`: problem n is row n of every table.
  rows = np.arange(tables[0].num_problems)
  return {
      name: np.stack([getattr(table, name) for table in tables])[
          channels, rows, times
      ]
      for name in ('correct', 'cost', 'loss', 'gain')
  }
