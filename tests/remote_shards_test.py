"""Tests of shards in S3, on moto's server; of collection into them by Ray."""

import pathlib
import tempfile

from absl.testing import absltest
import pytest

from routing.shards import files
from routing.shards import reader
from routing.shards import writer as writer_lib
from tests import ray_pool_test
from tests import s3_stand_in
from tests import scripted_pair

pytest.importorskip('s3fs', reason='Needs the extra `remote`.')
pytest.importorskip('upath', reason='Needs the extra `remote`.')
pytest.importorskip('moto', reason='Needs the extra `stand-ins`.')


@pytest.mark.slow
class S3Test(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.enterClassContext(s3_stand_in.server())
    files.path('s3://shards').mkdir()
    cls.local = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    ray_pool_test.collect(cls.local, 'local')

  def _same(self, directory):
    """Checks that a directory holds the files of a collection on this disk."""
    there = {x.name: x.read_bytes() for x in files.path(directory).glob('*')}
    self.assertEqual(there, ray_pool_test.contents(self.local))
    self.assertEqual(
        list(map(scripted_pair.plain, reader.read_ladders(directory))),
        list(map(scripted_pair.plain, reader.read_ladders(self.local))),
    )

  def test_a_collection_that_ends_early_is_continued(self):
    directory = 's3://shards/early/train'
    problems = scripted_pair.make_problems(60)
    ladders = reader.read_ladders(self.local)
    with writer_lib.LadderWriter(directory, problems, {}, 8) as writer:
      for i in range(12):
        writer.add(i, ladders[i])
      with self.assertRaisesRegex(ValueError, 'already has a record'):
        writer.add(9, ladders[9])
    found = reader.read_ladders(directory, is_partial=True)
    self.assertEqual([x.problem for x in found], problems[:12])
    with self.assertRaisesRegex(ValueError, '8 of 60 problems in complete'):
      reader.read_ladders(directory)
    ray_pool_test.collect(directory, 'local')
    self._same(directory)

  def test_an_altered_object_is_refused(self):
    directory = files.path('s3://shards/altered/train')
    ray_pool_test.collect(directory, 'local')
    (directory / 'ladders-00001.parquet').write_bytes(b'')
    with self.assertRaisesRegex(ValueError, '00001.parquet is truncated'):
      reader.read_ladders(directory)
    (directory / 'ladders-00001.parquet').unlink()
    ray_pool_test.collect(directory, 'local')
    self._same(directory)

  def test_actors_log_there(self):
    ray = pytest.importorskip('ray', reason='Needs the extra `ray`.')
    memory = 100 * 2**20
    ray.init('local', num_cpus=2, object_store_memory=memory)
    self.addCleanup(ray.shutdown)
    logged = []

    def sink():
      logs = files.path('s3://shards/ray/train').glob('*.log')
      logged.append(len(list(logs)))

    ray_pool_test.collect('s3://shards/ray/train', sink=sink)
    self.assertGreater(max(logged), 0)
    self._same('s3://shards/ray/train')


if __name__ == '__main__':
  absltest.main()
