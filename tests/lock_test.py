"""Tests of the lock: one writer per directory, and dead ones do not block."""

import json
import os
import pathlib
import signal
import subprocess
import sys
from unittest import mock

from absl.testing import absltest

from routing.shards import lock as lock_lib
from routing.shards import writer as writer_lib
from tests import scripted_pair

_ROOT = pathlib.Path(__file__).parents[1]
_HOLD = """
import os, pathlib, sys, time
from routing.shards import lock
held = lock.Lock(pathlib.Path(sys.argv[1]))
if sys.argv[2] == 'alone' or not os.fork():
  print(os.getpid(), flush=True)  # Of the child, which has closed its copy.
time.sleep(600)
"""


def _hold(directory, how='alone'):
  """Returns a process that holds the lock, and the pid of its child."""
  process = subprocess.Popen(
      [sys.executable, '-c', _HOLD, str(directory), how],
      cwd=_ROOT,
      stdout=subprocess.PIPE,
      text=True,
  )
  return process, int(process.stdout.readline())


class LockTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.create_tempdir().full_path)
    self.file = self.directory / lock_lib.FILE_NAME

  def _kill(self, process):
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()

  def test_a_second_writer_is_told_who_holds_it(self):
    process, _ = _hold(self.directory)
    try:
      said = json.loads(self.file.read_text())
      self.assertEqual(sorted(said), ['command', 'host', 'pid', 'since'], said)
      with self.assertRaisesRegex(
          ValueError,
          f'being written by process {process.pid} on {said["host"]} since '
          r'\d{4}-\d\d-\d\d .*Only one process',
      ):
        lock_lib.Lock(self.directory)
    finally:
      self._kill(process)
    # The dead process left the file behind, and it does not block.
    self.assertTrue(self.file.exists())
    lock = lock_lib.Lock(self.directory)
    self.assertEqual(json.loads(self.file.read_text())['pid'], os.getpid())
    lock.release()
    self.assertFalse(self.file.exists())

  def test_a_forked_child_does_not_keep_the_lock_of_a_killed_parent(self):
    process, child = _hold(self.directory, 'fork')
    try:
      with self.assertRaisesRegex(ValueError, f'process {process.pid} '):
        lock_lib.Lock(self.directory)
      self._kill(process)
      os.kill(child, 0)  # Still alive.
      lock_lib.Lock(self.directory).release()
    finally:
      os.kill(child, signal.SIGKILL)

  def test_a_lock_on_a_deleted_file_keeps_out_others_still(self):
    held = lock_lib.Lock(self.directory)
    # The next holder opens the file just before it is deleted.
    take = lock_lib.Lock._take

    def release_first(lock, directory):
      held.release()
      take(lock, directory)

    with mock.patch.object(lock_lib.Lock, '_take', release_first):
      later = lock_lib.Lock(self.directory)
    with self.assertRaisesRegex(ValueError, 'being written by'):
      lock_lib.Lock(self.directory)
    later.release()

  def test_nothing_is_changed_by_a_writer_that_is_refused(self):
    ladders = scripted_pair.make_ladders(4)
    problems = [x.problem for x in ladders]
    first = writer_lib.LadderWriter(self.directory, problems, {}, 3)
    first.add(0, ladders[0])
    before = {p.name: p.read_bytes() for p in self.directory.iterdir()}
    with self.assertRaisesRegex(ValueError, 'being written by process'):
      writer_lib.LadderWriter(self.directory, problems, {}, 3)
    after = {p.name: p.read_bytes() for p in self.directory.iterdir()}
    self.assertEqual(after, before)
    first.close()
    with self.assertRaisesRegex(ValueError, 'is closed'):
      first.add(1, ladders[1])
    with writer_lib.LadderWriter(self.directory, problems, {}, 3) as second:
      self.assertEqual(second.missing(), [1, 2, 3])
    self.assertFalse(self.file.exists())

  def test_a_directory_elsewhere_leaves_no_open_file(self):
    before = os.listdir('/proc/self/fd')
    with (
        mock.patch.object(lock_lib.files, 'is_local', lambda path: False),
        self.assertLogs('absl', 'WARNING'),
    ):
      lock_lib.Lock(self.directory).release()
    self.assertLen(os.listdir('/proc/self/fd'), len(before))

  def test_a_finished_collection_is_opened_by_many(self):
    ladders = scripted_pair.make_ladders(4)
    problems = [x.problem for x in ladders]
    with writer_lib.LadderWriter(self.directory, problems, {}, 3) as shards:
      for i, ladder in enumerate(ladders):
        shards.add(i, ladder)
      self.assertFalse(self.file.exists())  # Released when it was complete.
    lock = lock_lib.Lock(self.directory)
    done = writer_lib.LadderWriter(self.directory, problems, {}, 3)
    self.assertEmpty(done.missing())
    lock.release()
    # What a killed process left is tidied up under a lock, by one of them.
    (self.directory / 'ladders-00000-2.parquet').write_bytes(b'old')
    lock = lock_lib.Lock(self.directory)
    writer_lib.LadderWriter(self.directory, problems, {}, 3)
    self.assertLen(list(self.directory.glob('*.parquet')), 3)
    lock.release()
    self.file.write_text('of a process that was killed at the very end')
    writer_lib.LadderWriter(self.directory, problems, {}, 3)
    self.assertLen(list(self.directory.glob('*.parquet')), 2)
    self.assertFalse(self.file.exists())


if __name__ == '__main__':
  absltest.main()
