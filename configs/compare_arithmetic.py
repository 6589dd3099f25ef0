"""Everybody's router on the embedded pair.

Run:    python -m experiments.compare --config=configs/compare_arithmetic.py --workdir=runs/arithmetic
Demo:   python -m experiments.compare --config=configs/compare_arithmetic.py:demo --workdir=runs/demo
Smoke:  python -m experiments.compare --config=configs/compare_arithmetic.py:smoke --workdir=runs/smoke
Some:   append e.g. --config.compare.routers="('policy','best constant')"
"""

import ml_collections

from configs import arithmetic

VARIANTS = arithmetic.VARIANTS
# Settings of the policy that are tried on `select`, as many as every method
# has; each changes fields of the configuration.
POLICY_SETTINGS = (
    dict(),
    dict(network=dict(dropout=0.1)),
    dict(network=dict(dropout=0.5)),
    dict(optimizer=dict(weight_decay=0.01)),
    dict(network=dict(hidden=(128,))),
    dict(optimizer=dict(learning_rate=1e-3)),
)


def of_ladders() -> ml_collections.ConfigDict:
  """Returns the group `compare` for another pair, from its ladders alone."""
  compare = get_config().compare
  # The reward model that ships is that of the embedded pair.
  compare.scorer.model = ''
  # No model is asked: routers that must answer live are left out.
  compare.num_live.update(train=0, select=0, test=0)
  return compare


def get_config(variant: str = 'full') -> ml_collections.ConfigDict:
  """Returns one of `VARIANTS`; they differ in size only."""
  config = arithmetic.get_config(variant)
  config.compare = dict(
      routers=(),  # Names of routing/routers/registry.py; () = all.
      reference='policy',  # All others are compared with this router.
      num_trials=6,  # Settings of each router tried on `select`.
      policy_settings=POLICY_SETTINGS,
      # Work directories of runs on the same problems and models whose policies
      # are further rows, e.g. trained in `redraft`; one of each protocol.
      trained=(),
      grid_size=100,  # Thresholds per family, from -inf to inf.
      # Directory of a sentence encoder for routers of whole questions; '' =
      # hashed n-grams. Its tokens are charged.
      embedding='',
      # A process reward model for routers that score steps; the fields are
      # those of `scorer`. model='' = that of `scorer`, if it names one.
      scorer=dict(model='shipped/reward', revision='', spec={}, settings={}),
      # Problems answered live by routers whose outcomes records do not give:
      # answers of `train` to learn from, the same problems for all.
      num_live=dict(train=500, select=150, test=500),
  )
  if variant == 'demo':
    config.compare.num_trials = 2
    config.compare.num_live.update(train=200, select=200, test=400)
  if variant == 'smoke':
    config.compare.num_trials = 1
    config.compare.grid_size = 10
    config.compare.num_live.update(train=16, select=8, test=12)
  return config
