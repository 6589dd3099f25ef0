"""Qwen2.5-Coder 0.5B -> 1.5B in redraft: the large model rewrites single steps.

Problems, models and prompt are those of configs/gsm8k_qwen25_coder.py. Texts of
the two models part too often to enumerate what either writes after every trace,
so trajectories of random rates are collected.

Run:   python -m experiments.pipeline --config=configs/gsm8k_redraft.py --workdir=runs/gsm8k_redraft
CPU:   the same with :cpu (llama.cpp, 4-bit weights; the same command resumes)
Smoke: the same with :smoke, eight problems a split
"""  # noqa: E501  Commands stay on one line.

import ml_collections

from configs import arithmetic_redraft
from configs import gsm8k_qwen25_coder

VARIANTS = ('gpu', 'cpu', 'smoke')
# What a run in redraft needs, and one in escalate does not have.
_PARTS = (
    *('objective', 'behaviour', 'critics'),
    *('trust_region', 'stream', 'on_policy'),
)


def get_config(variant: str = 'gpu') -> ml_collections.ConfigDict:
  """Returns one of `VARIANTS`."""
  if variant not in VARIANTS:
    raise ValueError(f'Unknown variant {variant!r}; use {", ".join(VARIANTS)}.')
  config = gsm8k_qwen25_coder.get_config(variant)
  redraft = arithmetic_redraft.get_config('vtrace')
  config.update({name: redraft[name] for name in _PARTS})
  config.objective.levels = ()  # Spread by what the small model costs.
  config.data.kind = 'rollouts'
  config.protocol.update(name='redraft', view='')
  config.behaviour.trajectories = 2
  config.calibration.source = config.evaluation.source = 'recorded'
  if variant == 'smoke':
    config.objective.min_effective_size = 0.0
    config.calibration.min_effective_size = 0.0
  else:
    config.problems.update(train=400, select=150, prove=150, test=300)
    config.batch_size = 64  # Trajectories.
  return config
