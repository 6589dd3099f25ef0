"""Sends the table of a sweep to TensorBoard or Weights & Biases, row by row."""

import json
import pathlib

import ml_collections
from pyarrow import parquet

from experiments import sweep_runs
from experiments import sweep_table
from experiments import tracking
from routing.shards import manifest as manifest_lib

FOLDER = 'rows'  # Of the sweep's directory; it has a folder for each row.
STAGE = 'sweep'
SENT_FILE = 'sent.json'


def send(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> list[str]:
  """Sends the rows of `table.parquet` that have changed since they were sent.

  Each row is a run of its own, named after its settings, so that the pages of
  both programs put the rows side by side.

  Args:
    config: of the sweep; `track` says where to.
    workdir: of the sweep.

  Returns:
    The names of the rows that were sent.
  """
  if not tracking.kind_of(config):
    return []
  sent = []
  for row in parquet.read_table(workdir / sweep_table.TABLE_FILE).to_pylist():
    names = list(row)
    # The fields that were swept stand before the number of runs.
    fields = names[: names.index('runs')]
    swept = {x: row[x] for x in fields if row[x] is not None}
    figures = {x: row[x] for x in names if x not in fields}
    name = sweep_runs.name_of(swept, sweep_runs.shortened(fields)) or 'all'
    directory = workdir / FOLDER / name
    mark = directory / SENT_FILE
    text = json.dumps([tracking.kind_of(config), row])
    if mark.exists() and mark.read_text() == text:
      continue
    shown = f'{workdir.name}, {name}'
    tracking.final(config, directory, shown, STAGE, figures, swept)
    directory.mkdir(parents=True, exist_ok=True)
    manifest_lib.replace_file(mark, lambda p, x=text: p.write_text(x))
    sent.append(name)
  return sent
