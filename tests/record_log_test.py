"""Tests of logs: what is whole is kept, what is torn is dropped, by hand."""

import os
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.shards import record_log

_RECORDS = [b'first', b'', b'\x89rec', bytes(range(256)) * 40]


class RecordLogTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.path = pathlib.Path(self.create_tempdir().full_path) / 'a.log'

  def _fill(self, records=tuple(_RECORDS)):
    for record in records:
      record_log.append(self.path, record)

  def test_records_come_back_in_order(self):
    self.assertEqual(record_log.read(self.path), [])
    self._fill()
    self.assertEqual(record_log.read(self.path), _RECORDS)

  def test_every_torn_end_is_dropped_and_can_be_continued(self):
    self._fill()
    whole = self.path.read_bytes()
    # A frame has a header of 4 + 4 + 4 bytes.
    ends = np.cumsum([12 + len(record) for record in _RECORDS])
    self.assertLen(whole, ends[-1])
    for size in [*range(60), *range(ends[-2], ends[-1], 97), ends[-1] - 1]:
      self.path.write_bytes(whole[:size])
      num_whole = int((ends <= size).sum())
      self.assertEqual(record_log.read(self.path), _RECORDS[:num_whole])
      self.assertEqual(self.path.stat().st_size, size)  # `read` cuts nothing.
      record_log.repair(self.path)
      record_log.append(self.path, b'next')
      self.assertEqual(
          record_log.read(self.path), [*_RECORDS[:num_whole], b'next']
      )

  @parameterized.parameters(0, 1, 200)
  def test_an_end_of_zeros_is_dropped(self, num_zeros):
    # After a power failure, a file may have its new length but not its data.
    self._fill()
    with self.path.open('ab') as file:
      file.write(bytes(num_zeros))
    self.assertEqual(record_log.repair(self.path), _RECORDS)

  def test_a_flipped_bit_in_the_last_record_drops_it(self):
    self._fill([b'one', b'two'])
    data = bytearray(self.path.read_bytes())
    data[-1] ^= 1
    self.path.write_bytes(data)
    self.assertEqual(record_log.read(self.path), [b'one'])

  @parameterized.parameters(0, 5, 9, 13)  # Magic, length, checksum, record.
  def test_damage_before_the_last_record_raises_an_error(self, position):
    self._fill([b'one', b'two'])
    data = bytearray(self.path.read_bytes())
    data[position] ^= 1
    self.path.write_bytes(data)
    for attempt in (record_log.read, record_log.repair):
      with self.assertRaisesRegex(ValueError, 'a.log is damaged at byte 0 of'):
        attempt(self.path)
    self.assertEqual(self.path.read_bytes(), bytes(data))

  def test_a_full_disk_leaves_the_file_as_it_was(self):
    self._fill()
    before = self.path.read_bytes()
    with mock.patch.object(os, 'fsync', side_effect=OSError('disk full')):
      with self.assertRaisesRegex(OSError, 'disk full'):
        record_log.append(self.path, b'lost')
    self.assertEqual(self.path.read_bytes(), before)

  def test_a_record_is_synced_before_append_returns(self):
    synced = []
    with mock.patch.object(
        os, 'fsync', side_effect=lambda fd: synced.append(os.fstat(fd).st_size)
    ):
      record_log.append(self.path, b'12345')
    self.assertEqual(synced[0], 12 + 5)


if __name__ == '__main__':
  absltest.main()
