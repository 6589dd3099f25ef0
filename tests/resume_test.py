"""Collection is killed at random moments, and must lose and double nothing."""

import asyncio
import contextlib
import pathlib
import random
import signal
import subprocess
import sys
import time

from absl.testing import absltest
from absl.testing import parameterized

from routing import protocols
from routing.grading import equivalence
from routing.rollout import behaviour_rollouts
from routing.rollout import collect
from routing.rollout import step_requests
from routing.routers import behaviour
from routing.shards import manifest as manifest_lib
from routing.shards import reader
from routing.shards import schema
from routing.shards import writer as writer_lib
from tests import scripted_pair

_ROOT = pathlib.Path(__file__).parents[1]
_NUM_PROBLEMS, _SHARD_SIZE = 300, 5


def collect_all(directory: str, kind: str, delay: float) -> None:
  """Collects what is missing; what the child process runs."""
  problems = scripted_pair.make_problems(_NUM_PROBLEMS)
  make_writer, run = {
      'ladders': (writer_lib.LadderWriter, _collect_ladders),
      'rollouts': (writer_lib.RolloutWriter, _collect_rollouts),
  }[kind]
  with make_writer(directory, problems, {}, _SHARD_SIZE) as writer:
    missing = writer.missing()
    asyncio.run(
        run(
            [problems[i] for i in missing],
            scripted_pair.make_engines(2, delay=delay),
            lambda i, record: writer.add(missing[i], record),
            grade=equivalence.exact,
            concurrency=16,
        )
    )


def _collect_ladders(*args, **kwargs):
  plan = collect.Plan(step_requests.Sampling())
  return collect.collect_ladders(*args, plan=plan, **kwargs)


def _collect_rollouts(*args, **kwargs):
  return behaviour_rollouts.collect_rollouts(
      *args,
      behaviour=behaviour.random_rate(2, seed=0),
      plan=behaviour_rollouts.Plan(
          protocols.Protocol('redraft'), step_requests.Sampling(), 2
      ),
      accounting=None,
      **kwargs,
  )


def _files(directory: pathlib.Path) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in directory.iterdir()}


def _start(directory: pathlib.Path, kind: str) -> subprocess.Popen:
  """A child that collects."""
  code = (
      'from tests import resume_test;'
      f'resume_test.collect_all({str(directory)!r}, {kind!r}, 0.1)'
  )
  return subprocess.Popen([sys.executable, '-c', code], cwd=_ROOT)


class ResumeTest(parameterized.TestCase):

  @parameterized.parameters('ladders', 'rollouts')
  def test_killed_again_and_again_it_ends_as_if_never_killed(self, kind):
    temporary = pathlib.Path(self.create_tempdir().full_path)
    whole, killed = temporary / 'whole', temporary / 'killed'
    collect_all(str(whole), kind, delay=0.0)
    rng, seen = random.Random(0), set()
    for _ in range(5):
      child = _start(killed, kind)
      # Waits for records, not for a time, of which most passes while the child
      # imports its modules; for their bytes, since to read them takes longer.
      goal = _num_bytes(killed) + rng.randint(1, 40) * _num_bytes(whole) // 300
      while child.poll() is None and _num_bytes(killed) < goal:
        time.sleep(rng.uniform(0.05, 0.1))
      before = _on_disk(killed, kind)
      child.send_signal(signal.SIGKILL)
      child.wait()
      there = _on_disk(killed, kind)
      self.assertContainsSubset(seen | before, there)  # None was lost.
      self.assertGreater(len(there), len(seen))
      self.assertLess(len(there), _NUM_PROBLEMS)
      seen = there
      self._check_what_is_there(killed, _files(whole))
    collect_all(str(killed), kind, delay=0.0)
    self.assertEqual(_files(killed), _files(whole))
    read = {'ladders': reader.read_ladders, 'rollouts': reader.read_rollouts}
    ids = [x.problem.id for x in read[kind](killed)]
    self.assertEqual(ids, [f'count/{i}' for i in range(_NUM_PROBLEMS)])

  def _check_what_is_there(self, directory, whole):
    """Every shard that is listed must be the one of an unhindered run."""
    for shard in manifest_lib.load(directory).shards:
      data = (directory / shard.file).read_bytes()
      self.assertEqual(data, whole[shard.file])


def _num_bytes(directory: pathlib.Path) -> int:
  """Returns the size of all files, some of which may vanish meanwhile."""
  sizes = []
  for path in directory.glob('*'):
    with contextlib.suppress(FileNotFoundError):
      sizes.append(path.stat().st_size)
  return sum(sizes)


def _on_disk(directory: pathlib.Path, kind: str) -> set[str]:
  """Returns the ids of the problems in shards and logs."""
  if not (directory / manifest_lib.FILE_NAME).exists():
    return set()
  rows = list(reader.read_each(directory, schema.KINDS[kind], is_partial=True))
  ids = {x.problem.id for x in rows}
  assert len(ids) == len(rows), 'A problem is there twice.'
  return ids


if __name__ == '__main__':
  absltest.main()
