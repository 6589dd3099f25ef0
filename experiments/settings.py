"""Checks all settings of a configuration before anything runs."""

import ml_collections

from experiments import builders
from experiments import calibrate
from experiments import collect
from experiments import ray_collection
from experiments import records_on_disk
from experiments import tracking
from experiments.scoring import score_steps
from routing import costs
from routing.features import observation
from routing.objectives import lagrangian
from routing.policy import networks
from routing.routers import learners
from routing.training import actor_critic
from routing.training import estimators
from routing.training import kappa


def check(config: ml_collections.ConfigDict) -> None:
  """Checks the settings of all stages, whichever of them is to run.

  A misspelt setting of the last stage is found at once, not after hours.

  Raises:
    ValueError: names the first setting that is not allowed.
  """
  _check_seeds(config)
  tracking.check(config)
  calibrate.settings(config)
  score_steps.check(config)
  builders.task(config)
  builders.protocol(config)
  records_on_disk.check(config)
  builders.plan(config)
  builders.limits(config)
  builders.check_routes(config)
  ray_collection.cluster(config)
  costs.check_metric(config.cost_metric)
  lagrangian.check_form(config.objective.form)
  if 'policy_update' in config.objective:
    actor_critic.check_update(config.objective.policy_update)
  if 'behaviour' in config:
    collect.check_behaviour_kind(config.behaviour.kind)
  kappa.check(config, estimators.name_of(config))
  networks.check_kind(config.network.kind)
  observation.check_groups(config.features.groups)
  learners.check(config.evaluation.learners, config.evaluation.num_trials)
  if 'compare' in config:
    _check_compare(config.compare)


def _check_seeds(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError unless there are seeds that can be trained and compared.

  Figures are means over the seeds of training, and their intervals hold for
  seeds that were drawn independently: the same one twice is one.
  """
  if not isinstance(config.seed, int):
    raise ValueError(f'seed is {config.seed!r}; allowed: whole numbers.')
  seeds = list(config.train_seeds)
  are_numbers = all(isinstance(seed, int) for seed in seeds)
  if not seeds or not are_numbers or len(set(seeds)) < len(seeds):
    raise ValueError(
        f'train_seeds is {config.train_seeds!r}; allowed: one or more whole '
        'numbers, all different.'
    )


def _check_compare(compared: ml_collections.ConfigDict) -> None:
  """Raises ValueError if no setting of a compared router could be chosen."""
  if compared.num_trials < 1:
    raise ValueError(
        f'compare.num_trials is {compared.num_trials}; allowed: >= 1.'
    )
  if not compared.policy_settings:
    raise ValueError(
        'compare.policy_settings is empty; allowed: one or more, of which {} '
        'changes nothing.'
    )
