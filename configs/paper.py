"""The experiments of the paper (arXiv 2605.06116), as far as it states them.

Run:      python -m experiments.pipeline --config=configs/paper.py:gsm8k --workdir=runs/paper/gsm8k
Others:   :math (MATH, tested on MATH-500), :omni_math (rule-gradable), :gpt41_mini (a paid API as the large model)
Tiny:     :gsm8k-tiny and so on, eight problems a split on a CPU; set both models to tiny ones
What the paper leaves open and what is chosen here: docs/paper.md
"""  # noqa: E501  Commands stay on one line.

import ml_collections

from configs import arithmetic_paid
from configs import own_models

_EXPERIMENTS = ('gsm8k', 'math', 'omni_math', 'gpt41_mini')
VARIANTS = _EXPERIMENTS + tuple(f'{name}-tiny' for name in _EXPERIMENTS)

# Experiment -> (task, token limit of an answer, problems in each split).
_TASKS = {
    'gsm8k': ('gsm8k', 512, dict(train=-1, select=-1, prove=-1, test=-1)),
    'math': ('math', 2_048, dict(train=-1, select=-1, prove=-1, test=-1)),
    'omni_math': (
        'omni_math_rule',
        3_072,
        dict(train=-1, select=-1, prove=-1, test=-1),
    ),
    'gpt41_mini': (
        'gsm8k',
        512,
        dict(train=1_000, select=400, prove=400, test=500),
    ),
}
# Context of the Qwen2.5-Math models, in tokens.
_MATH_CONTEXT = 4_096


def get_config(variant: str = 'gsm8k') -> ml_collections.ConfigDict:
  """Returns one of `VARIANTS`."""
  if variant not in VARIANTS:
    raise ValueError(f'Unknown variant {variant!r}; use {", ".join(VARIANTS)}.')
  experiment, _, is_tiny = variant.partition('-')
  config = own_models.get_config('cpu' if is_tiny else 'gpu')
  task, max_tokens, sizes = _TASKS[experiment]
  config.task = dict(name=task, path='')
  config.problems.update(sizes)
  config.collect.update(max_tokens=max_tokens, concurrency=256, shard_size=100)
  for route, size in zip(config.routes, ('1.5B', '7B'), strict=True):
    route['model'] = f'Qwen/Qwen2.5-Math-{size}-Instruct'
    route['settings'].update(max_length=_MATH_CONTEXT)
  if experiment != 'gpt41_mini':
    config.scorer.model = 'Qwen/Qwen2.5-Math-PRM-7B'
  if experiment == 'gpt41_mini':
    small, _ = config.routes
    small['model'] = 'Qwen/Qwen2.5-1.5B-Instruct'
    # Dollars per million tokens that a host asks for the 7B model: more than
    # the 1.5B model costs. See docs/paper.md.
    small['spec'] = dict(
        price_input=0.025, price_cached=0.025, price_output=0.05
    )
    config.routes = (small, arithmetic_paid.bought_route())
    config.collect.concurrency = 16
    config.collect.limits.update(requests=16, dollars=50.0)
  config.train_seeds = (0, 1, 2)
  config.evaluation.num_live = 100
  if is_tiny:
    config.scorer.model = ''  # Name a tiny one, as for the other models.
    config.problems.update(train=8, select=8, prove=8, test=8)
    config.collect.update(max_tokens=48, concurrency=8, shard_size=8)
    config.train_seeds = (0,)
    config.num_steps = 4
    config.batch_size = 8
    config.evaluation.num_live = 2
  return config
