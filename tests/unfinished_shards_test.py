"""Tests of the logs of unfinished blocks: nothing that arrived is lost."""

import os
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pyarrow.parquet as pq

from routing.shards import block_log
from routing.shards import reader
from routing.shards import schema
from routing.shards import writer as writer_lib
from tests import scripted_pair

_MAKE = {
    'ladders': (scripted_pair.make_ladders, writer_lib.LadderWriter),
    'rollouts': (scripted_pair.make_rollouts, writer_lib.RolloutWriter),
}
_READ = {'ladders': reader.read_ladders, 'rollouts': reader.read_rollouts}


class UnfinishedTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.home = pathlib.Path(self.create_tempdir().full_path)
    self.directory = self.home / 'train'

  def _open(self, records, directory=None, kind='ladders', size=4):
    return _MAKE[kind][1](
        directory or self.directory, [x.problem for x in records], {}, size
    )

  def _write(self, records, order, directory=None, **kwargs):
    """Adds records, each in a process of its own, so to speak."""
    for i in order:
      with self._open(records, directory, **kwargs) as shards:
        shards.add(i, records[i])

  def _files(self, directory=None):
    directory = directory or self.directory
    return {p.name: p.read_bytes() for p in directory.iterdir()}

  @parameterized.parameters('ladders', 'rollouts')
  def test_shards_are_what_the_records_would_be_written_to_at_once(self, kind):
    records = _MAKE[kind][0](10)
    order = np.random.default_rng(0).permutation(10).tolist()
    self._write(records, order, kind=kind)
    self.assertLen(self._files(), 4)  # Three shards and the manifest.
    for number in range(3):
      path = self.home / 'direct.parquet'
      table = schema.KINDS[kind].to_table(records[4 * number : 4 * number + 4])
      pq.write_table(table, path, compression='zstd')
      self.assertEqual(
          (self.directory / f'{kind}-0000{number}.parquet').read_bytes(),
          path.read_bytes(),
      )
    self.assertEqual(
        list(map(scripted_pair.plain, _READ[kind](self.directory))),
        list(map(scripted_pair.plain, records)),
    )

  def test_a_record_is_on_the_disk_when_add_returns(self):
    ladders = scripted_pair.make_ladders(10)
    shards = self._open(ladders)
    for count, i in enumerate((9, 5, 0, 2), 1):
      shards.add(i, ladders[i])
      self.assertLen(
          reader.read_ladders(self.directory, is_partial=True), count
      )
    self.assertEqual(shards.missing(), [1, 3, 4, 6, 7, 8])
    shards.close()
    self.assertEqual(self._open(ladders).missing(), [1, 3, 4, 6, 7, 8])

  def test_a_block_whose_log_is_complete_is_written_when_it_is_opened(self):
    ladders = scripted_pair.make_ladders(10)
    self._write(ladders, range(4, 10))
    self._write(ladders, range(3))
    last = self.home / 'last'
    self._write(ladders, [3], last)
    # Killed after the fourth record was logged, before its shard was written.
    (log,) = self.directory.glob('*.log')
    (other,) = last.glob('*.log')
    log.write_bytes(log.read_bytes() + other.read_bytes())
    with self.assertRaisesRegex(ValueError, 'holds 6 of 10 problems'):
      reader.read_ladders(self.directory)
    self.assertEmpty(self._open(ladders).missing())
    whole = self.home / 'whole'
    self._write(ladders, range(10), whole)
    self.assertEqual(self._files(), self._files(whole))

  def test_a_log_that_is_listed_late_is_waited_for(self):
    ladders = scripted_pair.make_ladders(4)
    shards = self._open(ladders)
    for i in range(3):
      shards.add(i, ladders[i])
    peer = block_log.path(self.directory, schema.LADDERS, 0, 'peer')
    block_log.append(peer, schema.LADDERS, 3, ladders[3])
    list_all, shown = block_log.paths, []

    def paths(directory, kind):
      """Lists the log of the peer the third time, as NFS may."""
      shown.append(None)
      return [x for x in list_all(directory, kind) if x != peer or shown[2:]]

    with (
        mock.patch.object(block_log, 'paths', paths),
        mock.patch.object(block_log, '_WAITS', (0.001, 0.001)),
    ):
      shards.note(3)
    self.assertEqual(
        reader.read_ladders(self.directory)[3].problem.id, 'count/3'
    )

  def test_a_torn_record_is_collected_again(self):
    ladders = scripted_pair.make_ladders(4)
    self._write(ladders, [2, 0, 1])
    (log,) = self.directory.glob('*.log')
    os.truncate(log, log.stat().st_size - 1)
    there = reader.read_ladders(self.directory, is_partial=True)
    self.assertEqual([x.problem.id for x in there], ['count/0', 'count/2'])
    shards = self._open(ladders)
    self.assertEqual(shards.missing(), [1, 3])
    for i in (3, 1):
      shards.add(i, ladders[i])
    whole = self.home / 'whole'
    self._write(ladders, range(4), whole)
    self.assertEqual(self._files(), self._files(whole))

  def test_a_left_over_log_is_deleted_and_doubles_nothing(self):
    ladders = scripted_pair.make_ladders(6)
    self._write(ladders, range(3))
    (log,) = self.directory.glob('*.log')
    content = log.read_bytes()
    self._write(ladders, range(3, 6))
    # Killed after the manifest listed the shard, before the log was deleted.
    log.write_bytes(content)
    for is_partial in (True, False):
      there = reader.read_ladders(self.directory, is_partial=is_partial)
      self.assertEqual(
          [x.problem.id for x in there], [f'count/{i}' for i in range(6)]
      )
    self.assertEmpty(self._open(ladders).missing())
    self.assertFalse(log.exists())

  def test_partial_records_are_in_the_order_of_the_problems(self):
    ladders = scripted_pair.make_ladders(12)
    self._write(ladders[:6], range(6))
    self._write(ladders, [11, 7, 10, 6])  # Also completes the second block.
    self._write(ladders, [9])
    there = reader.read_ladders(self.directory, is_partial=True)
    wanted = [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11]
    self.assertEqual(
        [x.problem.id for x in there], [f'count/{i}' for i in wanted]
    )
    self.assertEqual(
        list(map(scripted_pair.plain, there)),
        [scripted_pair.plain(ladders[i]) for i in wanted],
    )
    with self.assertRaisesRegex(ValueError, 'holds 8 of 12 problems'):
      reader.read_ladders(self.directory)

  def test_a_failure_completes_a_logged_block(self):
    ladders = scripted_pair.make_ladders(4)
    self._write(ladders, range(3))
    with self._open(ladders) as shards:
      shards.fail(3, 'no')
    self.assertLen(reader.read_ladders(self.directory), 3)
    self.assertEmpty(list(self.directory.glob('*.log')))

  def test_records_of_other_problems_raise_an_error(self):
    ladders = scripted_pair.make_ladders(8)
    self._write(ladders, [1])
    other = self.home / 'other'
    self._write(ladders[4:], [1], other)
    (log,) = self.directory.glob('*.log')
    (misplaced,) = other.glob('*.log')
    log.write_bytes(misplaced.read_bytes())
    with self.assertRaisesRegex(ValueError, 'has problem 1, count/5, which'):
      self._open(ladders)

  def test_logs_without_a_manifest_are_left_alone(self):
    ladders = scripted_pair.make_ladders(3)
    self._write(ladders, [1])
    (self.directory / 'manifest.json').unlink()
    before = self._files()
    with self.assertRaisesRegex(ValueError, 'no manifest.json'):
      self._open(ladders)
    self.assertEqual(self._files(), before)


if __name__ == '__main__':
  absltest.main()
