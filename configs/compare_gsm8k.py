"""Everybody's router on Qwen2.5-Coder 0.5B -> 1.5B, on the ladders shipped.

Run:    python -m experiments.compare --config=configs/compare_gsm8k.py --workdir=runs/compare_gsm8k
Live:   the same with :live, which asks the models where records do not suffice, on 100 problems
"""  # noqa: E501  Commands stay on one line.

import ml_collections

from configs import compare_arithmetic
from configs import gsm8k_qwen25_coder

VARIANTS = ('shipped', 'live')


def get_config(variant: str = 'shipped') -> ml_collections.ConfigDict:
  """Returns one of `VARIANTS`; both read the ladders of the package."""
  if variant not in VARIANTS:
    raise ValueError(f'Unknown variant {variant!r}; use {", ".join(VARIANTS)}.')
  config = gsm8k_qwen25_coder.get_config('shipped')
  config.compare = compare_arithmetic.of_ladders()
  if variant == 'live':
    config.compare.num_live.update(train=100, select=30, test=100)
    for route in config.routes:
      # Judges are asked while answers are written; each keeps its cache.
      settings = route['settings']
      settings.update(num_aside_slots=settings['num_slots'])
  return config
