"""Ablation in redraft: estimators x networks x feature groups x 3 seeds.

Collect: python -m experiments.pipeline --config=configs/arithmetic_redraft.py:vtrace --workdir=runs/redraft
Run:     python -m experiments.sweep --config=configs/arithmetic_ablation.py --workdir=runs/ablation --data=runs/redraft --program=experiments.train --jobs=2
Part:    to run only some combinations, append e.g. --match=estimator=vtrace,policy_update=lagrangian,kind=mlp
"""

import itertools

import ml_collections

from configs import arithmetic_redraft

VARIANTS = ('vtrace', 'vtrace-demo', 'vtrace-smoke')


def get_config(variant: str = 'vtrace') -> ml_collections.ConfigDict:
  """Returns the configuration that all combinations start from."""
  return arithmetic_redraft.get_config(variant)


def sweep() -> list[dict[str, object]]:
  """Returns the overrides of every combination, one training run each."""
  objectives = (  # (objective.estimator, objective.policy_update).
      ('vtrace', 'lagrangian'),
      ('vtrace', 'trust_region'),
      ('on_policy', 'lagrangian'),
  )
  networks = ('mlp', 'gru', 'attention')
  plain = ('confidence', 'progress', 'cost')
  # 'text' and 'hidden', the two wide groups, each with and without the other.
  groups = (
      (*plain, 'text', 'hidden'),
      (*plain, 'text'),
      (*plain, 'hidden'),
      plain,
  )
  # One seed per run, so that --jobs can spread the seeds over processes.
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
