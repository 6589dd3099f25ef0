"""Parquet files of step scores, keyed by problem and step."""

from collections.abc import Mapping
import pathlib

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from routing.engines import step_scorer
from routing.shards import manifest as manifest_lib

_SCHEMA = pa.schema(
    [
        ('problem', pa.string()),
        ('step', pa.int32()),
        ('score', pa.float64()),
        ('read', pa.int64()),
        ('seconds', pa.float64()),
    ]
)


def write(
    path: pathlib.Path, scores: Mapping[str, step_scorer.StepScores]
) -> None:
  """Writes the scores of answers, atomically; they are then on the disk.

  Args:
    path: the Parquet file; an earlier one is replaced.
    scores: id of the problem -> scores of the steps of its answer.
  """
  rows = [
      (problem, step, float(x.scores[step]), int(x.read[step]), x.seconds[step])
      for problem, x in scores.items()
      for step in range(len(x.scores))
  ]
  columns = list(zip(*rows, strict=True)) or [()] * len(_SCHEMA)
  table = pa.table(dict(zip(_SCHEMA.names, columns, strict=True)), _SCHEMA)
  manifest_lib.replace_file(path, lambda p: parquet.write_table(table, p))


def read(path: pathlib.Path) -> dict[str, step_scorer.StepScores]:
  """Returns what `write` wrote to a file."""
  columns = parquet.read_table(path, schema=_SCHEMA).to_pydict()
  problems = np.array(columns.pop('problem'), object)
  steps, score, tokens, seconds = map(np.array, columns.values())
  found = {}
  for problem in dict.fromkeys(problems):
    rows = np.flatnonzero(problems == problem)
    rows = rows[np.argsort(steps[rows])]
    found[problem] = step_scorer.StepScores(
        score[rows], tokens[rows], seconds[rows]
    )
  return found
