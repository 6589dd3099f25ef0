"""Collects trajectories with the policies in training, between gradient steps.

Every `config.on_policy.every` gradient steps, the policies of the budget levels
take turns to answer problems of train with their current parameters. This is
one round. It runs through the same driver as all other collection.

The trajectories are saved in `rollouts/round<n>/` of the run, with the action
probability of each decision. A run that is killed continues from them, and
equals a run that was never killed. During a round the policies change with each
gradient step; the importance ratios account for that.
"""

import asyncio
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import pathlib

from absl import logging
import ml_collections
import numpy as np

from experiments import builders
from experiments import training_data
from experiments import unattended_collection
from routing import costs
from routing import types
from routing.engines import engine as engine_lib
from routing.engines import meter as meter_lib
from routing.engines import resilience
from routing.features import batching
from routing.rollout import behaviour_rollouts
from routing.routers import behaviour as behaviour_lib
from routing.routers import card as card_lib
from routing.routers import learned
from routing.shards import reader
from routing.shards import writer as writer_lib
from routing.tasks import delimiter as delimiter_lib
from routing.training import state as state_lib

FOLDER = 'rollouts'  # Within the directory of a training run.


def check_engines(
    config: ml_collections.ConfigDict, specs: tuple[costs.RouteSpec, ...]
) -> None:
  """Raises ValueError unless the engines are those that wrote the shards.

  Also raises it if `collect.concurrency` exceeds the cache slots.
  """
  builders.check_routes(config)
  found = builders.specs(config)
  if found != specs:
    raise ValueError(
        f'The rollouts of train were collected with {_names(specs)}; the '
        f'configuration names {_names(found)}. They must be the same.'
    )


def _names(specs: tuple[costs.RouteSpec, ...]) -> str:
  return ', '.join(f'{x.name} ({x.parameters:,} parameters)' for x in specs)


@contextlib.contextmanager
def collecting(
    config: ml_collections.ConfigDict,
    references: list[types.Rollouts],
    view: training_data.View,
    card: card_lib.Card,
    directory: pathlib.Path,
    seed: int,
    make_engines: Callable[[], list[engine_lib.Engine]],
) -> Iterator['Collector']:
  """Yields a collector whose engines stay alive until the block ends.

  Args:
    config: `on_policy`, `collect`, and the fields that name the engines.
    references: the problems of train, with the largest model's own answers.
    view: how trajectories become arrays.
    card: of the router that is being trained.
    directory: of the training run.
    seed: of the training run.
    make_engines: returns the engines.

  Raises:
    ValueError: see `check_engines`.
  """
  check_engines(config, view.accounting.specs)
  engines = make_engines()
  # One event loop for all rounds: engines are bound to the loop that they were
  # first used in, and their models and caches outlive a round.
  with asyncio.Runner() as runner:
    try:
      yield Collector(
          config, references, view, card, directory, seed, engines, runner
      )
    finally:
      for engine in engines:
        runner.run(engine.close())


class Collector:
  """Maps (round, training state) to trajectories; see `collecting`.

  Args:
    engines: one per route, smallest first.
    runner: runs the event loop of the engines.
    The other arguments are those of `collecting`.
  """

  def __init__(
      self,
      config: ml_collections.ConfigDict,
      references: list[types.Rollouts],
      view: training_data.View,
      card: card_lib.Card,
      directory: pathlib.Path,
      seed: int,
      engines: list[engine_lib.Engine],
      runner: asyncio.Runner,
  ):
    self._config, self._view, self._card = config, view, card
    self._problems = [x.problem for x in references]
    self._references = {x.problem.id: x.reference for x in references}
    self._directory, self._seed, self._runner = directory, seed, runner
    self._is_shared = config.network.get('is_conditioned', False)
    self._limits = builders.limits(config)
    # One meter for all rounds: the spending limit is per run.
    self._meter = meter_lib.Meter(
        builders.billed_specs(config),
        self._limits.dollars,
        self._limits.tokens,
    )
    self._engines = [
        resilience.ResilientEngine(x, self._limits, self._meter, seed=x.route)
        for x in engines
    ]

  def __call__(
      self, number: int, state: state_lib.TrainState
  ) -> types.TrajectoryBatch:
    """Returns the trajectories of a round; collects those that are missing.

    Args:
      number: of the round, from 0.
      state: the training state at the start of the round.

    Raises:
      ValueError: if the round's directory holds records of other settings.
      engine_lib.Stop: if the collection ended before all problems were done.
    """
    directory = self._directory / FOLDER / f'round{number:05d}'
    problems = self._draw_problems(number)
    plan = self._plan(number)
    settings = {
        'models': [dataclasses.asdict(x) for x in self._view.accounting.specs],
        'plan': delimiter_lib.settings_key(plan),
        'behaviour': {'kind': 'on_policy', 'seed': self._seed, 'round': number},
    }
    with writer_lib.RolloutWriter(
        directory, problems, settings, self._config.collect.shard_size
    ) as writer:
      if writer.missing():
        # The current parameters, not the best ones: ratios must be near 1.
        router = learned.LearnedRouter(
            self._card,
            state_lib.last_params(state, is_shared=self._is_shared),
            self._view.statistics,
        )
        draw = taking_turns(router, problems, plan)
        self._runner.run(self._collect(problems, draw, plan, writer))
    data = self._view.trajectories(reader.read_rollouts(directory))
    logging.info(
        'Round %d: %d trajectories, accuracy %.3f, cost %.3f; %s so far.',
        number,
        len(data.mask),
        data.correct.mean(),
        data.costs.sum() / len(data.mask),
        self._meter,
    )
    return data

  def _draw_problems(self, number: int) -> list[types.Problem]:
    """Returns the problems of a round, a function of seed and round only.

    Over the rounds, every problem is drawn once before any is drawn again.
    """
    rows = batching.minibatch_indices(
        self._seed, number, len(self._problems), self._config.on_policy.problems
    )
    return [self._problems[row] for row in rows]

  def _plan(self, number: int) -> behaviour_rollouts.Plan:
    """Returns the plan of a round; every round has random draws of its own."""
    key = np.random.SeedSequence([self._config.seed, self._seed, number])
    return behaviour_rollouts.Plan(
        protocol=self._view.protocol,
        sampling=builders.sampling(self._config),
        num_trajectories=self._config.on_policy.trajectories,
        seed=int(key.generate_state(1)[0]),
    )

  async def _collect(
      self,
      problems: list[types.Problem],
      draw: behaviour_rollouts.Behaviour,
      plan: behaviour_rollouts.Plan,
      writer: writer_lib.RolloutWriter,
  ) -> None:
    """Collects the missing trajectories of a round."""
    watch = unattended_collection.Watch(writer, self._meter, self._limits)
    await behaviour_rollouts.collect_rollouts(
        [problems[i] for i in watch.missing],
        self._engines,
        watch.take,
        behaviour=draw,
        plan=plan,
        accounting=self._view.accounting,
        grade=builders.grader(self._config),
        references=self._references,
        concurrency=self._config.collect.concurrency,
        on_failed=watch.fail,
        may_begin=watch.may_begin,
    )
    watch.finish()


def taking_turns(
    router: learned.LearnedRouter,
    problems: list[types.Problem],
    plan: behaviour_rollouts.Plan,
) -> behaviour_rollouts.Behaviour:
  """Returns a behaviour in which the policies of a router take turns.

  Every trajectory has one policy, which draws from its action probabilities.
  All policies get equally many trajectories of a round, up to one.
  """
  # The threshold is unused: `DrawingRouter` draws instead of comparing.
  policies = [router.with_threshold(k, 0.0) for k in range(router.num_policies)]
  places = {problem.id: place for place, problem in enumerate(problems)}

  def draw(problem: types.Problem, trajectory: int):
    # By place, not by order of calls: a resumed round gives each trajectory to
    # the same policy.
    turn = places[problem.id] * plan.num_trajectories + trajectory
    return behaviour_lib.DrawingRouter(
        policies[turn % len(policies)], plan.seed, problem.id, trajectory
    )

  return draw
