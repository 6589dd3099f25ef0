"""The embedded pair in switch: each step's writer is named anew.

Collect: python -m experiments.behave --config=configs/arithmetic_switch.py --workdir=runs/switch --split=train
         (and --split=select, --split=prove)
Train:   python -m experiments.train --config=configs/arithmetic_switch.py --workdir=runs/switch
"""

import ml_collections

from configs import arithmetic_redraft

VARIANTS = arithmetic_redraft.VARIANTS


def get_config(variant: str = 'full') -> ml_collections.ConfigDict:
  config = arithmetic_redraft.get_config(variant)
  config.protocol.name = 'switch'
  return config
