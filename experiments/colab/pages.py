"""Executes the notebooks and makes a page of the documentation from each.

Run:    python -m experiments.colab.pages
Part:   the same with --only=quickstart,inspect_shards
Check:  the same with --check: executes in empty folders, writes no page
Writes: docs/notebooks/<name>.md, and its pictures; makes runs/<name>/ anew

Needs the extra `docs`, or `dev` to check. A notebook's line that installs the
package is not executed: what is installed already is used.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import copy
import hashlib
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
from typing import Any

from absl import app
from absl import flags
from absl import logging

_ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = _ROOT / 'experiments' / 'colab'
PAGES = _ROOT / 'docs' / 'notebooks'
_INSTALL = re.compile(r'^%pip .*$', re.M)
_COLOR = re.compile(r'\x1b\[[\d;]*m')
_TIMEOUT = 1_800  # Seconds for one cell.


def fingerprint(notebook: Mapping[str, Any]) -> str:
  """Returns a hash of what a notebook's cells say and do, without outputs."""
  cells = [
      [cell['cell_type'], ''.join(cell['source'])] for cell in notebook['cells']
  ]
  return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def mark(notebook: Mapping[str, Any]) -> str:
  """Returns the first line of a notebook's page; it names the source."""
  return (
      f'<!-- Made by experiments.colab.pages from {fingerprint(notebook)} -->'
  )


def execute(notebook: Mapping[str, Any], folder: pathlib.Path) -> Any:
  """Returns a notebook with the outputs of its cells, started in `folder`.

  What the cells log is left out, because it has times and is not for readers.

  Raises:
    nbclient.exceptions.CellExecutionError: if a cell fails.
  """
  import nbclient
  import nbformat

  made = nbformat.from_dict(copy.deepcopy(dict(notebook)))
  for cell in made.cells:
    cell.source = ''.join(cell.source)
  sources = [cell.source for cell in made.cells]
  for cell in made.cells:
    if cell.cell_type == 'code':
      cell.source = _INSTALL.sub('', cell.source)
  # Commands in cells run with this interpreter.
  paths = [str(pathlib.Path(sys.executable).parent), os.environ.get('PATH', '')]
  os.environ['PATH'] = os.pathsep.join(paths)
  client = nbclient.NotebookClient(
      made, timeout=_TIMEOUT, resources={'metadata': {'path': str(folder)}}
  )
  client.execute()
  for cell, source in zip(made.cells, sources, strict=True):
    cell.source = source
    if cell.cell_type == 'code':
      cell.outputs = _for_readers(cell.outputs)
  return made


def _for_readers(outputs: Sequence[Any]) -> list[Any]:
  """Returns outputs without log and colours, and what was printed in one."""
  kept = []
  for output in outputs:
    if output.get('name') == 'stderr':
      continue
    if output.output_type == 'stream':
      # The log came between two parts of what was printed, perhaps in the
      # middle of a colour.
      if kept and kept[-1].output_type == 'stream':
        output.text = kept.pop().text + output.text
      output.text = _COLOR.sub('', output.text)
    elif output.get('data', {}).get('text/html', '').startswith('<pre'):
      # A table of `rich`, coloured for one background; as text it fits both.
      del output.data['text/html']
      output.data['text/plain'] = _COLOR.sub('', output.data['text/plain'])
    kept.append(output)
  return kept


def write(name: str) -> pathlib.Path:
  """Executes a notebook, writes its page and pictures; returns the page."""
  import nbconvert

  path = NOTEBOOKS / f'{name}.ipynb'
  source = json.loads(path.read_text(encoding='utf-8'))
  shutil.rmtree(_ROOT / 'runs' / name, ignore_errors=True)
  made = execute(source, _ROOT)
  folder = f'{name}_files'
  text, resources = nbconvert.MarkdownExporter().from_notebook_node(
      made, resources={'unique_key': name, 'output_files_dir': folder}
  )
  shutil.rmtree(PAGES / folder, ignore_errors=True)
  (PAGES / folder).mkdir(parents=True)
  for picture, data in resources['outputs'].items():
    (PAGES / picture).write_bytes(data)
  page = PAGES / f'{name}.md'
  link = os.path.relpath(path, PAGES)
  note = f'*The notebook [{path.name}]({link}), as it was executed.*'
  text = re.sub(r'\n{3,}', '\n\n', text.strip())
  lines = [line.rstrip() for line in text.split('\n')]
  title = next(i for i, line in enumerate(lines) if line.startswith('# '))
  lines[title + 1 : title + 1] = ['', note]
  page.write_text('\n'.join([mark(source), '', *lines]) + '\n', 'utf-8')
  return page


def check(name: str) -> None:
  """Executes a notebook in an empty folder, since none may depend on its own.

  Raises:
    nbclient.exceptions.CellExecutionError: if a cell fails.
  """
  source = (NOTEBOOKS / f'{name}.ipynb').read_text(encoding='utf-8')
  with tempfile.TemporaryDirectory() as folder:
    execute(json.loads(source), pathlib.Path(folder))


def main(argv: list[str]) -> None:
  """Writes or checks each notebook, or those that --only names."""
  del argv
  names = flags.FLAGS.only or sorted(x.stem for x in NOTEBOOKS.glob('*.ipynb'))
  for name in names:
    if flags.FLAGS.check:
      check(name)
      logging.info('%s works.', name)
    else:
      logging.info('%s', write(name))


if __name__ == '__main__':
  flags.DEFINE_list('only', None, 'Names of notebooks; default: all.')
  flags.DEFINE_bool('check', False, 'Executes, and writes no page.')
  app.run(main)
