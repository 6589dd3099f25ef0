"""The embedded pair where control returns: behaviour trajectories to train on.

Run:    python -m experiments.behave --config=configs/arithmetic_rollouts.py --workdir=runs/redraft --split=train
Smoke:  python -m experiments.behave --config=configs/arithmetic_rollouts.py:smoke --workdir=runs/redraft_smoke
Change: append e.g. --config.protocol.name=switch --config.behaviour.kind=uniform
"""

import ml_collections

from configs import arithmetic

VARIANTS = ('full', 'demo', 'smoke')


def get_config(variant: str = 'full') -> ml_collections.ConfigDict:
  config = arithmetic.get_config(variant)
  config.protocol = dict(
      name='redraft', view='', max_decisions=8
  )  # '' = its own.
  config.behaviour = dict(
      # 'uniform': each route alike; 'rate': leaves at a rate of its own in each
      # trajectory; 'mixture': a trained router's policy, blended with uniform.
      kind='rate',
      trajectories=4,  # A problem.
      low=0.0,  # Of the rates.
      high=1.0,
      router='shipped',  # Or a run directory; for 'mixture'.
      epsilon=0.2,  # Weight of uniform in a mixture.
  )
  if variant == 'smoke':
    config.behaviour.trajectories = 2
  return config
