"""The embedded pair in redraft: train in closed form on all replies.

Collect: python -m experiments.replies --config=configs/arithmetic_trees.py --workdir=runs/replies --split=train
         (and --split=select, --split=prove, --split=test)
Train:   python -m experiments.train_trees --config=configs/arithmetic_trees.py --workdir=runs/redraft_trees --replies=runs/replies
Change:  append e.g. --config.protocol.name=switch
"""

import ml_collections

from configs import arithmetic_redraft

VARIANTS = arithmetic_redraft.VARIANTS


def get_config(variant: str = 'full') -> ml_collections.ConfigDict:
  config = arithmetic_redraft.get_config(variant)
  config.objective.estimator = 'exact'
  config.objective.entropy_weight = 0.0
  if variant != 'smoke':
    config.batch_size = 128  # Problems, of up to 127 decisions each.
    config.num_steps = 1_200
  # Problems of train to learn from, the first so many; 0 = all collected.
  config.trees = dict(train=0)
  if variant == 'full':
    # Trees, each of up to 128 ways.
    config.problems.update(select=500, prove=500)
  return config
