"""Shows how the annealed recipe differs from the configurations, as a table.

Every number is read from the recipe and from `configs/`. Only the first row and
the row of data are written by hand.
"""

from collections.abc import Callable

import ml_collections
import optax

from configs import arithmetic
from configs import arithmetic_redraft
from experiments.studies.optimum import annealed_recipe
from experiments.studies.optimum import recipe as recipe_lib

HEAD = (
    'what',
    'on this page',
    '`configs/arithmetic.py`',
    '`configs/arithmetic_redraft.py:vtrace`',
)
_CLIPPING = ('rho_bar', 'c_bar', 'ratio_clip', 'reach_clip')
_MULTIPLIER = ('init', 'learning_rate', 'damping')
Config = ml_collections.ConfigDict


def table(size: recipe_lib.Size) -> str:
  """Returns the table in Markdown, for the annealed recipe at this size."""
  lines = [HEAD, ['---'] * len(HEAD), *rows(size)]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def rows(size: recipe_lib.Size) -> list[list[str]]:
  """Returns the rows: what differs, then a cell for each column of `HEAD`."""
  # The budget and the step are arbitrary: the rows do not depend on them.
  exact = annealed_recipe.get_config('exact', size, 0.5, 0)
  vtrace = annealed_recipe.get_config('vtrace', size, 0.5, 0)
  ours = arithmetic.get_config()
  theirs = arithmetic_redraft.get_config('vtrace')
  groups = ', '.join(ours.features.groups)
  per_update = f'{size.num_problems:,}'
  found = [
      ['observed', 'exact belief over hidden states', groups, groups],
      [
          'data',
          'new problems for each update',
          *(_collected(x) for x in (ours, theirs)),
      ],
      [
          'weights kept',
          f'mean over the last {annealed_recipe.MEAN_OVER:.0%} of updates',
          *(
              f'best on {x.problems.select:,} problems of `select`, '
              f'evaluated every {x.eval_every} updates'
              for x in (ours, theirs)
          ),
      ],
      ['updates', f'{size.num_steps:,}', *_both(ours, theirs, _updates)],
      [
          'batch of one update',
          f'{per_update} problems or trajectories',
          f'{ours.batch_size:,} problems',
          f'{theirs.batch_size:,} trajectories',
      ],
      ['hidden units', _hidden(exact), *_both(ours, theirs, _hidden)],
      ['dropout', _dropout(exact), *_both(ours, theirs, _dropout)],
      [
          'learning rate, cosine here, constant there',
          f'exact {_decay(exact, size)}, V-trace {_decay(vtrace, size)}',
          *_both(ours, theirs, lambda x: f'{x.optimizer.learning_rate:g}'),
      ],
      ['weight decay', _decays(exact), *_both(ours, theirs, _decays)],
      ['entropy weight', _entropy(size), *_both(ours, theirs, _weight)],
      [
          f'multiplier: {", ".join(_MULTIPLIER)}',
          _fields(exact.multiplier, _MULTIPLIER),
          *_both(ours, theirs, lambda x: _fields(x.multiplier, _MULTIPLIER)),
      ],
      [
          f'V-trace: {", ".join(f"`{x}`" for x in _CLIPPING)}',
          _fields(vtrace.objective, _CLIPPING),
          'none',
          _fields(theirs.objective, _CLIPPING),
      ],
  ]
  return found


def _both(ours: Config, theirs: Config, cell: Callable[[Config], str]):
  return [cell(ours), cell(theirs)]


def _collected(config: Config) -> str:
  text = f'{config.problems.train:,} problems, collected once'
  if 'behaviour' in config and config.objective.estimator != 'exact':
    text += f', {config.behaviour.trajectories} trajectories of each'
  return text


def _updates(config: Config) -> str:
  return f'{config.num_steps:,}'


def _hidden(config: Config) -> str:
  return ', '.join(map(str, config.network.hidden))


def _dropout(config: Config) -> str:
  return f'{config.network.dropout:g}'


def _decays(config: Config) -> str:
  return f'{config.optimizer.weight_decay:g}'


def _weight(config: Config) -> str:
  return f'{config.objective.entropy_weight:g}'


def _fields(config: Config, names: tuple[str, ...]) -> str:
  return ', '.join(f'{float(config[name]):g}' for name in names)


def _entropy(size: recipe_lib.Size) -> str:
  """Returns the entropy weight of the first update and of the last."""
  first, last = (
      annealed_recipe.get_config('exact', size, 0.5, step)
      for step in (0, size.num_steps - 1)
  )
  return f'{_weight(first)}, falling to {_weight(last)}'


def _decay(config: Config, size: recipe_lib.Size) -> str:
  """Returns the learning rate of the first gradient step and of the last."""
  rate: optax.Schedule = config.optimizer.learning_rate
  last = size.num_steps * config.objective.get('num_inner_steps', 1)
  return f'{float(rate(0)):g} to {float(rate(last)):g}'
