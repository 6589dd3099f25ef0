"""Counts how often a promise is broken, and its cost, on unseen problems.

Calibration samples are drawn with replacement from problems that no stage has
seen. These problems serve as the population, so the true risk of every
threshold is known.
"""

from typing import Any

import numpy as np

from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from routing.outcomes import points as points_lib

SAMPLE_SIZE = 500  # Problems in a calibration sample.
ALPHA, DELTA = 0.05, 0.1  # The promise: loss <= ALPHA, at 1 - DELTA.


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
  """Counts how often 'loss <= alpha' is broken, with and without a test.

  Args:
    values: outcomes of K thresholds on N problems; their means are the truth.
    thresholds: `[K]` rising, fixed without these problems.
    num_samples: number of calibration samples.
    seed: seed of the draws.
    sample_size: number of problems in a sample.
    alpha: promised relative loss.
    delta: allowed probability that the promise is broken.

  Returns:
    The settings; `promised` (learn then test) and `picked` (the cheapest
    threshold with sample loss <= alpha, untested), each with the numbers of
    samples that were `broken` and `refused` (no threshold), and the mean true
    `cost` over the others; `best`: cost of the cheapest threshold that holds.
  """
  # The truth: the population is finite, and every outcome in it is known.
  loss, cost = values.loss.mean(axis=1), values.mean_cost
  risks = [risks_lib.Risk('loss', alpha, delta).settled(values.loss)]
  rng = np.random.default_rng(seed)
  chosen = {'promised': [], 'picked': []}
  for _ in range(num_samples):
    rows = rng.integers(values.loss.shape[1], size=sample_size)
    sample = values.on(rows)
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
      'num_problems': values.loss.shape[1],
      'best': {'cost': float(cost[loss <= alpha].min(initial=np.inf))},
      **{
          name: _true_figures(index, loss > alpha, cost, num_samples)
          for name, index in chosen.items()
      },
  }


def _true_figures(
    index: list[int], is_broken: np.ndarray, cost: np.ndarray, num_samples: int
) -> dict[str, Any]:
  """Returns the true figures of thresholds that were chosen from samples."""
  return {
      'broken': int(is_broken[index].sum()),
      'refused': num_samples - len(index),
      'cost': float(cost[index].mean()) if index else None,
  }
