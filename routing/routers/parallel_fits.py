"""Makes several fits of a learner at the same time, one on each core."""

import collections
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from concurrent import futures
import itertools
from typing import TypeVar

import threadpoolctl

from routing.routers import boosted_trees

Choice = TypeVar('Choice')
Fitted = TypeVar('Fitted')


def in_order(
    fit: Callable[[Choice], Fitted], choices: Sequence[Choice]
) -> Iterator[Fitted]:
  """Yields the fit of each choice, in order; one is made on each core.

  Trees are fitted by many short loops. On several cores each loop waits for its
  slowest thread, so that fits beside each other take less time than in turn.
  If the iterator is closed early, it waits for the fits that have begun.

  Args:
    fit: fits with one choice; called in threads.
    choices: e.g. settings; at least one.
  """
  cores = _num_cores()
  workers = min(len(choices), cores)
  with (
      futures.ThreadPoolExecutor(
          workers,
          # OpenMP's limit holds for the thread that sets it, that of BLAS
          # for the whole process.
          initializer=lambda: threadpoolctl.threadpool_limits(
              cores // workers, user_api='openmp'
          ),
      ) as pool,
      threadpoolctl.threadpool_limits(
          min(cores // workers, _num_threads('blas')), user_api='blas'
      ),
  ):
    left = iter(choices)
    # One more than there are workers: whoever ends before the oldest one begins
    # another. Not all at once, so that few fits are in memory at a time.
    running = collections.deque(
        pool.submit(fit, x) for x in itertools.islice(left, workers + 1)
    )
    try:
      while running:
        found = running.popleft().result()
        running.extend(pool.submit(fit, x) for x in itertools.islice(left, 1))
        yield found
    finally:
      for fit_ahead in running:
        fit_ahead.cancel()


def _num_cores() -> int:
  """Returns how many threads LightGBM may have, e.g. by OMP_NUM_THREADS."""
  boosted_trees.load()  # And with it OpenMP, whose limits are read and set.
  return _num_threads('openmp')


def _num_threads(user_api: str) -> int:
  """Returns the largest limit of the loaded libraries of a kind; else 1."""
  found = [
      x['num_threads']
      for x in threadpoolctl.threadpool_info()
      if x['user_api'] == user_api
  ]
  return max(found, default=1)
