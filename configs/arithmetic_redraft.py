"""The embedded pair in redraft: three estimators, exactly known outcomes.

Exact:  python -m experiments.pipeline --config=configs/arithmetic_redraft.py --workdir=runs/redraft
V-trace: python -m experiments.pipeline --config=configs/arithmetic_redraft.py:vtrace --workdir=runs/redraft_vtrace
Others: :on_policy; a size may follow, as in :vtrace-smoke
Change: append e.g. --config.objective.policy_update=trust_region --config.network.kind=gru
Share:  all of these need the same replies; to collect them once, append --config.data.directory=runs/redraft
"""

import ml_collections

from configs import arithmetic

VARIANTS = (
    *arithmetic.VARIANTS,  # Estimator 'exact', in three sizes.
    *('vtrace', 'vtrace-demo', 'vtrace-smoke'),
    *('on_policy', 'on_policy-demo', 'on_policy-smoke'),
)


def get_config(variant: str = 'full') -> ml_collections.ConfigDict:
  """Returns one of `VARIANTS`: an estimator, and a size (default: full)."""
  if variant not in VARIANTS:
    raise ValueError(f'Unknown variant {variant!r}; use {", ".join(VARIANTS)}.')
  first, _, last = variant.partition('-')
  is_size = first in arithmetic.VARIANTS
  estimator = 'exact' if is_size else first
  size = first if is_size else last or 'full'

  config = arithmetic.get_config(size)
  config.data.kind = 'replies'
  config.protocol.update(name='redraft', view='')  # '' = the default, peek.
  # Trajectories of a behaviour policy. 'vtrace' learns from them, 'on_policy'
  # only validates on those of `select`; 'exact' collects none.
  config.behaviour = dict(
      # 'uniform': every route with equal probability. 'rate': leaves the small
      # model at a rate drawn for each trajectory. 'mixture': a trained router's
      # policy mixed with 'uniform'.
      kind='rate',
      trajectories=4,  # Per problem.
      low=0.0,  # 'rate': range from which the rate is drawn, in [0, 1].
      high=1.0,
      router='shipped',  # 'mixture': 'shipped', or the directory of a run.
      epsilon=0.2,  # 'mixture': weight of 'uniform', in [0, 1].
  )
  config.objective.update(
      dict(
          estimator=estimator,  # 'exact', 'vtrace' or 'on_policy'.
          # 'lagrangian' or 'trust_region'. The latter has its own settings
          # below; it ignores clip, kl_weight, entropy_weight,
          # normalize_advantages, and config.multiplier.
          policy_update='lagrangian',
          # V-trace's clipping thresholds of the importance ratios. rho_bar
          # decides which policy the values converge to: at 1 they stay too near
          # the behaviour policy for low budgets. c_bar only affects variance.
          rho_bar=10.0,
          c_bar=1.0,
          # Clips the ratios in the estimate that the multiplier follows.
          ratio_clip=10.0,
          # Clips the weight for how often the policy reaches a decision,
          # relative to the behaviour policy; 0 = no such weight.
          reach_clip=10.0,
          clip=0.2,  # Of the surrogate's ratio, to [1 - clip, 1 + clip].
          kl_weight=0.0,  # Penalty per nat of divergence from the old policy.
          entropy_weight=0.0 if estimator == 'exact' else 1e-3,
          normalize_advantages=False,  # True: to a root mean square of 1.
          num_inner_steps=2,  # Gradient steps on each batch.
          # Validation ignores a policy whose weighted trajectories have a
          # smaller effective sample size.
          min_effective_size=50.0,
      )
  )
  # AdamW, for the critics of reward and constraint.
  config.critics = dict(learning_rate=2e-3, weight_decay=0.1, clip_norm=1.0)
  # The multiplier's learning_rate, damping and derivative are the I, P and D
  # gains of a PID controller.
  config.multiplier.derivative = 0.0
  config.trust_region = dict(
      max_kl=0.01,  # Largest divergence of one update, nats per decision.
      damping=1e-2,  # Added to the diagonal of the KL Hessian.
      num_iterations=10,  # Of conjugate gradients.
      backtrack_factor=0.8,  # Shortens the step until KL and constraint hold.
      max_backtracks=10,
  )
  config.stream = dict(
      # Parquet files of rollouts in memory at a time; 0 = all of them, read
      # once. Use it where the training set does not fit in memory.
      num_shards_in_memory=0,
      num_devices=1,  # Accelerators that share each batch.
  )
  config.on_policy = dict(
      problems=256,  # Problems answered in each round of collection.
      trajectories=2,  # Per problem; the policies of the levels take turns.
      every=10,  # Gradient steps between two rounds.
  )
  config.collect.concurrency = 64  # Problems; each asks both models at once.
  config.collect.shard_size = min(config.collect.shard_size, 125)
  if size == 'full':
    # Each problem has up to 128 traces, far more to collect than a ladder.
    config.problems.update(select=500, prove=500)
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
