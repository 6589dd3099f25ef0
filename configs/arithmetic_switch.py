"""The embedded pair in switch: each step's writer is named anew.

Exact:  python -m experiments.pipeline --config=configs/arithmetic_switch.py --workdir=runs/switch
V-trace: python -m experiments.pipeline --config=configs/arithmetic_switch.py:vtrace --workdir=runs/switch_vtrace
"""

import ml_collections

from configs import arithmetic_redraft

VARIANTS = arithmetic_redraft.VARIANTS


def get_config(variant: str = 'full') -> ml_collections.ConfigDict:
  config = arithmetic_redraft.get_config(variant)
  config.protocol.name = 'switch'
  return config
