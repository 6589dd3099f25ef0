"""Fills tables and numbers of the documents from files in docs/results/.

None of these is typed by hand. A table stands between two comments, the first
of which names the file, the view and the cost metric, e.g.

    <!-- figures: arithmetic_demo methods price -->
    <!-- end of figures -->

A number in a text stands between two comments, the first of which names the
file, the keys that lead to it and its format (default .3f), e.g.

    <!-- value: arithmetic_demo num_problems/test , -->2,000<!-- end -->

In keys, '_' also stands for a space. Formats are those of Python; besides them
there are `interval`, a mean with its interval, and `difference`, the same with
signs.

Views: methods, areas, points of a pipeline's results; routers, first_routers,
router_earnings, router_spending of a comparison; runs of a sweep, whose file is
table.parquet; transfer, methods of studies.transfer; methods of
studies.headroom; responses of studies.routellm_responses; kinds, walked of
studies.walks; made, of any file: how it was made.

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
from typing import Any

from absl import flags
from pyarrow import parquet

from experiments import command_line
from experiments.studies import results_views
from routing.evaluation import tables
from routing.shards import manifest as manifest_lib

DOCS = pathlib.Path(__file__).parents[2] / 'docs'
TABLE = re.compile(
    r'(<!-- figures: ([^\n]+?) -->\n).*?(<!-- end of figures -->)', re.S
)
VALUE = re.compile(r'(<!-- value: ([^\n]+?) -->)[^\n]*?(<!-- end -->)')
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
# What is shown of a whole run, besides its cost metrics.
_KEPT_OF_RUN = (
    *('schema', 'cost_metric', 'num_problems', 'seeds', 'resamples'),
    *('reference', 'operating_points', 'points_left_out', 'refused_points'),
    *('coverage', 'routers', *results_views.TRANSFERRED),
)


def pages(root: pathlib.Path = DOCS.parent) -> list[pathlib.Path]:
  """Returns the documents that may have tables and numbers from files."""
  patterns = ('README.md', 'docs/*.md', 'docs/how_to/*.md')
  return [path for x in patterns for path in sorted(root.glob(x))]


def kept(content: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what documents need of a `results.json` or a `comparison.json`.

  What a benchmark prints is short, and is kept whole.
  """
  if 'cost_metrics' not in content:
    return dict(content)
  live = content.get('live', ())
  counted = {
      # Sums over the operating points.
      'live': {
          key: sum(x[key] for x in live)
          for key in ('num_problems', 'num_agreeing')
      }
  }
  # Not rounded: a figure halfway between two would be rounded twice.
  return (
      {name: content[name] for name in _KEPT_OF_RUN if name in content}
      | (counted if live else {})
      | {
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
  )


def filled(text: str, folder: pathlib.Path = DOCS / 'results') -> str:
  """Returns a document with all of its tables and numbers made anew.

  Raises:
    ValueError: if one names a file, view, metric or key that does not exist.
  """
  text = TABLE.sub(
      lambda found: f'{found[1]}{table(found[2].split(), folder)}\n{found[3]}',
      text,
  )
  return VALUE.sub(
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
      them, and the format if it is not .3f; see the module's docstring.
    folder: of the files.
  """
  name, keys, form = words if len(words) == 3 else (*words, '.3f')
  found: Any = _read(name, folder)['content']
  for key in keys.split('/'):
    try:
      if isinstance(found, list):
        found = found[int(key)]
      else:
        found = found[key if key in found else key.replace('_', ' ')]
    except (KeyError, IndexError, TypeError, ValueError) as error:
      raise ValueError(f'{name}.json has no {keys}: no {key!r}.') from error
  if form == 'interval':
    return tables.interval(found)
  if form == 'difference':
    return tables.difference({'differences': {name: found}}, name)
  # As in the text around it: a space before the sign, and fractions without
  # their leading zero.
  text = format(found, form).replace('%', ' %')
  if form.endswith('f') and text.startswith(('0.', '-0.')):
    return text.replace('0.', '.', 1)
  return text


def table(words: Sequence[str], folder: pathlib.Path) -> str:
  """Returns what stands between two comments of a page: a table or a sentence.

  Args:
    words: name of the file, the view, and the metric of views that have one.
    folder: of the files.

  Raises:
    ValueError: as `filled` does.
  """
  name, view, *metric = words
  held = _read(name, folder)
  content = held['content']
  if view == 'made':
    return results_views.made(held['made'], content)
  if view in results_views.OF_FILE:
    return results_views.OF_FILE[view](content)
  if view not in results_views.OF_METRIC:
    allowed = (*results_views.OF_METRIC, *results_views.OF_FILE, 'made')
    raise ValueError(f'Unknown view {view!r}; allowed: {", ".join(allowed)}.')
  allowed = ', '.join(content.get('cost_metrics', ())) or 'none'
  if not metric:
    raise ValueError(
        f'View {view!r} of {name}.json names no cost metric; allowed: '
        f'{allowed}.'
    )
  if metric[0] not in content.get('cost_metrics', ()):
    raise ValueError(
        f'{name}.json has no cost metric {metric[0]!r}; allowed: {allowed}.'
    )
  return results_views.OF_METRIC[view](content, metric[0])


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
    ValueError: if the name, the command or the machine is not said.
  """
  if not name:
    raise ValueError(f'--name must say what to call {path} in {folder}.')
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
  return write(name, made, content, folder)


def write(
    name: str,
    made: Mapping[str, str],
    content: Mapping[str, Any],
    folder: pathlib.Path = DOCS / 'results',
) -> pathlib.Path:
  """Writes a kept file; returns its path.

  Args:
    name: of the file, without its ending.
    made: the `command`, the `machine` and the `commit`.
    content: the figures.
    folder: of the files.
  """
  text = json.dumps({'made': dict(made), 'content': content}, indent=1) + '\n'
  folder.mkdir(parents=True, exist_ok=True)
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
