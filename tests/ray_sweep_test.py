"""Tests of sweeps on several nodes of Ray: what a node that dies leaves."""

import contextlib
import pathlib
import threading
import time

from absl.testing import absltest
import pytest

from experiments import sweep_ray
from experiments import sweep_runs
from routing.distributed import cluster as cluster_lib

pytest.importorskip('ray', reason='Needs the extra `ray`.')

_MEMORY = 100 * 2**20  # Bytes of each node's object store; the least is 75 MB.
# Notes each attempt, and waits until it may end.
_STAGE = """
import pathlib, sys, time
(word,) = [x for x in sys.argv if x.startswith('--workdir=')]
folder = pathlib.Path(word.removeprefix('--workdir='))
with (folder / 'attempts').open('a') as file:
  file.write('x')
while not (folder.parents[1] / 'go').exists():
  time.sleep(0.05)
"""


def _wait_for(is_so):
  """Waits until something is so; at most two minutes."""
  end = time.monotonic() + 120
  while not is_so():
    if time.monotonic() > end:
      raise TimeoutError()
    time.sleep(0.05)


@pytest.mark.slow
class NodesTest(absltest.TestCase):

  def test_the_run_of_a_node_that_dies_is_continued_by_another(self):
    import ray
    from ray import cluster_utils

    cluster = cluster_utils.Cluster(
        initialize_head=True,
        head_node_args=dict(
            num_cpus=0, object_store_memory=_MEMORY, include_dashboard=False
        ),
    )
    self.addCleanup(cluster.shutdown)
    node, _ = [
        cluster.add_node(num_cpus=1, object_store_memory=_MEMORY)
        for _ in range(2)
    ]
    ray.init(address=cluster.address, log_to_driver=False)
    self.addCleanup(ray.shutdown)
    folder = pathlib.Path(self.create_tempdir().full_path)
    (folder / 'stage.py').write_text(_STAGE)
    self.enterContext(contextlib.chdir(folder))  # Where a run's program is.
    runs = [sweep_runs.Run(f'seed={x}', {'seed': x}) for x in range(2)]
    sweep = sweep_runs.Sweep(folder, 'stage', 'none.py', {}, tuple(runs))
    executor = sweep_ray.Executor(cluster_lib.Cluster())
    wrong = []
    thread = threading.Thread(
        target=lambda: wrong.append(
            sweep_runs.run_all(sweep, 2, execute=executor.execute)
        )
    )
    thread.start()

    def num_attempts():
      found = folder.glob('runs/*/attempts')
      return sorted(len(x.read_text()) for x in found)

    _wait_for(lambda: num_attempts() == [1, 1])  # One on each node.
    cluster.remove_node(node, allow_graceful=False)
    (folder / 'go').touch()
    thread.join(120)
    self.assertEqual(wrong, [{}])
    self.assertEqual(num_attempts(), [1, 2])
    for run in runs:
      self.assertTrue(sweep.mark(run).exists())


if __name__ == '__main__':
  absltest.main()
