"""Evaluates routers by answering the problems again with engines."""

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
from routing.grading import equivalence
from routing.outcomes import frontier as frontier_lib
from routing.outcomes import points as points_lib
from routing.outcomes import sources
from routing.rollout import collect
from routing.rollout import driver
from routing.shards import json_cache
from routing.shards import manifest as manifest_lib

# `compare` treats costs as equal if they differ by less than this fraction of
# the cost of the largest model alone. The tolerance lies far above the rounding
# of float32, in which batches store costs, and far below the cost of one token.
SAME_COST = 1e-4


@dataclasses.dataclass(frozen=True)
class Answering:
  """The settings under which engines answer problems live.

  make_engines: returns the engines, one per route; the engines are closed after
    use.
  protocol: which route may write which step.
  accounting: cost accounting, from which routers' cost features are computed.
  sampling: temperature and limits of each answer.
  grade: the grader of final answers.
  seed: seed of the requests. With the seed of the collection, the same requests
    are sent as in the collection.
  concurrency: number of problems answered at the same time; answers do not
    depend on it.
  made_by: JSON-like; the models and everything else about the back ends that
    changes answers, e.g. hashes of the weights. Cached answers with another
    value are not used.
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
    """Returns the settings that answers depend on, as part of a cache key."""
    # The concurrency and the engines' addresses are left out: answers do not
    # depend on them, so cached answers should survive their change.
    return {
        'protocol': dataclasses.asdict(self.protocol),
        'sampling': dataclasses.asdict(self.sampling),
        'accounting': dataclasses.asdict(self.accounting),
        'grade': self.grade.name,
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
  """Answers all problems with one router; the caller closes the engines.

  Returns:
    N trajectories, in the order of `problems`.
  """
  answered = {}  # Index of the problem -> answer: problems finish in any order.

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
  """Answers all problems with each router in turn, on newly made engines.

  Args:
    answering: the settings of the answers; it makes the engines.
    problems: N problems.
    routers: K routers.
    on_answered: called with the index of each router and its N answers, before
      the next router starts.

  Returns:
    For each router its N trajectories, in the order of `problems`.
  """

  async def run() -> list[list[types.Trajectory]]:
    engines, answers = answering.make_engines(), []
    total = len(problems) * len(routers)
    try:
      with progress_lib.Progress(total, 'live', unit='problem') as progress:
        # Routers run one after the other: the engines keep their prefix caches,
        # and an interruption loses the answers of one router only.
        for index, router in enumerate(routers):
          answers.append(
              await answer_all(answering, problems, router, engines, progress)
          )
          if on_answered:
            on_answered(index, answers[-1])
      return answers
    finally:
      # Engines are closed in the event loop that used them, because the HTTP
      # client of an engine is bound to one event loop.
      for engine in engines:
        await engine.close()

  return asyncio.run(run())


@dataclasses.dataclass(frozen=True)
class Live:
  """A source in which models answer the problems again at each threshold.

  answering: the settings of the answers.
  problems: the N problems.
  large_correct: `[N]` float, 1 where the largest model alone is right.
  large_cost: cost metric -> `[N]` float64, cost of the largest model alone, in
    the unit of the metric.
  random_router: makes the random router of a hand-over rate; only `at_rates`
    needs it.
  grid_source: recorded trajectories on the same problems, whose scores give the
    grid of thresholds. If None, `grid` and `frontier` raise an error.
  folder: cache of answers, one file per threshold. An interrupted run resumes
    from the cache, and other runs reuse it; None = no cache.
  """

  answering: Answering
  problems: Sequence[types.Problem]
  large_correct: np.ndarray
  large_cost: Mapping[str, np.ndarray]
  random_router: Callable[[float], driver.Router] | None = None
  grid_source: sources.Recorded | None = None
  folder: pathlib.Path | None = None
  is_graded_once: bool = dataclasses.field(default=True, init=False)
  kind: str = dataclasses.field(default='live', init=False)

  def grid(self, family: sources.Family, size: int) -> np.ndarray:
    """See `Source.grid`; quantiles of the scores of `grid_source`.

    Raises:
      ValueError: if there is no `grid_source`.
    """
    if self.grid_source is None:
      raise ValueError(
          'A grid of thresholds needs scores from earlier answers to these '
          'problems; give trajectories of a behaviour policy as grid_source.'
      )
    return self.grid_source.grid(family, size)

  def answerable(
      self, family: sources.Family, thresholds: np.ndarray
  ) -> np.ndarray:
    """Returns True for every threshold, since models can answer at any."""
    del family
    return np.ones(len(thresholds), bool)

  def evaluate(
      self, family: sources.Family, thresholds: np.ndarray, metric: str
  ) -> points_lib.Points:
    """See `sources.Source.evaluate`; runs models for uncached thresholds."""
    # Cache keys are JSON, which has no infinity. In the keys, a finite number
    # beyond every score stands for it; the routers get the real threshold.
    kappas = np.clip(thresholds, -1e300, 1e300).tolist()
    routers = [family.at(kappa) for kappa in thresholds]
    return self._outcomes(family.fingerprint, kappas, routers, metric)

  def frontier(
      self, family: sources.Family, metric: str, size: int
  ) -> frontier_lib.Frontier:
    """See `sources.Source.frontier`."""
    grid = self.grid(family, size)
    return sources.frontier_on_grid(self, family, grid, metric)

  def at_rates(self, rates: Sequence[float], metric: str) -> points_lib.Points:
    """See `sources.Source.at_rates`; runs the random router once per rate."""
    # The draws are hashes of seed, question and step, so a second run repeats
    # them and finds its answers in the cache.
    routers = [self.random_router(float(rate)) for rate in rates]
    return self._outcomes('random', list(map(float, rates)), routers, metric)

  def largest_alone(self) -> points_lib.Points:
    """See `sources.Source.largest_alone`."""
    correct = self.large_correct[None].astype(np.float64)
    zeros = np.zeros_like(correct)
    return points_lib.Points(
        correct=correct, cost=zeros + 1, loss=zeros, gain=zeros
    )

  def _outcomes(self, name, settings, routers, metric) -> points_lib.Points:
    """Returns the outcomes of K routers, from the cache or from engines.

    Args:
      name: name of the router family in the cache.
      settings: the K thresholds or rates of the routers, for the cache keys.
      routers: the K routers.
      metric: cost metric.
    """
    # The cost metric is not part of the key: a cache file holds the costs in
    # every metric.
    keys = [self._key(name, setting) for setting in settings]
    found = [self._cached(key) for key in keys]
    missing = [i for i, content in enumerate(found) if content is None]

    # `answer_under` calls `store` after each router, so that an interruption
    # loses the answers of one router at most.
    def store(index: int, answers: list[types.Trajectory]) -> None:
      place = missing[index]
      found[place] = self._measure(answers)
      if self.folder is not None:
        json_cache.save(self._path(keys[place]), keys[place], found[place])

    if missing:
      uncached = [routers[i] for i in missing]
      answer_under(self.answering, self.problems, uncached, store)
    # Each problem has one answer, graded 0 or 1, so loss and gain are products.
    correct = np.array([x['correct'] for x in found])
    cost = np.array([x['cost'][metric] for x in found])  # `[K, N]`.
    alone = self.large_correct
    return points_lib.Points(
        correct=correct,
        cost=cost / self.large_cost[metric],
        loss=alone * (1 - correct),
        gain=correct * (1 - alone),
    )

  def _key(self, name: str, setting: Any) -> dict[str, Any]:
    """Returns the cache key: everything that a router's answers depend on."""
    return {
        'router': name,
        'threshold': setting,
        'problems': manifest_lib.hash_problems(self.problems),
        **self.answering.key(),
    }

  def _path(self, key: Mapping[str, Any]) -> pathlib.Path:
    """Returns the cache file of one router's answers."""
    # The stem lets people find a file; the hash of the whole key makes the name
    # unique.
    stem = re.sub(r'\W+', '-', key['router'])[:60]
    return self.folder / f'{stem}-{manifest_lib.hash_json(key)[:16]}.json'

  def _cached(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the cached outcomes of one router, or None."""
    return (
        None if self.folder is None else json_cache.load(self._path(key), key)
    )

  def _measure(self, answers: Sequence[types.Trajectory]) -> dict[str, Any]:
    """Returns grade and costs of N answers in the JSON form of the cache."""
    specs = self.answering.accounting.specs
    return {
        'correct': [float(x.is_correct) for x in answers],
        'cost': {
            metric: [
                float(costs.total_cost(x.calls, specs, metric)) for x in answers
            ]
            for metric in costs.COST_METRICS
        },
    }


def compare(
    trajectories: Sequence[types.Trajectory],
    large_cost: np.ndarray,
    predicted: points_lib.Points,
    answering: Answering,
) -> dict[str, Any]:
  """Compares live answers with predicted outcomes, problem by problem.

  The live cost includes wasted tokens, which a model wrote speculatively and
  which did not enter the answer. Records cannot predict their number, because
  it depends on what else was running. A problem therefore counts as agreeing if
  its grade and its cost without wasted tokens are as predicted.

  Args:
    trajectories: N live answers under one router.
    large_cost: `[N]`, cost of the largest model alone, in the metric of
      `answering.accounting`.
    predicted: `[1, N]` predicted outcomes of this router on the same problems.
    answering: the settings of the live answers.

  Returns:
    Accuracy and cost, live and predicted, with the number of agreeing problems.
  """
  specs, metric = answering.accounting.specs, answering.accounting.metric
  # The total cost and its wasted part, `[N]` each, as fractions of the cost of
  # the largest model alone.
  cost, wasted = (
      np.array([costs.total_cost(x, specs, metric) for x in calls]) / large_cost
      for calls in (
          [x.calls for x in trajectories],
          [[c for c in x.calls if c.kind == 'wasted'] for x in trajectories],
      )
  )
  correct = np.array([float(x.is_correct) for x in trajectories])
  # Equal grade and cost stand for the same steps by the same models.
  agrees = (correct == predicted.correct[0]) & (
      np.abs(cost - wasted - predicted.cost[0]) < SAME_COST
  )
  return {
      'num_problems': len(trajectories),
      'accuracy': float(correct.mean()),
      'cost': float(cost.mean()),
      'cost_wasted': float(wasted.mean()),
      'predicted_accuracy': float(predicted.accuracy[0]),
      'predicted_cost': float(predicted.mean_cost[0]),
      'num_agreeing': int(agrees.sum()),
  }
