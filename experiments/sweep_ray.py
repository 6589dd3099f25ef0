"""Runs a sweep on the nodes of a Ray cluster, one task a run.

Every node sees the directory of the sweep, or it is in an object store. A task
does for its run what the sweep does here, `sweep_elsewhere.attempt`. If its
node dies, another continues the run.
"""

from collections.abc import Iterator
import contextlib
import os
import signal
import sys
import threading
from typing import Any

from experiments import sweep_elsewhere
from experiments import sweep_runs
from routing.distributed import cluster as cluster_lib

_POLL_SECONDS = 0.5
# For the runs to end, after they were cancelled.
_GRACE_SECONDS = 10.0
INTERRUPTED = 'interrupted'


class Executor:
  """Executes runs of a sweep somewhere in a cluster.

  Args:
    asked: of the cluster; `cpus` and `gpus` are those of a run.

  Raises:
    ValueError: as `cluster.start` does.
  """

  def __init__(self, asked: cluster_lib.Cluster):
    self._ray = cluster_lib.start(asked)
    self._task = self._ray.remote(_attempt).options(
        num_cpus=asked.cpus,
        num_gpus=asked.gpus,
        max_retries=-1,  # Only where a node or a process dies: see `_attempt`.
        retry_exceptions=False,
    )
    # Relative paths of the configuration are relative to this directory.
    self._here = os.getcwd()
    self._lock, self._is_over = threading.Lock(), threading.Event()
    self._waiting = []  # Of runs that have not ended.

  def execute(self, sweep: sweep_runs.Sweep, run: sweep_runs.Run) -> str:
    """Executes a run and waits; called in threads; see `sweep_runs.attempt`."""
    with self._lock:
      if self._is_over.is_set():
        return INTERRUPTED
      task = self._task.remote(self._here, sweep, run)
      self._waiting.append(task)
    # Not `get` at once, which would wait on where a task cannot be cancelled.
    while not self._ray.wait([task], timeout=_POLL_SECONDS)[0]:
      if self._is_over.is_set():
        return INTERRUPTED
    with self._lock:
      self._waiting.remove(task)
    try:
      return self._ray.get(task)
    except self._ray.exceptions.TaskCancelledError:
      return INTERRUPTED

  def cancel(self) -> None:
    """Ends all runs, and lets no further one begin."""
    with self._lock:
      self._is_over.set()
      waiting = list(self._waiting)
    # Ray may lose an interrupt, so that what does not end gets a second one.
    for _ in range(2):
      for task in waiting:
        self._ray.cancel(task)
      if waiting:
        # The programs of the runs need a moment to end.
        _, waiting = self._ray.wait(
            waiting, num_returns=len(waiting), timeout=_GRACE_SECONDS
        )


def _attempt(here: str, sweep: Any, run: Any) -> str:
  """Executes one run on the node; see `sweep_elsewhere.attempt`."""
  os.chdir(here)
  # As `python -m` would: the run's program is found from here.
  os.environ['PYTHONPATH'] = os.pathsep.join(dict.fromkeys([here, *sys.path]))
  with _interrupted_once():
    # It looks up each second, since Ray's interrupt of a task does not end a
    # wait for a process.
    return sweep_elsewhere.attempt(sweep, run, is_hopeless=lambda: False)


@contextlib.contextmanager
def _interrupted_once() -> Iterator[None]:
  """Makes all interrupts but the first have no effect.

  `Executor.cancel` repeats its interrupt. A run that is ending because of the
  first one still waits for its program and copies its files.
  """

  def stop(number: int, frame: Any) -> None:
    del number, frame
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt

  before = signal.signal(signal.SIGINT, stop)
  try:
    yield
  finally:
    signal.signal(signal.SIGINT, before)
