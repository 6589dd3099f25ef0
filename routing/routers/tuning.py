"""Chooses the hyper-parameters of a supervised learner on `select` problems."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
from typing import Any

import numpy as np

from routing.outcomes import sources
from routing.routers import learners
from routing.routers import parallel_fits


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
  fits = parallel_fits.in_order(
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
