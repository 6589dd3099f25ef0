"""The runs of a sweep whose directory is in an object store, such as S3.

Programs of runs append to files and lock them, which no object store can. So
each run has a directory on the machine that executes it. What it holds is
copied to the sweep's directory when the program ends, finished or not, and from
there when the run is continued, on this machine or another.
"""

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import pathlib
import tempfile

import ml_collections

from experiments import sweep_runs
from experiments import tracking
from routing.shards import files

# In a run's directory: what others made, or can make again.
_NOT_COPIED = ('compiled',)


def check(config: ml_collections.ConfigDict, launcher: str, is_search: bool):
  """Raises ValueError if a sweep cannot have its directory in an object store.

  Args:
    config: of the sweep.
    launcher: of the runs.
    is_search: whether the sweep is a search, whose trials are in a database.
  """
  kind = 'a search' if is_search else f'--launcher={launcher}'
  if is_search or launcher == 'slurm':
    raise ValueError(
        f'--workdir is in an object store, and this is {kind}; allowed there: '
        'lists of runs, with --launcher=local or ray.'
    )
  if tracking.kind_of(config):
    raise ValueError(
        f'track is {tracking.kind_of(config)!r} and --workdir is in an object '
        "store, where no tracker writes; allowed there: ''."
    )


def attempt(
    sweep: sweep_runs.Sweep,
    run: sweep_runs.Run,
    is_hopeless: Callable[[], bool] | None = None,
) -> str:
  """Executes one run, wherever the sweep's directory is.

  See `sweep_runs.attempt`.
  """
  if files.is_local(sweep.workdir):
    return sweep_runs.attempt(sweep, run, is_hopeless)
  if sweep.mark(run).exists():
    return ''
  with tempfile.TemporaryDirectory() as folder:
    here = dataclasses.replace(sweep, workdir=pathlib.Path(folder))
    _copy(sweep.directory(run), here.directory(run))
    _copy(sweep.log(run), here.log(run))
    try:
      return sweep_runs.attempt(here, run, is_hopeless)
    finally:
      _copy(here.directory(run), sweep.directory(run))
      _copy(here.log(run), sweep.log(run))
      # The mark comes last, so a marked run is complete.
      _copy(here.mark(run), sweep.mark(run))


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
  """Copies a file or the files of a directory, if it exists."""
  if source.is_file():
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
  elif source.is_dir():
    for path in _within(source):
      _copy(path, target / path.name)


def _within(directory: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields what a run has made in a directory: no links to shared data."""
  for path in directory.iterdir():
    # In an object store, a directory may list itself, as an empty object.
    if not path.name or path == directory or path.name in _NOT_COPIED:
      continue
    if files.is_local(path) and path.is_symlink():
      continue
    yield path
