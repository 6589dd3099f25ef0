"""Answers test problems live, at named points, next to what replay predicts."""

import asyncio
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Sequence
import dataclasses
from typing import Any

import ml_collections
import numpy as np

from experiments import builders
from experiments import graded as graded_lib
from routing import costs
from routing import progress as progress_lib
from routing import protocols
from routing import types
from routing.outcomes import stopping as stopping_lib
from routing.engines import engine as engine_lib
from routing.outcomes import points as points_lib
from routing.features import traces
from routing.rollout import collect
from routing.rollout import driver
from routing.routers import learned

MakeEngines = Callable[[ml_collections.ConfigDict], Sequence[engine_lib.Engine]]
SAME_COST = 1e-4  # Costs are float32 in a batch; a token is worth more.


async def answer_all(
    config: ml_collections.ConfigDict,
    problems: Sequence[types.Problem],
    router: driver.Router,
    engines: Sequence[engine_lib.Engine],
    accounting: costs.Accounting,
    progress: progress_lib.Progress | None = None,
) -> list[types.Trajectory]:
  """Answers all problems under one router, as many at once as configured."""
  answered = {}

  async def answer(problem: types.Problem) -> types.Trajectory:
    return await driver.answer(
        problem,
        router,
        engines,
        protocol=builders.protocol(config),
        accounting=accounting,
        grade=builders.grader(config),
        # The seed of collection: the same requests as in the shards.
        seed=config.seed,
        sampling=builders.sampling(config),
    )

  await collect.collect_each(
      problems,
      answer,
      answered.__setitem__,
      concurrency=config.collect.concurrency,
      on_done=progress.update if progress else lambda: None,
  )
  return [answered[i] for i in range(len(problems))]


def predict(
    router: learned.LearnedRouter, batch: types.LadderBatch
) -> points_lib.Points:
  """What the ladders say that the router, at its point, will do."""
  scores, routes = graded_lib.member_choices(router, batch)[router.member]
  outcomes = stopping_lib.from_batch(batch, routes)
  return replay.at_thresholds(scores, outcomes, np.array([router.threshold]))


def compare(
    trajectories: Sequence[types.Trajectory],
    ladders: Sequence[types.Ladder],
    predicted: points_lib.Points,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
) -> dict[str, Any]:
  """Live figures next to the predicted ones, problem by problem.

  What a model wrote ahead in vain is in the cost, but no ladder knows of it: it
  hangs on what else was running, and a problem agrees that agrees without.
  """
  specs, ruler = accounting.specs, accounting.ruler
  all_large = np.array(
      [
          costs.ladder_costs(x, specs, ruler, draft_is_paid=False).all_large
          for x in ladders
      ]
  )
  cost, in_vain = (
      np.array([costs.total_cost(x, specs, ruler) for x in calls]) / all_large
      for calls in (
          [x.calls for x in trajectories],
          [traces.in_vain(x, protocol) for x in trajectories],
      )
  )
  correct = np.array([float(x.is_correct) for x in trajectories])
  agrees = (correct == predicted.correct[0]) & (
      np.abs(cost - in_vain - predicted.cost[0]) < SAME_COST
  )
  return {
      'num_problems': len(trajectories),
      'accuracy': float(correct.mean()),
      'cost': float(cost.mean()),
      'cost_in_vain': float(in_vain.mean()),
      'predicted_accuracy': float(predicted.accuracy[0]),
      'predicted_cost': float(predicted.mean_cost[0]),
      'num_agreeing': int(agrees.sum()),
  }


def first_rows(batch: types.LadderBatch, num: int) -> types.LadderBatch:
  """The first problems of a batch."""
  return types.LadderBatch(
      **{
          field.name: getattr(batch, field.name)[:num]
          for field in dataclasses.fields(batch)
      }
  )


def answer_at_points(
    config: ml_collections.ConfigDict,
    router: learned.LearnedRouter,
    seed: int,
    test: graded_lib.Graded,
) -> list[dict[str, Any]]:
  """One entry per named point of `router`, the router of a training seed.

  Answers the first `config.evaluation.live` test problems at each point.
  """
  ladders = test.ladders[: config.evaluation.live]
  if not ladders or not router.points:
    return []
  batch = first_rows(test.batch, len(ladders))
  accounting = router.card.accounting
  problems = [ladder.problem for ladder in ladders]

  routers = {point.name: router.at(point.name) for point in router.points}
  answers = answer_under(config, problems, routers.values(), accounting)
  return [
      {
          'name': name,
          'seed': seed,
          **compare(
              answered,
              ladders,
              predict(at_point, batch),
              accounting,
              builders.protocol(config),
          ),
      }
      for (name, at_point), answered in zip(
          routers.items(), answers, strict=True
      )
  ]


def answer_under(
    config: ml_collections.ConfigDict,
    problems: Sequence[types.Problem],
    routers: Collection[driver.Router],
    accounting: costs.Accounting,
    make_engines: MakeEngines | None = None,
) -> list[list[types.Trajectory]]:
  """All problems under each router in turn, by engines that stay alive."""

  async def run() -> list[list[types.Trajectory]]:
    engines = (make_engines or builders.steady_engines)(config)
    total = len(problems) * len(routers)
    try:
      with progress_lib.Progress(total, 'live', unit='problem') as progress:
        return [
            await answer_all(
                config, problems, router, engines, accounting, progress
            )
            for router in routers
        ]
    finally:
      for engine in engines:
        await engine.close()

  return asyncio.run(run())


def measure(
    config: ml_collections.ConfigDict,
    routers: Collection[driver.Router],
    rollouts: Sequence[types.Rollouts],
    accounting: costs.Accounting,
    make_engines: MakeEngines | None = None,
) -> points_lib.Points:
  """K routers on N problems, live, in whatever protocol is configured.

  Where control returns no record tells what another router would have got, so
  it must be tried. E.g. of a trained one at thresholds:
  `[router.with_threshold(0, kappa) for kappa in (0.1, 0.5, 0.9)]`.

  Args:
    config: names engines and protocol.
    routers: K of them.
    rollouts: of the N problems, for what the largest model alone does there.
    accounting: what is paid, and what the routers are told of it.
    make_engines: such as remember their replies; None = the configured ones.
  """
  problems = [x.problem for x in rollouts]
  answers = answer_under(config, problems, routers, accounting, make_engines)
  specs, ruler = accounting.specs, accounting.ruler
  all_large = np.array(
      [costs.completion_cost(x.reference, specs, ruler) for x in rollouts]
  )
  paid = [[costs.total_cost(x.calls, specs, ruler) for x in y] for y in answers]
  right = np.array([[float(x.is_correct) for x in y] for y in answers])
  alone = np.array([float(x.reference.is_correct) for x in rollouts])
  return points_lib.Points(
      correct=right,
      cost=np.array(paid) / all_large,
      loss=alone * (1 - right),
      gain=right * (1 - alone),
  )
