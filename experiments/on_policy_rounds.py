"""Collecting with the policies that are being trained, between their steps.

Every `config.on_policy.every` gradient steps the members, in turn, answer
problems of train with the parameters that they have by then, through the driver
that all collecting goes through. What they write stays under the run, in
`rollouts/round<n>/`, each decision with its probability; so a run that is
killed goes on with what it has, and equals the one that was not. Where the
round is several steps long, the ratios account for the steps since.
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
from routing.engines import resilience
from routing.features import batching
from routing.rollout import behaviour_rollouts
from routing.routers import behaviour as behaviour_lib
from routing.routers import card as card_lib
from routing.routers import learned
from routing.shards import reader
from routing.shards import writer as writer_lib
from routing.training import state as state_lib

FOLDER = 'rollouts'  # Of a run.


def check_engines(
    config: ml_collections.ConfigDict, specs: tuple[costs.RouteSpec, ...]
) -> None:
  """Raises ValueError unless the engines are those of the shards.

  Or if they would evict one another's cache.
  """
  builders.check_concurrency(config)
  found = builders.specs(config)
  if found != specs:
    raise ValueError(
        f'The rollouts of train are by {_names(specs)}; the configuration '
        f'names {_names(found)}, which must be the same.'
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
  """A collector whose engines stay alive until the block ends.

  Args:
    config: `on_policy`, `collect`, and what names the engines.
    references: of train; the problems, and what the largest model does there.
    view: how trajectories become arrays.
    card: of the router that is being trained.
    directory: of the run.
    seed: of the run.
    make_engines: gives the engines.
  """
  check_engines(config, view.accounting.specs)
  engines = make_engines()
  with asyncio.Runner() as runner:
    try:
      yield Collector(
          config, references, view, card, directory, seed, engines, runner
      )
    finally:
      for engine in engines:
        runner.run(engine.close())


class Collector:
  """From a round and the state before it to trajectories; see `collecting`.

  Args:
    engines: one a route, smallest first.
    runner: of the loop that the engines live in.
    The others are those of `collecting`.
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
    # Of all rounds together: the ceiling is that of the run.
    self._meter = resilience.Meter(view.accounting.specs, self._limits)
    self._engines = [
        resilience.ResilientEngine(x, self._limits, self._meter, seed=x.route)
        for x in engines
    ]

  def __call__(
      self, number: int, state: state_lib.TrainState
  ) -> types.TrajectoryBatch:
    """The trajectories of a round; collects those that are not there yet.

    Raises:
      ValueError: if the round's directory holds something else.
      engine_lib.Stop: if it came to an end before all problems did.
    """
    directory = self._directory / FOLDER / f'round{number:05d}'
    problems = self._draw_problems(number)
    plan = self._plan(number)
    settings = {
        'models': [dataclasses.asdict(x) for x in self._view.accounting.specs],
        'plan': dataclasses.asdict(plan),
        'behaviour': {'kind': 'on_policy', 'seed': self._seed, 'round': number},
    }
    writer = writer_lib.RolloutWriter(
        directory, problems, settings, self._config.collect.shard_size
    )
    if writer.missing():
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
    """Each problem once before any comes again; pure in seed and round."""
    rows = batching.minibatch_indices(
        self._seed, number, len(self._problems), self._config.on_policy.problems
    )
    return [self._problems[row] for row in rows]

  def _plan(self, number: int) -> behaviour_rollouts.Plan:
    """Coins and noise of a round are its own."""
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
    """Has what is missing of a round written."""
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
        on_refused=watch.refuse,
    )
    watch.note_refused()


def taking_turns(
    router: learned.LearnedRouter,
    problems: list[types.Problem],
    plan: behaviour_rollouts.Plan,
) -> behaviour_rollouts.Behaviour:
  """The members of a router, one after the other; each draws by its chances."""
  policies = [router.with_threshold(k, 0.0) for k in range(router.num_policies)]
  places = {problem.id: place for place, problem in enumerate(problems)}

  def draw(problem: types.Problem, trajectory: int):
    turn = places[problem.id] * plan.num_trajectories + trajectory
    return behaviour_lib.DrawingRouter(
        policies[turn % len(policies)], plan.seed, problem.id, trajectory
    )

  return draw
