"""The embedded pair in redraft, where only trajectories are available.

Run:    python -m experiments.pipeline --config=configs/arithmetic_rollouts.py --workdir=runs/rollouts
Live:   append --config.calibration.source=live --config.calibration.num_thresholds=9

An example for models that sample, or that are too dear to answer from every
trace. Thresholds are evaluated by importance weighting of recorded trajectories
(source 'recorded'), which rejects a threshold that too few of them support, or
by answering the problems again (source 'live').
"""

import ml_collections

from configs import arithmetic
from configs import arithmetic_redraft

VARIANTS = arithmetic.VARIANTS


def get_config(variant: str = 'full') -> ml_collections.ConfigDict:
  """Returns one of `VARIANTS`."""
  if variant not in VARIANTS:
    raise ValueError(f'Unknown variant {variant!r}; use {", ".join(VARIANTS)}.')
  config = arithmetic_redraft.get_config(
      'vtrace' if variant == 'full' else f'vtrace-{variant}'
  )
  config.data.kind = 'rollouts'
  config.calibration.source = 'recorded'
  config.evaluation.source = 'recorded'
  # No promises of loss: importance weights need far more problems than exactly
  # known outcomes do.
  config.calibration.alphas = ()
  # As many as in configs/arithmetic.py; redraft with replies halves them.
  config.problems.update(select=1_000, prove=1_000)
  if variant == 'smoke':
    config.problems.update(select=32, prove=32)
    config.behaviour.trajectories = 4
    config.calibration.update(
        budgets=(0.6,), num_thresholds=5, min_effective_size=2.0
    )
  return config
