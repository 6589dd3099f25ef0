"""Counts how often promises are broken, where the truth is known.

Run:    python -m experiments.studies.coverage [--quick] [--workdir=runs/arithmetic] [--out=runs/coverage] [--docs=docs]
Resume: the same command; finished counts are kept, one file per set of problems and sample size.
Prints: tables; last, one JSON object.
Writes: coverage.json, table.md and coverage.png into --out; with --docs, the page of the documentation, its plot, and the figures that other pages name (results/coverage.json). After a change of the code, use another --out.

For each procedure, level, delta and sample size it draws many calibration
samples and counts how many of them lead to a promise that is not true. The sets
of problems are:

    simulated   new ladders of the simulated process; rollouts of it in switch
                and redraft
    embedded    ladders of a work directory, drawn with replacement
    published   published answers of model pairs (`coverage.answers`), drawn
                with replacement; sets whose files are missing are skipped

For comparison, it counts the same for thresholds that are merely picked on the
sample, without a promise. It also measures what happens in service: a threshold
that follows feedback, and the drift alarm. Threshold grids are fixed before any
sample is drawn.
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
  """Prints the tables, then one line of JSON."""
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
  flags.DEFINE_bool('quick', False, 'Fewer samples and cells; takes a minute.')
  flags.DEFINE_string('workdir', None, 'A finished work directory; optional.')
  flags.DEFINE_string('out', 'runs/coverage', 'Directory for the results.')
  flags.DEFINE_string('docs', None, 'Directory for the page.')
  app.run(main)
