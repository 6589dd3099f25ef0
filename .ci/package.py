"""Builds the wheel and the source archive, and tries both as a user would.

Run: python .ci/package.py DIRECTORY [--python=3.12 --python=PATH ...]
Each interpreter gets a fresh environment outside the checkout, with the newest
releases of all dependencies. There the wheel is installed and tried, each
notebook is executed in an empty folder, and then the source archive is tried in
place of the wheel. Needs the extra `dev`.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys

_ROOT = pathlib.Path(__file__).resolve().parents[1]
# Beside the interpreter that runs this, or wherever else it is.
_UV = shutil.which(
    'uv', path=f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}'
)
# Runs in the fresh environment, in an empty directory.
_TRIAL = """
import importlib.resources
import importlib.metadata
import pathlib
import sys
import time

start = time.process_time()
import routing
seconds = time.process_time() - start
from routing import types
from routing.shards import reader
from routing.tasks import splits

where = pathlib.Path(routing.__file__).parent
assert where.is_relative_to(sys.prefix), where
assert routing.__version__ == importlib.metadata.version('stepwise-routing')
router = routing.load('shipped').at('loss<=0.05@0.9')
route = router.decide(types.Trace(question='', steps=())).route
assert route in (0, 1), route
# Loading and asking a router needs none of what is slow to import.
slow = {'datasets', 'lightgbm', 'matplotlib', 'sklearn', 'transformers'}
slow &= set(sys.modules)
assert not slow, slow
assert routing.load_ladders('qwen25_coder', 'select')
for name in splits.SPLITS:
  assert (reader.shipped('qwen25_coder') / 'shards' / name).is_dir(), name
for name in (
    'py.typed',
    'evaluation/page/answers.js',
    'serving/page/index.html',
    'lm/weights/small/model.safetensors',
    'lm/weights/reward/model.safetensors',
):
  assert importlib.resources.files('routing').joinpath(name).is_file(), name
print(f'{sys.version.split()[0]}: import routing takes {seconds:.2f} s')
"""
# Executes a notebook: its path, and what its first cell installs.
_NOTEBOOK = """
import pathlib
import re
import sys

import nbclient
import nbformat

path, package = sys.argv[1:]
notebook = nbformat.read(path, as_version=4)
first = next(x for x in notebook.cells if x.cell_type == 'code')
line = f'PACKAGE = {package!r}'
first.source, count = re.subn(
    '(?m)^PACKAGE = .*$', lambda _: line, first.source
)
assert count == 1, first.source
nbclient.NotebookClient(notebook, timeout=1_800).execute()
# A magic command that fails ends no notebook.
said = ''.join(x.get('text', '') for x in first.outputs)
assert 'ERROR' not in said and 'No module named' not in said, said
print(pathlib.Path(path).name)
"""
_NOTEBOOKS = _ROOT / 'experiments' / 'colab'
# The README's command, at once and without a model.
_PIPELINE = (
    '-m',
    'experiments.pipeline',
    '--config=configs/arithmetic.py:smoke',
    '--workdir=runs/smoke',
    '--dry_run',
)


def run(
    *words: object, cwd: pathlib.Path = _ROOT, first: pathlib.Path | None = None
) -> None:
  """Runs a command, and ends with its output if it fails.

  Args:
    *words: of the command.
    cwd: directory in which it runs.
    first: directory in which its own commands are looked for first.
  """
  environment = dict(os.environ)
  environment.pop('PYTHONPATH', None)  # Or a notebook could find the checkout.
  if first:
    path = os.pathsep.join([str(first), environment['PATH']])
    environment['PATH'] = path
  done = subprocess.run(
      list(map(str, words)),
      cwd=cwd,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      check=False,
  )
  if done.returncode:
    sys.exit(f'{" ".join(map(str, words))}\n{done.stdout}')


def build(directory: pathlib.Path) -> list[pathlib.Path]:
  """Builds the wheel, from the source archive, and returns both."""
  shutil.rmtree(directory, ignore_errors=True)  # Of an earlier version.
  run(sys.executable, '-m', 'build', '--outdir', directory)
  found = [*directory.glob('*.whl'), *directory.glob('*.tar.gz')]
  if [path.suffix for path in found] != ['.whl', '.gz']:
    sys.exit(f'{directory} holds {found}; expected a wheel and an archive.')
  return found


def attempt(
    package: pathlib.Path, home: pathlib.Path, python: str, *options: str
) -> None:
  """Installs a package into the environment of an interpreter, and tries it."""
  if not (home / 'bin/python').exists():
    # With pip, as any environment of a user has it; notebooks install by it.
    run(_UV, 'venv', '--seed', '--python', python, home)
  install = (_UV, 'pip', 'install', '--reinstall-package=stepwise-routing')
  run(*install, '--python', home / 'bin/python', *options, package)
  empty = home / 'elsewhere'
  empty.mkdir(exist_ok=True)
  # -I: neither the working directory nor PYTHONPATH is searched.
  run(home / 'bin/python', '-I', '-c', _TRIAL, cwd=empty)
  run(home / 'bin/python', '-I', *_PIPELINE, cwd=empty)


def attempt_notebooks(wheel: pathlib.Path, home: pathlib.Path) -> None:
  """Executes each notebook where the wheel is installed, in empty folders."""
  python = home / 'bin/python'
  run(_UV, 'pip', 'install', '--python', python, 'nbclient', 'ipykernel')
  for path in sorted(_NOTEBOOKS.glob('*.ipynb')):
    empty = home / 'notebooks' / path.stem
    empty.mkdir(parents=True)
    words = ('-I', '-c', _NOTEBOOK, path, wheel)
    run(python, *words, cwd=empty, first=python.parent)


def main() -> None:
  """Builds, and tries both packages under each interpreter."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('directory', type=pathlib.Path)
  parser.add_argument('--python', action='append', default=None)
  given = parser.parse_args()
  directory = given.directory.absolute()
  wheel, archive = build(directory / 'dist')
  for python in given.python or [sys.executable]:
    # '3.12' and '/usr/bin/python3.12' are both names of folders then.
    home = directory / f'environment{python.replace("/", "-")}'
    shutil.rmtree(home, ignore_errors=True)
    attempt(wheel, home, python)
    attempt_notebooks(wheel, home)
    attempt(archive, home, python, '--no-deps')
    print(f'{wheel.name} and {archive.name} work in {home}.', flush=True)


if __name__ == '__main__':
  main()
