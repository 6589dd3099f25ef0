"""Writes tables and plots from `results.json`, and prints them for a reader.

Also the first and the last lines of a pipeline run: what will be done, how long
it takes, where the results are, and which command to try next.

Run:    python -m experiments.report --workdir=runs/arithmetic
Several runs side by side: python -m experiments.report --compare runs/a runs/b
Writes: report.html, the whole report as one page for a browser; table.md,
        frontier.png and cost_metrics.png; report.json, the hash of the results
        that they show. --compare: gallery.html in the folder of the first run
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import importlib.util
import json
import os
import pathlib
import shlex
import sys
from typing import Any

from absl import app
from absl import flags
import ml_collections

from experiments import command_line
from experiments import evaluate
from experiments import report_page
from routing.evaluation import cut_share
from routing.evaluation import gallery
from routing.evaluation import page
from routing.evaluation import plots
from routing.evaluation import results as results_lib
from routing.evaluation import tables
from routing.shards import files
from routing.shards import manifest as manifest_lib

FILES = ('report.html', 'table.md', 'frontier.png', 'cost_metrics.png')
RECORD_FILE = 'report.json'
GALLERY_FILE = 'gallery.html'
# What the time of a run does not depend on. A run whose other fields are those
# of a variant with a measured time takes about as long.
_OF_NO_TIME = (
    'seed',
    'cost_metric',
    'optimizer',
    'multiplier',
    'track',
    'serving',
)
_QUICKSTART = 'experiments/colab/quickstart.ipynb'


def load(workdir: pathlib.Path | str) -> Mapping[str, Any]:
  """Returns the content of `results.json`.

  Raises:
    ValueError: if the file does not exist, or has another schema version.
  """
  path = files.path(workdir) / evaluate.RESULTS_FILE
  if not path.exists():
    raise ValueError(
        f'{path} does not exist. Run experiments.evaluate '
        'with this --workdir first.'
    )
  return results_lib.check(json.loads(path.read_text()))


def write(workdir: pathlib.Path | str) -> list[pathlib.Path]:
  """Writes the page, the tables and both plots; returns their paths.

  Each file is written whole or not at all.
  """
  results = load(workdir)
  directory = pathlib.Path(workdir).absolute()
  paths = [directory / name for name in FILES]
  # The record comes last: it says that all files above are complete.
  report_page.write(directory, results, paths[0])
  table = tables.markdown(results)
  manifest_lib.replace_file(paths[1], lambda path: path.write_text(table))
  for draw, to in ((plots.frontier, paths[2]), (plots.cost_metrics, paths[3])):
    _plot(draw, results, to)
  text = json.dumps(_record(directory)) + '\n'
  manifest_lib.replace_file(
      directory / RECORD_FILE, lambda path: path.write_text(text)
  )
  return paths


def _plot(
    draw: Callable[..., None], results: Mapping[str, Any], path: pathlib.Path
) -> None:
  """Draws a plot of `plots` to a file, whole or not at all."""

  def write_plot(partial: pathlib.Path) -> None:
    # Open, since the name of a partial file does not end in .png.
    with partial.open('wb') as file:
      draw(results, file)

  manifest_lib.replace_file(path, write_plot)


def write_gallery(directories: Sequence[str]) -> pathlib.Path:
  """Writes a page of several runs beside the first of them; returns its path.

  Raises:
    ValueError: if there are fewer than two runs, one is named twice, or one has
      no results.
  """
  paths = [pathlib.Path(x).absolute() for x in directories]
  if len(set(paths)) < len(paths):
    raise ValueError(f'A run is named twice: {", ".join(directories)}.')
  # The last parts of the paths, as many as tell the runs apart.
  depth = 1
  while len({x.parts[-depth:] for x in paths}) < len(paths):
    depth += 1
  runs = {'/'.join(x.parts[-depth:]): x for x in paths}
  to = paths[0].parent / GALLERY_FILE if paths else pathlib.Path(GALLERY_FILE)
  pages = {
      name: os.path.relpath(path / FILES[0], to.parent)
      for name, path in runs.items()
      if (path / FILES[0]).exists()
  }
  content = gallery.of_runs({x: load(y) for x, y in runs.items()}, pages)
  text = page.render('gallery.html', content)
  manifest_lib.replace_file(to, lambda path: path.write_text(text, 'utf-8'))
  return to


def is_current(workdir: pathlib.Path | str) -> bool:
  """Returns whether the report was made from the current `results.json`."""
  directory = pathlib.Path(workdir)
  path = directory / RECORD_FILE
  return path.exists() and json.loads(path.read_text()) == _record(directory)


def _record(directory: pathlib.Path) -> dict[str, str]:
  return {
      'results_sha256': manifest_lib.hash_file(
          directory / evaluate.RESULTS_FILE
      )
  }


def show(workdir: pathlib.Path | str) -> None:
  """Prints the tables in the cost metric of the constraint, and the live one.

  The file table.md has the tables of all cost metrics.
  """
  from rich import console as console_lib

  results = load(workdir)
  console = console_lib.Console()
  # Where the output is not a terminal, rich assumes 80 columns and cuts cells.
  if not console.is_terminal:
    console = console_lib.Console(width=140)
  console.print(tables.rich_table(results, results['cost_metric']))
  found = results['cost_metrics'][results['cost_metric']]
  for line in tables.left_out_lines(found['left_out']):
    # Names such as 'loss<=a@p[group]' are not markup.
    console.print(line, markup=False)
  if line := cut_share.warning(results):
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


def shown(path: pathlib.Path | str) -> str:
  """Returns a path, relative to here where that is shorter."""
  if '://' in str(path):  # In an object store.
    return str(path)
  return min(str(path), os.path.relpath(path), key=len)


def expected_minutes(
    config: ml_collections.ConfigDict, asked: str
) -> float | None:
  """Returns how long all stages take on two idle cores; None if not measured.

  Args:
    config: of the run.
    asked: as in --config, e.g. 'configs/arithmetic.py:demo'. `MINUTES` of the
      file gives the time of each variant that was measured.
  """
  path, _, variant = asked.partition(':')
  module = _load(path)
  variants = getattr(module, 'VARIANTS', ('',))
  variant = variant or variants[0]
  minutes = getattr(module, 'MINUTES', {})
  if variant not in minutes:
    return None
  # A locked configuration is never equal to one that is not.
  mine, measured = (
      json.loads(x.to_json_best_effort())
      for x in (config, module.get_config(variant))
  )
  for fields in (mine, measured):
    for name in _OF_NO_TIME:
      fields.pop(name, None)
  return minutes[variant] if mine == measured else None


def _load(path: str):
  spec = importlib.util.spec_from_file_location('asked_config', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def opening(
    names: Sequence[str], workdir: pathlib.Path, minutes: float | None
) -> list[str]:
  """Returns the first lines of a run.

  Args:
    names: of the stages, in order.
    workdir: where the results will be.
    minutes: see `expected_minutes`.
  """
  groups: dict[str, list[str]] = {}
  for name in names:
    first, *rest = name.split(' ', 1)
    groups.setdefault(first, []).extend(rest)
  listed = ', '.join(
      f'{first} ({", ".join(rest)})' if rest else first
      for first, rest in groups.items()
  )
  lines = [f'{len(names)} stages: {listed}.']
  if minutes is not None:
    lines.append(f'About {minutes:g} min on two idle cores.')
  return [
      *lines,
      f'Results will be in {shown(workdir)}. Ctrl-C stops the run; the same '
      'command continues it.',
  ]


# How the names of variants end that are shortened runs.
_SHORT = ('demo', 'smoke', 'tiny')


def next_commands(
    asked: str, overrides: Sequence[str], workdir: str
) -> Mapping[str, str]:
  """Returns what to try next: in words -> the command.

  Args:
    asked: as in --config.
    overrides: the words of the command line that change fields.
    workdir: of the run that has just ended.
  """
  path, _, variant = asked.partition(':')
  module = _load(path)
  stem = pathlib.Path(path).stem
  found = {}
  if variant.endswith(_SHORT) and variant in getattr(module, 'VARIANTS', ()):
    found['The full size'] = _pipeline(path, f'runs/{stem}')
  changed = {word.lstrip('-').split('=')[0] for word in overrides}
  if 'config.cost_metric' not in changed:
    config = module.get_config(variant) if variant else module.get_config()
    shared = [f'--config.data.directory={workdir}']
    # Then the records are not in the work directory.
    if 'config.data.directory' in changed or config.data.directory:
      shared = []
    found['Another cost metric, on the same problems'] = _pipeline(
        asked,
        f'{workdir}_flops',
        *overrides,
        '--config.cost_metric=flops',
        *shared,
    )
  if stem == 'arithmetic':
    redraft = 'configs/arithmetic_redraft.py' + (variant and f':{variant}')
    found['Another protocol: the large model rewrites single steps'] = (
        _pipeline(redraft, f'{workdir}_redraft')
    )
  return found


def closing(workdir: str, commands: Mapping[str, str]) -> list[str]:
  """Returns the lines printed last: what to look at, and what to try next."""
  first, plot = (shown(pathlib.Path(workdir) / FILES[i]) for i in (0, 2))
  lines = ['', f'Report, for a browser: {first}', f'Plot: {plot}', '', 'Next:']
  for what, command in commands.items():
    lines += [f'  {what}:', f'    {command}']
  lines.append(f'  The trained router, step by step: {_QUICKSTART}')
  return lines


def _pipeline(asked: str, workdir: str, *words: str) -> str:
  """Returns the command line of a pipeline."""
  python = shown(sys.executable)
  given = [f'--config={asked}', *words, f'--workdir={workdir}']
  return shlex.join([python, '-m', 'experiments.pipeline', *given])


def main(
    workdir: str | None, compare: bool, directories: Sequence[str]
) -> None:
  """Writes the report, prints its tables, and prints the paths of its files.

  Args:
    workdir: of the run to report on.
    compare: writes a gallery of the runs in `directories` instead.
    directories: work directories of runs, two or more.
  """
  if compare:
    print(shown(write_gallery(directories)))
    return
  if workdir is None or directories:
    raise app.UsageError(
        'Give --workdir=<run>, or --compare and the directories of runs.'
    )
  paths = write(workdir)
  show(workdir)
  for path in paths:
    print(path)


if __name__ == '__main__':
  # Here, since the plans import the stages.
  from experiments import stage_plans

  flags.DEFINE_bool(
      'compare', False, 'Writes one page of the runs that are named.'
  )
  command_line.run(
      main,
      'workdir',
      'compare',
      optional=('workdir',),
      takes_words=True,
      plan=stage_plans.show_report,
  )
