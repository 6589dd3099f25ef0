"""Qwen2.5-Coder-Instruct 0.5B -> 1.5B on GSM8K: a real pair on real questions.

Half of the problems are GSM8K, and half are linear equations of reasoning-gym,
on which the small model is right more often. Results name the two groups. All
but :shipped need the extra `reasoning-gym`.

Run:    python -m experiments.pipeline --config=configs/gsm8k_qwen25_coder.py --workdir=runs/gsm8k
CPU:    the same with --config=configs/gsm8k_qwen25_coder.py:cpu (llama.cpp, 4-bit weights; some 15 s a problem on two cores; the same command resumes)
Smoke:  the same with :smoke, eight problems a split
Ladders that come with the package: the same with :shipped, which needs neither models nor problems
One half of them: :shipped with --config.data.subject=gsm8k, or simple_equations
Local:  append '--config.routes[0].model=small.gguf' '--config.routes[0].weights=/models/small' (the same for [1]) and --config.task.path=/data
"""  # noqa: E501  Commands stay on one line.

import ml_collections

from configs import own_models

VARIANTS = ('gpu', 'cpu', 'smoke', 'shipped')

_PARAMETERS = {'0.5B': 494_032_768, '1.5B': 1_543_714_304}
_EQUATIONS = dict(
    name='reasoning_gym',
    generators=('simple_equations',),
    settings=dict(simple_equations=dict(max_terms=3, max_value=50)),
)
_SYSTEM = (
    'Solve the problem in short steps of one line each, with a blank line after '
    'each step. End with a line that holds #### and the number.'
)
# Written for this project; no problem of GSM8K is among them.
_SHOTS = (
    (
        'A baker fills 6 trays with 12 rolls each. She sells 45 rolls in the '
        'morning and 18 in the afternoon. How many rolls are left?',
        '6 trays of 12 rolls are 6 * 12 = 72 rolls.\n\n'
        'She sells 45 + 18 = 63 rolls.\n\n'
        '72 - 63 = 9 rolls are left.\n\n'
        '#### 9',
    ),
    (
        'Omar reads 15 pages a day from Monday to Friday and twice as many on '
        'each day of the weekend. How many pages does he read in 2 weeks?',
        'From Monday to Friday he reads 5 * 15 = 75 pages.\n\n'
        'On a day of the weekend he reads 2 * 15 = 30 pages, so 2 * 30 = 60 '
        'pages on both days.\n\n'
        'In one week he reads 75 + 60 = 135 pages.\n\n'
        'In 2 weeks he reads 2 * 135 = 270 pages.\n\n'
        '#### 270',
    ),
    (
        'A jacket costs $80. It is sold at 25% off, and Lena has a coupon for '
        'another $12 off. How much does she pay?',
        '25% of $80 is 0.25 * 80 = $20.\n\n'
        'The sale price is 80 - 20 = $60.\n\n'
        'With the coupon she pays 60 - 12 = $48.\n\n'
        '#### 48',
    ),
    (
        'Three friends share a taxi that costs $4 plus $1.50 per mile. They '
        'ride 14 miles. How much does each of them pay?',
        'The miles cost 14 * 1.50 = $21.\n\n'
        'The taxi costs 4 + 21 = $25, and each pays 25 / 3 = $8.33.\n\n'
        '#### 8.33',
    ),
    # Without an equation among the examples, the small model explains every
    # move in words and LaTeX, and costs as much as the large one.
    (
        'Find the value of y in the equation: 7*y + 12 = 96',
        '7*y = 96 - 12 = 84.\n\ny = 84 / 7 = 12.\n\n#### 12',
    ),
    (
        'Solve for t: 38*t - 6*t = 480',
        '38*t - 6*t = 32*t, so 32*t = 480.\n\nt = 480 / 32 = 15.\n\n#### 15',
    ),
)


def get_config(variant: str = 'gpu') -> ml_collections.ConfigDict:
  """Returns one of `VARIANTS`."""
  if variant not in VARIANTS:
    raise ValueError(f'Unknown variant {variant!r}; use {", ".join(VARIANTS)}.')
  config = own_models.get_config('gpu' if variant == 'gpu' else 'cpu')
  config.task = dict(
      name='mixture',
      parts=(dict(name='gsm8k', share=0.5), dict(_EQUATIONS, share=0.5)),
      path='',
  )
  config.problems.update(train=600, select=150, prove=150, test=300)
  for route, (size, parameters) in zip(
      config.routes, _PARAMETERS.items(), strict=True
  ):
    name = f'Qwen2.5-Coder-{size}-Instruct'
    # A file may hold the embeddings a second time, as the last layer.
    route['spec'] = dict(parameters=parameters)
    route['model'] = f'Qwen/{name}'
    if variant != 'gpu':
      route.update(
          engine='llama_cpp',
          model=f'Qwen/{name}-GGUF/{name.lower()}-q4_k_m.gguf',
          weights=f'Qwen/{name}',
          settings=dict(num_slots=16, num_threads=0, num_log_probs=5),
      )
    # All questions share the examples, which are read once and then cached.
    route['settings'].update(max_length=1_280, shares_prefix=True)
    route['prompt'] = dict(system=_SYSTEM, shots=_SHOTS)
  # The threads of the two models share the cores; those that wait by spinning
  # take them from the others.
  config.environment.OMP_WAIT_POLICY = 'passive'
  config.protocol.max_decisions = 8
  config.collect.update(max_tokens=256, concurrency=16, shard_size=50)
  config.train_seeds = (0, 1, 2)
  # On training and `select` problems one network that is told the budget was
  # better than one for each budget; the figures are in experiments/LOG.md.
  config.network.is_conditioned = True
  # The small model alone costs about .6.
  config.calibration.budgets = (0.7, 0.8, 0.9)
  if variant == 'shipped':
    config.data.directory = 'shipped/qwen25_coder'
    # What is collected so far: the first problems of each split.
    config.problems.update(train=400, select=150, prove=150, test=300)
    config.evaluation.num_live = 0  # There is no model to ask.
  if variant == 'smoke':
    config.problems.update(train=8, select=8, prove=8, test=8)
    config.train_seeds = (0,)
    config.collect.shard_size = 8
    config.num_steps = 20
    config.batch_size = 8
    config.calibration.alphas = (0.3,)
    config.evaluation.update(
        learners=(), num_trials=1, resamples=200, num_live=2
    )
  return config
