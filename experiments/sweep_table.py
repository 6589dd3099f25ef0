"""Tables of the runs of a sweep: one row per run, and means over seeds."""

from collections.abc import Mapping
from collections.abc import Sequence
import json
import pathlib
import re
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from experiments import evaluate
from experiments import report
from routing.shards import manifest as manifest_lib

RUNS_FILE = 'runs.parquet'
TABLE_FILE = 'table.parquet'
MARKDOWN_FILE = 'table.md'
# Fields that only name random seeds: rows that differ in nothing else are
# averaged.
SEED_FIELDS = ('train_seeds', 'seed')
# Names of figures besides those of learners; see `figures`.
_NAMES = (
    'area on select',
    'area',
    'gap recovered',
    'validation score',
    'best step',
)
_AT_BUDGET = r'(accuracy|cost) at \d*\.?\d+'


def figures(directory: pathlib.Path) -> dict[str, float]:
  """Returns the figures of one run; all are means over the run's own seeds.

  An evaluated run, in the cost metric of its constraint, has: the area on
  `select`, by which settings are chosen; the area on `test`, if there is one,
  also of each learner that was tuned beside the policy; the share of the gap in
  accuracy that is recovered; accuracy and cost at each budget. A run that was
  only trained has the best validation score and its step, means over the
  policies of all levels.

  Args:
    directory: work directory of the run.
  """
  # `reference` is the method that all others are compared with: the policy.
  if (directory / evaluate.RESULTS_FILE).exists():
    results = report.load(directory)
    metric = results['cost_metrics'][results['cost_metric']]
    method = metric['methods'][metric['reference']]
    found = {'area on select': method['select_area']}
    if method['area'] is not None:
      found['area'] = method['area']['mean']
    for learner in results['tuning']:
      if (area := metric['methods'][learner]['area']) is not None:
        found[f'area, {learner}'] = area['mean']
    if method['mean_gap_recovered'] is not None:
      found['gap recovered'] = method['mean_gap_recovered']
    for budget, at in method['at_budget'].items():
      for name in ('accuracy', 'cost'):
        found[f'{name} at {budget}'] = float(np.mean(at[name]))
    return found
  logs = sorted(directory.glob('runs/seed*/metrics.jsonl'))
  # One entry per seed and policy.
  best = [found for log in logs for found in _best(log)]
  if not best:
    return {}
  scores, steps = zip(*best, strict=True)
  return {
      'validation score': float(np.mean(scores)),
      'best step': float(np.mean(steps)),
  }


def check_name(name: str, config: Mapping[str, Any]) -> None:
  """Raises ValueError if no run can have a figure of this name.

  Args:
    name: of a figure; see `figures`.
    config: of the runs; 'evaluation', if there, says which learners are tuned.
  """
  learners = config.get('evaluation', {}).get('learners', ())
  allowed = [*_NAMES, *(f'area, {x}' for x in learners)]
  if name not in allowed and not re.fullmatch(_AT_BUDGET, name):
    raise ValueError(
        f'maximize of sweep() is {name!r}; allowed: {", ".join(allowed)}, '
        'accuracy at <budget>, cost at <budget>.'
    )


def _best(log: pathlib.Path) -> list[tuple[float, int]]:
  """Returns (score, step) of each policy at its best.

  A policy that could not be validated at any step, with scores of -inf only, is
  left out.
  """
  rows = map(json.loads, log.read_text().splitlines())
  validated = [row for row in rows if 'validation_score' in row]
  if not validated:
    return []
  # [validations, K policies].
  scores = np.array([row['validation_score'] for row in validated], float)
  return [
      (float(scores[best, k]), validated[best]['step'])
      for k, best in enumerate(scores.argmax(axis=0))
      if np.isfinite(scores[best, k])
  ]


def averaged(
    rows: Sequence[Mapping[str, Any]], fields: Sequence[str]
) -> list[dict[str, Any]]:
  """Returns one row for all runs that differ only in their seeds.

  Args:
    rows: one per run, with the fields that were swept and the figures.
    fields: the fields that were swept; all other keys are figures.

  Returns:
    Rows with the fields except `SEED_FIELDS`; `runs`, how many were averaged;
    and for each figure its mean and its spread, the standard deviation with
    n - 1. The spread of a single run is None.
  """
  kept = [field for field in fields if field not in SEED_FIELDS]
  names = list(dict.fromkeys(k for row in rows for k in row if k not in fields))
  groups: dict[tuple, list[Mapping[str, Any]]] = {}
  # Dicts keep the order of insertion, so rows stay in the order of the sweep.
  for row in rows:
    groups.setdefault(tuple(row.get(k) for k in kept), []).append(row)
  table = []
  for key, group in groups.items():
    line = dict(zip(kept, key, strict=True)) | {'runs': len(group)}
    for name in names:
      values = [row[name] for row in group if name in row]
      line[f'{name}, mean'] = float(np.mean(values)) if values else None
      line[f'{name}, spread'] = (
          float(np.std(values, ddof=1)) if len(values) > 1 else None
      )
    table.append(line)
  return table


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
  """Returns the table as Markdown, with mean and spread in one column."""
  if not table:
    return 'No run is finished.\n'
  names = [name for name in table[0] if not name.endswith(', spread')]
  lines = [
      [name.removesuffix(', mean') for name in names],
      ['---'] * len(names),
  ]
  lines += [[_cell(row, name) for name in names] for row in table]
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def _cell(row: Mapping[str, Any], name: str) -> str:
  value = row[name]
  if value is None:
    return '-'
  if not name.endswith(', mean'):
    return str(value)
  spread = row[f'{name.removesuffix(", mean")}, spread']
  return f'{value:.4g}' + ('' if spread is None else f' ± {spread:.2g}')


def write(
    rows: Sequence[Mapping[str, Any]],
    fields: Sequence[str],
    directory: pathlib.Path,
) -> list[pathlib.Path]:
  """Writes the three files of a sweep, each whole or not at all.

  Args:
    rows: one per run; see `averaged`.
    fields: the fields that were swept.
    directory: of the sweep.

  Returns:
    The paths of the files.
  """
  table = averaged(rows, fields)
  writers = {
      RUNS_FILE: lambda path: _write_parquet(rows, path),
      TABLE_FILE: lambda path: _write_parquet(table, path),
      MARKDOWN_FILE: lambda path: path.write_text(markdown(table)),
  }
  for name, writer in writers.items():
    manifest_lib.replace_file(directory / name, writer)
  return [directory / name for name in writers]


def _write_parquet(
    rows: Sequence[Mapping[str, Any]], path: pathlib.Path
) -> None:
  names = list(dict.fromkeys(name for row in rows for name in row))
  # A column of Parquet has one type; see `_column` for mixed values.
  columns = {name: _column([row.get(name) for row in rows]) for name in names}
  parquet.write_table(pa.table(columns), path)


def _column(values: Sequence[Any]) -> pa.Array:
  # A field that is a number in one run and text in another becomes text.
  kinds = {type(x) for x in values if x is not None}
  if kinds <= {int, float} or len(kinds) == 1:
    return pa.array(values)
  return pa.array([None if x is None else str(x) for x in values])
