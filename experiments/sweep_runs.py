"""The runs of a sweep: names, directories, commands, and how they execute."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from concurrent import futures
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
import pathlib
import re
import subprocess
import sys
import time
from typing import Any

import ml_collections

from experiments import command_line
from routing import progress
from routing.shards import manifest as manifest_lib

PRUNED = 'pruned'
_POLL_SECONDS = 1.0
_LONGEST_NAME = 150  # Characters; file systems allow 255 with all suffixes.


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of a sweep.

  name: of its directory; made from the overrides.
  overrides: dotted field -> value.
  """

  name: str
  overrides: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Sweep:
  """All runs of a sweep, and how each is started.

  workdir: of the sweep, absolute; or in an object store.
  program: module that each run executes, such as 'experiments.pipeline'.
  config: the value of --config: a file and perhaps a variant.
  overrides: given on the command line of the sweep; they apply to every run.
  runs: in order.
  shared: directories of data that each run's directory gets a link to.
  """

  workdir: pathlib.Path
  program: str
  config: str
  overrides: Mapping[str, Any]
  runs: tuple[Run, ...]
  shared: tuple[pathlib.Path, ...] = ()

  def directory(self, run: Run) -> pathlib.Path:
    """Returns the work directory of a run."""
    return self.workdir / 'runs' / run.name

  def log(self, run: Run) -> pathlib.Path:
    """Returns the file with the output of all attempts of a run."""
    return self.workdir / 'logs' / f'{run.name}.txt'

  def mark(self, run: Run) -> pathlib.Path:
    """Returns the file that exists once a run is finished."""
    return self.workdir / 'finished' / f'{run.name}.json'

  def command(self, run: Run) -> list[str]:
    """Returns the command of a run, as a user would type it."""
    return [
        sys.executable,
        '-m',
        self.program,
        f'--config={self.config}',
        *(
            f'--config.{field}={value}'
            # A run's own overrides win over those of the sweep.
            for field, value in {**self.overrides, **run.overrides}.items()
        ),
        f'--workdir={self.directory(run)}',
    ]


def plan(
    config: ml_collections.ConfigDict, overrides: Sequence[Mapping[str, Any]]
) -> tuple[Run, ...]:
  """Returns the runs, each checked against the configuration.

  Args:
    config: the configuration that all runs start from.
    overrides: of each run, as `sweep()` returns them.

  Raises:
    ValueError: if there are no runs, a field does not exist or has another
      type, or two runs have the same name.
  """
  if not overrides:
    raise ValueError('sweep() returns 0 runs; at least 1 is needed.')
  for given in overrides:
    try:
      changed(config, given)
    except (AttributeError, KeyError, TypeError) as error:
      raise ValueError(f'sweep() returns {dict(given)}: {error}') from error
  short = shortened(field for given in overrides for field in given)
  runs = [Run(name_of(given, short), given) for given in overrides]
  names = [run.name for run in runs]
  for name in names:
    if names.count(name) > 1:
      raise ValueError(
          f'sweep() returns run {name!r} more than once; runs must differ.'
      )
  return tuple(runs)


def changed(
    config: ml_collections.ConfigDict, overrides: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  """Returns a copy of a configuration with the overrides of a run."""
  # A locked copy rejects unknown fields and other types, as --config does.
  copy = config.copy_and_resolve_references().lock()
  copy.update_from_flattened_dict(overrides)
  return copy


def shortened(fields: Iterable[str]) -> dict[str, str]:
  """Returns how names of runs call the fields: by their last part, if it can.

  Args:
    fields: dotted fields that are swept, any number of times.
  """
  short = {field: field.split('.')[-1] for field in fields}
  if len(set(short.values())) < len(short):
    return {field: field for field in short}
  return short


def name_of(values: Mapping[str, Any], short: Mapping[str, str]) -> str:
  """Returns the name of a run with these values; see `shortened`."""
  return _cut(','.join(f'{short[k]}={_word(v)}' for k, v in values.items()))


def _cut(name: str) -> str:
  """Returns a name, shortened to `_LONGEST_NAME` with a hash of the whole."""
  if len(name) <= _LONGEST_NAME:
    return name
  digest = hashlib.sha256(name.encode()).hexdigest()[:8]
  return f'{name[: _LONGEST_NAME - 9]}-{digest}'


def _word(value: Any) -> str:
  """Returns a value as part of a file name."""
  words = value if isinstance(value, list | tuple) else [value]
  text = '+'.join(map(str, words))
  return re.sub(r'[^\w.+-]', '_', text) or 'none'


def _link(sweep: Sweep, run: Run) -> None:
  """Puts links to the shared data into a run's directory.

  What runs compile is shared as well, since most of them compile the same.
  """
  directory = sweep.directory(run)
  directory.mkdir(parents=True, exist_ok=True)
  compiled = sweep.workdir.absolute() / command_line.COMPILED_FOLDER
  compiled.mkdir(exist_ok=True)
  for source in (*sweep.shared, compiled):
    link = directory / source.name
    if not link.is_symlink():  # A resumed run has it already.
      link.symlink_to(source, target_is_directory=True)


@contextlib.contextmanager
def only_one(path: pathlib.Path, said: str = '') -> Iterator[int]:
  """Yields the descriptor of a locked file; waits while another process has it.

  Args:
    path: the file; made if it does not exist.
    said: printed if it has to wait.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('a') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      if said:
        print(said)
      fcntl.flock(file, fcntl.LOCK_EX)
    yield file.fileno()


def attempt(
    sweep: Sweep,
    run: Run,
    is_hopeless: Callable[[], bool] | None = None,
) -> str:
  """Executes one run to its end; returns what went wrong, or ''.

  Args:
    sweep: the sweep.
    run: one of its runs.
    is_hopeless: asked every second; True ends the run, and `PRUNED` is
      returned. None = the run is never ended.
  """
  start = time.monotonic()
  log = sweep.log(run)
  # A sweep that is killed leaves its child processes running. They inherit the
  # lock, so the next sweep waits for them instead of writing to the same files.
  said = f'Waiting for {run.name}, which an earlier sweep left running.'
  with only_one(log, said) as descriptor:
    # Checked under the lock: another sweep may have finished it meanwhile.
    if sweep.mark(run).exists():
      return ''
    _link(sweep, run)
    with log.open('ab') as file:  # Appends: earlier attempts stay readable.
      child = subprocess.Popen(
          sweep.command(run),
          stdin=subprocess.DEVNULL,  # Several runs cannot share a terminal.
          stdout=file,
          stderr=subprocess.STDOUT,
          pass_fds=(descriptor,),  # The child keeps the lock.
      )
      try:
        if _ended_early(child, is_hopeless):
          return PRUNED
      finally:
        if child.poll() is None:  # This process was interrupted, alone.
          child.terminate()
          child.wait()
    if child.returncode:
      return f'exit code {child.returncode}: {_last_line(log)}'
    record = {
        'overrides': run.overrides,
        'seconds': round(time.monotonic() - start, 1),
    }
    # The mark comes last, so a marked run is complete.
    sweep.mark(run).parent.mkdir(parents=True, exist_ok=True)
    manifest_lib.replace_file(
        sweep.mark(run), lambda path: path.write_text(json.dumps(record))
    )
  return ''


def _ended_early(
    child: subprocess.Popen[bytes], is_hopeless: Callable[[], bool] | None
) -> bool:
  """Waits for a process; returns whether it was ended as hopeless."""
  if is_hopeless is None:
    child.wait()
    return False
  while True:
    try:
      child.wait(_POLL_SECONDS)
      return False
    except subprocess.TimeoutExpired:
      if is_hopeless():
        child.terminate()
        child.wait()
        return True


def _last_line(log: pathlib.Path) -> str:
  """Returns the last line of a log, which usually is the error."""
  lines = log.read_text(errors='replace').strip().splitlines()
  return lines[-1] if lines else 'no output'


def run_all(
    sweep: Sweep,
    jobs: int,
    match: str = '',
    execute: Callable[[Sweep, Run], str] = attempt,
    cancel: Callable[[], None] = lambda: None,
) -> dict[str, str]:
  """Executes the runs that are not finished, `jobs` at a time.

  A run that fails does not stop the others.

  Args:
    sweep: the sweep.
    jobs: how many runs at a time, >= 1.
    match: regular expression; only runs whose names contain a match.
    execute: executes one run; `attempt`, or the same elsewhere.
    cancel: ends the runs elsewhere that `execute` waits for, at Ctrl-C.

  Returns:
    Name of each failed run -> what went wrong.

  Raises:
    ValueError: if `jobs` is below 1.
  """
  if jobs < 1:
    raise ValueError(f'--jobs is {jobs}; allowed: >= 1.')
  runs = chosen(sweep, match)
  waiting = [run for run in runs if not sweep.mark(run).exists()]
  total, wrong = len(runs), {}
  done = total - len(waiting)
  print(f'{total} runs of {sweep.program}, {jobs} at a time; {done} are done:')
  for run in runs:
    print(f'  {"waiting" if run in waiting else "done":8} {run.name}')
  # Threads suffice: each only waits for the process of its run.
  with (
      progress.Progress(
          total, 'sweep', unit='run', done=done, is_brief=True
      ) as bar,
      futures.ThreadPoolExecutor(jobs) as pool,
  ):

    def begun(run: Run) -> str:
      bar.begin()
      return execute(sweep, run)

    pending = {pool.submit(begun, run): run for run in waiting}
    try:
      for future in futures.as_completed(pending):
        run, problem = pending[future], future.result()
        done += 1
        if problem:
          wrong[run.name] = problem
        said = 'FAILED' if problem else 'done'
        bar.update(failed=len(wrong))
        bar.say(f'[{done}/{total}] {said:8} {run.name}')
    except BaseException:  # Ctrl-C: begin no further run.
      pool.shutdown(wait=False, cancel_futures=True)
      cancel()
      raise
  return wrong


def chosen(sweep: Sweep, match: str) -> list[Run]:
  """Returns the runs whose names contain a match of a regular expression."""
  return [run for run in sweep.runs if re.search(match, run.name)]


def seconds_left(sweep: Sweep, runs: Sequence[Run], jobs: int) -> float | None:
  """Returns how long the runs will take; None before one of them is finished.

  Args:
    sweep: the sweep; its finished runs say how long one takes.
    runs: the runs that are asked for.
    jobs: runs at a time.
  """
  marks = [sweep.mark(run) for run in sweep.runs]
  took = [json.loads(x.read_text())['seconds'] for x in marks if x.exists()]
  left = [run for run in runs if not sweep.mark(run).exists()]
  if not left:
    return 0.0
  if not took:
    return None
  # Each job takes every `jobs`-th run.
  return math.ceil(len(left) / jobs) * sum(took) / len(took)
