"""What the runs of a sweep came to: a row each, and means over seeds."""

from collections.abc import Mapping
from collections.abc import Sequence
import json
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from experiments import report
from routing.shards import manifest as manifest_lib

RUNS_FILE = 'runs.parquet'
TABLE_FILE = 'table.parquet'
MARKDOWN_FILE = 'table.md'
SEED_FIELDS = ('train_seeds', 'seed')  # What figures are averaged over.


def figures(directory: pathlib.Path) -> dict[str, float]:
  """The figures of one run.

  Of an evaluated run, in the cost metric of its constraint: the area on
    `select`, by
  which settings are chosen; the area on `test`, where there is one; accuracy
  and cost at each budget. Of one that was only trained: the best validation
  score, and at which step; means over members. Means over the run's own seeds.
  """
  if (directory / report.RESULTS_FILE).exists():
    results = report.load(directory)
    metric = results['cost_metrics'][results['cost_metric']]
    method = metric['methods'][metric['reference']]
    found = {'area on select': method['select_area']}
    if method['area'] is not None:
      found['area'] = method['area']['mean']
    for budget, at in method['at_budget'].items():
      for name in ('accuracy', 'cost'):
        found[f'{name} at {budget}'] = float(np.mean(at[name]))
    return found
  logs = sorted(directory.glob('runs/seed*/metrics.jsonl'))
  best = [found for log in logs for found in _best(log)]
  if not best:
    return {}
  scores, steps = zip(*best, strict=True)
  return {
      'validation score': float(np.mean(scores)),
      'best step': float(np.mean(steps)),
  }


def _best(log: pathlib.Path) -> list[tuple[float, int]]:
  """(score, step) of each member at its best; of none that was not judged."""
  rows = map(json.loads, log.read_text().splitlines())
  judged = [row for row in rows if 'validation_score' in row]
  if not judged:
    return []
  scores = np.array([row['validation_score'] for row in judged], float)
  return [
      (float(scores[best, k]), judged[best]['step'])
      for k, best in enumerate(scores.argmax(axis=0))
      if np.isfinite(scores[best, k])
  ]


def averaged(
    rows: Sequence[Mapping[str, Any]], fields: Sequence[str]
) -> list[dict[str, Any]]:
  """One row for all that differ in nothing but the seed.

  Args:
    rows: of the runs: fields that were swept, and figures.
    fields: those that were swept; figures are the others.

  Returns:
    Rows of the fields except `SEED_FIELDS`, `runs`, and for each figure its
    mean and its spread, the standard deviation (n - 1), None of one run.
  """
  kept = [field for field in fields if field not in SEED_FIELDS]
  names = list(dict.fromkeys(k for row in rows for k in row if k not in fields))
  groups: dict[tuple, list[Mapping[str, Any]]] = {}
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
  """The table, mean and spread in one column each."""
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
  """Writes all three files, each whole or not at all; returns their paths."""
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
  # A field may be a number here and words there: then it is words.
  columns = {name: _column([row.get(name) for row in rows]) for name in names}
  parquet.write_table(pa.table(columns), path)


def _column(values: Sequence[Any]) -> pa.Array:
  kinds = {type(x) for x in values if x is not None}
  if kinds <= {int, float} or len(kinds) == 1:
    return pa.array(values)
  return pa.array([None if x is None else str(x) for x in values])
