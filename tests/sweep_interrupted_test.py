"""Tests that an interrupted sweep on Ray ends the runs that it has begun."""

import pathlib
import subprocess
import time
import types
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import pytest

from experiments import sweep_ray
from experiments import sweep_runs
from routing.distributed import cluster as cluster_lib


def _sweep(workdir, runs, program='tests.fake_stage'):
  return sweep_runs.Sweep(workdir, program, 'fake.py', {}, tuple(runs))


class _Task:
  """A task of the stand-in for Ray; ends where its run has the seed 0."""

  def __init__(self, run):
    self.is_over = run.overrides['seed'] == 0
    self.is_cancelled = False


class _Cancelled(Exception):
  """What Ray raises where a task was cancelled."""


class _Ray:
  """Tasks that run nowhere."""

  def __init__(self, is_deaf):
    self.exceptions = types.SimpleNamespace(TaskCancelledError=_Cancelled)
    self.tasks, self._is_deaf = [], is_deaf

  def remote(self, function):
    """Returns what begins tasks."""
    del function
    return types.SimpleNamespace(
        options=lambda **needs: types.SimpleNamespace(remote=self._begin)
    )

  def _begin(self, here, sweep, run):
    del here, sweep
    self.tasks.append(_Task(run))
    return self.tasks[-1]

  def wait(self, tasks, *, num_returns=1, timeout):
    """Returns which tasks are over."""
    del num_returns
    time.sleep(min(timeout, 0.01))
    over = [x for x in tasks if x.is_over]
    return over, [x for x in tasks if not x.is_over]

  def get(self, task):
    """Returns what became of a task."""
    if task.is_cancelled:
      raise _Cancelled()
    return ''

  def cancel(self, task):
    """Cancels a task, which may go on all the same."""
    task.is_cancelled = True
    task.is_over = not self._is_deaf


class InterruptedTest(parameterized.TestCase):

  @parameterized.parameters(False, True)
  def test_an_interrupted_sweep_cancels_its_tasks(self, is_deaf):
    ray = _Ray(is_deaf)
    runs = [sweep_runs.Run(f'seed={x}', {'seed': x}) for x in range(4)]
    sweep = _sweep(pathlib.Path(self.create_tempdir().full_path), runs)
    with mock.patch.object(cluster_lib, 'start', lambda asked: ray):
      executor = sweep_ray.Executor(cluster_lib.Cluster())

    def interrupt(*_):
      raise KeyboardInterrupt()

    # The first run ends; the others would not.
    with (
        mock.patch.object(sweep_ray, '_POLL_SECONDS', 0.01),
        mock.patch.object(sweep_runs.progress.Progress, 'say', interrupt),
        self.assertRaises(KeyboardInterrupt),
    ):
      sweep_runs.run_all(
          sweep, 2, execute=executor.execute, cancel=executor.cancel
      )
    self.assertBetween(len(ray.tasks), 1, 3)
    for task in ray.tasks[1:]:
      self.assertTrue(task.is_cancelled)
    self.assertEqual(executor.execute(sweep, runs[3]), sweep_ray.INTERRUPTED)

  def test_the_process_of_an_interrupted_run_is_ended(self):
    workdir = pathlib.Path(self.create_tempdir().full_path)
    (workdir / 'sleeper.py').write_text('import time; time.sleep(60)')
    run = sweep_runs.Run('seed=0', {'seed': 0})
    children, start = [], subprocess.Popen

    def popen(*args, **kwargs):
      children.append(start(*args, **kwargs))
      return children[-1]

    def interrupt():
      raise KeyboardInterrupt()

    with (
        mock.patch.object(sweep_runs, '_POLL_SECONDS', 0.01),
        mock.patch.object(sweep_runs.subprocess, 'Popen', popen),
        pytest.MonkeyPatch.context() as patch,
        self.assertRaises(KeyboardInterrupt),
    ):
      patch.setenv('PYTHONPATH', str(workdir))
      sweep_runs.attempt(
          _sweep(workdir, [run], program='sleeper'), run, interrupt
      )
    (child,) = children
    self.assertIsNotNone(child.poll())


if __name__ == '__main__':
  absltest.main()
