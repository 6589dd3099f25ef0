"""Kills collections at random moments; nothing may be lost, doubled or changed.

Run:   python -m benchmarks.kills --kills=200
Takes: half a minute, and 3 s a kill, on two idle cores

A collection of the embedded pair is killed with SIGKILL again and again, and
resumed by the same call each time. After each kill, every record that was on
the disk before is still there, no problem is there twice, and every listed
shard is byte for byte the one of a collection that was left alone. When a
collection reaches its end, all files are compared, and another one begins.

Two things are fixed, because they differ between any two runs: measured seconds
(the clock stands still) and the size of batches, on which the last digits of
float32 sums depend (each request is a batch of its own).
"""

import collections
from collections.abc import Callable
import dataclasses
import os
import pathlib
import random
import signal
import sys
import tempfile
import time
import traceback

from absl import app
from absl import flags
import jax
import ml_collections

from configs import arithmetic
from experiments import collect
from experiments import split_on_disk
from routing.shards import block_log
from routing.shards import manifest as manifest_lib
from routing.shards import reader

_KILLS = flags.DEFINE_integer('kills', 200, 'Number of kills.', 1)
_PROBLEMS = flags.DEFINE_integer('problems', 64, 'Problems a collection.', 1)
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the moments.')
_SPLIT = 'train'
# Share of the kills that may come at any moment since the start of a process.
# The others come after its first record, or most would hit the loading.
_ANY_MOMENT = 0.2


def make_config(num_problems: int) -> ml_collections.ConfigDict:
  """Returns the configuration of the collections: small blocks, two engines."""
  config = arithmetic.get_config('smoke')
  config.problems[_SPLIT] = num_problems
  config.collect.update(shard_size=4, concurrency=4)
  for route in config.routes:
    route['settings'].update(max_batch=1, num_slots=8)
  return config


def start(run: Callable[[], object], log: pathlib.Path) -> int:
  """Runs a function in a forked process; returns the process id.

  Args:
    run: the function. This process must not have used JAX before.
    log: file to which the output of the process is appended.
  """
  if pid := os.fork():
    return pid
  code = 1
  try:
    with log.open('a') as file:
      os.dup2(file.fileno(), 1)
      os.dup2(file.fileno(), 2)
    run()
    code = 0
  except BaseException:  # Nothing may escape into the code of the parent.
    traceback.print_exc()
  finally:
    os._exit(code)


def has_ended(pid: int) -> bool:
  """Returns whether a process has ended; raises an error if it failed."""
  found, status = os.waitpid(pid, os.WNOHANG)
  if found and status:
    raise RuntimeError(f'A collection ended with status {status}.')
  return bool(found)


def on_disk(directory: pathlib.Path) -> set[str]:
  """Returns the ids of the problems with a record, in shards or logs.

  Raises:
    AssertionError: if a problem has two records.
  """
  if not (directory / manifest_lib.FILE_NAME).exists():
    return set()
  ids = [x.problem.id for x in reader.read_ladders(directory, is_partial=True)]
  if len(ids) != len(set(ids)):
    raise AssertionError(f'{directory} has problems twice: {sorted(ids)}.')
  return set(ids)


def files(directory: pathlib.Path) -> dict[str, bytes]:
  """Returns the content of each file of a directory."""
  return {path.name: path.read_bytes() for path in directory.iterdir()}


def size_of_logs(directory: pathlib.Path) -> int:
  """Returns a number that changes when a record is written."""
  total = 0
  for path in block_log.paths(directory, split_on_disk.KINDS['ladders']):
    try:
      total += path.stat().st_size
    except FileNotFoundError:  # Deleted meanwhile: its shard is written.
      total -= 1
  return total


@dataclasses.dataclass
class Killer:
  """Collects and kills.

  home: directory of all collections.
  config: of the collections.
  rng: draws the moments.
  seconds: longest time from the first record of a process to its kill.
  counts: what the kills hit.
  """

  home: pathlib.Path
  config: ml_collections.ConfigDict
  rng: random.Random
  seconds: float = 1.5
  counts: collections.Counter = dataclasses.field(
      default_factory=collections.Counter
  )

  def __post_init__(self):
    self.log = self.home / 'log.txt'
    self.whole = self._files_of_one_left_alone()

  def kill_again_and_again(self, num_kills: int) -> int:
    """Kills so often, and returns how many collections reached their end."""
    number, seen = 0, set()
    while sum(self.counts.values()) < num_kills:
      directory = self._directory(number)
      if self._kill(self._workdir(number), directory):
        seen = self._check(directory, seen)
      else:
        self._check_end(directory)
        number, seen = number + 1, set()
    self._wait(self._start(self._workdir(number)))
    self._check_end(self._directory(number))
    return number + 1

  def _kill(self, workdir: pathlib.Path, directory: pathlib.Path) -> bool:
    """Runs a process and kills it; returns False if it ended before."""
    pid = self._start(workdir)
    before, begun = size_of_logs(directory), time.monotonic()
    if self.rng.random() < _ANY_MOMENT:
      end, what = begun + self.rng.uniform(0.0, 5.0), 'any moment'
    else:
      end, what = None, 'after its first record'
    while end is None or time.monotonic() < end:
      if has_ended(pid):
        return False
      if end is None and size_of_logs(directory) != before:
        end = time.monotonic() + self.rng.uniform(0.0, self.seconds)
      time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    self.counts[what] += 1
    return True

  def _check(self, directory: pathlib.Path, seen: set[str]) -> set[str]:
    """Checks a collection that was killed; returns what is on the disk.

    Args:
      directory: of the shards.
      seen: what was on the disk after the kill before.
    """
    if not directory.exists():
      return set()
    there = on_disk(directory)
    if lost := seen - there:
      raise AssertionError(f'{directory} has lost {sorted(lost)}.')
    if (directory / manifest_lib.FILE_NAME).exists():
      for shard in manifest_lib.load(directory).shards:
        if (directory / shard.file).read_bytes() != self.whole[shard.file]:
          raise AssertionError(f'{directory / shard.file} differs.')
    return there

  def _check_end(self, directory: pathlib.Path) -> None:
    """Checks a collection that has reached its end."""
    found = files(directory)
    if found != self.whole:
      names = [
          x for x in {*found, *self.whole} if found.get(x) != self.whole.get(x)
      ]
      raise AssertionError(f'{directory} differs in {sorted(names)}.')
    if len(on_disk(directory)) != self.config.problems[_SPLIT]:
      raise AssertionError(f'{directory} lacks problems.')

  def _files_of_one_left_alone(self) -> dict[str, bytes]:
    """Returns the files of a collection that is not killed."""
    workdir = self.home / 'whole'
    self._wait(self._start(workdir))
    return files(workdir / 'shards' / _SPLIT)

  def _start(self, workdir: pathlib.Path) -> int:
    """Starts or resumes a collection in a process; returns its id."""

    def run() -> None:
      time.perf_counter = lambda: 0.0
      # What the first process compiles, the others load.
      jax.config.update(
          'jax_compilation_cache_dir', str(self.home / 'compiled')
      )
      jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
      jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
      collect.collect_split(self.config, workdir, _SPLIT)

    return start(run, self.log)

  def _wait(self, pid: int) -> None:
    """Waits for the end of a process."""
    while not has_ended(pid):
      time.sleep(0.01)

  def _workdir(self, number: int) -> pathlib.Path:
    return self.home / f'killed{number:03d}'

  def _directory(self, number: int) -> pathlib.Path:
    return self._workdir(number) / 'shards' / _SPLIT


def run(
    home: pathlib.Path, num_kills: int, num_problems: int, seed: int
) -> str:
  """Kills `num_kills` times, and returns a sentence with what was seen.

  Raises:
    AssertionError: if something was lost, doubled or changed.
    RuntimeError: if a collection ended with an error.
  """
  start_time = time.monotonic()
  killer = None
  try:
    killer = Killer(home, make_config(num_problems), random.Random(seed))
    ended = killer.kill_again_and_again(num_kills)
  except RuntimeError:
    log = home / 'log.txt'
    print(log.read_text()[-4_000:] if log.exists() else '', file=sys.stderr)
    raise
  hits = ', '.join(f'{n} {name}' for name, n in sorted(killer.counts.items()))
  return (
      f'{num_kills} kills ({hits}) in {ended} collections of {num_problems} '
      'problems: nothing was lost or doubled, and all files equal those of a '
      f'collection left alone. {time.monotonic() - start_time:.0f} s.'
  )


def main(argv: list[str]) -> None:
  """Kills as often as the flags say, in a temporary directory."""
  del argv
  with tempfile.TemporaryDirectory() as home:
    print(
        run(pathlib.Path(home), _KILLS.value, _PROBLEMS.value, _SEED.value),
        flush=True,
    )


if __name__ == '__main__':
  app.run(main)
