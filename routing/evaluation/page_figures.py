"""What the charts and tables of a report page show, from `results.json`."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from routing.evaluation import budgets
from routing.evaluation import style
from routing.evaluation import tables
from routing.routers import card as card_lib
from routing.routers import promises

# Points of a curve on the page; the lines between them are straight.
_CURVE_POINTS = 81
_DIGITS = 4
# Shown at first; the others wait in the legend.
_SHOWN = (
    *(style.REFERENCE, 'fitted Q, trees', 'fitted Q, linear', 'boosting'),
    *('confidence', 'random per question', 'oracle'),
)
_DASHES = {'-': [], '--': [6, 4], '-.': [8, 3, 2, 3], ':': [2, 3]}


def looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
  """Returns label, colour, dashes and width of each method's curve.

  Colours are those of Okabe and Ito, and dashes tell the curves apart without
  them.
  """
  drawn = {}
  known = style.STYLES | style.MORE_STYLES
  for number, name in enumerate(names):
    look = known.get(name)
    if look is None:
      colour = style.OTHER_COLORS[number % len(style.OTHER_COLORS)]
      look = dict(color=colour, linestyle='--', linewidth=1.4)
    drawn[name] = {
        'label': style.LABELS.get(name, name),
        'color': look['color'],
        'dash': _DASHES[look['linestyle']],
        'width': look['linewidth'],
        'shown': name in _SHOWN or name not in known,
    }
  return drawn


def of_results(results: Mapping[str, Any]) -> dict[str, Any]:
  """Returns curves, anchors and tables in every cost metric.

  Args:
    results: the content of `results.json`.
  """
  metrics = {}
  for metric, figures in results['cost_metrics'].items():
    metrics[metric] = {
        'label': style.COST_LABELS.get(metric, metric),
        'anchors': _rounded(figures['anchors']),
        'curves': {
            name: _curve(method['curve'])
            for name, method in figures['methods'].items()
        },
        'columns': budgets.header(figures, tables.COLUMNS),
        'rows': tables.rows(results, metric),
        'left_out': tables.left_out_lines(figures['left_out']),
    }
  # A method may be left out in one cost metric and not in another.
  names = {x for y in results['cost_metrics'].values() for x in y['methods']}
  names = tables.order({'methods': sorted(names)})
  return {
      'metric': results['cost_metric'],
      'metrics': metrics,
      'methods': looks(names),
      'num_problems': dict(results['num_problems']),
      'seeds': list(results['seeds']),
      'refused': tables.refused_lines(results),
      'of_a_choice': promises.OF_A_CHOICE,
  }


def points(
    calibrated: Sequence[card_lib.OperatingPoint],
) -> list[dict[str, Any]]:
  """Returns the operating points of the first seed, cheapest first.

  Args:
    calibrated: the points as in `operating_points.json`, with what each had
      earned in calibration.
  """
  shown = []
  for point in calibrated:
    promise = point.promise
    entries = promise, *promise.get('also', ())
    shown.append(
        {
            'name': point.name,
            'words': promises.in_words(promise),
            'is_promised': any(
                x.get('delta') is not None or x.get('is_marginal')
                for x in entries
            ),
            'measured': dict(promise.get('measured', {})),
            'n': promise.get('n'),
        }
    )
  return sorted(shown, key=lambda x: x['measured'].get('cost', np.inf))


def training(
    rows_of_seed: Mapping[int, Iterable[Mapping[str, Any]]],
    levels: Sequence[float],
    form: str,
) -> dict[str, Any]:
  """Returns what training logged, as columns: a row per step and policy.

  Args:
    rows_of_seed: seed -> rows of `metrics.jsonl`.
    levels: the level of each policy, e.g. its budget.
    form: of the objective, which says what the levels bound.
  """
  wanted = {
      'accuracy': 'correct',
      'cost': 'cost',
      'multiplier': 'multiplier',
      'accuracy on select': 'validation_correct',
      'cost on select': 'validation_cost',
  }
  names = ('seed', 'policy', 'step', *wanted)
  columns: dict[str, list[Any]] = {name: [] for name in names}
  for seed, rows in rows_of_seed.items():
    for row in _thinned(list(rows)):
      for policy in range(len(levels)):
        values = [seed, policy, row['step']]
        values += [_entry(row.get(key), policy) for key in wanted.values()]
        for name, value in zip(names, values, strict=True):
          columns[name].append(value)
  bound = {'budget': 'cost', 'reliability': 'loss'}.get(form, 'level')
  labels = [f'{bound} ≤ {level:g}' for level in levels]
  return {'columns': columns, 'policies': labels, 'form': form}


def _thinned(rows: list[Any], most: int = 120) -> list[Any]:
  """Returns at most some of the rows, evenly spread, the last one included."""
  if len(rows) <= most:
    return rows
  kept = np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))
  return [rows[i] for i in kept]


def _entry(value: Any, policy: int) -> float | None:
  """Returns one policy's number of a logged metric; None if there is none."""
  if isinstance(value, list):
    value = value[policy] if policy < len(value) else None
  is_number = isinstance(value, int | float) and np.isfinite(value)
  return round(float(value), _DIGITS) if is_number else None


def _curve(curve: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
  return {
      name: _rounded(_thinned(list(values), _CURVE_POINTS))
      for name, values in curve.items()
  }


def _rounded(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {name: _rounded(x) for name, x in value.items()}
  if isinstance(value, list):
    return [_rounded(x) for x in value]
  return round(value, _DIGITS) if isinstance(value, float) else value
