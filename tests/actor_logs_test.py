"""Tests of logs that other processes write, and one writer compacts."""

import pathlib
from unittest import mock

from absl.testing import absltest

from routing.shards import block_log
from routing.shards import reader
from routing.shards import schema
from routing.shards import writer
from tests import scripted_pair

_SIZE = 4  # Problems in a block.


class ActorLogsTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    folder = pathlib.Path(self.create_tempdir().full_path)
    self.directory, self.local = folder / 'actors', folder / 'local'
    self.ladders = scripted_pair.make_ladders(6)
    with self._open(self.local) as shards:
      for i, ladder in enumerate(self.ladders):
        shards.add(i, ladder)

  def _open(self, directory):
    problems = [x.problem for x in self.ladders]
    return writer.LadderWriter(directory, problems, {}, _SIZE)

  def _log(self, owner, *indices):
    """Appends records as an actor does; returns its last log."""
    for i in indices:
      path = block_log.path(self.directory, schema.LADDERS, i // _SIZE, owner)
      block_log.append(path, schema.LADDERS, i, self.ladders[i])
    return path

  def _files(self, directory):
    return {x.name: x.read_bytes() for x in directory.iterdir()}

  def test_what_two_actors_finished_is_kept_once(self):
    with self._open(self.directory) as shards:
      self._log('b', 3, 5, 1)
      shards.add(0, self.ladders[0])  # The writer may collect, too.
      self._log('a', 4, 2, 1, 5)
      for i in (5, 1, 2, 4, 3):
        shards.note(i)
      with self.assertRaisesRegex(ValueError, 'already has a record'):
        shards.note(1)
    self.assertEqual(self._files(self.directory), self._files(self.local))

  def test_what_is_logged_counts_after_the_writer_ended(self):
    with self._open(self.directory) as shards:
      self._log('a', 0, 4)
      self._log('b', 2, 4)
    read = reader.read_ladders(self.directory, is_partial=True)
    found = [x.problem.id for x in read]
    self.assertEqual(found, [self.ladders[i].problem.id for i in (0, 2, 4)])
    with self._open(self.directory) as shards:
      self.assertEqual(shards.missing(), [1, 3, 5])
      for i in shards.missing():
        shards.add(i, self.ladders[i])
    self.assertEqual(self._files(self.directory), self._files(self.local))

  def test_half_a_record_does_not_count_and_is_left_to_its_actor(self):
    with self._open(self.directory):
      log = self._log('a', 0, 1)
    whole = log.read_bytes()
    log.write_bytes(whole[:-5])
    with self._open(self.directory) as shards:
      self.assertEqual(shards.missing(), [1, 2, 3, 4, 5])
      self.assertEqual(log.read_bytes(), whole[:-5])
      log.write_bytes(whole)  # The actor goes on writing.
      for i in shards.missing():
        shards.add(i, self.ladders[i])
    self.assertEqual(self._files(self.directory), self._files(self.local))

  def test_a_late_log_is_deleted(self):
    with self._open(self.directory) as shards:
      for i, ladder in enumerate(self.ladders):
        shards.add(i, ladder)
    self._log('a', 3)
    with self._open(self.directory) as shards:
      self.assertEmpty(shards.missing())
    self.assertEqual(self._files(self.directory), self._files(self.local))

  def test_a_record_that_is_not_there_ends_the_collection(self):
    with self._open(self.directory) as shards:
      self._log('a', 0, 1, 2)
      for i in (0, 1, 2):
        shards.note(i)
      with mock.patch.object(block_log.time, 'sleep') as sleep:
        with self.assertRaisesRegex(ValueError, r'lack the problems \[3\]'):
          shards.note(3)
    # Longer than the minute for which NFS may show an old list of files.
    self.assertGreater(sum(x.args[0] for x in sleep.call_args_list), 60)


if __name__ == '__main__':
  absltest.main()
