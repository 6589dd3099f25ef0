"""Broken promises of one trained router, on all of its labelled problems."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from experiments import calibrate
from experiments import graded as graded_lib
from routing.calibration import thresholds as thresholds_lib
from routing.outcomes import stopping as stopping_lib
from routing.routers import learned

SAMPLE_SIZE = 500
ALPHA, DELTA = 0.05, 0.1
_GRID_SIZE = 200


def count_broken(
    scores: np.ndarray,
    outcomes: stopping_lib.Outcomes,
    *,
    num_samples: int,
    seed: int,
    sample_size: int = SAMPLE_SIZE,
    alpha: float = ALPHA,
    delta: float = DELTA,
) -> dict[str, Any]:
  """How often 'loss <= alpha' is broken: as promised, and as plainly picked.

  Args:
    scores: `[N, T]` float, of every labelled problem.
    outcomes: their table; its means are the truth.
    num_samples: calibration samples.
    seed: of the draws.
    sample_size: problems in a sample.
    alpha: relative loss promised.
    delta: chance that the promise is broken.

  Returns:
    The settings; for `promised` (learn then test) and `picked` (the cheapest
    threshold with sample loss <= alpha): `broken`, and `cost`, the mean of the
    true cost; for `best` the cost of the cheapest threshold that truly holds.
  """
  grid = thresholds_lib.grid(scores, outcomes.mask, _GRID_SIZE)
  times = stopping_lib.stopping_times(scores, outcomes.mask, grid)
  values = stopping_lib.at_times(outcomes, times)
  loss, cost = values['loss'].mean(axis=1), values['cost'].mean(axis=1)
  rng = np.random.default_rng(seed)
  chosen = {'promised': [], 'picked': []}
  for _ in range(num_samples):
    rows = rng.integers(outcomes.num_problems, size=sample_size)
    point = thresholds_lib.learn_then_test(
        scores[rows],
        outcomes.take(rows),
        alpha=alpha,
        delta=delta,
        thresholds=grid,
    )
    chosen['promised'].append(int(np.searchsorted(grid, point.threshold)))
    allowed = np.flatnonzero(values['loss'][:, rows].mean(axis=1) <= alpha)
    sample_cost = values['cost'][:, rows].mean(axis=1)
    chosen['picked'].append(int(allowed[np.argmin(sample_cost[allowed])]))
  return {
      'alpha': alpha,
      'delta': delta,
      'sample_size': sample_size,
      'num_samples': num_samples,
      'num_problems': outcomes.num_problems,
      'best': {'cost': float(cost[loss <= alpha].min())},
      **{
          name: {
              'broken': int((loss[index] > alpha).sum()),
              'cost': float(cost[index].mean()),
          }
          for name, index in chosen.items()
      },
  }


def count_for_router(
    router: learned.LearnedRouter,
    splits: Sequence[graded_lib.Graded],
    *,
    num_samples: int,
    seed: int,
) -> dict[str, Any]:
  """The same for the policy behind the router's first promise of a loss."""
  promised = [p.member for p in router.points if p.promise['what'] == 'loss']
  member = promised[0] if promised else router.member
  parts = [calibrate.members_of(router, graded)[member] for graded in splits]
  outcomes = stopping_lib.Outcomes(
      **{
          field.name: np.concatenate(
              [getattr(part.outcomes, field.name) for part in parts]
          )
          for field in dataclasses.fields(stopping_lib.Outcomes)
      }
  )
  scores = np.concatenate([part.scores for part in parts])
  figures = count_broken(scores, outcomes, num_samples=num_samples, seed=seed)
  return {'member': member, **figures}
