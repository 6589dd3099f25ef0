"""Hyper-parameters of a learner, chosen on `select`."""

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

  families: as fitted with its setting.
  setting: the hyper-parameters.
  values: of every trial, in order.
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
  """Fits the first settings of a learner and keeps the one of highest value.

  Args:
    learner: the learner.
    data: of training problems.
    value: what families are worth on `select` problems; of equals the first.
    num_trials: how many settings are tried.
    on_trial: called after each of them, for a progress bar.
    **fields: `metric`, `features` and `seed` of `learners.Learner.fit`.

  Raises:
    ValueError: if there are not so many settings.
  """
  if not 1 <= num_trials <= len(learner.settings):
    raise ValueError(
        f'num_trials is {num_trials}; allowed: 1 to {len(learner.settings)}.'
    )
  best, values = None, []
  for setting in learner.settings[:num_trials]:
    found = learner.fit(data, setting=setting, **fields)
    values.append(float(value(found)))
    on_trial()
    if np.argmax(values) == len(values) - 1:
      best = found, setting
  return Tuned(*best, values)
