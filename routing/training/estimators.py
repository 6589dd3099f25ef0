"""The registry of estimators, by the name in `config.objective.estimator`.

exact      closed form on known outcomes, ladders or reply trees
           (`objectives.exact`)
vtrace     off-policy, on behaviour trajectories of any protocol
           (`training.actor_critic`)
on_policy  the same update, on trajectories that the trained policies collect
           between gradient steps

To add an estimator, write a module with its state and update, and add an entry
to `ESTIMATORS`.
"""

from collections.abc import Callable
import dataclasses

import ml_collections

from routing.policy import networks
from routing.training import actor_critic
from routing.training import state as state_lib
from routing.training import step as step_lib


@dataclasses.dataclass(frozen=True)
class Estimator:
  """An estimator: its data, and how its state and update are made.

  learns_from: 'known' (the outcome of every sequence of actions on a problem)
    or 'trajectories'.
  make: (config, network, num_features, seed) -> (state before the first step,
    update of one policy).
  writes_its_own: on-policy, the trained policies collect the trajectories.
  """

  learns_from: str
  make: Callable[
      [ml_collections.ConfigDict, networks.Policy, int, int],
      tuple[state_lib.TrainState, step_lib.Update],
  ]
  writes_its_own: bool = False


def _exact(config, network, num_features, seed):
  """Returns the state and update of the closed-form estimator."""
  state = state_lib.init_state(config, network, num_features, seed)
  objective = step_lib.make_objective(config)
  return state, step_lib.descend(config, network, objective)


def _actor_critic(config, network, num_features, seed):
  """Returns the state and update of the estimators with critics."""
  # The same kind and width of layers as the policy, but separate weights.
  critics = networks.make_critics(config.network)
  state = state_lib.init_actor_critic(
      config, network, critics, num_features, seed
  )
  return state, actor_critic.make_update(config, network, critics)


ESTIMATORS = {
    'exact': Estimator('known', _exact),
    # Both make the same update: importance ratios tell on- from off-policy.
    'vtrace': Estimator('trajectories', _actor_critic),
    'on_policy': Estimator('trajectories', _actor_critic, writes_its_own=True),
}


def name_of(config: ml_collections.ConfigDict) -> str:
  """Returns the estimator's name in a configuration; 'exact' by default.

  Raises:
    ValueError: if it is not in `ESTIMATORS`.
  """
  # Configurations older than the other estimators do not have the field.
  name = config.objective.get('estimator', 'exact')
  if name not in ESTIMATORS:
    raise ValueError(
        f'Unknown objective.estimator {name!r}; allowed: '
        f'{", ".join(ESTIMATORS)}.'
    )
  return name


def of(config: ml_collections.ConfigDict) -> Estimator:
  """Returns the estimator of a configuration; raises as `name_of` does."""
  return ESTIMATORS[name_of(config)]
