"""The embedded pair in redraft: every estimator, evaluated on all greedy replies.

Exact:  python -m experiments.pipeline --config=configs/arithmetic_redraft.py --workdir=runs/redraft
V-trace: python -m experiments.pipeline --config=configs/arithmetic_redraft.py:vtrace --workdir=runs/redraft_vtrace
Others: :on_policy; a size after it, as in :vtrace-smoke
Change: append e.g. --config.objective.policy_update=trust_region --config.network.kind=gru
Share:  replies are the same for all of these: --config.data.directory=runs/redraft
"""

import ml_collections

from configs import arithmetic

VARIANTS = (
    *arithmetic.VARIANTS,  # Exact.
    *('vtrace', 'vtrace-demo', 'vtrace-smoke'),
    *('on_policy', 'on_policy-demo', 'on_policy-smoke'),
)


def get_config(variant: str = 'full') -> ml_collections.ConfigDict:
  if variant not in VARIANTS:
    raise ValueError(f'Unknown variant {variant!r}; use {", ".join(VARIANTS)}.')
  first, _, last = variant.partition('-')
  is_size = first in arithmetic.VARIANTS
  estimator = 'exact' if is_size else first
  size = first if is_size else last or 'full'

  config = arithmetic.get_config(size)
  config.data.kind = 'replies'
  config.protocol.update(name='redraft', view='')  # '' = the protocol's own.
  # The trajectories that vtrace and on_policy learn from; exact needs none.
  config.behaviour = dict(
      # 'uniform': each route alike; 'rate': leaves at a rate of its own in each
      # trajectory; 'mixture': a trained router's policy, blended with uniform.
      kind='rate',
      trajectories=4,  # A problem.
      low=0.0,  # Of the rates.
      high=1.0,
      router='shipped',  # Or a run directory; for 'mixture'.
      epsilon=0.2,  # Weight of uniform in a mixture.
  )
  config.objective.update(
      dict(
          estimator=estimator,
          # Or 'trust_region', which has settings of its own below, and knows
          # none of clip, kl_weight, entropy_weight, rescale and multiplier.
          policy_update='lagrangian',
          # Clips of the ratios in V-trace: what it ends at hangs on rho_bar
          # alone; at 1 it stays too near the behaviour to meet low budgets.
          rho_bar=10.0,
          c_bar=1.0,
          ratio_clip=10.0,  # The same in what the multiplier follows.
          reach_clip=10.0,  # Of how often decisions are reached; 0 = no weights.
          clip=0.2,  # Of the surrogate.
          kl_weight=0.0,  # Of the divergence from the policy before, a nat.
          entropy_weight=0.0 if estimator == 'exact' else 1e-3,
          normalize_advantages=False,  # Advantages to a root mean square of 1.
          num_inner_steps=2,  # Gradient steps on each batch.
          min_effective_size=50.0,  # Trajectories that a score must rest on.
      )
  )
  config.critics = dict(learning_rate=2e-3, weight_decay=0.1, clip_norm=1.0)
  config.multiplier.derivative = 0.0  # Of the PID controller.
  config.trust_region = dict(
      max_kl=0.01,  # Nats per decision.
      damping=1e-2,
      num_iterations=10,  # Of conjugate gradients.
      backtrack_factor=0.8,
      max_backtracks=10,
  )
  config.stream = dict(
      num_shards_in_memory=0,  # Shards in memory at a time; 0 = all, for good.
      num_devices=1,  # That share each batch.
  )
  config.on_policy = dict(
      problems=256,  # Answered anew each time.
      trajectories=2,  # Of each; the members take turns.
      every=10,  # Gradient steps from one collection to the next.
  )
  config.collect.concurrency = 64  # Problems; each asks both models at once.
  config.collect.shard_size = min(config.collect.shard_size, 125)
  if size == 'full':
    config.problems.update(select=500, prove=500)  # Of up to 128 ways each.
  if size == 'smoke':
    config.behaviour.trajectories = 2
    config.objective.min_effective_size = 0.0
    config.on_policy.update(problems=16, every=5)
  elif estimator == 'exact':
    config.batch_size = 128  # Problems, of up to 127 decisions each.
    config.num_steps = 1_200 if size == 'full' else 200
  else:
    config.batch_size = 64  # Trajectories; larger batches learn no better.
  return config
