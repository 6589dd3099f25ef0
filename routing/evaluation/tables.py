"""Formats results as tables, for the terminal and in Markdown."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from routing.evaluation import budgets
from routing.evaluation import cut_share
from routing.evaluation import legend
from routing.evaluation import metrics
from routing.routers import promises

# Method name in the results -> label in the tables, in the order of the rows.
LABELS = {
    'policy': 'learned policy',
    'fitted Q, trees': 'fitted Q, boosted trees',
    'fitted Q, linear': 'fitted Q, linear',
    'boosting': 'gradient boosting',
    'confidence': 'confidence threshold',
    'confidence, mean': 'confidence threshold, mean of the step',
    'confidence, first token': 'confidence threshold, first token',
    'step score': 'step score threshold (PRM)',
    'step score, free': 'step score threshold (PRM), PRM not charged',
    'fixed step': 'best fixed hand-over step',
    'random per question': 'random per question',
    'random per step': 'random per step',
    'oracle': 'oracle',
}
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
MISSING = '-'  # The content of a cell whose figure does not exist.


def number(value: float | None, digits: int = 3) -> str:
  """Formats a number without a leading zero, e.g. '.712'; None as `MISSING`."""
  if value is None:
    return MISSING
  text = f'{value:.{digits}f}'
  # Most cells are fractions; without the leading zero more columns fit.
  return text.replace('0.', '.', 1) if text.startswith(('0.', '-0.')) else text


def _signed(value: float | None) -> str:
  """Formats a number with its sign, e.g. '+.064'; None as `MISSING`."""
  text = number(value)
  return text if value is None or value < 0 else f'+{text}'


def interval(figure: Mapping[str, Any] | None) -> str:
  """Formats a mean with its interval, e.g. '.712 [.701, .723]'.

  An area over costs that start above 0.2 also names the start, e.g. 'from .31'.

  Args:
    figure: 'mean', 'low' and 'high', for an area also 'range'; None gives
      `MISSING`.
  """
  if figure is None:
    return MISSING
  low, high = number(figure['low']), number(figure['high'])
  text = f'{number(figure["mean"])} [{low}, {high}]'
  # Only areas have a range; for other figures nothing is added.
  first = figure.get('range', [metrics.AREA_GRID[0]])[0]
  if first > metrics.AREA_GRID[0] + 1e-9:
    text += f' from {number(first, 2)}'
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
  found = figures['differences'].get(name)
  if found is None:
    return MISSING
  low, high = _signed(found['low']), _signed(found['high'])
  return f'{_signed(found["mean"])} [{low}, {high}]'


def _method_row(figures: Mapping[str, Any], name: str) -> list[str]:
  """Returns the cells of one method's row, one per column of `COLUMNS`."""
  method, keys = figures['methods'][name], budgets.keys(figures)
  row = [
      LABELS.get(name, name),
      interval(method['area']),
      difference(figures, name),
      *(number(method['accuracy_at'][key]) for key in keys),
      number(method['mean_gap_recovered']),
      number(method['cost_to_recover']['95']),
  ]
  at_budget = method.get('at_budget', {}).get(keys[1])
  cut = number(method['cut_at'][keys[1]])
  if at_budget is None:  # The oracle has no policy to choose.
    row += [MISSING, cut, *[MISSING] * 3]
  else:
    loss = _mean_rate(at_budget['loss'])
    row += [
        number(float(np.mean(at_budget['cost']))),
        cut,
        number(loss['mean']),
        f'[{number(loss["low"])}, {number(loss["high"])}]',
        number(_mean_rate(at_budget['gain'])['mean']),
    ]
  return row + [number(method['headroom_share'], 2)]


def rows(results: Mapping[str, Any], metric: str) -> list[list[str]]:
  """Returns a row of cells per method, as in `COLUMNS`, for one cost metric."""
  figures = results['cost_metrics'][metric]
  return [_method_row(figures, name) for name in order(figures)]


def order(figures: Mapping[str, Any]) -> list[str]:
  """Returns the methods as tables list them; those without a label last."""
  named = [name for name in LABELS if name in figures['methods']]
  return named + [name for name in figures['methods'] if name not in LABELS]


def title(results: Mapping[str, Any], metric: str) -> str:
  """Returns a table's title: cost metric, accuracy and cost of each model."""
  anchors = results['cost_metrics'][metric]['anchors']
  flag = ' (used in the constraint)' if metric == results['cost_metric'] else ''
  small, large = (
      f'{number(anchors[f"{model}_accuracy"])}'
      + cut_share.in_title(anchors[f'{model}_cut'])
      for model in ('small', 'large')
  )
  return (
      f'Cost metric {metric}{flag}: small model alone, accuracy {small} at '
      f'cost {number(anchors["small_cost"])}; large model alone, accuracy '
      f'{large} at cost 1'
  )


def left_out_lines(left_out: Mapping[str, str]) -> list[str]:
  """Returns a line for each method that a table leaves out, with the reason."""
  return [
      f'Left out: {LABELS.get(name, name)}. {reason}'
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
  for name in budgets.header(results['cost_metrics'][metric], _NARROW):
    justify = 'left' if name == 'method' else 'right'
    table.add_column(name, justify=justify, no_wrap=True)
  for row in rows(results, metric):
    cells = [row[COLUMNS.index(name)] for name in _NARROW]
    # The policy's row is recognised by its label: rows hold no method names.
    table.add_row(*cells, style='bold' if row[0] == LABELS['policy'] else None)
  return table


def markdown_table(
    columns: Sequence[str], cells: Sequence[Sequence[str]]
) -> str:
  """Returns a Markdown table.

  Args:
    columns: the header; the first column is text, the others are numbers.
    cells: the rows.
  """
  # '---:' right-aligns the numbers.
  lines = [columns, ['---'] + ['---:'] * (len(columns) - 1), *cells]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


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
          number(entry['cost']),
          interval(entry['loss']),
          interval(entry['accuracy']),
          number(entry['cut']),
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
      f'{LABELS.get(name, name)}: best of {len(found["areas"])} settings on '
      f'select, {found["setting"]}; fitted on '
      + (
          f'all {found["decisions"]:,} decisions.'
          if found['fitted_on'] == found['decisions']
          else f'at most {found["fitted_on"]:,} of '
          f'{found["decisions"]:,} decisions.'
      )
      for name, found in results['tuning'].items()
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
          number(entry['accuracy']),
          number(entry['predicted_accuracy']),
          number(entry['cut']),
          number(entry['cost']),
          number(entry['predicted_cost']),
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
  counts = results['coverage']
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


def _list(lines: Sequence[str]) -> str:
  """Returns lines as a Markdown list."""
  return '\n'.join(f'* {line}' for line in lines)


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
    head = budgets.header(results['cost_metrics'][metric], COLUMNS)
    parts.append(markdown_table(head, rows(results, metric)))
    parts += left_out_lines(results['cost_metrics'][metric]['left_out'])
  if line := cut_share.warning(results):
    parts.append(line)
  parts.append(legend.LEGEND)
  if results['tuning']:
    parts.append('### How the supervised learners were tuned')
    parts.append(_list(tuning_lines(results)))
  if results['operating_points']:
    parts.append('### Operating points, on unseen test problems')
    parts.append(markdown_table(POINT_COLUMNS, point_rows(results)))
    parts.append(promises.OF_A_CHOICE)
  if line := left_out_points_line(results):
    parts.append(line)
  if results['refused_points']:
    parts.append('### Promises that the data cannot support')
    parts.append(_list(refused_lines(results)))
  if results['live']:
    parts.append('### Live answers compared with replay')
    parts.append(markdown_table(LIVE_COLUMNS, live_rows(results)))
  if results.get('coverage'):
    parts.append(
        f'### How often a promise is broken\n\n{coverage_line(results)}'
    )
  return '\n\n'.join(parts) + '\n'
