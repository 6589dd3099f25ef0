"""The registry of estimators, by the name in `config.objective.estimator`.

An estimator computes the gradient of the objective from collected data.

exact      closed form on known outcomes, i.e. ladders or reply trees
           (`objectives.exact`)
vtrace     off-policy, on trajectories of a behaviour policy in any protocol
           (`training.actor_critic`)
on_policy  the update of `vtrace`, on trajectories that the trained policies
           collect between gradient steps

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
  """An estimator: the data that it needs, and a function that sets it up.

  learns_from: 'known' (the outcome of every sequence of actions on a problem is
    known) or 'trajectories' (sampled answers).
  make: (config, network, num_features, seed) -> (state before the first step,
    update of one policy).
  writes_its_own: whether the trained policies collect the trajectories during
    training.
  """

  learns_from: str
  make: Callable[
      [ml_collections.ConfigDict, networks.Policy, int, int],
      tuple[state_lib.TrainState, step_lib.Update],
  ]
  writes_its_own: bool = False


def _exact(config, network, num_features, seed):
  """Returns the initial state and the update of the estimator `exact`."""
  state = state_lib.init_state(config, network, num_features, seed)
  objective = step_lib.make_objective(config)
  return state, step_lib.descend(config, network, objective)


def _actor_critic(config, network, num_features, seed):
  """Returns the initial state and the update of an estimator with critics."""
  # The critics have the same kind and width of layers as the policy, but their
  # own weights.
  critics = networks.make_critics(config.network)
  state = state_lib.init_actor_critic(
      config, network, critics, num_features, seed
  )
  return state, actor_critic.make_update(config, network, critics)


ESTIMATORS = {
    'exact': Estimator('known', _exact),
    # Both have the same update: its importance ratios are close to 1 where the
    # trajectories are on-policy.
    'vtrace': Estimator('trajectories', _actor_critic),
    'on_policy': Estimator('trajectories', _actor_critic, writes_its_own=True),
}


def name_of(config: ml_collections.ConfigDict) -> str:
  """Returns the name of the estimator in a configuration, by default 'exact'.

  Raises:
    ValueError: if the name is not in `ESTIMATORS`.
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
  """Returns the estimator that a configuration names.

  Raises:
    ValueError: if the name is not in `ESTIMATORS`.
  """
  return ESTIMATORS[name_of(config)]
