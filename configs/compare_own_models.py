"""Everybody's router on your own pair, on the ladders of its pipeline.

Run:    python -m experiments.compare --config=configs/compare_own_models.py --workdir=runs/mine --config.task.files.all=problems.jsonl
Live:   append --config.compare.num_live.train=100 --config.compare.num_live.select=30 --config.compare.num_live.test=100
Variants and all other flags: those that the pipeline in this directory had, see configs/own_models.py
"""  # noqa: E501  Commands stay on one line.

import ml_collections

from configs import compare_arithmetic
from configs import own_models

VARIANTS = own_models.VARIANTS


def get_config(variant: str = 'gpu') -> ml_collections.ConfigDict:
  """Returns one of `VARIANTS`."""
  config = own_models.get_config(variant)
  config.compare = compare_arithmetic.of_ladders()
  return config
