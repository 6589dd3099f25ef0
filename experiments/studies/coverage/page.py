"""Writes the page of the documentation about broken promises."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import os
import pathlib
import platform
import subprocess
from typing import Any

from experiments.studies.coverage import cells as cells_lib
from experiments.studies.coverage import report as report_lib

Row = dict[str, Any]
_SETTINGS = (
    ('loss', 'alpha', 'Promises of a loss'),
    ('cost', 'budget', 'Promises of a cost'),
)


def page(
    plan: cells_lib.Plan,
    rows: Sequence[Row],
    served: Sequence[Row],
    alarmed: Sequence[Row],
    figures: dict[str, Any],
    workdir: str | None,
) -> str:
  """Returns the page in Markdown: findings, tables, cells, and settings."""
  return (
      '\n\n'.join(
          [
              '# Promises, counted',
              found(figures),
              '![Broken promises and what promises cost](coverage.png)',
              '## Tables',
              report_lib.markdown(rows, served, alarmed).strip(),
              '## Every cell',
              _EVERY_CELL,
              *every_cell(rows),
              '## How it was run',
              _how(plan, figures, workdir),
          ]
      )
      + '\n'
  )


_EVERY_CELL = (
    'Each cell has the share of samples whose promise is broken. In brackets '
    'is the mean true cost of the promised points, divided by that of the '
    'cheapest threshold that truly keeps the promise (for a promise of cost: '
    'of the most accurate). *none*: no sample supported the promise. A cell in '
    'bold is broken more often than chance explains. The columns are delta and '
    'the level: alpha, or a budget as a share of the way from the cost of the '
    'small model alone to that of the large. `picked` rows promise nothing.'
)


def found(figures: Mapping[str, Any]) -> str:
  """Returns the findings in words."""
  broken = figures['procedures_broken']
  verdict = (
      'No procedure breaks its promise more often than it may'
      if not broken
      else f'**{", ".join(broken)} broke more promises than allowed**'
  )
  tightness = ', '.join(
      f'{ratio:.2f} times at n = {n}'
      for n, ratio in figures['tightness'].items()
  )
  return (
      f'{verdict}: {figures["cells"]:,} cells (procedure, set, level, delta, '
      f'n), {figures["samples"]:,} calibration samples in all. The smallest '
      f'p-value of a cell is {figures["least_p_value"]:.2g}; by Bonferroni, '
      f'{figures["p_value_needed"]:.2g} or less would show a broken promise. '
      'Thresholds that are picked on the same samples without a test exceed '
      f'their loss in {figures["plain_violation_rate"]:.0%} of the samples and '
      f'their budget in {figures["plain_cost_violation_rate"]:.0%}. Promises '
      f'are broken in {figures["broken_rate"]:.1%} of the samples, and in '
      f'{figures["refused_rate"]:.0%} none can be made. The price: '
      f'the fixed sequence of exact tests costs {tightness} as much as the '
      'cheapest threshold that truly keeps the promise. (For a promise of '
      'cost, a ratio below 1 is budget left unspent for certainty. Where most '
      'samples support no promise, ratios are from the few that do.) All sets '
      'are sampled with the same random numbers, so their cells are not '
      'independent of each other.\n\n'
      'In service, the mean loss of a threshold that follows feedback ends '
      f'within {100 * figures["online_worst_off"]:.2f} points of alpha in the '
      'worst stream. The alarm was false in at most '
      f'{figures["false_alarm_rate"]:.1%} of the quiet streams (delta 10 %). '
      'After a shift of ten points it comes within 300 answers in '
      f'{figures["delay_within_300_worst"]:.0%} of the streams of the slowest '
      'row. The last column of its table is an upper bound for any alarm with '
      'so few false ones (Neyman and Pearson).'
  )


def every_cell(rows: Sequence[Row]) -> list[str]:
  """Returns a heading and tables for each set of problems."""
  broken = {id(x) for x in cells_lib.judge(rows)}
  parts = []
  for case in dict.fromkeys(x['case'] for x in rows):
    parts.append(f'### {case[0].upper()}{case[1:]}')
    for quantity, word, title in _SETTINGS:
      own = [x for x in rows if x['case'] == case and kind(x) == quantity]
      for n in sorted({x['n'] for x in own}):
        part = [x for x in own if x['n'] == n]
        parts.append(f'{title}, n = {n}')
        parts.append(_matrix(part, word, broken))
  return parts


def kind(row: Row) -> str:
  """Returns the kind of level of a row: 'cost' (a budget in %) or 'loss'.

  A joint promise of loss and cost is named by its loss.
  """
  return 'cost' if row['setting'].endswith('%') else 'loss'


def _matrix(rows: Sequence[Row], word: str, broken: set[int]) -> str:
  """Returns a table in Markdown: procedures by (delta, level)."""
  marginal = lambda x: x['procedure'].endswith('marginal')
  deltas = sorted({x['delta'] for x in rows if not marginal(x)})
  settings = list(dict.fromkeys(x['setting'] for x in rows))
  columns = [(delta, setting) for delta in deltas for setting in settings]
  head = [
      'procedure',
      *(f'{delta:g}; {word} {setting}' for delta, setting in columns),
  ]
  lines = []
  for name in dict.fromkeys(x['procedure'] for x in rows):
    own = [x for x in rows if x['procedure'] == name]
    # A marginal promise has no delta; it is shown under the first one.
    place = lambda x: (deltas[0] if marginal(x) else x['delta'], x['setting'])
    cells = {place(x): _cell(x, id(x) in broken) for x in own}
    lines.append([name, *(cells.get(column, '') for column in columns)])
  ruled = ['---', *['---:'] * len(columns)]
  return '\n'.join(f'| {" | ".join(x)} |' for x in (head, ruled, *lines))


def _cell(row: Row, is_broken: bool) -> str:
  if row['refused'] == row['splits']:
    return '*none*'
  text = f'{row["broken"] / row["splits"]:.1%}'
  text = f'**{text}**' if is_broken else text
  return text + (f' ({row["ratio"]:.2f})' if row['ratio'] else '')


def made(workdir: str | None) -> dict[str, str]:
  """Returns how the study is run: command, machine and commit."""
  command = 'python -m experiments.studies.coverage --docs=docs'
  if workdir:
    command += f' --workdir={workdir}'
  return {
      'command': command,
      'machine': _hardware(),
      'commit': _commit(),
  }


def _how(
    plan: cells_lib.Plan, figures: dict[str, Any], workdir: str | None
) -> str:
  """Returns how the study was run: command, settings, hardware and commit."""
  settings = ', '.join(
      f'{name} {value}' for name, value in dataclasses.asdict(plan).items()
  )
  said, skipped = made(workdir), figures['skipped']
  left_out = f'left out: {", ".join(skipped)}' if skipped else 'no set left out'
  return (
      f'`{said["command"]}`. Settings: {settings}; {left_out}. Hardware: '
      f'{said["machine"]}; {figures["minutes"]:.0f} minutes, with other '
      f'programs running; commit {said["commit"]}. This page is written by the '
      'command.'
  )


def _hardware() -> str:
  path = pathlib.Path('/proc/cpuinfo')
  lines = path.read_text().splitlines() if path.exists() else []
  names = [x.split(':')[1].strip() for x in lines if x.startswith('model name')]
  name = names[0] if names else platform.machine()
  return f'{os.cpu_count()} cores of {name}'


def _commit() -> str:
  command = ['git', 'rev-parse', '--short', 'HEAD']
  try:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
  except (OSError, subprocess.CalledProcessError):
    return 'unknown'
  return done.stdout.strip()
