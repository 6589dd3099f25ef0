"""The supervised learners that stand beside the policy, by name.

A new one is a file of its own and a line here. All see the policy's features
and training problems, and are tuned on `select` with equally many trials.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

from routing.outcomes import sources
from routing.routers import boosting
from routing.routers import fitted_q

NUM_TRIALS = 6


@dataclasses.dataclass(frozen=True)
class Learner:
  """How a learner is fitted, and with which settings.

  fit: (data, *, metric, features, setting, seed) -> families. `data` is an
    `OutcomeTable` or a `Recorded` source of training problems, `metric` that of
    the costs, `features` what its live routers observe.
  settings: hyper-parameters to try, in this order.
  max_decisions: of about how many it is fitted at most; None = of all.
  """

  fit: Callable[..., Sequence[sources.Family]]
  settings: Sequence[Mapping[str, Any]]
  max_decisions: int | None = None


LEARNERS = {
    'fitted Q, trees': Learner(
        fitted_q.fit_trees, fitted_q.TREE_SETTINGS, fitted_q.MAX_TREE_ROWS
    ),
    'fitted Q, linear': Learner(fitted_q.fit_linear, fitted_q.RIDGE_SETTINGS),
    'boosting': Learner(boosting.fit, boosting.SETTINGS),
}


def check(names: Sequence[str], num_trials: int) -> None:
  """Raises ValueError unless there are these learners, and so many settings."""
  for name in names:
    if name not in LEARNERS:
      raise ValueError(
          f'evaluation.learners names {name!r}; allowed: '
          f'{", ".join(LEARNERS)}.'
      )
    if not 1 <= num_trials <= len(LEARNERS[name].settings):
      raise ValueError(
          f'evaluation.num_trials is {num_trials}; allowed: 1 to '
          f'{len(LEARNERS[name].settings)}, the settings of {name!r}.'
      )
