"""The embedded pair in redraft, as if nothing were known but trajectories.

Run:    python -m experiments.pipeline --config=configs/arithmetic_rollouts.py --workdir=runs/rollouts
Live:   append --config.calibration.source=live --config.calibration.num_thresholds=9

For models that sample, or that cannot be asked everything: thresholds are
calibrated by weighting recorded trajectories, which may refuse, or by
answering the problems anew.
"""

import ml_collections

from configs import arithmetic
from configs import arithmetic_redraft

VARIANTS = arithmetic.VARIANTS


def get_config(variant: str = 'full') -> ml_collections.ConfigDict:
  if variant not in VARIANTS:
    raise ValueError(f'Unknown variant {variant!r}; use {", ".join(VARIANTS)}.')
  config = arithmetic_redraft.get_config(
      'vtrace' if variant == 'full' else f'vtrace-{variant}'
  )
  config.data.kind = 'rollouts'
  config.calibration.source = 'recorded'
  config.evaluation.source = 'recorded'
  # Weights carry far fewer promises than answers do.
  config.calibration.alphas = ()
  config.problems.update(select=1_000, prove=1_000)
  if variant == 'smoke':
    config.problems.update(select=32, prove=32)
    config.behaviour.trajectories = 4
    config.calibration.update(
        budgets=(0.6,), num_thresholds=5, min_effective_size=2.0
    )
  return config
