"""The embedded pair on counter arithmetic: collect, train, calibrate, evaluate.

Run:    python -m experiments.pipeline --config=configs/arithmetic.py --workdir=runs/arithmetic
Demo:   python -m experiments.pipeline --config=configs/arithmetic.py:demo --workdir=runs/demo
Smoke:  python -m experiments.pipeline --config=configs/arithmetic.py:smoke --workdir=runs/smoke
Change: append e.g. --config.ruler=flops --config.objective.form=reliability
"""

import ml_collections

VARIANTS = ('full', 'demo', 'smoke')
# Of the whole pipeline, measured on two idle cores.
MINUTES = dict(demo=3, smoke=1)


def get_config(variant: str = 'full') -> ml_collections.ConfigDict:
  if variant not in VARIANTS:
    raise ValueError(f'Unknown variant {variant!r}; use {", ".join(VARIANTS)}.')
  config = ml_collections.ConfigDict()
  config.seed = 0  # Of collection; training seeds are below.
  config.train_seeds = (0, 1, 2)  # One training run each.
  config.ruler = 'price'  # The ruler of constraint and promises.

  # 'shipped', or a directory with small/ and large/ (see experiments/pretrain).
  config.engine = dict(pair='shipped', max_batch=128, num_slots=256)
  config.problems = dict(
      source='arithmetic',
      seed=0,
      train=6_000,
      select=1_000,
      prove=1_000,
      test=2_000,
  )
  config.data = dict(
      # What is collected of each problem: 'ladders' (escalate), 'replies'
      # (switch, redraft; greedy models) or 'rollouts' (any).
      kind='ladders',
      directory='',  # Shared shards of another work directory; '' = its own.
  )
  config.protocol = dict(name='escalate', view='peek', max_decisions=8)
  config.collect = dict(
      samples=1,  # Completions per prefix and larger model.
      temperature=0.0,
      max_tokens=176,  # Of a whole answer: 8 steps of 22.
      concurrency=256,  # Problems in flight.
      shard_size=250,  # Problems per Parquet file.
      limits=dict(  # Left running overnight; 0 = no limit.
          requests=0,  # Under way at once, for each engine.
          attempts=6,  # At one request.
          first_wait=1.0,  # Seconds; doubled with each further attempt.
          longest_wait=60.0,
          # Of one split in one run, by list price; live answers count anew.
          dollars=0.0,
          tokens=0,  # Read and written, of the same.
          failures=20,  # Problems in a row before the back end is at fault.
      ),
  )

  config.features = dict(
      groups=('confidence', 'progress', 'cost', 'text', 'hidden'),
      question_width=256,  # Hash buckets for the question's n-grams.
      step_width=256,  # The same for the last step or draft.
      max_ngram=3,  # Words, digits and signs in a row.
  )
  config.network = dict(
      kind='mlp',
      hidden=(64,),
      dropout=0.3,
      is_conditioned=False,  # One network for all levels, told which.
  )
  # One policy per level, trained side by side on the same batches.
  config.objective = dict(
      form='budget',  # 'budget': cost <= level; 'reliability': loss <= level.
      levels=(0.25, 0.4, 0.55, 0.7),
      entropy_weight=0.0,
  )
  config.optimizer = dict(learning_rate=2e-3, weight_decay=0.1, clip_norm=1.0)
  config.multiplier = dict(
      init=0.7,
      learning_rate=2e-2,
      damping=2.0,  # Added per unit of excess, against swinging.
      max=20.0,
  )
  # CCPO: trained behind a threshold, which follows the misses; 'reliability'.
  config.soft_threshold = dict(
      is_used=False,
      init=0.5,
      epsilon=0.01,  # Width of the step, in units of chance.
      learning_rate=0.2,  # Of the first update; they decay as k^(-1/2 - xi).
      xi=0.1,
  )
  config.num_steps = 600  # Gradient steps, about a hundred epochs.
  config.batch_size = 1_024  # Problems per step.
  config.log_every = 50
  config.eval_every = 20  # Early stopping looks at `select` this often.
  config.checkpoint_every = 200

  config.calibration = dict(
      budgets=(0.3, 0.4, 0.5, 0.6),  # Named points cost<=b.
      alphas=(0.02, 0.05, 0.1),  # Named points loss<=alpha.
      delta=0.1,  # Chance that a promise is broken.
      confident_budgets=(),  # Named points cost<=b@p, e.g. (0.5,).
      both=(),  # Of a loss and a cost, e.g. ((0.05, 0.6),).
      group_by='',  # A promise to each 'subject', or value of this key of meta.
      joint_starts=(),  # Steps at which a threshold of its own begins, (0, 3).
      is_joint=False,  # Pairs of both promised together, not each by itself.
      among=1,  # Proven points or seeds that somebody chooses among.
      # Whence outcomes: 'known' (ladders, replies), 'recorded' (rollouts,
      # weighted by importance) or 'live' (answered anew at each threshold).
      source='known',
      grid=200,  # Thresholds that are tested, besides both ends.
      # Or 'bonferroni' (not where recorded), or 'growing' (where known).
      procedure='fixed_sequence',
      least_effective=100.0,  # Problems below which 'recorded' refuses.
  )
  config.evaluation = dict(
      source='known',  # As in calibration.
      learners=('fitted Q, trees', 'fitted Q, linear', 'boosting'),
      trials=6,  # Settings of each learner that are tried on select.
      resamples=2_000,  # Bootstrap draws over problems (and seeds).
      live=200,  # Test problems answered live at each named point.
      coverage=1_000,  # Samples drawn to count broken promises.
  )

  if variant == 'demo':
    config.train_seeds = (0,)
    config.problems.update(train=800, select=200, prove=200, test=400)
    config.num_steps = 200
    config.batch_size = 512
    config.evaluation.trials = 2
    config.checkpoint_every = 100
    config.evaluation.live = 50
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
    config.calibration.alphas = (0.1,)  # 32 problems can promise no less.
    config.evaluation.update(trials=1, resamples=200, live=8, coverage=20)
  return config
