"""Tests of collection by Ray on several nodes, with scripted models.

Nodes are killed while they collect: nothing is lost, nothing is doubled, and
the shards are those of a collection without Ray.
"""

import asyncio
import functools
import pathlib
import random

from absl.testing import absltest
import pytest

from experiments import ray_collection
from experiments import unattended_collection
from routing.distributed import cluster as cluster_lib
from routing.engines import engine as engine_lib
from routing.engines import resilience
from routing.shards import manifest as manifest_lib
from routing.shards import reader
from routing.shards import writer as writer_lib
from tests import ray_job
from tests import scripted_pair

pytest.importorskip('ray', reason='Needs the extra `ray`.')

_NUM_PROBLEMS, _SHARD_SIZE = 60, 8
_MEMORY = 100 * 2**20  # Bytes of each node's object store; the least is 75 MB.


def collect(directory, launcher='ray', sink=None, num_actors=2, **job):
  """Collects what is missing, and calls `sink` after each problem."""
  problems = scripted_pair.make_problems(_NUM_PROBLEMS)
  with writer_lib.LadderWriter(directory, problems, {}, _SHARD_SIZE) as writer:
    notes, collect_all = writer, scripted_pair.collect_ladders
    engines = scripted_pair.make_engines() if launcher == 'local' else []
    if launcher == 'ray':
      notes = ray_collection.Notes(writer)
      collect_all = functools.partial(
          ray_collection._collect_all,
          cluster=cluster_lib.Cluster(actors=num_actors, problems=2),
          writer=writer,
          arguments=(
              functools.partial(ray_job.make_job, **job),
              manifest_lib.hash_json({}),
              scripted_pair.SPECS[:2],
              resilience.Limits(),
              str(directory),
              _SHARD_SIZE,
          ),
      )
    if sink is not None:
      add = notes.add
      notes.add = lambda index, record: (add(index, record), sink())
    asyncio.run(
        unattended_collection.collect_missing(
            collect_all,
            problems,
            engines,
            notes,
            specs=scripted_pair.SPECS[:2],
            concurrency=4,
        )
    )


def contents(directory):
  """Returns the files of a directory."""
  return {x.name: x.read_bytes() for x in pathlib.Path(directory).iterdir()}


@pytest.mark.slow
class NodesTest(absltest.TestCase):
  """A head without cores, and two nodes of one core each."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    import ray
    from ray import cluster_utils

    cls.cluster = cluster_utils.Cluster(
        initialize_head=True,
        head_node_args=dict(
            num_cpus=0, object_store_memory=_MEMORY, include_dashboard=False
        ),
    )
    cls.addClassCleanup(cls.cluster.shutdown)
    cls.nodes = [cls.add_node(), cls.add_node()]
    ray.init(address=cls.cluster.address, log_to_driver=False)
    cls.addClassCleanup(ray.shutdown)

  @classmethod
  def add_node(cls):
    return cls.cluster.add_node(num_cpus=1, object_store_memory=_MEMORY)

  def setUp(self):
    super().setUp()
    folder = pathlib.Path(self.create_tempdir().full_path)
    self.directory = folder / 'ray'
    collect(folder / 'local', 'local')
    self.expected = contents(folder / 'local')

  def test_killed_nodes_lose_nothing_and_double_nothing(self):
    draw = random.Random(0)
    ends = []
    kills = sorted(draw.sample(range(4, _NUM_PROBLEMS - 8), 3))

    def sink():
      ends.append(len(reader.read_ladders(self.directory, is_partial=True)))
      if len(ends) in kills:
        # The oldest, since an actor on a newer one may still be loading.
        self.cluster.remove_node(self.nodes.pop(0), allow_graceful=False)
        self.nodes.append(self.add_node())

    with self.assertLogs('absl', 'WARNING') as logs:
      collect(self.directory, sink=sink, seconds=0.05)
    deaths = [x for x in logs.output if 'actor died; another' in x]
    self.assertBetween(len(deaths), 2, len(kills))
    self.assertLen(ends, _NUM_PROBLEMS)  # Each problem ended once.
    # At any time, what had ended was there: in a shard or in a log.
    for count, there in enumerate(ends, 1):
      self.assertGreaterEqual(there, count)
    self.assertEqual(contents(self.directory), self.expected)

  def test_a_collection_that_ends_early_is_continued(self):
    class Killed(Exception):
      """Ends the process that writes, as far as the directory can tell."""

    ends = []

    def sink():
      ends.append(None)
      if len(ends) == 20:
        raise Killed()

    with self.assertRaises(Killed):
      collect(self.directory, sink=sink)
    told = len(ends)  # More than 20 if others of a hand-out ended with it.
    before = len(reader.read_ladders(self.directory, is_partial=True))
    self.assertGreaterEqual(before, told)
    self.assertLess(before, _NUM_PROBLEMS)
    collect(self.directory, sink=lambda: ends.append(None))
    # What actors had logged counts, also where the writer was not told; and
    # they may log a little more before they end.
    self.assertBetween(len(ends) - told, 1, _NUM_PROBLEMS - before)
    self.assertEqual(contents(self.directory), self.expected)

  def test_what_every_actor_would_raise_ends_the_collection(self):
    with self.assertRaisesRegex(ValueError, '^no weights here$'):
      collect(self.directory, is_broken=True)

  def test_actors_that_die_one_after_the_other_end_the_collection(self):
    with self.assertRaisesRegex(
        engine_lib.Stop, 'Actors died 5 times in a row'
    ):
      collect(self.directory, is_deadly=True)


class SettingsTest(absltest.TestCase):

  def test_wrong_numbers_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'ray.actors is 0; allowed: >= 1'):
      cluster_lib.Cluster(actors=0)
    with self.assertRaisesRegex(ValueError, 'ray.gpus is -1; allowed: >= 0'):
      cluster_lib.Cluster(gpus=-1)


if __name__ == '__main__':
  absltest.main()
