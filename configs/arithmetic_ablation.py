"""The embedded pair in redraft: objectives x networks x feature groups, 3 seeds.

Collect: python -m experiments.pipeline --config=configs/arithmetic_redraft.py:vtrace --workdir=runs/redraft
Run:     python -m experiments.sweep --config=configs/arithmetic_ablation.py --workdir=runs/ablation --data=runs/redraft --program=experiments.train --jobs=2
Part:    append e.g. --match=estimator=vtrace,policy_update=lagrangian,kind=mlp
"""

import itertools

import ml_collections

from configs import arithmetic_redraft

VARIANTS = ('vtrace', 'vtrace-demo', 'vtrace-smoke')


def get_config(variant: str = 'vtrace') -> ml_collections.ConfigDict:
  return arithmetic_redraft.get_config(variant)


def sweep() -> list[dict[str, object]]:
  """Every combination."""
  objectives = (
      ('vtrace', 'lagrangian'),
      ('vtrace', 'trust_region'),
      ('on_policy', 'lagrangian'),
  )
  networks = ('mlp', 'gru', 'attention')
  plain = ('confidence', 'progress', 'cost')
  groups = (
      (*plain, 'text', 'hidden'),
      (*plain, 'text'),
      (*plain, 'hidden'),
      plain,
  )
  seeds = (0, 1, 2)
  return [
      {
          'objective.estimator': estimator,
          'objective.policy_update': update,
          'network.kind': network,
          'features.groups': chosen,
          'train_seeds': (seed,),
      }
      for (estimator, update), network, chosen, seed in itertools.product(
          objectives, networks, groups, seeds
      )
  ]
