"""Fills tables and numbers of the documents from files in docs/results/.

None of these is typed by hand. A table stands between two comments, the first
of which names the file, the view and the cost metric, e.g.

    <!-- figures: arithmetic_demo methods price -->
    <!-- end of figures -->

A number in a text stands between two comments, the first of which names the
file, the keys that lead to it and its format (default .3f), e.g.

    <!-- value: arithmetic_demo num_problems/test , -->2,000<!-- end -->

Views: methods, points, made (how the file was made) of a pipeline's results;
routers, made of a comparison; runs, made of a sweep, whose file is table.parquet;
transfer, methods, made of studies.transfer; methods, made of studies.headroom.

Run:  python -m experiments.studies.results_page
Keep: python -m experiments.studies.results_page --keep=runs/demo/results.json --name=arithmetic_demo --command='...' --machine='...'
      keeps the figures of a run in docs/results/ (or those of comparison.json, or what a benchmark printed last), under the current commit unless --commit names another
Writes: tables and numbers in README.md, docs/*.md and docs/how_to/*.md; prints the pages that have changed.
"""  # noqa: E501  Commands stay on one line.

from collections.abc import Mapping
from collections.abc import Sequence
import json
import pathlib
import re
import subprocess
import textwrap
from typing import Any

from absl import flags
from pyarrow import parquet

from experiments import command_line
from routing.evaluation import budgets
from routing.evaluation import comparison
from routing.evaluation import results as results_lib
from routing.evaluation import tables
from routing.shards import manifest as manifest_lib

DOCS = pathlib.Path(__file__).parents[2] / 'docs'
_TABLE = re.compile(
    r'(<!-- figures: ([^\n]+?) -->\n).*?(<!-- end of figures -->)', re.S
)
_VALUE = re.compile(r'(<!-- value: ([^\n]+?) -->)[^\n]*?(<!-- end -->)')
# Figures of a method that tables show; curves would make the files large.
_KEPT = (
    'area',
    'accuracy_at',
    'mean_gap_recovered',
    'cost_to_recover',
    'at_budget',
    'cut_at',
    'headroom_share',
)
_METHOD_COLUMNS = (
    'method',
    'area [95 %]',
    'policy minus method',
    'gap recovered',
    'acc @.2',
    'acc @.4',
    'acc @.6',
    'cost @.4',
    'loss @.4',
)
_ROUTER_COLUMNS = (
    'router',
    'trials',
    'area [95 %]',
    '{reference} minus router',
    'gap recovered',
    'acc @.2',
    'acc @.4',
    'acc @.6',
    'decisions/s',
)
# Figures of a run of a sweep that tables show, where the sweep has them.
_RUN_COLUMNS = (
    'area',
    'area, fitted Q, trees',
    'area, fitted Q, linear',
    'area, boosting',
    'gap recovered',
    'validation score',
)
TRANSFERRED = ('kept', 'recalibrated')  # Keys of transfer.json.
_WIDTH = 150  # Of a line of text in the documents.


def pages(root: pathlib.Path = DOCS.parent) -> list[pathlib.Path]:
  """Returns the documents that may have tables and numbers from files."""
  patterns = ('README.md', 'docs/*.md', 'docs/how_to/*.md')
  return [path for x in patterns for path in sorted(root.glob(x))]


def kept(content: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what tables need of a `results.json` or a `comparison.json`.

  What a benchmark prints is short, and is kept whole.
  """
  if 'cost_metrics' not in content:
    return dict(content)
  names = ('schema', 'cost_metric', 'num_problems', 'seeds', 'resamples')
  names += ('reference', 'operating_points', 'points_left_out')
  names += ('refused_points', 'routers', *TRANSFERRED)
  # Not rounded: a figure halfway between two would be rounded twice.
  return {name: content[name] for name in names if name in content} | {
      'cost_metrics': {
          metric: figures
          | {
              'methods': {
                  name: {x: y for x, y in method.items() if x in _KEPT}
                  for name, method in figures['methods'].items()
              }
          }
          for metric, figures in content['cost_metrics'].items()
      }
  }


def filled(text: str, folder: pathlib.Path = DOCS / 'results') -> str:
  """Returns a document with all of its tables and numbers made anew.

  Raises:
    ValueError: if one names a file, view, metric or key that does not exist.
  """
  text = _TABLE.sub(
      lambda found: f'{found[1]}{table(found[2].split(), folder)}\n{found[3]}',
      text,
  )
  return _VALUE.sub(
      lambda found: f'{found[1]}{value(found[2].split(), folder)}{found[3]}',
      text,
  )


def _read(name: str, folder: pathlib.Path) -> dict[str, Any]:
  """Returns a kept file: how it was `made`, and its `content`."""
  path = folder / f'{name}.json'
  if not path.exists():
    raise ValueError(f'{path} does not exist; keep a result file under it.')
  return json.loads(path.read_text(encoding='utf-8'))


def value(words: Sequence[str], folder: pathlib.Path) -> str:
  """Returns one number as a text shows it.

  Args:
    words: name of the file, the keys that lead to the number with '/' between
      them, and the format if it is not .3f; see Python's format().
    folder: of the files.
  """
  name, keys, form = words if len(words) == 3 else (*words, '.3f')
  found: Any = _read(name, folder)['content']
  for key in keys.split('/'):
    try:
      found = found[int(key) if isinstance(found, list) else key]
    except (KeyError, IndexError, TypeError, ValueError) as error:
      raise ValueError(f'{name}.json has no {keys}: no {key!r}.') from error
  text = format(found, form)
  # As in the tables: fractions without their leading zero.
  if form.endswith('f') and text.startswith(('0.', '-0.')):
    return text.replace('0.', '.', 1)
  return text


def table(words: Sequence[str], folder: pathlib.Path) -> str:
  """Returns one table, or for the view 'made' a sentence.

  Args:
    words: name of the file, the view, and the metric of tables that have one.
    folder: of the files.
  """
  name, view, *metric = words
  held = _read(name, folder)
  content = held['content']
  if view == 'made':
    return _made(held['made'], content)
  if view == 'runs':
    return _runs(content['runs'])
  if metric and metric[0] not in content['cost_metrics']:
    raise ValueError(
        f'{name}.json has no cost metric {metric[0]!r}; allowed: '
        f'{", ".join(content["cost_metrics"])}.'
    )
  if view == 'methods':
    results_lib.check(content)
    rows, figures = tables.rows(content, *metric), _figures(content, metric)
    head = budgets.header(figures, _METHOD_COLUMNS)
    return _columns(tables.COLUMNS, rows, _METHOD_COLUMNS, head)
  if view == 'points':
    columns = tables.POINT_COLUMNS
    return tables.markdown_table(columns, tables.point_rows(content))
  if view == 'transfer':
    columns = ('thresholds', *tables.POINT_COLUMNS)
    return tables.markdown_table(columns, _transferred(content))
  if view == 'routers':
    rows, figures = comparison.rows(content, *metric), _figures(content, metric)
    head = budgets.header(figures, _ROUTER_COLUMNS)
    head = [x.format(reference=content['reference']) for x in head]
    return _columns(comparison.COLUMNS, rows, _ROUTER_COLUMNS, head)
  raise ValueError(
      f'Unknown view {view!r}; allowed: methods, points, routers, runs, '
      'transfer, made.'
  )


def _figures(
    content: Mapping[str, Any], metric: Sequence[str]
) -> Mapping[str, Any]:
  return content['cost_metrics'][metric[0]]


def _columns(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    wanted: Sequence[str],
    head: Sequence[str],
) -> str:
  """Returns a table of some columns, under the names of `head`."""
  places = [columns.index(x) for x in wanted]
  return tables.markdown_table(head, [[x[i] for i in places] for x in rows])


def _transferred(content: Mapping[str, Any]) -> list[list[str]]:
  """Returns a row for each operating point, first of the thresholds as kept."""
  return [
      [name, *row]
      for name in TRANSFERRED
      for row in tables.point_rows({'operating_points': content[name]})
  ]


def _runs(runs: Sequence[Mapping[str, Any]]) -> str:
  """Returns a table of the runs of a sweep; see `sweep_table.averaged`."""
  # The fields that were swept stand before the number of runs.
  fields = list(runs[0])[: list(runs[0]).index('runs')]
  shown = [x for x in _RUN_COLUMNS if f'{x}, mean' in runs[0]]
  rows = []
  for run in runs:
    changed = [f'{x}: {run[x]}' for x in fields if run[x] is not None]
    rows.append(
        ['; '.join(changed), *(tables.number(run[f'{x}, mean']) for x in shown)]
    )
  return tables.markdown_table(['changed', *shown], rows)


def _made(made: Mapping[str, str], content: Mapping[str, Any]) -> str:
  """Returns how a result file was made, as a sentence in italics."""
  sizes = content.get('num_problems', {})
  if isinstance(sizes, Mapping):
    sizes = ', '.join(f'{count:,} {split}' for split, count in sizes.items())
  else:
    sizes = f'{sizes:,} test'
  sizes = f'; problems: {sizes}' if sizes else ''
  seeds = content.get('seeds', [])
  plural = 's' if len(seeds) > 1 else ''
  listed = ', '.join(map(str, seeds))
  listed = f'; training seed{plural} {listed}' if seeds else ''
  return textwrap.fill(
      f'*`{made["command"]}`{sizes}{listed}; commit '
      f'{made["commit"]}; {made["machine"]}.*',
      _WIDTH,
      break_long_words=False,
      break_on_hyphens=False,
  )


def _commit() -> str:
  """Returns the short name of the current commit."""
  command = ['git', 'rev-parse', '--short', 'HEAD']
  return subprocess.run(
      command, cwd=DOCS, capture_output=True, text=True, check=True
  ).stdout.strip()


def keep(
    path: str, name: str, made: Mapping[str, str], folder: pathlib.Path
) -> pathlib.Path:
  """Writes the figures of a result file to `folder`; returns the new path.

  Raises:
    ValueError: if the command or the machine is not said.
  """
  for field in ('command', 'machine'):
    if not made[field]:
      raise ValueError(f'--{field} must say how {path} was made.')
  if path.endswith('.parquet'):
    content = {'runs': parquet.read_table(path).to_pylist()}
  else:
    text = pathlib.Path(path).read_text(encoding='utf-8')
    try:
      content = kept(json.loads(text))
    except json.JSONDecodeError:
      # What a benchmark printed; its JSON is the last line.
      content = kept(json.loads(text.strip().splitlines()[-1]))
  text = json.dumps({'made': dict(made), 'content': content}, indent=1) + '\n'
  folder.mkdir(exist_ok=True)
  to = folder / f'{name}.json'
  manifest_lib.replace_file(to, lambda x: x.write_text(text, encoding='utf-8'))
  return to


def main(
    source: str, name: str, command: str, machine: str, commit: str
) -> None:
  """Keeps a result file if one is named, and fills the tables of all pages."""
  if source:
    made = dict(command=command, machine=machine, commit=commit or _commit())
    print(keep(source, name, made, DOCS / 'results'))
  for page in pages():
    before = page.read_text(encoding='utf-8')
    if (text := filled(before)) != before:
      page.write_text(text, encoding='utf-8')
      print(page)


if __name__ == '__main__':
  flags.DEFINE_string('keep', '', 'A result file whose figures to keep.')
  flags.DEFINE_string('name', '', 'What to call it in docs/results/.')
  flags.DEFINE_string('command', '', 'The command that made it.')
  flags.DEFINE_string('machine', '', 'Where it was made.')
  flags.DEFINE_string('commit', '', 'The commit; default: the current one.')
  command_line.run(main, 'keep', 'name', 'command', 'machine', 'commit')
