"""Counts broken promises, where the truth is known.

Run:    python -m experiments.studies.coverage [--quick] [--workdir=runs/arithmetic] [--out=runs/coverage] [--docs=docs]
Resume: the same command; what was counted is kept, a file for each set and size.
Prints: tables; last, one JSON object.

For each procedure, level, delta and sample size: how many of many calibration
samples led to a promise that is not true. New ladders of the made-up process,
and its rollouts where control returns; samples with replacement from the
ladders of a work directory, and from published answers (`coverage.answers`;
what is not there is skipped, and said). Next to them the same for thresholds
that were plainly picked on the sample, and what service adds: the threshold
that follows feedback, and the alarm. The threshold grids are fixed before any
sample is drawn. Writes coverage.json, table.md and coverage.png into `out`; and
with --docs the page of the documentation and its plot. After a change of the
code count into another `out`.
"""  # noqa: E501  Commands stay on one line.

from collections.abc import Sequence
import json
import pathlib
import sys

from absl import app
from absl import flags
from absl import logging

from experiments.studies.coverage import cells as cells_lib
from experiments.studies.coverage import run as run_lib


def main(argv: Sequence[str]) -> None:
  """Prints the tables, then the JSON line."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  logging.set_verbosity(logging.INFO)
  values = flags.FLAGS
  plan = cells_lib.quick() if values.quick else cells_lib.Plan()
  try:
    docs = pathlib.Path(values.docs) if values.docs else None
    figures = run_lib.run(plan, values.workdir, pathlib.Path(values.out), docs)
    print(json.dumps(figures))
  except (ValueError, FileNotFoundError) as error:
    sys.exit(f'coverage: {error}')


if __name__ == '__main__':
  flags.DEFINE_bool('quick', False, 'Fewer samples and cells; about a minute.')
  flags.DEFINE_string('workdir', None, 'A finished work directory, if any.')
  flags.DEFINE_string('out', 'runs/coverage', 'Where the results are written.')
  flags.DEFINE_string('docs', None, 'Where the page about it is written.')
  app.run(main)
