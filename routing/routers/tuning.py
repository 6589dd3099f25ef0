"""Chooses the hyper-parameters of a learner on `select` problems."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from routing.outcomes import sources
from routing.routers import learners


@dataclasses.dataclass(frozen=True)
class Tuned:
  """The best trial.

  families: fitted with the best setting.
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
  """Fits the first settings of a learner and returns the one of highest value.

  Args:
    learner: the learner.
    data: training problems.
    value: the value of fitted families on `select` problems; ties go to the
      first.
    num_trials: number of settings to try.
    on_trial: called after each setting, for a progress bar.
    **fields: `metric`, `features` and `seed` of `learners.Learner.fit`.

  Raises:
    ValueError: if the learner has fewer settings.
  """
  if not 1 <= num_trials <= len(learner.settings):
    raise ValueError(
        f'num_trials is {num_trials}; allowed: 1 to {len(learner.settings)}, '
        'the number of settings of this learner.'
    )
  best, values = None, []
  for setting in learner.settings[:num_trials]:
    found = learner.fit(data, setting=setting, **fields)
    values.append(float(value(found)))
    on_trial()
    # `argmax` gives the first of equal values. Only the best fit stays in
    # memory: fitted trees are large.
    if np.argmax(values) == len(values) - 1:
      best = found, setting
  return Tuned(*best, values)
