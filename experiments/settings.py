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
  for name, seeds in (
      ('train_seeds', config.train_seeds),
      ('seed', [config.seed]),
  ):
    if not all(isinstance(seed, int) for seed in seeds):
      raise ValueError(f'{name} is {config[name]!r}; allowed: whole numbers.')
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
