"""The runs of a sweep whose directory is in an object store, such as S3.

Programs of runs append to files and lock them, which no object store can. So
each run has a directory on the machine that executes it. When its program ends,
this is copied to the store:

- of a finished run all of its files, and last its mark in `finished/`;
- of any other run one archive in `unfinished/`, from which the next attempt
  continues, on this machine or another. It is replaced as a whole, so that none
  is ever half of one attempt and half of another.
"""

from collections.abc import Callable
import dataclasses
import io
import pathlib
import platform
import shutil
import tarfile
import tempfile

from absl import logging
import ml_collections

from experiments import records_on_disk
from experiments import sweep_runs
from experiments import tracking
from routing.shards import files

_UNFINISHED = 'unfinished'


def check(
    config: ml_collections.ConfigDict, launcher: str, is_search: bool
) -> None:
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


def check_data(config: ml_collections.ConfigDict, data: str) -> None:
  """Raises ValueError unless runs find all of their data in an object store.

  No directory can have a link to it: runs read it by `data.directory`.

  Args:
    config: of the sweep.
    data: the directory in the store.
  """
  if 'data' not in config:
    raise ValueError(
        f'--data={data} is in an object store, and the configuration has no '
        'field data.directory by which a run could read it.'
    )
  if config.data.directory:
    raise ValueError(
        f'--data={data} is in an object store, and data.directory is '
        f"{config.data.directory!r}; allowed there: ''."
    )
  others = {kind for kind, _ in records_on_disk.needed(config)}
  others -= {config.data.kind}
  if others:
    raise ValueError(
        f'--data={data} is in an object store, where runs read '
        f'{config.data.kind} only, and these need {", ".join(others)} too; '
        'allowed: a directory that every node sees.'
    )


def attempt(
    sweep: sweep_runs.Sweep,
    run: sweep_runs.Run,
    is_hopeless: Callable[[], bool] | None = None,
) -> str:
  """Executes one run, wherever the sweep's directory is.

  If the store refuses what a run has made, its files stay on this machine; the
  log and the text that is returned say where.

  Args: see `sweep_runs.attempt`.

  Returns:
    What went wrong, or ''.
  """
  if files.is_local(sweep.workdir):
    return sweep_runs.attempt(sweep, run, is_hopeless)
  folder = pathlib.Path(tempfile.mkdtemp(prefix='sweep-'))
  here = dataclasses.replace(sweep, workdir=folder)
  where = f'its files are in {folder} on {platform.node()}'
  stays = False  # Whether the folder has what the store has not.
  try:
    try:
      if sweep.mark(run).exists():
        return ''
      _fetch(sweep, here, run)
    except Exception as error:
      return f'could not be read from {sweep.workdir}: {error}'
    stays = True
    try:
      problem = sweep_runs.attempt(here, run, is_hopeless)
    finally:  # Also of a run that is interrupted.
      refused = _keep(here, sweep, run)  # This may be interrupted, too.
      stays = bool(refused)
    return '; '.join(x for x in (problem, refused, stays and where) if x)
  finally:
    if stays:
      logging.error('%s was not copied; %s', run.name, where)
    else:
      # A process that the run has left behind may still write there.
      shutil.rmtree(folder, ignore_errors=True)


def _archive(sweep: sweep_runs.Sweep, run: sweep_runs.Run) -> pathlib.Path:
  """Returns where the files of a run that is not finished are kept."""
  return sweep.workdir / _UNFINISHED / f'{run.name}.tar'


def _fetch(
    sweep: sweep_runs.Sweep, here: sweep_runs.Sweep, run: sweep_runs.Run
) -> None:
  """Copies what an earlier attempt has left, and its log, to this machine."""
  archive = _archive(sweep, run)
  if archive.exists():
    content = io.BytesIO(archive.read_bytes())
    with tarfile.open(fileobj=content) as opened:
      opened.extractall(here.directory(run), filter='data')
  if sweep.log(run).exists():
    here.log(run).parent.mkdir(parents=True)
    here.log(run).write_bytes(sweep.log(run).read_bytes())


def _keep(
    here: sweep_runs.Sweep, sweep: sweep_runs.Sweep, run: sweep_runs.Run
) -> str:
  """Copies what a run has made to the store; returns what went wrong, or ''."""
  try:
    _put(here.log(run), sweep.log(run))
    if here.mark(run).exists():
      for path in _made(here.directory(run)):
        name = path.relative_to(here.directory(run)).as_posix()
        _put(path, sweep.directory(run) / name)
      # The mark comes last, so a marked run is complete.
      _put(here.mark(run), sweep.mark(run))
      _archive(sweep, run).unlink(missing_ok=True)
    elif here.directory(run).exists():
      content = io.BytesIO()
      with tarfile.open(fileobj=content, mode='w') as opened:
        for path in _made(here.directory(run)):
          opened.add(path, path.relative_to(here.directory(run)))
      _archive(sweep, run).write_bytes(content.getvalue())
  except Exception as error:
    return f'could not be copied to {sweep.workdir}: {error}'
  return ''


def _put(source: pathlib.Path, target: pathlib.Path) -> None:
  """Copies a file, if there is one, to the store."""
  if source.exists():
    target.write_bytes(source.read_bytes())


def _made(directory: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files that a run has made, not those that it has links to.

  What runs share is linked, e.g. programs that jax has compiled.
  """
  return [
      path
      for path in sorted(directory.rglob('*'))
      if path.is_file() and not path.is_symlink()
  ]
