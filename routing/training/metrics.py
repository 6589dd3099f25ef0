"""Metrics as JSON lines: a row per logged step, one number or list per name."""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

import numpy as np


def read_rows(path: pathlib.Path | str) -> list[dict[str, Any]]:
  """The rows of a `metrics.jsonl`; a last line cut by a kill is left out."""
  rows = []
  for line in pathlib.Path(path).read_text().splitlines():
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return rows


class MetricWriter:
  """Appends rows to a file.

  Args:
    path: of the file.
    start: the step that a run resumes from. Rows of later steps, written before
      a kill, are dropped: the resumed run writes them again.
  """

  def __init__(self, path: pathlib.Path | str, start: int = 0):
    path = pathlib.Path(path)
    if path.exists():
      kept = [row for row in read_rows(path) if row['step'] <= start]
      partial = path.with_suffix('.partial')
      partial.write_text(''.join(json.dumps(row) + '\n' for row in kept))
      partial.replace(path)
    self._file = path.open('a')

  def __call__(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Writes one row; arrays become lists, one entry per member."""
    values = {name: np.asarray(x).tolist() for name, x in metrics.items()}
    row = {'step': step, **values}
    self._file.write(json.dumps(row) + '\n')
    self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    self._file.close()
