"""Trains the process reward model of the embedded pair.

Run:    python -m experiments.train_reward_head --config=configs/arithmetic_reward.py --workdir=runs/reward
Smoke:  python -m experiments.train_reward_head --config=configs/arithmetic_reward.py:smoke --workdir=runs/reward_smoke
Time:   about 10 minutes on two idle cores
"""  # noqa: E501  Commands stay on one line.

import ml_collections

VARIANTS = ('full', 'smoke')


def get_config(variant: str = 'full') -> ml_collections.ConfigDict:
  """Returns one of `VARIANTS`."""
  if variant not in VARIANTS:
    raise ValueError(f'Unknown variant {variant!r}; use {", ".join(VARIANTS)}.')
  config = ml_collections.ConfigDict()
  config.seed = 0  # Of the samples, the head and the order of examples.
  # Directory with small/ and large/, as experiments.pretrain writes it; '' =
  # the pair that ships with the package.
  config.pair = ''
  # The problems that routers use. Answers to `train` are what is learnt from;
  # the figures of the card are of `test`.
  config.problems = dict(
      seed=0, train=6_000, select=1_000, prove=1_000, test=2_000
  )
  # Answers that are labelled: (model, temperature, number of problems).
  config.answers = (
      ('small', 0.0, 3_000),
      ('small', 1.0, 3_000),
      ('large', 1.0, 3_000),
  )
  config.num_steps = 400  # Gradient steps.
  config.batch_size = 18  # Answers per gradient step.
  config.save_every = 50  # Gradient steps between checkpoints.
  # Peaks of Adam's learning rates.
  config.trunk_rate = 1e-3  # 0 = the trunk stays as it is.
  config.head_rate = 3e-3
  config.clip_norm = 1.0  # Largest global norm of a gradient.
  if variant == 'smoke':  # Takes seconds and learns nothing; for tests.
    config.problems.update(train=8, select=2, prove=2, test=8)
    config.answers = (('small', 1.0, 8), ('large', 0.0, 4))
    config.update(num_steps=2, batch_size=4, save_every=1)
  return config
