"""The estimators that a policy can be trained by, by name.

exact      known outcomes, ladders or replies: the closed form
           (`objectives.exact`)
vtrace     behaviour trajectories, any protocol (`training.actor_critic`)
on_policy  the same, on trajectories that the members themselves just wrote

A new one is a file of its own and a line here: what it learns from, and how it
makes its state and update. Everything else asks `learns_from`.
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
  """How a policy is trained.

  learns_from: 'known' (outcomes of every way through a problem) or
    'trajectories'.
  make: (config, network, num_features, seed) -> the state before the first
    step, and the update of all members.
  writes_its_own: the trajectories are written by the members between steps.
  """

  learns_from: str
  make: Callable[
      [ml_collections.ConfigDict, networks.Policy, int, int],
      tuple[state_lib.TrainState, step_lib.Update],
  ]
  writes_its_own: bool = False


def _exact(config, network, num_features, seed):
  state = state_lib.init_state(config, network, num_features, seed)
  objective = step_lib.make_objective(config)
  return state, step_lib.descend(config, network, objective)


def _actor_critic(config, network, num_features, seed):
  critics = networks.make_critics(config.network)
  state = state_lib.init_actor_critic(
      config, network, critics, num_features, seed
  )
  return state, actor_critic.make_update(config, network, critics)


ESTIMATORS = {
    'exact': Estimator('known', _exact),
    'vtrace': Estimator('trajectories', _actor_critic),
    'on_policy': Estimator('trajectories', _actor_critic, writes_its_own=True),
}


def name_of(config: ml_collections.ConfigDict) -> str:
  """The name that a configuration gives; 'exact' if it gives none.

  Raises:
    ValueError: if it is none of `ESTIMATORS`.
  """
  # Configurations from before there were others name none.
  name = config.objective.get('estimator', 'exact')
  if name not in ESTIMATORS:
    raise ValueError(
        f'Unknown objective.estimator {name!r}; allowed: '
        f'{", ".join(ESTIMATORS)}.'
    )
  return name


def of(config: ml_collections.ConfigDict) -> Estimator:
  """The estimator that a configuration names; raises as `name_of`."""
  return ESTIMATORS[name_of(config)]
