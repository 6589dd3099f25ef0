"""Tests of a shard directory: manifest, writer and reader together."""

import dataclasses
import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pyarrow.parquet as pq

from routing.shards import columns
from routing.shards import manifest as manifest_lib
from routing.shards import reader
from routing.shards import schema
from routing.shards import writer
from tests import scripted_pair

_SETTINGS = {'seed': 0, 'plan': {'temperature': 0.0, 'num_samples': 1}}


def _open(directory, ladders, shard_size=3, settings=_SETTINGS):
  return writer.LadderWriter(
      directory, [x.problem for x in ladders], settings, shard_size
  )


def _write(directory, ladders, order=None, **kwargs):
  """Writes ladders in the given order, and returns the closed writer."""
  with _open(directory, ladders, **kwargs) as shards:
    for i in range(len(ladders)) if order is None else order:
      shards.add(i, ladders[i])
  return shards


class DirectoryTest(parameterized.TestCase):
  """Writer, manifest and reader on a directory."""

  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.create_tempdir().full_path) / 'train'

  def _files(self):
    return {p.name: p.read_bytes() for p in self.directory.iterdir()}

  def test_ladders_are_read_in_the_order_of_the_problems(self):
    ladders = scripted_pair.make_ladders(8)
    order = np.random.default_rng(0).permutation(8).tolist()
    shards = _write(self.directory, ladders, order)
    self.assertEmpty(shards.missing())
    self.assertTrue(shards.manifest.is_complete)
    back = reader.read_ladders(self.directory)
    self.assertEqual(
        list(map(scripted_pair.plain, back)),
        list(map(scripted_pair.plain, ladders)),
    )
    self.assertEqual(
        sorted(self._files()),
        [f'ladders-0000{i}.parquet' for i in range(3)] + ['manifest.json'],
    )

  def test_rollouts_are_read_in_the_order_of_the_problems(self):
    rollouts = scripted_pair.make_rollouts(5)
    shards = writer.RolloutWriter(
        self.directory, [x.problem for x in rollouts], _SETTINGS, 3
    )
    for i in (4, 1, 0, 2, 3):
      shards.add(i, rollouts[i])
    self.assertEqual(
        list(map(scripted_pair.plain, reader.read_rollouts(self.directory))),
        list(map(scripted_pair.plain, rollouts)),
    )
    self.assertContainsSubset(
        {'rollouts-00000.parquet', 'rollouts-00001.parquet'}, self._files()
    )
    manifest = reader.read_manifest(self.directory)
    self.assertEqual(manifest.kind, 'rollouts')
    last = reader.read_shard(
        self.directory, manifest.shards[1], schema.ROLLOUTS
    )
    self.assertEqual([x.problem.id for x in last], ['count/3', 'count/4'])

  def test_the_start_of_an_unfinished_collection_may_be_read(self):
    ladders = scripted_pair.make_ladders(9)
    shards = writer.LadderWriter(
        self.directory, [x.problem for x in ladders], _SETTINGS, 3
    )
    for i in (0, 1, 2, 3, 5, 6, 7, 8):  # The second block lacks a problem.
      shards.add(i, ladders[i])
    manifest = reader.complete_manifest(self.directory, schema.LADDERS, 2)
    self.assertEqual([x.first for x in manifest.shards], [0])
    self.assertEqual(manifest.num_problems, 3)
    for needed in (4, 9, None):
      with self.assertRaisesRegex(ValueError, 'holds 6 of 9 problems'):
        reader.complete_manifest(self.directory, schema.LADDERS, needed)
    shards.add(4, ladders[4])
    whole = reader.complete_manifest(self.directory, schema.LADDERS)
    self.assertLen(whole.shards, 3)
    # Whoever reads the start of a finished collection knows it as the same.
    self.assertEqual(
        reader.complete_manifest(self.directory, schema.LADDERS, 2), whole
    )

  def test_another_kind_raises_an_error_that_names_it(self):
    ladders = scripted_pair.make_ladders(3)
    _write(self.directory, ladders)
    before = self._files()
    with self.assertRaisesRegex(ValueError, 'holds ladders, but rollouts are'):
      reader.read_rollouts(self.directory)
    with self.assertRaisesRegex(
        ValueError, "kind: 'ladders' on disk, 'rollout"
    ):
      writer.RolloutWriter(
          self.directory, [x.problem for x in ladders], _SETTINGS, 3
      )
    self.assertEqual(self._files(), before)

  def test_a_manifest_without_a_kind_means_ladders(self):
    ladders = scripted_pair.make_ladders(3)
    one = _write(self.directory, ladders).manifest
    path = self.directory / 'manifest.json'
    content = json.loads(path.read_text())
    del content['kind']
    path.write_text(json.dumps(content))
    self.assertEqual(reader.read_manifest(self.directory), one)
    self.assertEmpty(_write(self.directory, ladders, []).missing())

  def test_bytes_do_not_depend_on_the_order_of_arrival(self):
    ladders = scripted_pair.make_ladders(8)
    _write(self.directory, ladders)
    first = self._files()
    self.directory = self.directory.with_name('other')
    _write(self.directory, ladders, order=reversed(range(8)))
    self.assertEqual(self._files(), first)

  def test_an_interrupted_collection_is_resumed(self):
    ladders = scripted_pair.make_ladders(8)
    begun = _write(self.directory, ladders, order=[0, 1, 2, 3, 6, 7])
    self.assertEqual(begun.missing(), [4, 5])  # 3 is in a log.
    before = self._files()
    resumed = _open(self.directory, ladders)
    self.assertEqual(resumed.missing(), [4, 5])
    for i in resumed.missing():
      resumed.add(i, ladders[i])
    back = reader.read_ladders(self.directory)
    self.assertEqual(
        [x.problem.id for x in back], [f'count/{i}' for i in range(8)]
    )
    kept = {'ladders-00000.parquet', 'ladders-00002.parquet'}
    after = self._files()
    self.assertEqual({n: before[n] for n in kept}, {n: after[n] for n in kept})

  def test_a_crash_while_writing_leaves_the_old_file(self):
    self.directory.mkdir()
    path = self.directory / 'file'
    manifest_lib.replace_file(path, lambda p: p.write_text('old'))

    def crash(path):
      path.write_text('ne')
      raise OSError('disk full')

    with self.assertRaises(OSError):
      manifest_lib.replace_file(path, crash)
    self.assertEqual(path.read_text(), 'old')

  def test_unlisted_and_temporary_files_are_ignored(self):
    ladders = scripted_pair.make_ladders(6)
    _write(self.directory, ladders, order=[0, 1, 2])
    # A kill may leave a temporary file, or a file that is not listed yet.
    (self.directory / 'ladders-00001.parquet.tmp').write_bytes(b'half')
    (self.directory / 'ladders-00001.parquet').write_bytes(b'not listed')
    (self.directory / 'manifest.json.tmp').write_text('{')
    resumed = _write(self.directory, ladders, order=[3, 4, 5])
    self.assertTrue(resumed.manifest.is_complete)
    self.assertLen(reader.read_ladders(self.directory), 6)
    self.assertFalse(any(n.endswith('.tmp') for n in self._files()))

  def test_a_deleted_shard_is_collected_again(self):
    ladders = scripted_pair.make_ladders(6)
    _write(self.directory, ladders)
    (self.directory / 'ladders-00000.parquet').unlink()
    with self.assertRaisesRegex(ValueError, 'ladders-00000.parquet is missing'):
      reader.read_ladders(self.directory)
    self.assertEqual(_write(self.directory, ladders, []).missing(), [0, 1, 2])

  @parameterized.named_parameters(
      ('truncated', lambda data: data[:-1]),
      ('altered', lambda data: data[:99] + bytes([data[99] ^ 1]) + data[100:]),
      ('emptied', lambda data: b''),
  )
  def test_a_damaged_shard_raises_an_error_that_names_it(self, damage):
    ladders = scripted_pair.make_ladders(6)
    _write(self.directory, ladders)
    path = self.directory / 'ladders-00001.parquet'
    path.write_bytes(damage(path.read_bytes()))
    before = self._files()
    with self.assertRaisesRegex(ValueError, 'ladders-00001.parquet is trunc'):
      reader.read_ladders(self.directory)
    with self.assertRaisesRegex(ValueError, 'ladders-00001.parquet is trunc'):
      _write(self.directory, ladders, [])
    self.assertEqual(self._files(), before)

  @parameterized.named_parameters(
      ('seed', {'seed': 1}, 'seed: 0 on disk, 1 requested'),
      ('sampling', {'plan': {'temperature': 1.0, 'num_samples': 1}},
       'plan.temperature: 0.0 on disk, 1.0 requested'),
      ('more', {'models': ['x']}, 'models: None on disk'),
  )  # fmt: skip
  def test_other_settings_raise_an_error_and_change_nothing(
      self, change, message
  ):
    ladders = scripted_pair.make_ladders(4)
    _write(self.directory, ladders, [0, 1, 2])
    before = self._files()
    with self.assertRaisesRegex(ValueError, message):
      _write(self.directory, ladders, settings=_SETTINGS | change)
    with self.assertRaisesRegex(ValueError, 'shard_size: 3 on disk, 2 req'):
      _write(self.directory, ladders, shard_size=2)
    with self.assertRaisesRegex(ValueError, 'num_problems: 4 on .* 3 req'):
      _write(self.directory, ladders[:3])
    self.assertEqual(self._files(), before)

  def test_other_problems_raise_an_error(self):
    ladders = scripted_pair.make_ladders(3)
    _write(self.directory, ladders, [])
    other = dataclasses.replace(ladders[0].problem, question='9:9')
    ladders[0] = dataclasses.replace(ladders[0], problem=other)
    with self.assertRaisesRegex(ValueError, 'settings.problems_hash'):
      _write(self.directory, ladders, [])

  def test_another_schema_version_raises_an_error(self):
    ladders = scripted_pair.make_ladders(3)
    _write(self.directory, ladders)
    path = self.directory / 'manifest.json'
    content = json.loads(path.read_text()) | {'schema_version': 99}
    path.write_text(json.dumps(content))
    for attempt in (
        lambda: reader.read_ladders(self.directory),
        lambda: _write(self.directory, ladders, []),
    ):
      with self.assertRaisesRegex(ValueError, 'version 99.* reads version 3'):
        attempt()

  @parameterized.parameters('', '{', '[]', '{"schema_version": 3}')
  def test_a_damaged_manifest_raises_an_error(self, text):
    self.directory.mkdir()
    (self.directory / 'manifest.json').write_text(text)
    with self.assertRaisesRegex(ValueError, 'manifest.json is damaged'):
      reader.read_ladders(self.directory)

  def test_edited_settings_raise_an_error(self):
    _write(self.directory, scripted_pair.make_ladders(3))
    path = self.directory / 'manifest.json'
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with self.assertRaisesRegex(ValueError, 'was altered'):
      reader.read_ladders(self.directory)

  def test_an_unfinished_collection_raises_an_error(self):
    _write(self.directory, scripted_pair.make_ladders(5), [0, 1, 2])
    with self.assertRaisesRegex(ValueError, 'holds 3 of 5 problems'):
      reader.read_ladders(self.directory)

  def test_an_empty_directory_raises_an_error(self):
    with self.assertRaisesRegex(ValueError, 'nothing was collected'):
      reader.read_ladders(self.directory)

  def test_shards_without_a_manifest_are_left_alone(self):
    ladders = scripted_pair.make_ladders(3)
    _write(self.directory, ladders)
    (self.directory / 'manifest.json').unlink()
    before = self._files()
    with self.assertRaisesRegex(ValueError, 'no manifest.json'):
      _write(self.directory, ladders)
    self.assertEqual(self._files(), before)

  def test_a_second_or_misplaced_record_raises_an_error(self):
    ladders = scripted_pair.make_ladders(4)
    shards = _write(self.directory, ladders, [0, 1, 2, 3])
    with self.assertRaisesRegex(ValueError, 'count/1 .* already has'):
      shards.add(1, ladders[1])
    half = _write(self.directory.with_name('half'), ladders, [1])
    with self.assertRaisesRegex(ValueError, 'count/1 .* already has'):
      half.add(1, ladders[1])
    with self.assertRaisesRegex(ValueError, 'is count/0, .* of count/3'):
      half.add(0, ladders[3])

  def test_shard_size_must_be_positive(self):
    with self.assertRaisesRegex(ValueError, 'shard_size is 0'):
      _write(self.directory, scripted_pair.make_ladders(1), shard_size=0)

  def test_the_content_hash_identifies_the_data(self):
    ladders = scripted_pair.make_ladders(6)
    one = _write(self.directory, ladders).manifest
    again = reader.read_manifest(self.directory)
    self.assertEqual(one.content_hash, again.content_hash)
    ladders[5] = dataclasses.replace(ladders[5], is_correct=None)
    other = _write(self.directory.with_name('other'), ladders).manifest
    self.assertNotEqual(one.content_hash, other.content_hash)
    self.assertEqual(one.settings_hash, other.settings_hash)

  def test_opens_in_pandas(self):
    import pandas

    ladders = scripted_pair.make_ladders(3)
    _write(self.directory, ladders)
    frame = pandas.read_parquet(self.directory / 'ladders-00000.parquet')
    self.assertEqual(frame['id'].tolist(), ['count/0', 'count/1', 'count/2'])
    self.assertEqual(frame['steps'][1][0]['text'], ladders[1].steps[0].text)
    np.testing.assert_array_equal(
        frame['steps'][1][0]['hidden'], ladders[1].steps[0].hidden
    )

  def test_opens_in_datasets(self):
    import datasets

    ladders = scripted_pair.make_ladders(5)
    _write(self.directory, ladders)
    rows = datasets.load_dataset(
        'parquet',
        data_files=str(self.directory / '*.parquet'),
        split='train',
        cache_dir=self.create_tempdir().full_path,
    )
    self.assertEqual(rows['id'], [f'count/{i}' for i in range(5)])
    self.assertEqual(
        [c['text'] for c in rows[4]['completions']],
        [c.text for c in ladders[4].completions],
    )

  def test_rollouts_open_in_pandas_and_datasets(self):
    import datasets
    import pandas

    rollouts = scripted_pair.make_rollouts(3)
    shards = writer.RolloutWriter(
        self.directory, [x.problem for x in rollouts], _SETTINGS, 3
    )
    for i, rollout in enumerate(rollouts):
      shards.add(i, rollout)
    path = self.directory / 'rollouts-00000.parquet'
    rows = datasets.load_dataset(
        'parquet',
        data_files=str(path),
        split='train',
        cache_dir=self.create_tempdir().full_path,
    )
    for table in (rows, pandas.read_parquet(path).to_dict('records')):
      for row, rollout in zip(table, rollouts, strict=True):
        self.assertEqual(row['reference']['text'], rollout.reference.text)
        self.assertEqual(
            [
                [d['probability'] for d in x['decisions']]
                for x in row['trajectories']
            ],
            [
                [d.probability for d in x.decisions]
                for x in rollout.trajectories
            ],
        )

  def test_single_columns_can_be_read(self):
    _write(self.directory, scripted_pair.make_ladders(3))
    table = pq.read_table(
        self.directory / 'ladders-00000.parquet',
        columns=['id', 'small_correct'],
    )
    self.assertEqual(table.column_names, ['id', 'small_correct'])


class ColumnsTest(absltest.TestCase):

  def test_more_entries_than_a_list_can_index_are_refused(self):
    none = columns.pa.array([], columns.pa.float32())
    with self.assertRaisesRegex(ValueError, '2,147,483,648 entries'):
      columns.nest([2**30, 2**30], none)


if __name__ == '__main__':
  absltest.main()
