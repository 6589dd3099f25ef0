"""Collects the records of one split: ladders, replies or rollouts.

Run:    python -m experiments.collect --config=configs/arithmetic.py --workdir=runs/arithmetic --split=train
Plan:   the same with --dry_run, which prints how many requests and tokens it takes
Resume: the same command. Finished problems are kept, however the collection ended. Ctrl-C first completes the problems that are under way.
Writes: shards/<split>/, records of the kind `config.data.kind`; also rollouts/<split>/ if the estimator learns from trajectories and `data.kind` is another kind

    ladders   the small model's trace, and each larger model's ending from each step prefix (escalate)
    replies   what each greedy model writes next after each trace that can occur (switch, redraft)
    rollouts  trajectories of a behaviour policy, each decision with its action probability (any protocol)
"""  # noqa: E501  Commands stay on one line.

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import itertools
import pathlib
from typing import Any

from absl import flags
from absl import logging
import ml_collections

from experiments import builders
from experiments import command_line
from experiments import dry_run
from experiments import ray_collection
from experiments import records_on_disk
from experiments import split_on_disk
from experiments import unattended_collection
from routing import costs
from routing import types
from routing.engines import engine as engine_lib
from routing.engines import route as route_lib
from routing.rollout import all_replies
from routing.rollout import behaviour_rollouts
from routing.rollout import collect as collect_lib
from routing.routers import behaviour as behaviour_lib
from routing.routers import learned
from routing.shards import manifest as manifest_lib
from routing.shards import reply_shards
from routing.shards import writer as writer_lib
from routing.tasks import delimiter as delimiter_lib

BEHAVIOURS = ('uniform', 'rate', 'mixture')


@dataclasses.dataclass(frozen=True)
class Job:
  """How records of one kind are collected.

  writer: writes the records to shards.
  settings: all that determines the records, besides the problems. Saved in the
    manifest; a directory with other settings is not continued.
  collect: coroutine that takes (problems, engines, sink, **loop) and passes
    each record to `sink`.
  make_engines: returns the engines; called only if a record is missing.
  """

  writer: type[writer_lib.Writer]
  settings: dict[str, Any]
  collect: Callable[..., Awaitable[None]]
  make_engines: Callable[[], Sequence[engine_lib.Engine]]


def _task_settings(
    config: ml_collections.ConfigDict, split: str
) -> dict[str, Any]:
  """Returns the settings that determine the problems; needs no file."""
  return {
      'split': split,
      'problems': {'seed': config.problems.seed},
      'task': builders.task_key(config),
  }


def _settings(config: ml_collections.ConfigDict, split: str) -> dict[str, Any]:
  """Returns the settings that determine records of every kind."""
  return {
      **_task_settings(config, split),
      'routes': builders.answer_keys(config),
      'models': [dataclasses.asdict(spec) for spec in builders.specs(config)],
      'weights_sha256': builders.model_identities(config),
  }


def _ladders(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str, split: str
) -> Job:
  """Returns the job for protocol escalate; see `Job`."""
  del workdir
  # A ladder does not depend on the policy, so no earlier stage is needed.
  plan = builders.plan(config)
  return Job(
      writer=writer_lib.LadderWriter,
      settings={
          **_settings(config, split),
          'plan': delimiter_lib.settings_key(plan),
      },
      collect=functools.partial(
          collect_lib.collect_ladders, plan=plan, grade=builders.grader(config)
      ),
      make_engines=lambda: builders.engines(config),
  )


def _replies(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str, split: str
) -> Job:
  """Returns the job of `switch` and `redraft` for greedy models; see `Job`."""
  del workdir
  sampling = builders.sampling(config)
  return Job(
      writer=reply_shards.ReplyWriter,
      settings={
          **_settings(config, split),
          'sampling': delimiter_lib.settings_key(sampling),
          'max_replies': builders.MAX_REPLIES,
      },
      collect=functools.partial(
          all_replies.collect_replies,
          sampling=sampling,
          max_replies=builders.MAX_REPLIES,
      ),
      make_engines=lambda: builders.engines(config),
  )


def _rollouts(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str, split: str
) -> Job:
  """Returns the job for trajectories of a behaviour policy; see `Job`."""
  policy, accounting, described = behaviour(config, builders.specs(config))
  plan = behaviour_rollouts.Plan(
      protocol=builders.protocol(config),
      sampling=builders.sampling(config),
      num_trajectories=config.behaviour.trajectories,
      seed=config.seed,
  )
  return Job(
      writer=writer_lib.RolloutWriter,
      settings={
          **_settings(config, split),
          'plan': delimiter_lib.settings_key(plan),
          'behaviour': {'kind': config.behaviour.kind, **described},
      },
      collect=functools.partial(
          behaviour_rollouts.collect_rollouts,
          behaviour=policy,
          plan=plan,
          accounting=accounting,
          grade=builders.grader(config),
      ),
      # Replies of this split that are already collected are not asked again.
      make_engines=lambda: records_on_disk.engines(config, workdir, split),
  )


_JOBS = {'ladders': _ladders, 'replies': _replies, 'rollouts': _rollouts}


def job(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    split: str,
    kind: str,
) -> Job:
  """Returns how the records of a kind are collected; see `collect_split`."""
  return _JOBS[kind](config, workdir, split)


def check_behaviour_kind(kind: str) -> None:
  """Raises ValueError unless there is such a behaviour policy."""
  if kind not in BEHAVIOURS:
    raise ValueError(
        f'Unknown behaviour.kind {kind!r}; allowed: {", ".join(BEHAVIOURS)}.'
    )


def behaviour(
    config: ml_collections.ConfigDict, specs: tuple[costs.RouteSpec, ...]
) -> tuple[
    behaviour_rollouts.Behaviour, costs.Accounting | None, dict[str, Any]
]:
  """Returns the behaviour policy of `config.behaviour`.

  Args:
    config: of the run.
    specs: the models of the run, smallest first.

  Returns:
    The policy; the cost accounting that its observations are made with, None if
    it observes nothing; and its settings for the manifest.

  Raises:
    ValueError: if the kind is unknown, or the router of a mixture was trained
      for other models or for another protocol.
  """
  given, seed = config.behaviour, config.seed
  check_behaviour_kind(given.kind)
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
        # In older shards the probability was conditional on the drawn rate.
        # This entry keeps the two from being mixed in one directory.
        {**rates, 'probability': 'given the routes before'},
    )
  router = learned.load(given.router)
  if (router.card.specs, router.card.protocol) != (specs, protocol):
    raise ValueError(
        f'behaviour.router {given.router} was trained for other models or '
        f'another protocol than this configuration, which has {protocol.name} '
        f'{protocol.view}. The router:\n{router}'
    )
  # Mixed with uniform, every allowed action has positive probability, so that
  # importance ratios of any other policy are bounded.
  mixture = behaviour_lib.Mixture(router, uniform, given.epsilon)
  settings = {
      'epsilon': given.epsilon,
      'router': router.checkpoint_hash,
      'policy_index': router.policy_index,
  }
  return behaviour_lib.drawn(mixture, seed), router.card.accounting, settings


def check_behaviour(
    config: ml_collections.ConfigDict,
    split: str,
    problems: Sequence[types.Problem],
) -> None:
  """Checks that a router used as behaviour policy has not seen the problems.

  Not for `train`: a router that learns from trajectories inherits what their
  behaviour policy has seen (`training_data.load`).

  Raises:
    ValueError: if the router has seen a problem of select, prove or test in
      another split, or has no record of what it has seen.
  """
  if config.behaviour.kind != 'mixture':
    return
  seen = learned.load(config.behaviour.router).seen
  seen.require_known(f'behaviour.router {config.behaviour.router}')
  if split != 'train':
    seen.check(split, problems)


def collect_split(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    split: str,
    kind: str | None = None,
) -> pathlib.Path:
  """Collects the missing records of a split and returns its directory.

  Args:
    config: names problems, engines, protocol and what is collected.
    workdir: of the run.
    split: name of the split.
    kind: of the records; None = `config.data.kind`.

  Raises:
    ValueError: if a setting is not allowed, or the directory holds records of
      other settings or a damaged shard, or another process writes there.
      Nothing is overwritten then.
    engine_lib.Stop: if the collection ended before all problems were done.
  """
  records_on_disk.check(config)
  kind = kind or config.data.kind
  directory = records_on_disk.directory(config, workdir, split, kind)
  if records_on_disk.is_shipped(config, kind):
    # Neither the weights nor the problems' files need to be on this machine.
    settings = _task_settings(config, split) | {
        'plan': delimiter_lib.settings_key(builders.plan(config))
    }
    opened = records_on_disk.open_split(config, workdir, split, kind)
    _check_models(opened, builders.routes(config))
    settings = {**opened.manifest.settings, **settings}
    _check_shared(opened, settings, config.problems[split])
    return directory
  problems = builders.problems(config, split)
  if kind == 'rollouts':
    check_behaviour(config, split, problems)
  asked = job(config, workdir, split, kind)
  if records_on_disk.is_shared(config, kind):
    # Another run owns the directory: this one reads it and never adds to it.
    opened = records_on_disk.open_split(config, workdir, split, kind)
    _check_shared(opened, asked.settings, len(problems))
    return directory
  builders.check_routes(config)
  with asked.writer(
      directory, problems, asked.settings, config.collect.shard_size
  ) as writer:
    if writer.missing():  # Else loading the models would take time for nothing.
      parts = asked.collect, asked.make_engines, writer
      if ray_collection.is_asked(config):
        parts = ray_collection.collector(
            config, workdir, split, kind, asked.settings, writer
        )
      _collect(config, problems, *parts, name=f'collect {kind} {split}')
  return directory


def _collect(config, problems, collect_all, make_engines, writer, name) -> None:
  """Collects what is missing."""
  engines = make_engines()
  # Greedy models: what others would compile depends on what they are asked.
  sampling = builders.sampling(config)
  engine_lib.prepare(
      [x for x in engines if not sampling.temperature_of(x.route)],
      min(config.collect.concurrency, len(writer.missing())),
  )
  asyncio.run(
      unattended_collection.collect_missing(
          collect_all,
          problems,
          engines,
          writer,
          specs=builders.billed_specs(config),
          concurrency=config.collect.concurrency,
          limits=builders.limits(config),
          name=name,
      )
  )


def _check_models(
    split: split_on_disk.Split, routes: Sequence[route_lib.Route]
) -> None:
  """Raises ValueError if a configuration contradicts the collected models.

  Without the weights, only names and given sizes and prices can be compared.
  """
  given = [{'name': x.name, **x.spec} for x in routes]
  for asked, spec in itertools.zip_longest(given, split.specs):
    if asked is None or spec is None or asked.items() - vars(spec).items():
      raise ValueError(
          f'{split.directory} was collected with the models '
          f'{[vars(x) for x in split.specs]}, but the routes are {given}. Use '
          'the same names, sizes and prices.'
      )


def _check_shared(
    split: split_on_disk.Split, settings: Mapping[str, Any], num_problems: int
) -> None:
  """Raises ValueError unless a shared directory has the records of a run.

  Args:
    split: of the records.
    settings: that determine the records.
    num_problems: number of problems that the run needs.
  """
  found = dict(split.manifest.settings)
  # More problems than needed are allowed.
  settings = {**settings, 'problems_hash': found.get('problems_hash')}
  hashed = manifest_lib.hash_json  # In JSON, tuples and lists are the same.
  if hashed(found) != hashed(settings):
    names = [
        name
        for name, value in settings.items()
        if name not in found or hashed(found[name]) != hashed(value)
    ]
    raise ValueError(
        f'{split.directory} was collected with other settings '
        f'({", ".join(names)} differ). Set data.directory to another '
        "directory, or to '' to collect in this run."
    )
  if split.manifest.num_problems < num_problems:
    raise ValueError(
        f'{split.directory} holds {split.manifest.num_problems} problems, but '
        f'this configuration needs {num_problems}. Collect more there first.'
    )


def main(config: ml_collections.ConfigDict, workdir: str, split: str) -> None:
  """Collects all kinds of records that a configuration needs of one split."""
  for kind, name in records_on_disk.needed(config):
    if name == split:
      directory = collect_split(config, workdir, split, kind)
      found = manifest_lib.load(directory)
      logging.info(split_on_disk.summary(found, directory))


if __name__ == '__main__':
  flags.DEFINE_enum('split', 'train', builders.SPLITS, 'Split to collect.')
  command_line.run(main, 'config', 'workdir', 'split', plan=dry_run.show)
