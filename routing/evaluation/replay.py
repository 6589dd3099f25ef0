"""What a policy would have done, exactly, from graded ladders: no model call.

A policy that hands over at given thresholds, at a fixed step, or with given
probabilities ends in known columns of the table of stopping times, so its
per-problem outcomes are look-ups or short expectations.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np

from routing.calibration import outcomes as outcomes_lib

_NAMES = ('correct', 'cost', 'loss', 'gain')


@dataclasses.dataclass(frozen=True)
class Points:
  """K policies on the same N problems, problem by problem.

  correct: `[K, N]` float64 in [0, 1], chance of a right answer.
  cost: `[K, N]` float64 >= 0, fraction of the problem's all-large cost.
  loss, gain: `[K, N]` float64 in [0, 1], relative to the largest model.
  """

  correct: np.ndarray
  cost: np.ndarray
  loss: np.ndarray
  gain: np.ndarray

  def __post_init__(self):
    shapes = {getattr(self, name).shape for name in _NAMES}
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

  def take(self, policies: np.ndarray) -> Points:
    """The same for some of the policies."""
    return Points(**{name: getattr(self, name)[policies] for name in _NAMES})


def concatenate(points: Sequence[Points]) -> Points:
  """The policies of several methods, one after another."""
  return Points(
      **{
          name: np.concatenate([getattr(x, name) for x in points])
          for name in _NAMES
      }
  )


def at_times(outcomes: outcomes_lib.Outcomes, times: np.ndarray) -> Points:
  """Policies given by `[K, N]` stopping times, T for 'never'."""
  return Points(**outcomes_lib.at_times(outcomes, times))


def at_thresholds(
    scores: np.ndarray, outcomes: outcomes_lib.Outcomes, thresholds: np.ndarray
) -> Points:
  """Hand over at the first step with score >= kappa, for `[K]` thresholds."""
  times = outcomes_lib.stopping_times(scores, outcomes.mask, thresholds)
  return at_times(outcomes, times)


def at_steps(outcomes: outcomes_lib.Outcomes, steps: Sequence[int]) -> Points:
  """Hand over at step k if the trace gets there, for each k; T is 'never'."""
  num_steps = outcomes.num_steps
  exists = np.pad(outcomes.mask, [(0, 0), (0, 1)], constant_values=True)
  times = np.stack(
      [np.where(exists[:, step], step, num_steps) for step in steps]
  )
  return at_times(outcomes, times)


def largest_alone(outcomes: outcomes_lib.Outcomes) -> Points:
  """The largest model without a router: cost 1 and no draft, by definition.

  `outcomes` must have been made with the largest route at step 0.
  """
  correct = outcomes.correct[None, :, 0]
  zeros = np.zeros_like(correct)
  return Points(correct=correct, cost=zeros + 1.0, loss=zeros, gain=zeros)


def expected(
    tables: Sequence[outcomes_lib.Outcomes], handover: np.ndarray
) -> Points:
  """A randomised policy, in expectation over its own coins.

  Args:
    tables: A-1 tables of the same problems, one per larger route.
    handover: `[N, T, A-1]` float in [0, 1], chance of handing over to each
      larger route at t, given that the trace has got there; sums to <= 1.

  Returns:
    One policy (K = 1).

  Raises:
    ValueError: if shapes differ or a row is no probability.
  """
  mask = tables[0].mask
  if handover.shape != (*mask.shape, len(tables)):
    raise ValueError(
        f'Hand-over chances must be {(*mask.shape, len(tables))}, got '
        f'{handover.shape}.'
    )
  handover = np.where(mask[..., None], handover, 0.0)
  leave = handover.sum(axis=-1)
  if handover.min(initial=0) < 0 or leave.max(initial=0) > 1 + 1e-6:
    raise ValueError('Hand-over chances must be >= 0 and sum to at most 1.')
  arrive = np.cumprod(1 - np.pad(leave, [(0, 0), (1, 0)]), axis=1)
  stop = arrive[:, :-1, None] * handover
  values = {}
  for name in _NAMES:
    moved = np.stack([getattr(x, name)[:, :-1] for x in tables], axis=-1)
    stay = getattr(tables[0], name)[:, -1] * arrive[:, -1]
    values[name] = ((stop * moved).sum(axis=(1, 2)) + stay)[None]
  return Points(**values)


def at_hazards(
    outcomes: outcomes_lib.Outcomes, rates: Sequence[float]
) -> Points:
  """Random routing: at every step, hand over with the same chance."""
  shape = (*outcomes.mask.shape, 1)
  return concatenate(
      [expected([outcomes], np.full(shape, rate)) for rate in rates]
  )


def oracle(
    tables: Sequence[outcomes_lib.Outcomes], prices: Sequence[float]
) -> Points:
  """The best way out of each problem, knowing every outcome beforehand.

  For each price lambda, the column that maximises correct - lambda * cost; no
  policy that picks one column per problem is above the hull of these points.

  Args:
    tables: A-1 tables of the same problems, one per larger route.
    prices: `[K]` >= 0, correct answers per unit of cost.
  """
  exists = np.pad(tables[0].mask, [(0, 0), (0, 1)], constant_values=True)
  columns = {
      name: np.concatenate([getattr(x, name) for x in tables], axis=1)
      for name in _NAMES
  }
  exists = np.tile(exists, (1, len(tables)))
  rows = np.arange(len(exists))
  values = {name: [] for name in _NAMES}
  for price in prices:
    utility = columns['correct'] - price * columns['cost']
    best = np.argmax(np.where(exists, utility, -np.inf), axis=1)
    for name in _NAMES:
      values[name].append(columns[name][rows, best])
  return Points(**{name: np.stack(x) for name, x in values.items()})
