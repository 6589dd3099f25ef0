"""The embedded pair on counter arithmetic: collect, train, calibrate, evaluate.

Run:    python -m experiments.pipeline --config=configs/arithmetic.py --workdir=runs/arithmetic
Demo:   python -m experiments.pipeline --config=configs/arithmetic.py:demo --workdir=runs/demo
Smoke:  python -m experiments.pipeline --config=configs/arithmetic.py:smoke --workdir=runs/smoke
Change: append e.g. --config.cost_metric=flops --config.objective.form=reliability
"""

import ml_collections

VARIANTS = ('full', 'demo', 'smoke')
# Of the whole pipeline, measured on two idle cores.
MINUTES = dict(demo=4, smoke=1)


def get_config(variant: str = 'full') -> ml_collections.ConfigDict:
  """Returns one of `VARIANTS`; they differ in size only.

  All costs are fractions of what the large model alone costs on the same
  problem; 0.4 is 40 % of it.
  """
  if variant not in VARIANTS:
    raise ValueError(f'Unknown variant {variant!r}; use {", ".join(VARIANTS)}.')
  config = ml_collections.ConfigDict()
  config.seed = 0  # Of collection, tuning and bootstrap; any integer.
  config.train_seeds = (0, 1, 2)  # One training run for each.
  # What the constraint, the budgets and the promises of cost are measured in:
  # 'price', 'flops', 'decoded_tokens' or 'latency'. Tables show all four.
  config.cost_metric = 'price'

  # What is asked: the name of a task of routing/tasks/, and its options.
  config.task = dict(name='arithmetic')
  config.problems = dict(
      seed=0,  # Another seed draws other problems.
      # Problems in each split; no problem is in two splits.
      train=6_000,
      select=1_000,  # Early stopping, tuning, and the choice of thresholds.
      prove=1_000,  # The tests behind promises; looked at once.
      test=2_000,
  )
  # The models, smallest first, one entry each; see routing/engines/route.py.
  config.routes = tuple(
      dict(
          name=name,
          engine='embedded',
          # Or a directory, such as small/ in the --workdir of
          # experiments.pretrain.
          model=f'shipped/{name}',
          settings=dict(
              max_batch=128,  # Requests in one forward pass; on a CPU 32.
              num_slots=256,  # Sessions whose prefix cache is kept.
          ),
      )
      for name in ('small', 'large')
  )
  config.data = dict(
      # What is collected for each problem:
      #   'ladders'   the small model's trace and the large model's ending from
      #               each step prefix (protocol escalate);
      #   'replies'   what each model writes after each trace that can occur
      #               (switch and redraft; greedy models only);
      #   'rollouts'  trajectories of a behaviour policy (any protocol).
      kind='ladders',
      # Work directory of another run whose collected data is read instead of
      # collecting again; '' = this run collects its own.
      directory='',
      # Of ladders, only problems of this subject are used, e.g. one task of a
      # mixture; '' = all. `problems` counts them before.
      subject='',
  )
  config.protocol = dict(
      name='escalate',  # Or 'switch', 'redraft'; see configs/arithmetic_*.py.
      # 'peek': the router decides after it has seen a draft of the next step.
      # 'commit': it decides before. '' = the protocol's default.
      view='peek',
      max_decisions=8,  # Per problem; then the current model writes to the end.
  )
  config.collect = dict(
      samples=1,  # Completions per step prefix and larger model; > 0.
      temperature=0.0,  # 0 = greedy; above 0 the models sample.
      max_tokens=176,  # New tokens per answer: 8 steps of 22 tokens.
      concurrency=256,  # Problems in flight; at most num_slots of a route.
      shard_size=250,  # Problems per Parquet file.
      # Limits of an unattended collection; 0 = no limit.
      limits=dict(
          requests=0,  # Concurrent requests to each engine.
          attempts=6,  # Tries per request, at least 1.
          first_wait=1.0,  # Seconds before the second try; doubles each time.
          longest_wait=60.0,  # Seconds; the doubling stops here.
          # Spending of one command on one split, at list price. Live answers
          # of calibration and evaluation are counted separately.
          dollars=0.0,
          tokens=0,  # The same in tokens, read and written.
          failures=20,  # Failed problems in a row that stop the collection.
      ),
  )

  # Who collects: 'local', this process; or 'ray', actors on the nodes of a
  # cluster (extra `ray`, docs/how_to/cluster.md).
  config.update(
      launcher='local',
      ray=dict(
          # Of a running cluster: host:port, 'auto' where this machine belongs
          # to it; '' = this machine alone.
          address='',
          actors=2,  # At most. Each holds all engines; fewer near the end.
          cpus=1.0,  # Of each actor.
          gpus=0.0,  # Of each actor; 0.5 puts two on one GPU.
          problems=16,  # Handed out at a time; collect.concurrency is per actor.
      ),
  )

  # A process reward model that scores the small model's steps in ladders, as a
  # further baseline: directory or name on the hub; '' = none. 'shipped/reward'
  # is that of the embedded pair, which needs no torch.
  config.scorer = dict(
      model='',
      revision='',  # Commit or tag on the hub; '' = the newest.
      spec=dict(),  # Fields of costs.RouteSpec, e.g. prices.
      settings=dict(),  # See routing/engines/process_reward.py.
  )
  config.features = dict(
      # What the policy observes: any of these five groups.
      groups=('confidence', 'progress', 'cost', 'text', 'hidden'),
      # Group 'text': hash buckets for n-grams; 0 = leave this text out.
      question_width=256,  # Of the question.
      step_width=256,  # Of the last step or draft.
      max_ngram=3,  # Longest n-gram, in words (a digit is a word).
  )
  config.network = dict(
      kind='mlp',  # Current step only; 'gru' and 'attention' see earlier ones.
      hidden=(64,),  # Width of each hidden layer.
      dropout=0.3,  # Of the input features, in [0, 1).
      # False: one network per level. True: one network that takes the level as
      # a further input and serves all levels.
      is_conditioned=False,
  )
  # One policy per level is trained, all side by side on the same batches.
  config.objective = dict(
      # 'budget': maximise accuracy subject to mean cost <= level.
      # 'reliability': minimise cost subject to relative loss <= level.
      form='budget',
      # Cost fractions, at least that of the small model alone and at most 1;
      # or relative losses, in [0, 1]. () = four budgets, spread from the cost
      # of the small model alone to 1.
      levels=(0.25, 0.4, 0.55, 0.7),
      entropy_weight=0.0,  # Bonus per nat of the policy's entropy; >= 0.
  )
  # AdamW; clip_norm is the largest global norm of a gradient.
  config.optimizer = dict(learning_rate=2e-3, weight_decay=0.1, clip_norm=1.0)
  # The dual variable (Lagrange multiplier) of the constraint.
  config.multiplier = dict(
      init=0.7,
      learning_rate=2e-2,  # Of the dual ascent, one step per gradient step.
      # Proportional term per unit of excess over the level. Plain dual ascent
      # (0) oscillates; this damps it.
      damping=2.0,
      max=20.0,
  )
  # CCPO: trains the policy as it is served, behind a smooth threshold kappa
  # that is updated by online conformal prediction. Only with
  # objective.form='reliability' and objective.estimator='exact'.
  config.soft_threshold = dict(
      is_used=False,
      init=0.5,  # Kappa before the first update.
      epsilon=0.01,  # Width of the sigmoid, as a difference of probabilities.
      learning_rate=0.2,  # Update k is scaled by learning_rate * k^(-1/2 - xi).
      xi=0.1,  # In (0, 1/2).
  )
  config.num_steps = 600  # Gradient steps: about 100 epochs of 6,000 problems.
  config.batch_size = 1_024  # Problems per gradient step.
  # Each of the next three is in gradient steps.
  config.log_every = 50
  config.eval_every = 20  # Scores `select`; each policy's best step is kept.
  config.checkpoint_every = 200
  # Where figures are shown besides the files: 'tensorboard',
  # 'wandb' (extra `track`), or '' = nowhere.
  config.track = ''

  # Operating points: named thresholds. Budgets and losses are in (0, 1].
  config.calibration = dict(
      budgets=(0.3, 0.4, 0.5, 0.6),  # cost<=b: most accurate on `select`.
      alphas=(0.02, 0.05, 0.1),  # loss<=a@p: promises of relative loss.
      delta=0.1,  # 1 - p: probability that one promise is broken; in (0, 1).
      confident_budgets=(),  # cost<=b@p: promises of cost, e.g. (0.5,).
      loss_and_cost=(),  # Promises of a loss and a cost, e.g. ((0.05, 0.6),).
      # Also promise each loss to every group of problems: 'subject', or a key
      # of Problem.meta; '' = no groups. Known outcomes only.
      group_by='',
      # Also choose one threshold per group of decisions; each number is the
      # first decision of a group, e.g. (0, 3). Known outcomes only.
      joint_starts=(),
      # True: both halves of a loss_and_cost hold together with probability
      # 1 - delta. False: each half holds with probability 1 - delta.
      is_joint=False,
      # If you pick one of n promised points or seeds afterwards, set n here:
      # each promise is then tested at delta / n.
      num_choices=1,
      # Where outcomes come from: 'known' (exact, from ladders or replies),
      # 'recorded' (importance weighting of rollouts) or 'live' (the engines
      # answer again at each threshold).
      source='known',
      num_thresholds=200,  # Thresholds tested, besides 'always' and 'never'.
      # 'fixed_sequence'; 'bonferroni' (not for 'recorded'); 'growing' (for
      # 'known'), which may be tested again on a larger `prove`.
      procedure='fixed_sequence',
      # 'recorded' rejects thresholds with a smaller effective sample size.
      min_effective_size=100.0,
  )
  config.evaluation = dict(
      source='known',  # As calibration.source.
      # Supervised baselines; () = none. Each is tuned on `select`.
      learners=('fitted Q, trees', 'fitted Q, linear', 'boosting'),
      num_trials=6,  # Hyper-parameter settings tried for each, 1 to 6.
      resamples=2_000,  # Bootstrap resamples of problems (and seeds).
      num_live=200,  # Test problems answered live at each operating point.
      # Calibration samples drawn to count broken promises; 0 = do not count.
      num_coverage_samples=1_000,
  )
  # How `experiments.serve` answers; see routing/serving/settings.py.
  config.serving = dict(
      point='',  # Of the model 'router'; '' = the router's first.
      concurrency=64,  # Answers written at once; at most num_slots of a route.
      queue=256,  # Answers that may wait; others get 429.
      max_body_bytes=1_000_000,
      max_question_characters=20_000,
      max_choices=8,  # Answers to one request.
      attempts=2,  # Tries per request to a back end, at least 1.
      first_wait=0.2,  # Seconds before the second try.
      # What answers while a back end is down: 'large' or 'small' alone, or
      # 'none' (503).
      fall_back='large',
      retry_down_after=5.0,  # Seconds until a back end is tried again.
      cors_origins=(),  # Origins of pages that may call; () = none.
      # Share of routed answers that the large model answers too, unseen.
      shadow_share=0.0,
      online_alpha=0.0,  # Loss that 'router@online' keeps; 0 = no such model.
      alarm_delta=0.01,  # Probability of a false drift alarm, per point.
      large_errors=0.05,  # Allowed for by the alarm where there is no shadow.
      alarm_falls_back=False,  # True: an alarm hands its point to the large.
      keep_answers=10_000,  # Kept until feedback comes.
  )

  if variant == 'demo':
    config.train_seeds = (0,)
    config.problems.update(train=800, select=200, prove=200, test=400)
    config.num_steps = 200
    config.batch_size = 512
    config.evaluation.num_trials = 2
    config.checkpoint_every = 100
    config.evaluation.num_live = 50
  if variant == 'smoke':  # For tests.
    config.train_seeds = (0,)
    config.problems.update(train=64, select=32, prove=32, test=48)
    config.collect.shard_size = 16
    config.objective.levels = (0.4, 0.7)
    config.num_steps = 20
    config.batch_size = 32
    config.log_every = 5
    config.eval_every = 5
    config.checkpoint_every = 10
    config.calibration.alphas = (0.1,)  # 32 problems support no smaller loss.
    config.evaluation.update(
        num_trials=1, resamples=200, num_live=8, num_coverage_samples=20
    )
  return config
