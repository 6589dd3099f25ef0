"""Chooses the hyper-parameters of a supervised learner on `select` problems."""

import collections
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from concurrent import futures
import contextlib
import dataclasses
import itertools
from typing import Any

import numpy as np
import threadpoolctl

from routing.outcomes import sources
from routing.routers import learners


@dataclasses.dataclass(frozen=True)
class Tuned:
  """The best trial of a learner, and the values of all trials.

  families: router families fitted with the best setting.
  setting: the hyper-parameters of the best trial.
  values: the value of every trial, in order.
  """

  families: Sequence[sources.Family]
  setting: Mapping[str, Any]
  values: Sequence[float]


def tune(
    learner: learners.Learner,
    data: Any,
    *,
    value: Callable[[Sequence[sources.Family]], float],
    num_trials: int,
    on_trial: Callable[[], None] = lambda: None,
    **fields: Any,
) -> Tuned:
  """Fits a learner with each setting and returns the trial of highest value.

  Args:
    learner: the learner.
    data: training problems, as `learners.Learner.fit` expects.
    value: returns the value of fitted families on `select` problems. Of equal
      values the first wins.
    num_trials: number of settings to try, from the front of the list.
    on_trial: called after each trial, for a progress bar.
    **fields: `metric`, `features` and `seed` of `learners.Learner.fit`.

  Raises:
    ValueError: if the learner has fewer settings than `num_trials`.
  """
  if not 1 <= num_trials <= len(learner.settings):
    raise ValueError(
        f'num_trials is {num_trials}; allowed: 1 to {len(learner.settings)}, '
        'the number of settings of this learner.'
    )
  best, chosen, values = None, None, []
  settings = learner.settings[:num_trials]
  fits = _side_by_side(
      lambda setting: learner.fit(data, setting=setting, **fields), settings
  )
  with contextlib.closing(fits):  # After an error no further one begins.
    for setting, found in zip(settings, fits, strict=True):
      values.append(float(value(found)))
      on_trial()
      # `argmax` gives the first of equal values. Of the fits that are ended
      # only the best stays in memory: fitted trees are large.
      if np.argmax(values) == len(values) - 1:
        best, chosen = found, setting
  return Tuned(best, chosen, values)


def _side_by_side(
    fit: Callable[[Mapping[str, Any]], Sequence[sources.Family]],
    settings: Sequence[Mapping[str, Any]],
) -> Iterator[Sequence[sources.Family]]:
  """Yields the fit of each setting, in order; one is made on each core.

  Trees are fitted by many short loops. On several cores each loop waits for its
  slowest thread, so that fits beside each other take less time than in turn.
  """
  cores = _num_cores()
  workers = min(len(settings), cores)
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
    left = iter(settings)
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
  """Returns how many threads scikit-learn may have, e.g. by OMP_NUM_THREADS."""
  from sklearn import ensemble  # Loads OpenMP, whose limits are read and set.

  del ensemble
  return _num_threads('openmp')


def _num_threads(user_api: str) -> int:
  """Returns the largest limit of the loaded libraries of a kind; else 1."""
  found = [
      x['num_threads']
      for x in threadpoolctl.threadpool_info()
      if x['user_api'] == user_api
  ]
  return max(found, default=1)
