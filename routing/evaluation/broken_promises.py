"""Counts how often calibration breaks its promise, in a simulation.

Calibration samples are drawn with replacement from problems that no stage has
seen. These problems serve as the population, so the true relative loss and cost
of every threshold are known.
"""

from typing import Any

import numpy as np

from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from routing.outcomes import points as points_lib

SAMPLE_SIZE = 500  # Problems in a calibration sample.
# The promise: relative loss <= ALPHA with probability 1 - DELTA.
ALPHA, DELTA = 0.05, 0.1


def count(
    values: points_lib.Points,
    thresholds: np.ndarray,
    *,
    num_samples: int,
    seed: int,
    sample_size: int = SAMPLE_SIZE,
    alpha: float = ALPHA,
    delta: float = DELTA,
) -> dict[str, Any]:
  """Counts how often thresholds chosen from a sample break 'loss <= alpha'.

  Args:
    values: outcomes of K thresholds on the N problems of the population.
    thresholds: `[K]` rising, fixed without these problems.
    num_samples: number of calibration samples.
    seed: seed of the draws.
    sample_size: number of problems in a sample.
    alpha, delta: the promise, relative loss <= alpha at confidence 1 - delta.

  Returns:
    The settings. `promised` (learn then test) and `picked` (the cheapest
    threshold with sample loss <= alpha, untested), each with the numbers of
    samples whose threshold has true loss > alpha (`broken`) or that gave none
    (`refused`), and the thresholds' mean true `cost`. `best`: least `cost`
    of a threshold with true loss <= alpha.
  """
  # Means over the population are true values, not estimates.
  loss, cost = values.loss.mean(axis=1), values.mean_cost
  risks = [risks_lib.Risk('loss', alpha, delta).settled(values.loss)]
  rng, num = np.random.default_rng(seed), values.loss.shape[1]
  chosen = {'promised': [], 'picked': []}
  for _ in range(num_samples):
    sample = values.on(rng.integers(num, size=sample_size)).stored()
    try:
      point = thresholds_lib.from_values(
          sample.values(), thresholds, risks, max_cost=np.inf
      )
      index = int(np.searchsorted(thresholds, point.threshold))
      chosen['promised'].append(index)
    except risks_lib.Refusal:
      pass  # Counted as `refused` below.
    # The naive rule for comparison: trust the sample mean.
    allowed = np.flatnonzero(sample.loss.mean(axis=1) <= alpha)
    if allowed.size:
      cheapest = allowed[np.argmin(sample.mean_cost[allowed])]
      chosen['picked'].append(int(cheapest))
  return {
      'alpha': alpha,
      'delta': delta,
      'sample_size': sample_size,
      'num_samples': num_samples,
      'num_problems': num,
      'best': {'cost': float(cost[loss <= alpha].min(initial=np.inf))},
      **{
          name: _true_figures(index, loss > alpha, cost, num_samples)
          for name, index in chosen.items()
      },
  }


def _true_figures(
    index: list[int], is_broken: np.ndarray, cost: np.ndarray, num_samples: int
) -> dict[str, Any]:
  """Counts the chosen thresholds that break the promise; averages their costs.

  Args:
    index: indices of the chosen thresholds, one per sample that gave one.
    is_broken: `[K]` bool, the true loss of a threshold is above alpha.
    cost: `[K]` true costs.
    num_samples: number of calibration samples.
  """
  return {
      'broken': int(is_broken[index].sum()),
      'refused': num_samples - len(index),
      'cost': float(cost[index].mean()) if index else None,
  }
