"""Several thresholds at once: one per route, or one per step group.

A *channel* is a score with a threshold of its own. The router hands over at the
first step at which any channel's score reaches its threshold; of several, the
last channel (the largest model) wins. `by_step` makes early and late steps two
channels; per route, each larger route's own chance is one.

G thresholds have no natural order to be tested in, and a grid of them is large.
So they are searched on one part of the problems: the candidates that no other
beats in both loss and cost, from the least loss down. This path is fixed when
the other part comes, on which it is tested.
Source: Laufer-Goldshtein et al. 2023, "Efficiently Controlling Multiple Risks
with Pareto Testing".
"""

from collections.abc import Sequence
import itertools

import numpy as np

from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from routing.outcomes import stopping as stopping_lib


def by_step(scores: np.ndarray, starts: Sequence[int]) -> np.ndarray:
  """One channel per group of steps.

  Args:
    scores: `[N, T]` float.
    starts: G steps, rising from 0, at which a group begins; (0, 3) makes steps
      0 to 2 early and all others late.

  Returns:
    `[N, T, G]` float64, -inf where a step is of another group.

  Raises:
    ValueError: if `starts` does not rise from 0.
  """
  starts = np.asarray(starts)
  if starts[0] != 0 or not np.all(starts[1:] > starts[:-1]):
    raise ValueError(f'starts must rise from 0, got {starts.tolist()}.')
  steps = np.arange(scores.shape[1])
  group = np.searchsorted(starts, steps, side='right') - 1
  is_own = group[:, None] == np.arange(len(starts))
  return np.where(is_own, np.asarray(scores, np.float64)[..., None], -np.inf)


def exits(
    scores: np.ndarray, mask: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """When each problem is handed over, and by which channel.

  Args:
    scores: `[N, T, G]` float; -inf where a channel does not speak. There even a
      threshold of -inf does not hand over.
    mask: `[N, T]` bool, decision t exists.
    thresholds: `[K, G]` float.

  Returns:
    `[K, N]` int stopping times, T for 'never'; `[K, N]` int channels, 0 there.
  """
  speaks = np.asarray(mask, bool)[..., None] & (scores > -np.inf)
  num_steps = mask.shape[1]
  times, channels = [], []
  for kappas in thresholds:
    leaves = speaks & (scores >= kappas)
    leaves_by_any = leaves.any(axis=-1)
    time = np.where(
        leaves_by_any.any(axis=1), leaves_by_any.argmax(axis=1), num_steps
    )
    at = np.minimum(time, num_steps - 1)
    open_channels = leaves[np.arange(len(leaves)), at]
    last = open_channels.shape[1] - 1 - open_channels[:, ::-1].argmax(axis=1)
    times.append(time)
    channels.append(np.where(time < num_steps, last, 0))
  return np.stack(times), np.stack(channels)


def values_at(
    scores: np.ndarray,
    tables: Sequence[stopping_lib.Outcomes],
    thresholds: np.ndarray,
) -> dict[str, np.ndarray]:
  """Correct, cost, loss and gain at each candidate; each `[K, N]` float64.

  Args:
    scores: `[N, T, G]` float, one channel each.
    tables: one for all channels, or one per channel.
    thresholds: `[K, G]` float.

  Raises:
    ValueError: if the tables are neither one nor G.
  """
  if len(tables) not in (1, scores.shape[-1]):
    raise ValueError(
        f'{scores.shape[-1]} channels take 1 or {scores.shape[-1]} tables, got '
        f'{len(tables)}.'
    )
  times, channels = exits(scores, tables[0].mask, thresholds)
  if len(tables) == 1:
    channels = np.zeros_like(channels)
  return stopping_lib.at_exits(tables, times, channels)


def grid(scores: np.ndarray, mask: np.ndarray, size: int = 15) -> np.ndarray:
  """`[K, G]` candidates: every combination of the channels' own thresholds.

  Args:
    scores: `[N, T, G]` float, of problems that are *not* tested on.
    mask: `[N, T]` bool, decision t exists.
    size: quantiles of each channel, besides -inf and inf; K <= (size + 2)^G.
  """
  axes = []
  for channel in np.moveaxis(scores, -1, 0):
    heard = channel[np.asarray(mask, bool) & (channel > -np.inf)]
    inner = np.quantile(heard, np.linspace(0, 1, size), method='lower')
    axes.append([-np.inf, *np.unique(inner), np.inf])
  return np.array(list(itertools.product(*axes)))


def depth_grid(
    scores: np.ndarray,
    depth: np.ndarray,
    starts: Sequence[int],
    num_steps: int,
    size: int = 15,
) -> np.ndarray:
  """`[K, T]` candidates with a threshold for each decision of a way.

  Every combination of the thresholds of G groups of decisions.

  Args:
    scores: `[M]` float, of problems that are *not* tested on.
    depth: `[M]` int, number of decisions before.
    starts: G depths, rising from 0, at which a group begins.
    num_steps: T.
    size: quantiles of each group, besides -inf and inf; K <= (size + 2)^G.

  Raises:
    ValueError: if `starts` does not rise from 0, or no decision is in a group.
  """
  starts = np.asarray(starts)
  if starts[0] != 0 or not np.all(starts[1:] > starts[:-1]):
    raise ValueError(f'starts must rise from 0, got {starts.tolist()}.')
  group = np.searchsorted(starts, depth, side='right') - 1
  axes = []
  for number, start in enumerate(starts):
    heard = scores[group == number]
    if not heard.size:
      raise ValueError(f'No problem has a decision {start} or later.')
    inner = np.quantile(heard, np.linspace(0, 1, size), method='lower')
    axes.append([-np.inf, *np.unique(inner), np.inf])
  found = np.array(list(itertools.product(*axes)))
  return found[
      :, np.searchsorted(starts, np.arange(num_steps), side='right') - 1
  ]


def pareto_path(loss: np.ndarray, cost: np.ndarray) -> np.ndarray:
  """Candidates that none beats in both, from the least loss to the least cost.

  Args:
    loss: `[K]` float.
    cost: `[K]` float.

  Returns:
    Indices; loss rises strictly along them and cost falls strictly.
  """
  # Means are sums in another order at each candidate: equal to about 1e-12.
  loss, cost = np.round(loss, 10), np.round(cost, 10)
  order = np.lexsort((cost, loss))
  cheapest_so_far = np.minimum.accumulate(cost[order])
  is_cheaper = cost[order][1:] < cheapest_so_far[:-1]
  return order[np.concatenate([[True], is_cheaper])]


def search_then_test(
    scores: np.ndarray,
    tables: Sequence[stopping_lib.Outcomes],
    risks: Sequence[risks_lib.Risk],
    *,
    is_searched: np.ndarray,
    size: int = 15,
    procedure: str = 'fixed_sequence',
    max_cost: float = 1.0,
) -> thresholds_lib.OperatingPoint:
  """The best thresholds that keep every risk, each with its own 1 - delta.

  Args:
    scores: `[N, T, G]` float, one channel each, of a frozen policy.
    tables: one for all channels, or one per channel; of the same problems.
    risks: see `thresholds.for_risks`.
    is_searched: `[N]` bool, chosen without looking at outcomes: the candidates
      are found on these problems, and proven on the others.
    size: quantiles per channel that are searched.
    procedure: of `risks.PROCEDURES`; Bonferroni counts the candidates of the
      path. 'growing' takes the same path, hence the same searched problems, at
      every look.
    max_cost: see `thresholds.from_values`.

  Returns:
    The point; `threshold` holds G numbers, figures are of the tested part.

  Raises:
    risks.Refusal: if it cannot be promised. `needed` counts tested problems.
    ValueError: if either part is empty.
  """
  is_searched = np.asarray(is_searched, bool)
  if is_searched.all() or not is_searched.any():
    raise ValueError(
        f'Both parts must hold problems: {is_searched.sum()} of '
        f'{is_searched.size} are searched.'
    )
  seen = [table.take(is_searched) for table in tables]
  candidates = grid(scores[is_searched], seen[0].mask, size)
  found = values_at(scores[is_searched], seen, candidates)
  path = pareto_path(found['loss'].mean(axis=1), found['cost'].mean(axis=1))
  rising = np.arange(len(path))
  unseen = [table.take(~is_searched) for table in tables]
  risks = [
      risk.settled(np.stack([getattr(x, risk.quantity) for x in unseen]))
      for risk in risks
  ]
  return thresholds_lib.from_values(
      values_at(scores[~is_searched], unseen, candidates[path]),
      candidates[path],
      risks,
      orders={'loss': rising, 'cost': rising[::-1]},
      procedure=procedure,
      max_cost=max_cost,
  )
