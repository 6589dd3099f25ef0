"""Prints one table of several evaluated runs: how each was trained, and its results.

Run:    python -m experiments.studies.protocol_table --results=runs/redraft/results.json,runs/redraft_vtrace/results.json
Prints: Markdown; a row per run with its policy and the tuned supervised learners; after the last run of a protocol, the methods that need no training.
"""  # noqa: E501  Commands stay on one line.

from collections.abc import Mapping
from collections.abc import Sequence
import json
import pathlib
from typing import Any

from absl import flags
import numpy as np

from experiments import command_line
from routing.evaluation import markdown
from routing.evaluation import metrics
from routing.evaluation import results as results_lib
from routing.evaluation import style
from routing.evaluation import tables
from routing.routers import learners

COLUMNS = (
    'protocol',
    'method',
    'network',
    'features',
    'trained on',
    'problems, seeds',
    'area [95 %]',
    *(
        f'acc @{budget:.1f} [95 %]'.replace('0.', '.')
        for budget in metrics.BUDGETS
    ),
    *(f'{name}: area [95 %]' for name in learners.LEARNERS),
    'policy minus the best of them on select',
)


def method_cells(method: Mapping[str, Any]) -> list[str]:
  """Returns the area and the accuracy at each budget, with their intervals."""
  curve = {name: np.array(values) for name, values in method['curve'].items()}
  cells = [tables.interval(method['area'])]
  for budget in metrics.BUDGETS:
    # No threshold is that cheap, so there is no accuracy to interpolate.
    if budget < curve['cost'].min() - 1e-9:
      cells.append(markdown.MISSING)
      continue
    mean, low, high = (
        np.interp(budget, curve['cost'], curve[name])
        for name in ('accuracy', 'low', 'high')
    )
    cells.append(tables.interval({'mean': mean, 'low': low, 'high': high}))
  return cells


def policy_row(results: Mapping[str, Any]) -> list[str]:
  """Returns the row of the trained policy of a run."""
  config, methods = results['config'], _methods(results)
  groups = ', '.join(config['features']['groups'])
  hidden = ' x '.join(map(str, config['network']['hidden']))
  return [
      _protocol(results),
      _method(config),
      f'{config["network"]["kind"]} {hidden}',
      groups,
      _count(results, 'train'),
      f'{_count(results, "test")}, {len(results["seeds"])}',
      *method_cells(methods[style.REFERENCE]),
      *(
          tables.interval(methods[x]['area'])
          if x in methods
          else markdown.MISSING
          for x in learners.LEARNERS
      ),
      _minus_best(results),
  ]


def _minus_best(results: Mapping[str, Any]) -> str:
  """Returns the policy's area minus that of the best learner on `select`.

  Chosen on `select`, because the best of several on `test` would be biased.
  """
  # The area of a setting that could not be evaluated is null.
  areas = {
      name: [area for area in x['areas'] if area is not None]
      for name, x in results['tuning'].items()
  }
  tried = {name: max(known) for name, known in areas.items() if known}
  if not tried:
    return markdown.MISSING
  best = max(tried, key=tried.get)
  figures = results['cost_metrics'][results['cost_metric']]
  return f'{tables.difference(figures, best)} ({best})'


def _method(config: Mapping[str, Any]) -> str:
  """Returns how the policy was trained, without what is the default."""
  objective = config['objective']
  words = [objective.get('estimator', 'exact')]
  if words != ['exact']:
    words.append(objective['policy_update'])
  if objective.get('form', 'budget') != 'budget':
    words.append(objective['form'])
  if config.get('soft_threshold', {}).get('is_used'):
    words.append('behind kappa')
  return ', '.join(words)


def other_rows(results: Mapping[str, Any]) -> list[list[str]]:
  """Returns the rows of all methods without training, on the same problems."""
  methods = _methods(results)
  names = [x for x in style.LABELS if x in methods]
  return [
      [
          _protocol(results),
          style.LABELS[name],
          '',
          '',
          '',
          _count(results, 'test'),
          *method_cells(methods[name]),
          *[''] * (1 + len(learners.LEARNERS)),
      ]
      for name in names
      if name not in (style.REFERENCE, *learners.LEARNERS)
  ]


def _protocol(results: Mapping[str, Any]) -> str:
  """Returns the protocol's name, and its view if the configuration has one."""
  protocol = results['config']['protocol']
  return ', '.join(filter(None, (protocol['name'], protocol.get('view'))))


def _count(results: Mapping[str, Any], split: str) -> str:
  """Returns the number of problems of a split."""
  count = results['num_problems'].get(split)
  return markdown.MISSING if count is None else f'{count:,}'


def _methods(results: Mapping[str, Any]) -> Mapping[str, Any]:
  return results['cost_metrics'][results['cost_metric']]['methods']


def table(runs: Sequence[Mapping[str, Any]]) -> str:
  """Returns the table of all runs as Markdown, grouped by protocol."""
  rows, names = [], list(map(_protocol, runs))
  for name in dict.fromkeys(names):
    mine = [x for x, y in zip(runs, names, strict=True) if y == name]
    # The methods without training are the same for all runs of a protocol.
    rows += [policy_row(x) for x in mine] + other_rows(mine[-1])
  return markdown.table(COLUMNS, rows)


def main(paths: Sequence[str]) -> None:
  """Prints one table of the runs whose `results.json` files are given."""
  runs = [
      results_lib.check(json.loads(pathlib.Path(path).read_text()))
      for path in paths
  ]
  print(table(runs))


if __name__ == '__main__':
  flags.DEFINE_list(
      'results', None, 'Paths of results.json files, separated by commas.'
  )
  flags.mark_flag_as_required('results')
  command_line.run(main, 'results')
