"""What features, problems, view and network earn on the real pair.

Run: python -m experiments.sweep --config=configs/gsm8k_ablation.py --workdir=runs/real_ablation --jobs=2
"""  # noqa: E501  Commands stay on one line.

import ml_collections

from configs import gsm8k_qwen25_coder

VARIANTS = ('shipped',)


def get_config(variant: str = 'shipped') -> ml_collections.ConfigDict:
  """Returns the configuration of the ladders that come with the package."""
  if variant not in VARIANTS:
    raise ValueError(f'Unknown variant {variant!r}; use {", ".join(VARIANTS)}.')
  return gsm8k_qwen25_coder.get_config(variant)


def sweep() -> list[dict[str, object]]:
  """Returns the overrides of each run; each trains three seeds."""
  every = ('confidence', 'progress', 'cost', 'text')
  left_out = [tuple(x for x in every if x != out) for out in every]
  groups = [every, *left_out, ('confidence',), ('text',), ('progress', 'cost')]
  return [
      *({'features.groups': chosen} for chosen in groups),
      *({'problems.train': number} for number in (50, 100, 200)),
      # Decides before the small model's next step, not after it.
      {'protocol.view': 'commit'},
      # Networks that see the earlier steps; a network for each budget.
      {'network.kind': 'gru'},
      {'network.kind': 'attention'},
      {'network.is_conditioned': False},
  ]
