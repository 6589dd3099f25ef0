"""Tests of sweeps on nodes of Ray: a node dies, or the sweep is ended."""

import contextlib
import pathlib
import signal
import threading
import time

from absl.testing import absltest
import pytest

from experiments import sweep_ray
from experiments import sweep_runs
from routing.distributed import cluster as cluster_lib

pytest.importorskip('ray', reason='Needs the extra `ray`.')

_MEMORY = 100 * 2**20  # Bytes of each node's object store; the least is 75 MB.
# Notes each attempt, and waits until it may end. A node that is killed here
# leaves the programs of its processes, which another machine would not.
_STAGE = """
import os, pathlib, sys, time
parent = os.getppid()
(word,) = [x for x in sys.argv if x.startswith('--workdir=')]
folder = pathlib.Path(word.removeprefix('--workdir='))
with (folder / 'attempts').open('a') as file:
  file.write(f'{os.getpid()}\\n')
while not (folder.parents[1] / 'go').exists():
  if os.getppid() != parent:
    sys.exit(1)
  time.sleep(0.05)
"""


def _wait_for(is_so):
  """Waits until something is so; at most two minutes."""
  end = time.monotonic() + 120
  while not is_so():
    if time.monotonic() > end:
      raise TimeoutError()
    time.sleep(0.05)


def _is_alive(pid):
  """Returns whether a process runs; one that nobody has reaped does not."""
  try:
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except FileNotFoundError:
    return False
  return stat.rpartition(')')[2].split()[0] != 'Z'


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
    cls.nodes = [
        cls.cluster.add_node(num_cpus=1, object_store_memory=_MEMORY)
        for _ in range(2)
    ]
    ray.init(address=cls.cluster.address, log_to_driver=False)
    cls.addClassCleanup(ray.shutdown)

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    (self.folder / 'stage.py').write_text(_STAGE)
    # Where the program of a run is found.
    self.enterContext(contextlib.chdir(self.folder))

  def _begin(self, num_runs):
    """Begins a sweep in a thread; returns it, its thread, and what fails."""
    runs = [sweep_runs.Run(f'seed={x}', {'seed': x}) for x in range(num_runs)]
    sweep = sweep_runs.Sweep(self.folder, 'stage', 'none.py', {}, tuple(runs))
    self.executor = sweep_ray.Executor(cluster_lib.Cluster())
    self.addCleanup(self.executor.cancel)  # Or a failure would wait for ever.
    wrong = {}
    thread = threading.Thread(
        target=lambda: wrong.update(
            sweep_runs.run_all(sweep, num_runs, execute=self.executor.execute)
        )
    )
    thread.start()
    _wait_for(lambda: self._num_attempts() == [1] * num_runs)
    return sweep, thread, wrong

  def _num_attempts(self):
    found = self.folder.glob('runs/*/attempts')
    return sorted(len(x.read_text().splitlines()) for x in found)

  def test_the_run_of_a_node_that_dies_is_continued_by_another(self):
    sweep, thread, wrong = self._begin(2)  # One on each node.
    attempts = self.folder.glob('runs/*/attempts')
    programs = [x.read_text().strip() for x in attempts]
    import ray

    # This process hangs on one of the nodes, and would go down with it.
    own = ray.get_runtime_context().get_node_id()
    other = next(x for x in self.nodes if x.node_id != own)
    self.cluster.remove_node(other, allow_graceful=False)
    _wait_for(lambda: not all(map(_is_alive, programs)))
    (self.folder / 'go').touch()
    thread.join(120)
    self.assertEmpty(wrong)
    self.assertEqual(self._num_attempts(), [1, 2])
    for run in sweep.runs:
      self.assertTrue(sweep.mark(run).exists())

  def test_a_cancelled_run_ends_on_its_node(self):
    sweep, thread, wrong = self._begin(1)
    (attempts,) = self.folder.glob('runs/*/attempts')
    process = pathlib.Path('/proc') / attempts.read_text().strip()
    self.assertTrue(process.exists())
    self.executor.cancel()
    thread.join(60)
    self.assertEqual(wrong, {'seed=0': sweep_ray.INTERRUPTED})
    _wait_for(lambda: not process.exists())
    self.assertFalse(sweep.mark(sweep.runs[0]).exists())

  def test_only_the_first_interrupt_of_a_task_counts(self):
    before, done = signal.getsignal(signal.SIGINT), []
    with self.assertRaises(KeyboardInterrupt), sweep_ray._interrupted_once():
      try:
        signal.raise_signal(signal.SIGINT)
      finally:
        signal.raise_signal(signal.SIGINT)
        done.append('what ends in order')
    self.assertLen(done, 1)
    self.assertIs(signal.getsignal(signal.SIGINT), before)


if __name__ == '__main__':
  absltest.main()
