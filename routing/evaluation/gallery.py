"""What a gallery shows of several runs side by side, from their results."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import json
from typing import Any

from routing.evaluation import budgets
from routing.evaluation import markdown
from routing.evaluation import page_figures
from routing.evaluation import style
from routing.evaluation import tables

_DASHES = ([], [6, 4], [2, 3], [8, 3, 2, 3])
# For runs that report at different costs, see `budgets.header`.
_ANY_BUDGETS = tuple(
    x.replace('@.2', '@a').replace('@.4', '@b').replace('@.6', '@c')
    for x in tables.COLUMNS
)
POINT_COLUMNS = ('run', *tables.POINT_COLUMNS)


def of_runs(
    runs: Mapping[str, Mapping[str, Any]], pages: Mapping[str, str]
) -> dict[str, Any]:
  """Returns the content of a gallery.

  Args:
    runs: name of a run -> the content of its `results.json`.
    pages: name of a run -> link to its own report; a run may have none.

  Raises:
    ValueError: if there are fewer than two runs.
  """
  if len(runs) < 2:
    raise ValueError(
        f'A gallery compares 2 runs or more, got {len(runs)}: '
        f'{", ".join(runs)}.'
    )
  figures = {name: page_figures.of_results(x) for name, x in runs.items()}
  methods: dict[str, str] = {}
  for of_run in figures.values():
    methods |= {name: x['label'] for name, x in of_run['methods'].items()}
  return {
      'runs': _looks(list(runs)),
      'pages': dict(pages),
      'metric': next(iter(runs.values()))['cost_metric'],
      'methods': methods,
      'metrics': {
          metric: _in_metric(figures, runs, metric)
          for metric in dict.fromkeys(
              metric for x in runs.values() for metric in x['cost_metrics']
          )
      },
      'point_columns': POINT_COLUMNS,
      'points': [
          [name, *row]
          for name, x in runs.items()
          for row in tables.point_rows(x)
      ],
      'settings': differences({name: x['config'] for name, x in runs.items()}),
      'same_test': _is_one_test(runs.values()),
      'num_problems': {
          name: x['num_problems']['test'] for name, x in runs.items()
      },
  }


def differences(
    configs: Mapping[str, Mapping[str, Any]],
) -> list[list[str]]:
  """Returns the settings in which runs differ, a row of texts for each.

  Args:
    configs: name of a run -> its configuration.

  Returns:
    Rows with the name of a field, and its value in each run.
  """
  flat = {name: dict(_leaves(config)) for name, config in configs.items()}
  fields = dict.fromkeys(field for x in flat.values() for field in x)
  rows = []
  for field in fields:
    values = [
        json.dumps(x[field], ensure_ascii=False)
        if field in x
        else markdown.MISSING
        for x in flat.values()
    ]
    if len(set(values)) > 1:
      rows.append([field, *values])
  return rows


def _in_metric(
    figures: Mapping[str, Mapping[str, Any]],
    runs: Mapping[str, Mapping[str, Any]],
    metric: str,
) -> dict[str, Any]:
  """Returns the curves and the rows of all runs in one cost metric."""
  having = {
      name: x['cost_metrics'][metric]
      for name, x in runs.items()
      if metric in x['cost_metrics']
  }
  heads = {tuple(budgets.header(x, tables.COLUMNS)) for x in having.values()}
  is_one = len(heads) == 1
  columns = heads.pop() if is_one else (*_ANY_BUDGETS, 'a, b, c')
  in_run = {}
  for name, x in having.items():
    shown = figures[name]['metrics'][metric]
    rows = dict(zip(tables.order(x), shown['rows'], strict=True))
    # Where runs report at different costs, each says at which.
    costs = [] if is_one else [', '.join(budgets.keys(x))]
    in_run[name] = {
        'anchors': shown['anchors'],
        'curves': shown['curves'],
        'rows': {method: [*row[1:], *costs] for method, row in rows.items()},
    }
  return {
      'label': style.COST_LABELS.get(metric, metric),
      'columns': ('run', *columns[1:]),
      'runs': in_run,
  }


def _looks(names: list[str]) -> dict[str, dict[str, Any]]:
  """Returns how the curve of each run is drawn."""
  # The palette of Okabe and Ito, from the most to the least visible.
  palette = list(dict.fromkeys(x['color'] for x in style.STYLES.values()))
  palette.sort(key=lambda x: x in ('#000000', '#F0E442', '#7F7F7F'))
  return {
      name: {
          'label': name,
          'color': palette[i % len(palette)],
          'dash': _DASHES[i // len(palette) % len(_DASHES)],
          'width': 2.0,
          'shown': True,
          'banded': i < 2,  # More bands would hide one another.
      }
      for i, name in enumerate(names)
  }


def _is_one_test(runs: Iterable[Mapping[str, Any]]) -> bool:
  """Returns whether all runs say that they were tested on the same records."""
  hashes = {x.get('shards', {}).get('test') for x in runs}
  return len(hashes) == 1 and None not in hashes


def _leaves(value: Any, path: str = '') -> Iterator[tuple[str, Any]]:
  """Yields (path, value) of all fields of nested mappings and lists of them."""
  if isinstance(value, Mapping) and value:
    for name, x in value.items():
      yield from _leaves(x, f'{path}.{name}' if path else name)
  elif isinstance(value, list) and value and isinstance(value[0], Mapping):
    for i, x in enumerate(value):
      yield from _leaves(x, f'{path}[{i}]')
  else:
    yield path, value
