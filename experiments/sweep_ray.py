"""Runs a sweep on the nodes of a Ray cluster, one task a run.

Every node sees the directory of the sweep. A task does for its run what the
sweep does here, `sweep_runs.attempt`. If its node dies, another continues.
"""

from collections.abc import Callable
import functools
import os
import sys
from typing import Any

from experiments import sweep_runs
from routing.distributed import cluster as cluster_lib


def executor(
    asked: cluster_lib.Cluster,
) -> Callable[[sweep_runs.Sweep, sweep_runs.Run], str]:
  """Returns what executes one run somewhere in a cluster, and waits for it.

  Args:
    asked: of the cluster; `cpus` and `gpus` are those of a run.

  Raises:
    ValueError: as `cluster.start` does.
  """
  ray = cluster_lib.start(asked)
  task = ray.remote(_attempt).options(
      num_cpus=asked.cpus,
      num_gpus=asked.gpus,
      max_retries=-1,  # Only where a node or a process dies: see `_attempt`.
      retry_exceptions=False,
  )
  # Relative paths of the configuration are relative to this directory.
  return functools.partial(_wait, ray, task, os.getcwd())


def _wait(ray, task, here, sweep, run) -> str:
  """Executes a run and waits; called in a thread."""
  return ray.get(task.remote(here, sweep, run))


def _attempt(here: str, sweep: Any, run: Any) -> str:
  """Executes one run on the node; see `sweep_runs.attempt`."""
  os.chdir(here)
  # As `python -m` would: the run's program is found from here.
  os.environ['PYTHONPATH'] = os.pathsep.join(dict.fromkeys([here, *sys.path]))
  return sweep_runs.attempt(sweep, run)
