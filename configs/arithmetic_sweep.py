"""Sweep in escalate: budgets x seeds, each a full pipeline.

Collect: python -m experiments.pipeline --config=configs/arithmetic.py --workdir=runs/arithmetic
Run:     python -m experiments.sweep --config=configs/arithmetic_sweep.py --workdir=runs/sweep --data=runs/arithmetic --jobs=2
"""

import itertools

import ml_collections

from configs import arithmetic

VARIANTS = arithmetic.VARIANTS


def get_config(variant: str = 'full') -> ml_collections.ConfigDict:
  """Returns the configuration that all runs start from."""
  return arithmetic.get_config(variant)


def sweep() -> list[dict[str, object]]:
  """Returns the overrides of each run, which trains one policy."""
  budgets, seeds = (0.25, 0.4, 0.55, 0.7), (0, 1, 2)
  return [
      {'objective.levels': (budget,), 'train_seeds': (seed,)}
      for budget, seed in itertools.product(budgets, seeds)
  ]
