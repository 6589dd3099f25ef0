"""What routers earn when the problems are answered anew, by engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib
import re
from typing import Any

import numpy as np

from routing import costs
from routing import progress as progress_lib
from routing import protocols
from routing import types
from routing.engines import engine as engine_lib
from routing.features import traces
from routing.grading import equivalence
from routing.outcomes import frontier as frontier_lib
from routing.outcomes import points as points_lib
from routing.outcomes import sources
from routing.rollout import collect
from routing.rollout import driver
from routing.shards import json_cache
from routing.shards import manifest as manifest_lib

SAME_COST = 1e-4  # Costs are float32 in a batch; a token is worth more.


@dataclasses.dataclass(frozen=True)
class Answering:
  """How problems are answered live.

  make_engines: gives the engines, one a route; they are closed after use.
  protocol: who may write when.
  accounting: what is paid, and what routers are told of it.
  sampling: how traces are written.
  grade: the grader.
  seed: of the requests; that of collection, for the same requests.
  concurrency: problems in flight; answers do not depend on it.
  made_by: JSON-like, the models and what else of the back ends answers depend
    on, e.g. the hashes of the weights. Kept answers of another are not used.
  """

  make_engines: Callable[[], Sequence[engine_lib.Engine]]
  protocol: protocols.Protocol
  accounting: costs.Accounting
  sampling: driver.Sampling
  grade: equivalence.Grader
  seed: int = 0
  concurrency: int = 64
  made_by: Any = None

  def key(self) -> dict[str, Any]:
    """All that answers follow from, besides the problems and the router."""
    return {
        'protocol': dataclasses.asdict(self.protocol),
        'sampling': dataclasses.asdict(self.sampling),
        'accounting': dataclasses.asdict(self.accounting),
        'grade': getattr(self.grade, '__qualname__', type(self.grade).__name__),
        'seed': self.seed,
        'made_by': self.made_by,
    }


async def answer_all(
    answering: Answering,
    problems: Sequence[types.Problem],
    router: driver.Router,
    engines: Sequence[engine_lib.Engine],
    progress: progress_lib.Progress | None = None,
) -> list[types.Trajectory]:
  """Answers all problems under one router, with engines that stay alive."""
  answered = {}

  async def answer(problem: types.Problem) -> types.Trajectory:
    return await driver.answer(
        problem,
        router,
        engines,
        protocol=answering.protocol,
        accounting=answering.accounting,
        grade=answering.grade,
        seed=answering.seed,
        sampling=answering.sampling,
    )

  await collect.collect_each(
      problems,
      answer,
      answered.__setitem__,
      concurrency=answering.concurrency,
      on_begin=progress.begin if progress else lambda: None,
      on_done=progress.update if progress else lambda: None,
  )
  return [answered[i] for i in range(len(problems))]


def answer_under(
    answering: Answering,
    problems: Sequence[types.Problem],
    routers: Collection[driver.Router],
    on_answered: Callable[[int, list[types.Trajectory]], None] | None = None,
) -> list[list[types.Trajectory]]:
  """Answers all problems under each router in turn.

  Args:
    answering: how.
    problems: N problems.
    routers: K routers.
    on_answered: is told the index of each router, and its N answers, before
      the next router is asked.
  """

  async def run() -> list[list[types.Trajectory]]:
    engines, answers = answering.make_engines(), []
    total = len(problems) * len(routers)
    try:
      with progress_lib.Progress(total, 'live', unit='problem') as progress:
        for index, router in enumerate(routers):
          answers.append(
              await answer_all(answering, problems, router, engines, progress)
          )
          if on_answered:
            on_answered(index, answers[-1])
      return answers
    finally:
      for engine in engines:
        await engine.close()

  return asyncio.run(run())


@dataclasses.dataclass(frozen=True)
class Live:
  """A source that answers the problems at each threshold.

  answering: how.
  problems: the N problems.
  large_correct: `[N]` float, the largest model alone is right.
  large_cost: cost metric -> `[N]` float64, what it costs, in its own unit.
  random_router: gives the router that hands over at a rate, for `at_rates`.
  met: a source of scores for the grid: what a behaviour policy met on the same
    problems; None = thresholds come from elsewhere.
  folder: keeps what was answered, one file a threshold, so that a run that is
    killed goes on and other runs ask nothing twice; None = nothing is kept.
  """

  answering: Answering
  problems: Sequence[types.Problem]
  large_correct: np.ndarray
  large_cost: Mapping[str, np.ndarray]
  random_router: Callable[[float], driver.Router] | None = None
  met: sources.Recorded | None = None
  folder: pathlib.Path | None = None
  is_graded_once: bool = dataclasses.field(default=True, init=False)
  kind: str = dataclasses.field(default='live', init=False)

  def grid(self, family: sources.Family, size: int) -> np.ndarray:
    """See `sources.Source.grid`.

    Raises:
      ValueError: if no scores were met beforehand.
    """
    if self.met is None:
      raise ValueError(
          'A grid of thresholds takes scores that were met on other answers to '
          'these problems; give trajectories of a behaviour policy.'
      )
    return self.met.grid(family, size)

  def answerable(
      self, family: sources.Family, thresholds: np.ndarray
  ) -> np.ndarray:
    """Every threshold is."""
    del family
    return np.ones(len(thresholds), bool)

  def earn(
      self, family: sources.Family, thresholds: np.ndarray, metric: str
  ) -> points_lib.Points:
    """See `sources.Source.earn`; asks the models what is not kept yet."""
    # JSON knows no infinity; these are the same to any router.
    kappas = np.clip(thresholds, -1e300, 1e300).tolist()
    routers = [family.at(kappa) for kappa in thresholds]
    return self._measured(family.fingerprint, kappas, routers, metric)

  def frontier(
      self, family: sources.Family, metric: str, size: int
  ) -> frontier_lib.Frontier:
    """See `sources.Source.frontier`."""
    grid = self.grid(family, size)
    return sources.answered_frontier(self, family, grid, metric)

  def at_rates(self, rates: Sequence[float], metric: str) -> points_lib.Points:
    """See `sources.Source.at_rates`; one draw at each rate."""
    routers = [self.random_router(float(rate)) for rate in rates]
    return self._measured('random', list(map(float, rates)), routers, metric)

  def largest_alone(self) -> points_lib.Points:
    """See `sources.Source.largest_alone`."""
    correct = self.large_correct[None].astype(np.float64)
    zeros = np.zeros_like(correct)
    return points_lib.Points(
        correct=correct, cost=zeros + 1, loss=zeros, gain=zeros
    )

  def _measured(self, name, knobs, routers, metric) -> points_lib.Points:
    """K routers on N problems; `name` and `knobs` say which they are."""
    keys = [self._key(name, knob) for knob in knobs]
    found = [self._kept(key) for key in keys]
    missing = [i for i, content in enumerate(found) if content is None]

    def note(index: int, answers: list[types.Trajectory]) -> None:
      place = missing[index]
      found[place] = self._measures(answers)
      if self.folder is not None:
        json_cache.keep(self._path(keys[place]), keys[place], found[place])

    if missing:
      asked = [routers[i] for i in missing]
      answer_under(self.answering, self.problems, asked, note)
    correct = np.array([x['correct'] for x in found])
    paid = np.array([x['cost'][metric] for x in found])
    alone = self.large_correct
    return points_lib.Points(
        correct=correct,
        cost=paid / self.large_cost[metric],
        loss=alone * (1 - correct),
        gain=correct * (1 - alone),
    )

  def _key(self, name: str, knob: Any) -> dict[str, Any]:
    """All that the answers under one router follow from."""
    return {
        'router': name,
        'threshold': knob,
        'problems': manifest_lib.hash_problems(self.problems),
        **self.answering.key(),
    }

  def _path(self, key: Mapping[str, Any]) -> pathlib.Path:
    """The file of one router's answers."""
    stem = re.sub(r'\W+', '-', key['router'])[:60]
    return self.folder / f'{stem}-{manifest_lib.hash_json(key)[:16]}.json'

  def _kept(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
    return (
        None if self.folder is None else json_cache.kept(self._path(key), key)
    )

  def _measures(self, answers: Sequence[types.Trajectory]) -> dict[str, Any]:
    """Correctness and cost in each metric, JSON-like, `[N]` each."""
    specs = self.answering.accounting.specs
    return {
        'correct': [float(x.is_correct) for x in answers],
        'cost': {
            metric: [
                float(costs.total_cost(x.calls, specs, metric)) for x in answers
            ]
            for metric in costs.RULERS
        },
    }


def compare(
    trajectories: Sequence[types.Trajectory],
    large_cost: np.ndarray,
    predicted: points_lib.Points,
    answering: Answering,
) -> dict[str, Any]:
  """Live figures beside predicted ones, problem by problem.

  Tokens that a model wrote ahead and nobody used are in the live cost. What is
  recorded cannot know of them, since they depend on what else was running: a
  problem agrees if it does without them.

  Args:
    trajectories: N live answers under one router.
    large_cost: `[N]`, what the largest model alone costs, in the metric of the
      accounting.
    predicted: one policy on the same problems.
    answering: how they were answered.
  """
  specs, metric = answering.accounting.specs, answering.accounting.ruler
  cost, wasted = (
      np.array([costs.total_cost(x, specs, metric) for x in calls]) / large_cost
      for calls in (
          [x.calls for x in trajectories],
          [traces.in_vain(x, answering.protocol) for x in trajectories],
      )
  )
  correct = np.array([float(x.is_correct) for x in trajectories])
  agrees = (correct == predicted.correct[0]) & (
      np.abs(cost - wasted - predicted.cost[0]) < SAME_COST
  )
  return {
      'num_problems': len(trajectories),
      'accuracy': float(correct.mean()),
      'cost': float(cost.mean()),
      'cost_in_vain': float(wasted.mean()),
      'predicted_accuracy': float(predicted.accuracy[0]),
      'predicted_cost': float(predicted.mean_cost[0]),
      'num_agreeing': int(agrees.sum()),
  }
