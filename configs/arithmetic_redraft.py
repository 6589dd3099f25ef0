"""The embedded pair in redraft: train on behaviour trajectories by V-trace.

Collect: python -m experiments.behave --config=configs/arithmetic_redraft.py --workdir=runs/redraft --split=train
         (and --split=select, --split=prove)
Train:   python -m experiments.train --config=configs/arithmetic_redraft.py --workdir=runs/redraft
Change:  append e.g. --config.objective.policy_update=trust_region --config.network.kind=gru
"""

import ml_collections

from configs import arithmetic_rollouts

VARIANTS = arithmetic_rollouts.VARIANTS


def get_config(variant: str = 'full') -> ml_collections.ConfigDict:
  config = arithmetic_rollouts.get_config(variant)
  config.objective.update(
      dict(
          estimator='vtrace',  # Or 'on_policy'; 'exact' in arithmetic_trees.py.
          # Or 'trust_region', which has settings of its own below, and knows
          # none of clip, kl_weight, entropy_weight, rescale and multiplier.
          policy_update='lagrangian',
          # Clips of the ratios in V-trace: what it ends at hangs on rho_bar
          # alone; at 1 it stays too near the behaviour to meet low budgets.
          rho_bar=10.0,
          c_bar=1.0,
          ratio_bar=10.0,  # The same in what the multiplier follows.
          reach_bar=10.0,  # Of how often decisions are reached; 0 = no weights.
          clip=0.2,  # Of the surrogate.
          kl_weight=0.0,  # Of the divergence from the policy before, a nat.
          entropy_weight=1e-3,
          rescale=False,  # Advantages to a root mean square of 1.
          num_inner=2,  # Gradient steps on each batch.
          least_effective=50.0,  # Trajectories that a score must rest on.
      )
  )
  config.critics = dict(learning_rate=2e-3, weight_decay=0.1, clip_norm=1.0)
  config.multiplier.derivative = 0.0  # Of the PID controller.
  config.trust_region = dict(
      max_kl=0.01,  # Nats per decision.
      damping=1e-2,
      num_iterations=10,  # Of conjugate gradients.
      shrink=0.8,
      num_shrinks=10,
  )
  config.stream = dict(
      num_held=0,  # Shards in memory at a time; 0 = all, for good.
      num_devices=1,  # That share each batch.
  )
  config.on_policy = dict(
      problems=256,  # Answered anew each time.
      trajectories=2,  # Of each; the members take turns.
      every=10,  # Gradient steps from one collection to the next.
  )
  if variant != 'smoke':
    config.batch_size = 64  # Trajectories; larger batches learn no better.
  if variant == 'smoke':
    config.objective.least_effective = 0.0
    config.on_policy.update(problems=16, every=5)
  return config
