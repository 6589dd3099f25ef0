"""Formats results as tables, for the terminal and in Markdown."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from routing.evaluation import budgets
from routing.evaluation import cut_share
from routing.evaluation import legend
from routing.evaluation import markdown as markdown_lib
from routing.evaluation import metrics
from routing.evaluation import style
from routing.routers import promises

# The budgets of a table may be others; see `budgets.header`.
COLUMNS = (
    'method',
    'area [95 %]',
    'policy minus method',
    'acc @.2',
    'acc @.4',
    'acc @.6',
    'gap recovered',
    'cost for 95 % of gap',
    'cost @.4',
    'cut @.4',
    'loss @.4',
    '[95 %]',
    'gain @.4',
    'headroom',
)
# Figures that papers on routing report besides; of a table of their own.
MORE_COLUMNS = (
    'method',
    'gap recovered @.2',
    'gap recovered @.4',
    'gap recovered @.6',
    'IBC gain @.2',
    'IBC gain @.4',
    'IBC gain @.6',
    'cost at 1 point lost',
    'cost at .5 points lost',
    'AIQ',
)
# The columns that fit into a terminal.
_NARROW = (
    'method',
    'area [95 %]',
    'policy minus method',
    'acc @.4',
    'cut @.4',
    'cost @.4',
    'gap recovered',
    'loss @.4',
)


def _signed(value: float | None) -> str:
  """Formats a number with its sign, e.g. '+.064'; None as `MISSING`."""
  text = markdown_lib.number(value)
  return text if value is None or value < 0 else f'+{text}'


def interval(figure: Mapping[str, Any] | None) -> str:
  """Formats a mean with its interval, e.g. '.712 [.701, .723]'.

  An area over costs that start above 0.2 also names the start, e.g. 'from .31'.

  Args:
    figure: 'mean', 'low' and 'high', for an area also 'range'; None gives
      `MISSING`.
  """
  if figure is None:
    return markdown_lib.MISSING
  mean, low, high = (
      markdown_lib.number(figure[x]) for x in ('mean', 'low', 'high')
  )
  text = f'{mean} [{low}, {high}]'
  # Only areas have a range; for other figures nothing is added.
  first = figure.get('range', [metrics.AREA_GRID[0]])[0]
  if first > metrics.AREA_GRID[0] + 1e-9:
    text += f' from {markdown_lib.number(first, 2)}'
  return text


def _mean_rate(rates: Sequence[Mapping[str, float]]) -> dict[str, float]:
  """Returns the mean over seeds of a rate, and an interval around all seeds.

  Args:
    rates: 'mean', 'low' and 'high' of each seed.
  """
  return {
      'mean': float(np.mean([x['mean'] for x in rates])),
      # The interval covers those of all seeds. An interval of the mean would be
      # narrower but would need an assumption about how seeds vary.
      'low': min(x['low'] for x in rates),
      'high': max(x['high'] for x in rates),
  }


def difference(figures: Mapping[str, Any], name: str) -> str:
  """Returns the policy's area minus a method's, e.g. '+.06 [+.05, +.07]'."""
  # There is no difference for the policy itself, for the oracle, and for a
  # method whose curve shares no cost with the policy's curve.
  figure = figures['differences'].get(name)
  if figure is None:
    return markdown_lib.MISSING
  mean, low, high = (_signed(figure[x]) for x in ('mean', 'low', 'high'))
  return f'{mean} [{low}, {high}]'


def _method_row(figures: Mapping[str, Any], name: str) -> list[str]:
  """Returns the cells of one method's row, one per column of `COLUMNS`."""
  method, keys = figures['methods'][name], budgets.keys(figures)
  row = [
      style.LABELS.get(name, name),
      interval(method['area']),
      difference(figures, name),
      *(markdown_lib.number(method['accuracy_at'][key]) for key in keys),
      markdown_lib.number(method['mean_gap_recovered']),
      markdown_lib.number(method['cost_to_recover']['95']),
  ]
  at_budget = method.get('at_budget', {}).get(keys[1])
  cut = markdown_lib.number(method['cut_at'][keys[1]])
  if at_budget is None:  # The oracle has no policy to choose.
    row += [markdown_lib.MISSING, cut, *[markdown_lib.MISSING] * 3]
  else:
    loss = {
        name: markdown_lib.number(x)
        for name, x in _mean_rate(at_budget['loss']).items()
    }
    row += [
        markdown_lib.number(float(np.mean(at_budget['cost']))),
        cut,
        loss['mean'],
        f'[{loss["low"]}, {loss["high"]}]',
        markdown_lib.number(_mean_rate(at_budget['gain'])['mean']),
    ]
  return row + [markdown_lib.number(method['headroom_share'], 2)]


def rows(results: Mapping[str, Any], metric: str) -> list[list[str]]:
  """Returns a row of cells per method, as in `COLUMNS`, for one cost metric."""
  figures = results['cost_metrics'][metric]
  return [_method_row(figures, name) for name in order(figures)]


def more_rows(results: Mapping[str, Any], metric: str) -> list[list[str]]:
  """Returns a row of cells per method, as in `MORE_COLUMNS`."""
  figures = results['cost_metrics'][metric]
  cells = []
  for name in order(figures):
    method, lost = figures['methods'][name], ('1', '0.5')
    values = [
        *(method['gap_recovered_at'][x] for x in budgets.keys(figures)),
        *(method['relative_ibc_gain_at'][x] for x in budgets.keys(figures)),
        *(method['cost_at_points_lost'][x] for x in lost),
        method['average_quality'],
    ]
    label = style.LABELS.get(name, name)
    cells.append([label, *map(markdown_lib.number, values)])
  return cells


def order(figures: Mapping[str, Any]) -> list[str]:
  """Returns the methods as tables list them; those without a label last."""
  named = [name for name in style.LABELS if name in figures['methods']]
  return named + [
      name for name in figures['methods'] if name not in style.LABELS
  ]


def title(results: Mapping[str, Any], metric: str) -> str:
  """Returns a table's title: cost metric, accuracy and cost of each model."""
  anchors = results['cost_metrics'][metric]['anchors']
  flag = ' (used in the constraint)' if metric == results['cost_metric'] else ''
  small, large = (
      f'{markdown_lib.number(anchors[f"{model}_accuracy"])}'
      + cut_share.in_title(anchors[f'{model}_cut'])
      for model in ('small', 'large')
  )
  return (
      f'Cost metric {metric}{flag}: small model alone, accuracy {small} at '
      f'cost {markdown_lib.number(anchors["small_cost"])}; large model alone, '
      f'accuracy {large} at cost 1'
  )


def left_out_lines(left_out: Mapping[str, str]) -> list[str]:
  """Returns a line for each method that a table leaves out, with the reason."""
  return [
      f'Left out: {style.LABELS.get(name, name)}. {reason}'
      for name, reason in left_out.items()
  ]


def left_out_points_line(results: Mapping[str, Any]) -> str:
  """Returns a line on operating points left out, or '' if there are none."""
  names = results['points_left_out']
  if not names:
    return ''
  return (
      f'Left out: {", ".join(names)}. Too few recorded trajectories agree with '
      'their thresholds to estimate the outcomes.'
  )


def rich_table(results: Mapping[str, Any], metric: str) -> Any:
  """Returns the table of one cost metric for a `rich` console."""
  from rich import table as table_lib

  table = table_lib.Table(title=title(results, metric))
  # The policy's row is recognised by its label: rows hold no method names.
  reference = style.LABELS[style.REFERENCE]
  for name in budgets.header(results['cost_metrics'][metric], _NARROW):
    justify = 'left' if name == 'method' else 'right'
    table.add_column(name, justify=justify, no_wrap=True)
  for row in rows(results, metric):
    cells = [row[COLUMNS.index(name)] for name in _NARROW]
    table.add_row(*cells, style='bold' if row[0] == reference else None)
  return table


POINT_COLUMNS = (
    'operating point',
    'cost',
    'relative loss [95 %]',
    'accuracy [95 %]',
    'cut',
    'promise',
)


def point_rows(results: Mapping[str, Any]) -> list[list[str]]:
  """Returns a row per operating point, with cells as in `POINT_COLUMNS`."""
  return [
      [
          entry['name'],
          markdown_lib.number(entry['cost']),
          interval(entry['loss']),
          interval(entry['accuracy']),
          markdown_lib.number(entry['cut']),
          entry['promise'],
      ]
      for entry in results['operating_points']
  ]


def refused_lines(results: Mapping[str, Any]) -> list[str]:
  """Returns a line with name and reason for each promise that was refused."""
  return [
      f'{entry["name"]} cannot be promised. {entry["reason"]}'
      for entry in results['refused_points']
  ]


def tuning_lines(results: Mapping[str, Any]) -> list[str]:
  """Returns a line for each learner on trials, best setting, training data."""
  return [
      f'{style.LABELS.get(name, name)}: best of {len(tuned["areas"])} settings '
      f'on select, {tuned["setting"]}; fitted on '
      + (
          f'all {tuned["decisions"]:,} decisions.'
          if tuned['fitted_on'] == tuned['decisions']
          else f'at most {tuned["fitted_on"]:,} of '
          f'{tuned["decisions"]:,} decisions.'
      )
      for name, tuned in results['tuning'].items()
  ]


def rich_point_table(results: Mapping[str, Any]) -> Any:
  """Returns the table of operating points for a `rich` console."""
  from rich import table as table_lib

  title = 'Operating points of the first seed, on unseen test problems'
  table = table_lib.Table(title=title, caption=promises.OF_A_CHOICE)
  for name in POINT_COLUMNS:
    is_text = name in (POINT_COLUMNS[0], POINT_COLUMNS[-1])
    table.add_column(name, justify='left' if is_text else 'right')
  for row in point_rows(results):
    table.add_row(*row)
  return table


LIVE_COLUMNS = (
    'operating point',
    'seed',
    'accuracy, live',
    'accuracy, replayed',
    'cut, live',
    'cost, live',
    'cost, replayed',
    'problems that agree',
)


def live_rows(results: Mapping[str, Any]) -> list[list[str]]:
  """Returns the rows of the live table, one per operating point and seed.

  The table compares live answers with outcomes replayed from records.
  """
  return [
      [
          entry['name'],
          str(entry['seed']),
          markdown_lib.number(entry['accuracy']),
          markdown_lib.number(entry['predicted_accuracy']),
          markdown_lib.number(entry['cut']),
          markdown_lib.number(entry['cost']),
          markdown_lib.number(entry['predicted_cost']),
          f'{entry["num_agreeing"]}/{entry["num_problems"]}',
      ]
      for entry in results['live']
  ]


def rich_live_table(results: Mapping[str, Any]) -> Any:
  """Returns the live table for a `rich` console."""
  from rich import table as table_lib

  table = table_lib.Table(title='Live answers compared with replay')
  for name in LIVE_COLUMNS:
    table.add_column(
        name, justify='left' if name == LIVE_COLUMNS[0] else 'right'
    )
  for row in live_rows(results):
    table.add_row(*row)
  return table


def coverage_line(results: Mapping[str, Any]) -> str:
  """Returns a sentence on how often promises were broken, and their cost."""
  counts, number = results['coverage'], markdown_lib.number
  promised, picked = counts['promised'], counts['picked']
  # `promises.claim` gives the same words as the table of operating points.
  promise = {
      'what': 'loss',
      'level': counts['alpha'],
      'delta': counts['delta'],
  }
  return (
      f'{promises.claim(promise)}, '
      f'from {counts["sample_size"]} problems: broken in {promised["broken"]} '
      f'of {counts["num_samples"]} samples (true cost '
      f'{number(promised["cost"])}). Thresholds chosen on the sample without '
      f'a test: broken in {picked["broken"]} (true cost '
      f'{number(picked["cost"])}). The cheapest threshold that truly keeps '
      f'the promise costs {number(counts["best"]["cost"])}.'
  )


def markdown(results: Mapping[str, Any]) -> str:
  """Returns all tables in Markdown, starting with the constraint's cost metric.

  Sections without content are left out: tuning, operating points, promises that
  the data cannot support, live answers and broken promises.
  """
  # `sorted` is stable and False < True, so the constraint's metric comes first
  # and the others keep their order.
  cost_metrics = sorted(
      results['cost_metrics'], key=lambda x: x != results['cost_metric']
  )
  parts = []
  for metric in cost_metrics:
    parts.append(f'### {title(results, metric)}')
    for columns, cells in (
        (COLUMNS, rows(results, metric)),
        (MORE_COLUMNS, more_rows(results, metric)),
    ):
      head = budgets.header(results['cost_metrics'][metric], columns)
      parts.append(markdown_lib.table(head, cells))
    parts += left_out_lines(results['cost_metrics'][metric]['left_out'])
  if line := cut_share.warning(results):
    parts.append(line)
  parts += [legend.LEGEND, legend.MORE]
  if results['tuning']:
    parts.append('### How the supervised learners were tuned')
    parts.append(markdown_lib.bullets(tuning_lines(results)))
  if results['operating_points']:
    parts.append('### Operating points, on unseen test problems')
    parts.append(markdown_lib.table(POINT_COLUMNS, point_rows(results)))
    parts.append(promises.OF_A_CHOICE)
  if line := left_out_points_line(results):
    parts.append(line)
  if results['refused_points']:
    parts.append('### Promises that the data cannot support')
    parts.append(markdown_lib.bullets(refused_lines(results)))
  if results['live']:
    parts.append('### Live answers compared with replay')
    parts.append(markdown_lib.table(LIVE_COLUMNS, live_rows(results)))
  if results.get('coverage'):
    parts.append(
        f'### How often a promise is broken\n\n{coverage_line(results)}'
    )
  return '\n\n'.join(parts) + '\n'
