"""Several thresholds at once: one per route, or one per group of steps.

A *channel* is a score with its own threshold. The router hands over at the
first step at which the score of any channel reaches its threshold. If several
channels reach theirs at that step, the last of these channels decides the
route. `by_step` makes one channel per group of steps, e.g. early and late
steps. For one threshold per route, each larger route's action probability is a
channel.

A candidate is G thresholds, one per channel. Candidates have no natural order
in which to test them, and a grid of candidates is large. So the problems are
split. On one part a path is searched: the candidates that no other beats in
both loss and cost, from the lowest loss to the lowest cost. This path is then
tested on the other part, which was not read before.

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
  """Returns the scores as one channel per group of steps.

  Args:
    scores: `[N, T]` float, higher means hand over.
    starts: G steps, rising from 0, at which a group begins; (0, 3) makes steps
      0 to 2 early and all others late.

  Returns:
    `[N, T, G]` float64, -inf where a step belongs to another group.

  Raises:
    ValueError: if `starts` does not rise from 0.
  """
  starts = np.asarray(starts)
  if starts[0] != 0 or not np.all(starts[1:] > starts[:-1]):
    raise ValueError(f'starts must rise from 0, got {starts.tolist()}.')
  # `group` is `[T]`, the group of each step; `is_own` is `[T, G]` bool, True
  # where the step belongs to the channel's group.
  steps = np.arange(scores.shape[1])
  group = np.searchsorted(starts, steps, side='right') - 1
  is_own = group[:, None] == np.arange(len(starts))
  return np.where(is_own, np.asarray(scores, np.float64)[..., None], -np.inf)


def exits(
    scores: np.ndarray, mask: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns when each problem is handed over, and by which channel.

  Args:
    scores: `[N, T, G]` float; -inf where a channel is inactive. An inactive
      channel never hands over, not even at a threshold of -inf.
    mask: `[N, T]` bool, decision t exists.
    thresholds: `[K, G]` float, K candidates of G thresholds.

  Returns:
    `[K, N]` int stopping times, T for 'never hand over'; `[K, N]` int channels,
    0 for problems that are never handed over.
  """
  is_active = np.asarray(mask, bool)[..., None] & (scores > -np.inf)
  num_steps = mask.shape[1]
  times, channels = [], []
  # The loop takes one candidate at a time: an array `[K, N, T, G]` would not
  # fit in memory.
  for kappas in thresholds:
    hands_over = is_active & (scores >= kappas)
    hands_over_by_any = hands_over.any(axis=-1)
    time = np.where(
        hands_over_by_any.any(axis=1),
        hands_over_by_any.argmax(axis=1),
        num_steps,
    )
    # `hands_over` has no column T, the time of 'never'. Such rows read column
    # T - 1 instead, and `np.where` below replaces what they read.
    at = np.minimum(time, num_steps - 1)
    channels_at_exit = hands_over[np.arange(len(hands_over)), at]
    # argmax over the reversed channel axis finds the last channel that hands
    # over.
    last = (
        channels_at_exit.shape[1] - 1 - channels_at_exit[:, ::-1].argmax(axis=1)
    )
    times.append(time)
    channels.append(np.where(time < num_steps, last, 0))
  return np.stack(times), np.stack(channels)


def values_at(
    scores: np.ndarray,
    tables: Sequence[stopping_lib.Outcomes],
    thresholds: np.ndarray,
) -> dict[str, np.ndarray]:
  """Returns correct, cost, loss and gain at each candidate, `[K, N]` float64.

  Args:
    scores: `[N, T, G]` float, G channels.
    tables: outcomes by stopping time: one table for all channels if they hand
      over to the same model, otherwise one per channel.
    thresholds: `[K, G]` float, K candidates of G thresholds.

  Raises:
    ValueError: if there are neither 1 nor G tables.
  """
  if len(tables) not in (1, scores.shape[-1]):
    raise ValueError(
        f'{scores.shape[-1]} channels need 1 or {scores.shape[-1]} tables, got '
        f'{len(tables)}.'
    )
  times, channels = exits(scores, tables[0].mask, thresholds)
  if len(tables) == 1:
    # All channels hand over to the same model, so all use table 0.
    channels = np.zeros_like(channels)
  return stopping_lib.at_exits(tables, times, channels)


def grid(scores: np.ndarray, mask: np.ndarray, size: int = 15) -> np.ndarray:
  """Returns `[K, G]` candidates: all combinations of the channels' thresholds.

  Args:
    scores: `[N, T, G]` float, of problems that are *not* used for the tests.
    mask: `[N, T]` bool, decision t exists.
    size: number of thresholds per channel, quantiles of its scores, besides
      -inf and inf; K <= (size + 2)^G.

  Raises:
    ValueError: if a channel is active at no decision.
  """
  axes = []
  for number, channel in enumerate(np.moveaxis(scores, -1, 0)):
    active_scores = channel[np.asarray(mask, bool) & (channel > -np.inf)]
    if not active_scores.size:
      raise ValueError(
          f'Channel {number} is active at no decision, so its threshold cannot '
          'be chosen; leave the channel out, or bring more problems.'
      )
    # 'lower' makes every threshold a score that occurs. A threshold between two
    # scores could separate values that other problems have as ties.
    inner = np.quantile(active_scores, np.linspace(0, 1, size), method='lower')
    axes.append([-np.inf, *np.unique(inner), np.inf])
  return np.array(list(itertools.product(*axes)))


def depth_grid(
    scores: np.ndarray,
    depth: np.ndarray,
    starts: Sequence[int],
    num_steps: int,
    size: int = 15,
) -> np.ndarray:
  """Returns `[K, T]` candidates with one threshold per decision.

  All decisions of a group have the same threshold. The candidates are all
  combinations of the thresholds of G groups.

  Args:
    scores: `[M]` float, one per decision, of problems that are *not* used for
      the tests.
    depth: `[M]` int, number of earlier decisions of the same answer.
    starts: G depths, rising from 0, at which a group begins.
    num_steps: T, the largest number of decisions of an answer.
    size: number of thresholds per group, quantiles of its scores, besides -inf
      and inf; K <= (size + 2)^G.

  Raises:
    ValueError: if `starts` does not rise from 0, or a group has no decision.
  """
  starts = np.asarray(starts)
  if starts[0] != 0 or not np.all(starts[1:] > starts[:-1]):
    raise ValueError(f'starts must rise from 0, got {starts.tolist()}.')
  group = np.searchsorted(starts, depth, side='right') - 1
  axes = []
  for number, start in enumerate(starts):
    group_scores = scores[group == number]
    if not group_scores.size:
      raise ValueError(
          f'No problem has a decision in the group that starts at {start}; '
          f'starts are {starts.tolist()}.'
      )
    inner = np.quantile(group_scores, np.linspace(0, 1, size), method='lower')
    axes.append([-np.inf, *np.unique(inner), np.inf])
  found = np.array(list(itertools.product(*axes)))
  # From `[K, G]` to `[K, T]`: each decision gets the threshold of its group.
  return found[
      :, np.searchsorted(starts, np.arange(num_steps), side='right') - 1
  ]


def pareto_path(loss: np.ndarray, cost: np.ndarray) -> np.ndarray:
  """Returns the indices of the candidates on the Pareto front of loss and cost.

  Args:
    loss: `[K]` float, mean relative loss of each candidate.
    cost: `[K]` float, mean cost of each candidate.

  Returns:
    Int indices, from the lowest loss to the lowest cost; along them the loss
    rises strictly and the cost falls strictly.
  """
  # Means at different candidates are sums in different orders, so equal means
  # agree only to about 1e-12. Rounding makes them exact ties, so that rounding
  # errors keep no candidate on the path.
  loss, cost = np.round(loss, 10), np.round(cost, 10)
  order = np.lexsort((cost, loss))
  cheapest_so_far = np.minimum.accumulate(cost[order])
  # In rising order of loss, a candidate is on the path if it is cheaper than
  # all candidates before it.
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
  """Returns the best G thresholds that are proven to keep every risk.

  Each promise holds with its own probability 1 - delta.

  Args:
    scores: `[N, T, G]` float, G channels, of a frozen policy.
    tables: outcomes of the same problems; see `values_at`.
    risks: see `thresholds.for_risks`.
    is_searched: `[N]` bool, chosen without looking at outcomes. The path is
      searched on these problems, and tested on the others.
    size: see `grid`.
    procedure: one of `risks.PROCEDURES`; Bonferroni divides delta by the number
      of candidates on the path. 'growing' needs the same path, hence the same
      searched problems, in every test of the grown sample.
    max_cost: see `thresholds.from_values`.

  Returns:
    The point. Its `threshold` has G numbers; its accuracy, cost, loss and gain
    are means over the tested problems.

  Raises:
    risks.Refusal: if no candidate is proven; `needed` counts tested problems.
    ValueError: if no problem is searched, or none is left to test on.
  """
  is_searched = np.asarray(is_searched, bool)
  if is_searched.all() or not is_searched.any():
    raise ValueError(
        f'Both parts need at least one problem: {is_searched.sum()} of '
        f'{is_searched.size} are searched, the others are tested.'
    )
  searched = [table.take(is_searched) for table in tables]
  candidates = grid(scores[is_searched], searched[0].mask, size)
  found = values_at(scores[is_searched], searched, candidates)
  path = pareto_path(found['loss'].mean(axis=1), found['cost'].mean(axis=1))
  rising = np.arange(len(path))
  tested = [table.take(~is_searched) for table in tables]
  risks = [
      risk.settled(np.stack([getattr(x, risk.quantity) for x in tested]))
      for risk in risks
  ]
  return thresholds_lib.from_values(
      values_at(scores[~is_searched], tested, candidates[path]),
      candidates[path],
      risks,
      # Along the path loss rises and cost falls.
      orders={'loss': rising, 'cost': rising[::-1]},
      procedure=procedure,
      max_cost=max_cost,
  )
