"""Outcomes by stopping time: ladders as dense tables, for large studies.

Under `escalate` a router with threshold kappa hands problem i over at the first
step whose score is >= kappa, or never. Whatever the scores are, it ends in one
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
  """Outcomes by stopping time; column t < T is 'hand over at t', T is 'never'.

  mask: `[N, T]` bool, decision t exists.
  correct: `[N, T + 1]` float64 in [0, 1], chance of a right answer.
  cost: `[N, T + 1]` float64 >= 0, fraction of its problem's all-large cost.
  loss: `[N, T + 1]` float64 in [0, 1], the largest is right, this is not.
  gain: `[N, T + 1]` float64 in [0, 1], its mirror: this is right, that is not.
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
    """N."""
    return self.mask.shape[0]

  @property
  def num_steps(self) -> int:
    """T, also the column of 'never'."""
    return self.mask.shape[1]

  def take(self, problems: np.ndarray) -> Outcomes:
    """The table of `problems` (indices or `[N]` bool), repeats allowed."""
    return Outcomes(
        **{
            field.name: getattr(self, field.name)[problems]
            for field in dataclasses.fields(self)
        }
    )


def from_batch(
    batch: types.OutcomeBatch, routes: np.ndarray | None = None
) -> Outcomes:
  """The table of a batch of ladders, once the larger route is chosen.

  Args:
    batch: ladders of N problems: every level one decision wide.
    routes: `[N, T]` int in 1..A-1, whom a hand-over at t goes to; the largest
      if None.

  Returns:
    The table. Gain needs no column of its own in a batch: sample by sample
    right - right_of_largest = gain - loss.

  Raises:
    ValueError: if a level is wider, a route is not in 1..A-1, or an outcome is
      not finite.
  """
  if not batch.is_chain:
    raise ValueError(
        f'The levels are {batch.widths} decisions wide; stopping times are of '
        'ladders, whose levels are all 1 wide.'
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
    chosen = np.where(mask, chosen, 0.0)
    stayed = _stayed(values)[:, None]
    columns.append(np.concatenate([chosen, stayed], axis=1))
  correct, cost, loss = columns
  if not all(np.isfinite(x).all() for x in columns):
    raise ValueError('Outcomes must be finite, got a NaN or an infinity.')
  largest = found[0][:, :1, -1]
  gain = np.clip(correct - largest + loss, 0.0, 1.0)
  gain[:, :-1][~mask] = 0.0
  return Outcomes(mask=mask, correct=correct, cost=cost, loss=loss, gain=gain)


def stay_loss(batch: types.OutcomeBatch) -> np.ndarray:
  """`[N]` relative loss of ladders where the small model writes to the end."""
  return _stayed(np.asarray(batch.loss))


def _stayed(values: np.ndarray) -> np.ndarray:
  """`[N]` of `[N, T, A]`: staying ends an answer at the last decision alone."""
  return values[..., 0].sum(axis=1)


def from_table(
    table: table_lib.OutcomeTable,
    scores: np.ndarray,
    routes: np.ndarray | None,
    metric: str,
) -> tuple[Outcomes, np.ndarray]:
  """Stopping times of an outcome table of ladders, and its scores.

  Args:
    table: of N ladders.
    scores: `[M]` float, one a decision.
    routes: `[M]` int, whom a hand-over goes to; None = the largest.
    metric: of the costs.

  Returns:
    The stopping times' outcomes, and `[N, T]` scores.

  Raises:
    ValueError: if decisions branch.
  """
  depth, children = table.decisions.depth, table.children
  if (children[:, 1:] >= 0).any():
    raise ValueError('Stopping times are of ladders; here decisions branch.')
  if routes is None:
    routes = np.full(len(depth), table.num_routes - 1)
  shape = table.num_problems, table.decisions.max_depth
  at = table.problem, depth
  mask, laid = np.zeros(shape, bool), np.zeros(shape)
  mask[at], laid[at] = True, scores
  ending = -1 - children[np.arange(len(depth)), routes]
  stays = np.flatnonzero(children[:, 0] < 0)  # By problem.
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
  return Outcomes(mask=mask, **fields), laid


def check_scores(scores: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Returns `[N, T]` scores, finite at every decision.

  Raises:
    ValueError: if shapes differ or the score of a decision is not finite.
  """
  scores, mask = np.asarray(scores), np.asarray(mask, bool)
  if scores.shape != mask.shape or scores.ndim != 2:
    raise ValueError(
        f'Scores must be [N, T] = {mask.shape}, got {scores.shape}.'
    )
  is_bad = ~np.isfinite(scores)
  if is_bad.any() and (is_bad & mask).any():
    row, step = np.argwhere(is_bad & mask)[0]
    raise ValueError(
        f'Score of problem {row} at step {step} is {scores[row, step]}; '
        'scores must be finite.'
    )
  return scores


def running_maximum(scores: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """`[N, T]` highest score so far; -inf before the first decision.

  Args:
    scores: `[N, T]` float, higher means more in need of a larger model.
    mask: `[N, T]` bool, decision t exists.

  Raises:
    ValueError: if shapes differ or the score of a decision is not finite.
  """
  highest = np.where(mask, check_scores(scores, mask), -np.inf)
  # T is small: T sweeps down the rows beat N short ones along them.
  for step in range(1, highest.shape[1]):
    now = highest[:, step]
    np.maximum(now, highest[:, step - 1], out=now)
  return highest


def stopping_times(
    scores: np.ndarray, mask: np.ndarray, thresholds: np.ndarray
) -> np.ndarray:
  """`[K, N]` int, the first t with score >= kappa_k, or T for 'never'.

  Args:
    scores: `[N, T]` float.
    mask: `[N, T]` bool, decision t exists.
    thresholds: `[K]` float; -inf hands over at the first decision.
  """
  highest = running_maximum(scores, mask)
  # The running maximum is sorted, so the first t at kappa or above is the
  # number of steps below it. A gap before the first decision counts as below.
  exists = np.maximum.accumulate(np.asarray(mask, bool), axis=1)
  return np.stack(
      [np.sum((highest < kappa) | ~exists, axis=1) for kappa in thresholds]
  )


def at_times(outcomes: Outcomes, times: np.ndarray) -> dict[str, np.ndarray]:
  """Looks up `[K, N]` stopping times; each value is `[K, N]` float64.

  Keys: correct, cost, loss, gain.
  """
  return at_exits((outcomes,), times, np.zeros_like(times))


def at_exits(
    tables: Sequence[Outcomes], times: np.ndarray, channels: np.ndarray
) -> dict[str, np.ndarray]:
  """Looks up who left when, and by which of several ways.

  Args:
    tables: G of the same problems, e.g. one per larger route.
    times: `[K, N]` int in 0..T, T for 'never', the same in every table.
    channels: `[K, N]` int in 0..G-1, the table in which to look.

  Returns:
    correct, cost, loss, gain; each `[K, N]` float64.
  """
  rows = np.arange(tables[0].num_problems)
  return {
      name: np.stack([getattr(table, name) for table in tables])[
          channels, rows, times
      ]
      for name in ('correct', 'cost', 'loss', 'gain')
  }
