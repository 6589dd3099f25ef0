"""Tests of `config.launcher='ray'` with the embedded pair: as collected here.

The wall time of each step differs between any two collections; all else is
compared bit by bit, and so is what is trained on it. Nodes are killed at random
meanwhile. A forward pass holds one request: in larger batches, the last bits of
log-probabilities depend on which requests meet in a batch, with and without
Ray.
"""

import pathlib
import random
import tempfile
from unittest import mock

from absl.testing import absltest
import pytest

from configs import arithmetic
from experiments import collect
from experiments import ray_collection
from experiments import train
from routing.routers import learned
from routing.shards import reader

_NUM_PROBLEMS = 24
_MEMORY = 100 * 2**20  # Bytes of each node's object store.


def _config(launcher, address=''):
  """A smaller `smoke`."""
  config = arithmetic.get_config('smoke')
  for route in config.routes:
    route['settings'].update(max_batch=1)
  config.problems.update(train=_NUM_PROBLEMS, select=8, prove=8, test=8)
  config.collect.update(shard_size=8, concurrency=4)
  config.update(num_steps=6, launcher=launcher)
  config.ray.update(address=address, problems=2)
  return config


def _plain(value):
  """Returns a row of a table without seconds."""
  if isinstance(value, dict):
    return {k: _plain(x) for k, x in value.items() if k != 'seconds'}
  return list(map(_plain, value)) if isinstance(value, list) else value


def _rows(directory):
  """Returns the rows of all shards of a directory, file by file."""
  return {
      entry.file: _plain(reader.read_table(directory, entry).to_pylist())
      for entry in reader.read_manifest(directory).shards
  }


@pytest.mark.slow
class EmbeddedTest(absltest.TestCase):

  def test_killed_nodes_change_neither_records_nor_training(self):
    pytest.importorskip('ray', reason='Needs the extra `ray`.')
    import ray
    from ray import cluster_utils

    cluster = cluster_utils.Cluster(
        initialize_head=True,
        head_node_args=dict(
            num_cpus=0, object_store_memory=_MEMORY, include_dashboard=False
        ),
    )
    self.addCleanup(cluster.shutdown)
    self.addCleanup(ray.shutdown)
    add = lambda: cluster.add_node(num_cpus=1, object_store_memory=_MEMORY)
    nodes, ends = [add(), add()], []
    ray.init(address=cluster.address, log_to_driver=False)
    # Drawn at random: nodes die after so many problems.
    kills = sorted(random.Random(0).sample(range(2, _NUM_PROBLEMS - 4), 2))
    note = ray_collection.Notes.add

    def noted(notes, index, record):
      note(notes, index, record)
      ends.append(index)
      if len(ends) in kills:
        # The oldest, since an actor on a newer one may still be loading.
        cluster.remove_node(nodes.pop(0), allow_graceful=False)
        nodes.append(add())

    self.enterContext(mock.patch.object(ray_collection.Notes, 'add', noted))
    found = {}
    for launcher in ('local', 'ray'):  # Compiled programs are kept for actors.
      config = _config(launcher, cluster.address)
      workdir = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
      with self.assertLogs('absl', 'INFO') as logs:
        rows = _rows(collect.collect_split(config, workdir, 'train'))
      config.launcher = 'local'
      collect.collect_split(config, workdir, 'select')
      train.train_all(config, workdir)
      weights = train.run_directory(workdir, 0) / learned.ARRAYS_FILE
      found[launcher] = rows, weights.read_bytes()
    self.assertCountEqual(ends, range(_NUM_PROBLEMS))  # Each ended once.
    deaths = [x for x in logs.output if 'actor died; another' in x]
    self.assertBetween(len(deaths), 1, len(kills))
    self.assertEqual(found['ray'][0], found['local'][0])
    self.assertEqual(found['ray'][1], found['local'][1])


class SettingsTest(absltest.TestCase):

  def test_an_unknown_launcher_is_refused(self):
    with self.assertRaisesRegex(ValueError, "'slurm'; allowed: local, ray"):
      ray_collection.is_asked(_config('slurm'))

  def test_a_limit_that_no_actor_could_keep_is_refused(self):
    config = _config('ray')
    config.collect.limits.tokens = 1_000
    with self.assertRaisesRegex(ValueError, 'a limit on dollars or tokens'):
      ray_collection.cluster(config)
    config.launcher = 'local'
    ray_collection.cluster(config)


if __name__ == '__main__':
  absltest.main()
