"""The supervised learners that are compared with the learned policy, by name.

To add a learner, write a module with its `fit` and add an entry to `LEARNERS`.
All learners get the features and training problems of the learned policy, and
are tuned on the `select` split with the same number of trials.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

from routing.outcomes import sources
from routing.routers import boosting
from routing.routers import fitted_q

# Trials per learner; equal, so that no learner is tuned more than another.
NUM_TRIALS = 6


@dataclasses.dataclass(frozen=True)
class Learner:
  """A supervised learner: its fit function and the settings to try.

  fit: (data, *, metric, features, setting, seed) -> families. `data` is an
    `OutcomeTable` or a `Recorded` source of training problems, `metric` the
    cost metric, `features` the features that live routers compute, `setting`
    one entry of `settings`.
  settings: hyper-parameters to try, in this order.
  max_decisions: approximate limit on the number of decisions to fit on; None =
    no limit.
  """

  fit: Callable[..., Sequence[sources.Family]]
  settings: Sequence[Mapping[str, Any]]
  max_decisions: int | None = None


# The keys occur in configurations and in results.json, so they must not change.
LEARNERS = {
    'fitted Q, trees': Learner(
        fitted_q.fit_trees, fitted_q.TREE_SETTINGS, fitted_q.MAX_TREE_ROWS
    ),
    'fitted Q, linear': Learner(fitted_q.fit_linear, fitted_q.RIDGE_SETTINGS),
    'boosting': Learner(boosting.fit, boosting.SETTINGS),
}


def check(names: Sequence[str], num_trials: int) -> None:
  """Checks that the named learners exist and have enough settings.

  Raises:
    ValueError: if a name is unknown or a learner has fewer settings than
      `num_trials`.
  """
  for name in names:
    if name not in LEARNERS:
      raise ValueError(
          f'evaluation.learners contains {name!r}; allowed: '
          f'{", ".join(LEARNERS)}.'
      )
    # A mistake here is reported now: collection and training take hours.
    if not 1 <= num_trials <= len(LEARNERS[name].settings):
      raise ValueError(
          f'evaluation.num_trials is {num_trials}; allowed: 1 to '
          f'{len(LEARNERS[name].settings)}, the number of settings of {name!r}.'
      )
