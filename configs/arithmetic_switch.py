"""The embedded pair in switch: before each step, the router names its writer.

Exact:  python -m experiments.pipeline --config=configs/arithmetic_switch.py --workdir=runs/switch
V-trace: python -m experiments.pipeline --config=configs/arithmetic_switch.py:vtrace --workdir=runs/switch_vtrace
"""

import ml_collections

from configs import arithmetic_redraft

VARIANTS = arithmetic_redraft.VARIANTS


def get_config(variant: str = 'full') -> ml_collections.ConfigDict:
  """Returns one of `VARIANTS`; see configs/arithmetic_redraft.py."""
  config = arithmetic_redraft.get_config(variant)
  config.protocol.name = 'switch'
  return config
