"""Writes tables and plots from `results.json`, and prints the tables.

Run:    python -m experiments.report --workdir=runs/arithmetic
Writes: table.md, frontier.png and cost_metrics.png; report.json, the hash of
        the results that they show
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

from experiments import command_line
from routing.evaluation import plots
from routing.evaluation import results as results_lib
from routing.evaluation import tables
from routing.shards import manifest as manifest_lib

RESULTS_FILE = 'results.json'
FILES = ('table.md', 'frontier.png', 'cost_metrics.png')
RECORD_FILE = 'report.json'


def load(workdir: pathlib.Path | str) -> Mapping[str, Any]:
  """Returns the content of `results.json`.

  Raises:
    ValueError: if the file does not exist, or has another schema version.
  """
  path = pathlib.Path(workdir) / RESULTS_FILE
  if not path.exists():
    raise ValueError(
        f'{path} does not exist. Run experiments.evaluate '
        'with this --workdir first.'
    )
  return results_lib.check(json.loads(path.read_text()))


def write(workdir: pathlib.Path | str) -> list[pathlib.Path]:
  """Writes the Markdown tables and both plots; returns their paths."""
  results = load(workdir)
  directory = pathlib.Path(workdir).absolute()
  paths = [directory / name for name in FILES]
  # The record comes last: it says that all files above are complete.
  paths[0].write_text(tables.markdown(results))
  plots.frontier(results, paths[1])
  plots.cost_metrics(results, paths[2])
  text = json.dumps(_record(directory)) + '\n'
  manifest_lib.replace_file(
      directory / RECORD_FILE, lambda path: path.write_text(text)
  )
  return paths


def is_current(workdir: pathlib.Path | str) -> bool:
  """Returns whether the report was made from the current `results.json`."""
  directory = pathlib.Path(workdir)
  path = directory / RECORD_FILE
  return path.exists() and json.loads(path.read_text()) == _record(directory)


def _record(directory: pathlib.Path) -> dict[str, str]:
  return {'results_sha256': manifest_lib.hash_file(directory / RESULTS_FILE)}


def show(workdir: pathlib.Path | str) -> None:
  """Prints the tables in the cost metric of the constraint, and the live one.

  The file table.md has the tables of all cost metrics.
  """
  from rich import console as console_lib

  results = load(workdir)
  console = console_lib.Console()
  # Where the output is not a terminal, rich assumes 80 columns and cuts cells.
  if not console.is_terminal:
    console = console_lib.Console(width=130)
  console.print(tables.rich_table(results, results['cost_metric']))
  for line in tables.left_out_lines(results, results['cost_metric']):
    # Names such as 'loss<=a@p[group]' are not markup.
    console.print(line, markup=False)
  if results['operating_points']:
    console.print(tables.rich_point_table(results))
  if line := tables.left_out_points_line(results):
    console.print(line, markup=False)
  for line in tables.refused_lines(results):
    console.print(line, markup=False)
  if results['live']:
    console.print(tables.rich_live_table(results))
  if results['coverage']:
    console.print(tables.coverage_line(results))


def main(workdir: str) -> None:
  """Writes the report, prints its tables, and prints the paths of its files."""
  paths = write(workdir)
  show(workdir)
  for path in paths:
    print(path)


if __name__ == '__main__':
  command_line.run(main, 'workdir')
