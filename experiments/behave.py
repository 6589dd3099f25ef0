"""Collects behaviour trajectories into `<workdir>/rollouts/<split>/`.

Run:    python -m experiments.behave --config=configs/arithmetic_rollouts.py --workdir=runs/redraft --split=train
Resume: the same command; what is on disk is kept.
Cheap:  append --replies=runs/replies (see experiments/replies); no model is asked what it has replied there already.
"""  # noqa: E501  Commands stay on one line.

import asyncio
import dataclasses
import functools
import pathlib
from typing import Any

from absl import flags
from absl import logging
import ml_collections

from experiments import builders
from experiments import collect
from experiments import launch
from experiments import overnight
from experiments import replies
from routing import costs
from routing.rollout import behave
from routing.routers import behaviour as behaviour_lib
from routing.routers import learned
from routing.shards import manifest as manifest_lib
from routing.shards import writer as writer_lib

KINDS = ('uniform', 'rate', 'mixture')


def shard_directory(workdir: pathlib.Path | str, split: str) -> pathlib.Path:
  """Where the rollouts of a split are."""
  return pathlib.Path(workdir) / 'rollouts' / split


def plan(config: ml_collections.ConfigDict) -> behave.Plan:
  """What is collected of each problem."""
  return behave.Plan(
      protocol=builders.protocol(config),
      sampling=builders.sampling(config),
      num_trajectories=config.behaviour.trajectories,
      seed=config.seed,
  )


def behaviour(
    config: ml_collections.ConfigDict, specs: tuple[costs.RouteSpec, ...]
) -> tuple[behave.Behaviour, costs.Accounting | None, dict[str, Any]]:
  """Who decides: the policy, the books it must be told from, its settings.

  Raises:
    ValueError: if the kind is unknown, or the router to be mixed is of other
      models or of another protocol.
  """
  given, seed = config.behaviour, config.seed
  protocol = builders.protocol(config)
  uniform = behaviour_lib.Uniform(
      tuple(protocol.action_mask(0, len(specs)).tolist())
  )
  if given.kind == 'uniform':
    return behaviour_lib.drawn(uniform, seed), None, {}
  if given.kind == 'rate':
    rates = {'low': given.low, 'high': given.high}
    return (
        behaviour_lib.random_rate(len(specs), seed, **rates),
        None,
        # Shards from before the rate was averaged out do not mix with these.
        {**rates, 'probability': 'given the routes before'},
    )
  if given.kind != 'mixture':
    raise ValueError(
        f'Unknown behaviour.kind {given.kind!r}; allowed: {", ".join(KINDS)}.'
    )
  router = learned.load(given.router)
  if (router.card.specs, router.card.protocol) != (specs, protocol):
    raise ValueError(
        f'behaviour.router {given.router} is of other models or of another '
        f'protocol than this configuration, {protocol.name} {protocol.view}:\n'
        f'{router}'
    )
  mixture = behaviour_lib.Mixture(router, uniform, given.epsilon)
  settings = {
      'epsilon': given.epsilon,
      'router': router.checkpoint_hash,
      'member': router.member,
  }
  return (
      behaviour_lib.drawn(mixture, seed),
      router.card.accounting,
      settings,
  )


def collect_split(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    split: str,
    directory: pathlib.Path | str | None = None,
    num_problems: int | None = None,
) -> pathlib.Path:
  """Collects what is missing of a split; returns its shard directory.

  Args:
    config: names problems, engines, protocol and behaviour.
    workdir: of the shards.
    split: name of it.
    directory: of replies; None = the models are asked everything.
    num_problems: the first so many of the split; None = all.

  Raises:
    ValueError: if the configuration asks for what cannot be, or the directory
      holds data of other settings, or a shard that is not as it was written.
      Nothing is overwritten then.
    engine_lib.Stop: if it came to an end before all problems did.
  """
  collect.check_concurrency(config)
  problems = builders.problems(config, split)[:num_problems]
  policy, accounting, settings = behaviour(config, builders.specs(config))
  writer = writer_lib.RolloutWriter(
      shard_directory(workdir, split),
      problems,
      {
          **collect.settings(config, split),
          'plan': dataclasses.asdict(plan(config)),
          'behaviour': {'kind': config.behaviour.kind, **settings},
      },
      config.collect.shard_size,
  )
  if writer.missing():
    asyncio.run(
        overnight.collect_missing(
            functools.partial(
                behave.collect_rollouts,
                behaviour=policy,
                plan=plan(config),
                accounting=accounting,
                grade=builders.grader(config),
            ),
            problems,
            replies.engines_for(config, directory, split),
            writer,
            specs=builders.specs(config),
            concurrency=config.collect.concurrency,
            limits=builders.limits(config),
            name=f'behave {split}',
        )
    )
  return shard_directory(workdir, split)


def main(
    config: ml_collections.ConfigDict,
    workdir: str,
    split: str,
    directory: str | None = None,
    num_problems: int | None = None,
) -> None:
  """Collects one split."""
  directory = collect_split(config, workdir, split, directory, num_problems)
  logging.info(collect.summary(manifest_lib.load(directory), directory))


if __name__ == '__main__':
  flags.DEFINE_enum('split', 'train', builders.SPLITS, 'What to collect.')
  flags.DEFINE_string('replies', None, 'Directory of replies, if there is one.')
  flags.DEFINE_integer('problems', None, 'Only the first so many.', 1)
  launch.run(main, 'config', 'workdir', 'split', 'replies', 'problems')
