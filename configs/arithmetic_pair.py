"""Trains the embedded pair, a small and a large decoder, from scratch.

Run:    python -m experiments.pretrain --config=configs/arithmetic_pair.py --workdir=runs/pair
Second: the same with --config.seed=1 --workdir=runs/pair1
Smoke:  python -m experiments.pretrain --config=configs/arithmetic_pair.py:smoke --workdir=runs/pair_smoke
Time:   under 30 minutes on two cores, one model on each
"""

import ml_collections

VARIANTS = ('full', 'smoke')


def _model(shape, decay_from, **fields) -> ml_collections.ConfigDict:
  """Returns the settings of one model; those set here are the same for both.

  Args:
    shape: of the decoder.
    decay_from: gradient step from which the learning rates fall to 0.
    **fields: the settings in which the models differ.
  """
  config = ml_collections.ConfigDict(fields)
  config.shape = shape
  # Of the moving average of weights, which is what is kept: about the last 200
  # gradient steps.
  config.average_decay = 0.995
  # Muon on the weight matrices, Adam on the embedding and the norms.
  config.optimizer = dict(
      muon_rate=0.02,
      weight_decay=0.1,
      adam_rate=3e-3,
      warmup_steps=20,
      decay_from=decay_from,  # The rates reach 0 at max_steps.
      clip_norm=1.0,  # Largest global norm of a gradient.
  )
  config.corpus.update(
      tokens_per_step=3_456,  # Per batch, at most.
      drill_share=0.4,  # Share of batches that are drills: rows of bare sums.
  )
  return config


def get_config(variant: str = 'full') -> ml_collections.ConfigDict:
  """Returns one of `VARIANTS`."""
  if variant not in VARIANTS:
    raise ValueError(f'Unknown variant {variant!r}; use {", ".join(VARIANTS)}.')
  config = ml_collections.ConfigDict()
  config.seed = 0  # Of weights and text; another seed gives another pair.
  # The problems that routers use; the pair is never trained on them.
  config.problems = dict(
      seed=0, train=6_000, select=1_000, prove=1_000, test=2_000
  )
  config.num_held_out = 256  # Fresh problems that decide when to stop.
  config.small = _model(
      dict(
          hidden_size=64,
          num_layers=3,
          num_heads=4,
          num_kv_heads=4,
          head_dim=32,
          mlp_size=48,
      ),
      target_accuracy=0.40,  # On the held-out problems; training stops there.
      # The next four are in gradient steps.
      examine_every=50,
      examine_from=800,
      max_steps=2_000,
      decay_from=1_000,
      # If the loss at this step is higher, the attempt is given up as stuck and
      # training starts again from other weights.
      give_up=dict(step=1_000, loss=0.6),
      corpus=dict(
          misconceived=True,  # Trained on wrong sums in the blind spots.
          # Loss weights of the digits of a result, of the restated clause and
          # of the answer line; all other tokens have weight 1.
          result_weight=4,
          clause_weight=3,
          answer_weight=4,
          # Relative frequency of each operation in drills.
          drill_mix=dict(add=1.7, sub=1.7, mul=0.8, div=0.6),
      ),
  )
  config.large = _model(
      dict(
          hidden_size=128,
          num_layers=4,
          num_heads=4,
          num_kv_heads=4,
          head_dim=32,
          mlp_size=512,
      ),
      target_accuracy=0.95,  # Below 1, because no real model is perfect.
      # Accuracy rises from too low to too high within 100 steps.
      examine_every=50,
      examine_from=1_200,
      max_steps=2_600,
      decay_from=1_400,
      # From some initial weights the model never learns to carry.
      give_up=dict(step=800, loss=0.45),
      corpus=dict(
          misconceived=False,
          result_weight=4,
          clause_weight=3,  # With 1, it may never learn to copy operands.
          answer_weight=4,
          drill_mix=dict(add=1.7, sub=1.7, mul=0.8, div=0.6),
      ),
  )
  if variant == 'smoke':  # Takes seconds and learns nothing; for tests.
    config.problems.update(train=20, select=5, prove=5, test=10)
    config.num_held_out = 8
    for model in (config.small, config.large):
      model.corpus.tokens_per_step = 300
      model.give_up.step = 5  # Above max_steps, so never.
      model.update(examine_every=2, examine_from=2, max_steps=4)
      model.optimizer.update(warmup_steps=1, decay_from=2)
  return config
