"""Reads and writes metrics as JSON lines, one row per logged step.

A row maps the name of each metric to a number, or to a list with one number per
policy.
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

import numpy as np


def read_rows(path: pathlib.Path | str) -> list[dict[str, Any]]:
  """Returns the rows of a `metrics.jsonl`, up to the first incomplete line."""
  rows = []
  for line in pathlib.Path(path).read_text().splitlines():
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      # Only the last line can be incomplete, if the process was killed while
      # writing it.
      break
  return rows


class MetricWriter:
  """Appends rows of metrics to a file.

  Args:
    path: the file; created if it does not exist.
    start: number of gradient steps that a resumed run has done; 0 for a new
      run. Rows of later steps are removed from the file.
  """

  def __init__(self, path: pathlib.Path | str, start: int = 0):
    path = pathlib.Path(path)
    if path.exists():
      # A killed run may have logged steps after its last checkpoint. The
      # resumed run repeats these steps, and they would be in the file twice.
      rows = [row for row in read_rows(path) if row['step'] <= start]
      partial = path.with_suffix('.partial')
      partial.write_text(''.join(json.dumps(row) + '\n' for row in rows))
      partial.replace(path)
    self._file = path.open('a')

  def __call__(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Writes one row; arrays `[K]` become lists with one entry per policy."""
    values = {name: np.asarray(x).tolist() for name, x in metrics.items()}
    row = {'step': step, **values}
    self._file.write(json.dumps(row) + '\n')
    self._file.flush()  # So that the file can be followed during training.

  def close(self) -> None:
    """Closes the file."""
    self._file.close()
