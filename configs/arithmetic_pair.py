"""The embedded pair: a small and a large decoder, trained from nothing.

Run:    python -m experiments.pretrain --config=configs/arithmetic_pair.py --workdir=runs/pair
Second: the same with --config.seed=1 --workdir=runs/pair1
Smoke:  python -m experiments.pretrain --config=configs/arithmetic_pair.py:smoke --workdir=runs/pair_smoke
Takes under half an hour on two cores, one model on each.
"""

import ml_collections

VARIANTS = ('full', 'smoke')


def _model(shape, decay_from, **fields) -> ml_collections.ConfigDict:
  """What both models have in common."""
  config = ml_collections.ConfigDict(fields)
  config.shape = shape
  config.average_decay = 0.995  # About the last 200 steps.
  config.optimizer = dict(
      muon_rate=0.02,
      weight_decay=0.1,
      adam_rate=3e-3,
      warmup_steps=20,
      decay_from=decay_from,  # Step from which the rates fall to 0.
      clip_norm=1.0,
  )
  config.corpus.update(
      tokens_per_step=3_456,
      drill_share=0.4,  # Of the batches.
  )
  return config


def get_config(variant: str = 'full') -> ml_collections.ConfigDict:
  if variant not in VARIANTS:
    raise ValueError(f'Unknown variant {variant!r}; use {", ".join(VARIANTS)}.')
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.problems = dict(
      seed=0, train=6_000, select=1_000, prove=1_000, test=2_000
  )
  config.num_held_out = 256  # Problems that decide when to stop.
  config.small = _model(
      dict(
          hidden_size=64,
          num_layers=3,
          num_heads=4,
          num_kv_heads=4,
          head_dim=32,
          mlp_size=48,
      ),
      target_accuracy=0.40,
      examine_every=50,
      examine_from=800,
      max_steps=2_000,
      decay_from=1_000,
      give_up=dict(step=1_000, loss=0.6),
      corpus=dict(
          misconceived=True,  # Taught the wrong rules of the blind spots.
          result_weight=4,
          clause_weight=3,
          answer_weight=4,
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
      target_accuracy=0.95,  # Not perfect, as no real model is.
      examine_every=50,  # It passes the window within 100 steps.
      examine_from=1_200,
      max_steps=2_600,
      decay_from=1_400,
      # From some initial weights carrying is never learnt; then others are tried.
      give_up=dict(step=800, loss=0.45),
      corpus=dict(
          misconceived=False,
          result_weight=4,
          clause_weight=3,  # With 1, copying an operand may stay unlearnt.
          answer_weight=4,
          drill_mix=dict(add=1.7, sub=1.7, mul=0.8, div=0.6),
      ),
  )
  if variant == 'smoke':  # Seconds; learns nothing.
    config.problems.update(train=20, select=5, prove=5, test=10)
    config.num_held_out = 8
    for model in (config.small, config.large):
      model.corpus.tokens_per_step = 300
      model.give_up.step = 5  # Never.
      model.update(examine_every=2, examine_from=2, max_steps=4)
      model.optimizer.update(warmup_steps=1, decay_from=2)
  return config
