"""Shows the counts as tables, a plot and a summary."""

from collections.abc import Sequence
import pathlib
from typing import Any

import numpy as np
from rich import console as console_lib
from rich import table as table_lib

from experiments.studies.coverage import cells as cells_lib
from routing.evaluation import plots

Row = dict[str, Any]
_HEAD = (
    'procedure',
    'n',
    'cells',
    'samples',
    'broken / allowed',
    'worst',
    'refused',
    'cost / best',
)


def by_procedure(rows: Sequence[Row]) -> list[tuple[str, ...]]:
  """Returns the lines of the table, one per procedure and sample size.

  'broken / allowed' is the mean frequency of broken promises and the mean
  delta. 'worst' is the frequency of the cell that is highest relative to its
  delta, with that delta. 'cost / best' is a mean over cells.
  """
  lines = []
  for name in dict.fromkeys(row['procedure'] for row in rows):
    for n in sorted({row['n'] for row in rows}):
      own = [x for x in rows if (x['procedure'], x['n']) == (name, n)]
      if own:
        lines.append((name, str(n), *_figures(own)))
  return lines


def _figures(rows: Sequence[Row]) -> tuple[str, ...]:
  """Returns the cells of a line, after its name and sample size."""
  splits = sum(x['splits'] for x in rows)
  frequency = [x['broken'] / x['splits'] for x in rows]
  worst = max(range(len(rows)), key=lambda k: frequency[k] / rows[k]['delta'])
  ratios = [x['ratio'] for x in rows if x['ratio'] is not None]
  return (
      str(len(rows)),
      f'{splits:,}',
      f'{np.mean(frequency):.3f} / {np.mean([x["delta"] for x in rows]):.3f}',
      f'{frequency[worst]:.3f} at {rows[worst]["delta"]:g}',
      f'{sum(x["refused"] for x in rows) / splits:.0%}',
      f'{np.mean(ratios):.2f}' if ratios else '-',
  )


def show(rows: Sequence[Row], served: Sequence[Row], alarmed: Sequence[Row]):
  """Prints all tables."""
  console = console_lib.Console(width=110)
  for title, head, lines in tables(rows, served, alarmed):
    table = table_lib.Table(title=title)
    for name in head:
      table.add_column(name, justify='left' if name == head[0] else 'right')
    for line in lines:
      table.add_row(*line)
    console.print(table)


def tables(
    rows: Sequence[Row], served: Sequence[Row], alarmed: Sequence[Row]
) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
  """Returns (title, head, lines) of each table."""
  online = [
      (
          x['stream'],
          f'{x["alpha"]:g}',
          f'{x["loss"]:.4f}',
          f'{x["off"]:.4f}',
          f'{x["still"]:.3f}',
      )
      for x in served
  ]
  drift = [
      (
          f'{x["alpha"]:g}',
          f'{x["false"]} of {x["streams"]:,}',
          f'{y["quiet"]:,}',
          f'{y["median"]:.0f}',
          f'{y["late"]:.0f}',
          f'{y["within"]:.1%}',
          f'{x["most"]:.1%}',
      )
      for x in alarmed
      for y in x['delays']
  ]
  return [
      ('Promises', _HEAD, by_procedure(rows)),
      (
          'By set, all procedures that promise',
          ('set', *_HEAD[1:]),
          _by_case(rows),
      ),
      (
          'Threshold in service',
          ('stream', 'alpha', 'mean loss', 'worst off by', 'standing still'),
          online,
      ),
      (
          'Alarm',
          (
              'alpha',
              'false alarms',
              'quiet',
              'median',
              '9 of 10',
              'within 300',
              'any alarm: at most',
          ),
          drift,
      ),
  ]


def _by_case(rows: Sequence[Row]) -> list[tuple[str, ...]]:
  kept = [x for x in rows if x['procedure'] not in cells_lib.PLAIN]
  renamed = [x | {'procedure': x['case']} for x in kept]
  return by_procedure(renamed)


def markdown(
    rows: Sequence[Row], served: Sequence[Row], alarmed: Sequence[Row]
):
  """Returns all tables as Markdown."""
  parts = []
  for title, head, lines in tables(rows, served, alarmed):
    ruled = ['---', *['---:'] * (len(head) - 1)]
    body = [f'| {" | ".join(x)} |' for x in (head, ruled, *lines)]
    parts.append(f'### {title}\n\n' + '\n'.join(body))
  return '\n\n'.join(parts) + '\n'


def summary(
    rows: Sequence[Row],
    served: Sequence[Row],
    alarmed: Sequence[Row],
    skipped: dict[str, str],
) -> dict[str, Any]:
  """Returns the summary, which is printed as the last line."""
  promised = [x for x in rows if x['procedure'] not in cells_lib.PLAIN]
  failed = cells_lib.judge(rows)
  late = [y for x in alarmed for y in x['delays']]
  return {
      'procedures_broken': sorted({x['procedure'] for x in failed}),
      'cells_broken': len(failed),
      'cells': len(promised),
      'samples': sum(x['splits'] for x in promised),
      'least_p_value': min(x['p_value'] for x in promised),
      'p_value_needed': cells_lib.FAMILY / len(promised),
      'refused_rate': _rate(promised, 'refused'),
      'broken_rate': _rate(promised, 'broken'),
      'plain_violation_rate': _rate(
          [x for x in rows if x['procedure'] == 'picked loss'], 'broken'
      ),
      'plain_cost_violation_rate': _rate(
          [x for x in rows if x['procedure'] == 'picked cost'], 'broken'
      ),
      'tightness': {
          str(n): _tightness(rows, n) for n in sorted({x['n'] for x in rows})
      },
      'online_worst_off': max(x['off'] for x in served),
      'false_alarm_rate': max(x['false'] / x['streams'] for x in alarmed),
      'delay_median_worst': max(x['median'] for x in late),
      'delay_within_300_worst': min(x['within'] for x in late),
      'sets': list(dict.fromkeys(x['case'] for x in rows)),
      'skipped': skipped,
  }


def _rate(rows: Sequence[Row], name: str) -> float:
  total = sum(x['splits'] for x in rows)
  return round(sum(x[name] for x in rows) / total, 4)


def _tightness(rows: Sequence[Row], n: int) -> float:
  """Returns the mean 'cost / best' of the fixed sequence of exact tests."""
  ratios = [
      x['ratio']
      for x in rows
      if (x['procedure'], x['n']) == ('fixed sequence', n) and x['ratio']
  ]
  return round(float(np.mean(ratios)), 3) if ratios else None


def draw(rows: Sequence[Row], path: pathlib.Path) -> None:
  """Draws broken promises relative to delta, and the cost of promises.

  Left: one dot per cell. Right: mean 'cost / best' by sample size.
  """
  pyplot = plots.load_pyplot()
  figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.8))
  names = list(dict.fromkeys(x['procedure'] for x in rows))
  # Jitter keeps dots with equal frequencies apart; it is the same in every run.
  rng = np.random.default_rng(0)
  sizes = sorted({x['n'] for x in rows})
  for place, name in enumerate(names):
    own = [x for x in rows if x['procedure'] == name]
    color = '#D55E00' if name in cells_lib.PLAIN else '#0072B2'
    times = [x['broken'] / x['splits'] / x['delta'] for x in own]
    jitter = place + rng.uniform(-0.25, 0.25, len(own))
    left.plot(times, jitter, '.', color=color, markersize=4, alpha=0.5)
    for n, marker in zip(sizes, 'o^sv', strict=False):
      ratios = [x['ratio'] for x in own if x['n'] == n and x['ratio']]
      if ratios:
        right.plot(np.mean(ratios), place, marker, color=color, markersize=6)
  left.axvline(1, color='#222222', linewidth=1)
  # Linear up to delta, so that cells without a broken promise are shown.
  left.set_xscale('symlog', linthresh=1)
  left.set_xlabel('broken promises / delta, a dot per cell')
  right.axvline(1, color='#222222', linewidth=1)
  marks = ', '.join(f'{m} n = {n}' for m, n in zip('●▲■▼', sizes, strict=False))
  right.set_xlabel(f'cost / cheapest that truly keeps it ({marks})')
  for axes in (left, right):
    axes.set_yticks(range(len(names)), names if axes is left else [])
    axes.invert_yaxis()
    axes.grid(axis='x', color='#DDDDDD', linewidth=0.6)
    for side in ('top', 'right'):
      axes.spines[side].set_visible(False)
  figure.tight_layout()
  figure.savefig(path, dpi=150)
  pyplot.close(figure)
