"""The supervised learners that are compared with the policy, by name.

To add one, write a module with its `fit` and add an entry to `LEARNERS`. All
learners see the policy's features and training problems, and are tuned on
`select` with the same number of trials.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

from routing.outcomes import sources
from routing.routers import boosting
from routing.routers import fitted_q

NUM_TRIALS = 6  # For every learner, so that none is tuned more than another.


@dataclasses.dataclass(frozen=True)
class Learner:
  """The fit function of a learner, and its settings.

  fit: (data, *, metric, features, setting, seed) -> families. `data` is an
    `OutcomeTable` or a `Recorded` source of training problems, `metric` the
    cost metric, `features` the observation of its live routers.
  settings: hyper-parameters to try, in this order.
  max_decisions: approximate limit on the decisions it is fitted on; None = no
    limit.
  """

  fit: Callable[..., Sequence[sources.Family]]
  settings: Sequence[Mapping[str, Any]]
  max_decisions: int | None = None


# The keys stand in configurations and in results.json.
LEARNERS = {
    'fitted Q, trees': Learner(
        fitted_q.fit_trees, fitted_q.TREE_SETTINGS, fitted_q.MAX_TREE_ROWS
    ),
    'fitted Q, linear': Learner(fitted_q.fit_linear, fitted_q.RIDGE_SETTINGS),
    'boosting': Learner(boosting.fit, boosting.SETTINGS),
}


def check(names: Sequence[str], num_trials: int) -> None:
  """Checks the names and the number of trials of learners.

  Raises:
    ValueError: if a name is unknown or a learner has fewer settings.
  """
  for name in names:
    if name not in LEARNERS:
      raise ValueError(
          f'evaluation.learners contains {name!r}; allowed: '
          f'{", ".join(LEARNERS)}.'
      )
    # Checked before collection and training, which take hours.
    if not 1 <= num_trials <= len(LEARNERS[name].settings):
      raise ValueError(
          f'evaluation.num_trials is {num_trials}; allowed: 1 to '
          f'{len(LEARNERS[name].settings)}, the settings of {name!r}.'
      )
