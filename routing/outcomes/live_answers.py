"""Answers problems live with engines, and keeps each answer on the disk.

The answers of one router are in one file, to which each answer is appended when
it is finished. So an interruption, a crash or a spending ceiling loses none,
and the same command continues with the answers that are missing. A problem that
an engine refuses is kept as well, with the reason, and is not asked again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import dataclasses
import pathlib
from typing import Any

import numpy as np

from routing import costs
from routing import progress as progress_lib
from routing import protocols
from routing import types
from routing.engines import engine as engine_lib
from routing.grading import equivalence
from routing.outcomes import failures as failures_lib
from routing.outcomes import kept_answers
from routing.outcomes import token_records
from routing.rollout import collect
from routing.rollout import cut_answers
from routing.rollout import driver
from routing.rollout import step_requests
from routing.shards import lock as lock_lib
from routing.tasks import delimiter as delimiter_lib

Answer, Refused = kept_answers.Answer, kept_answers.Refused
Outcome = kept_answers.Outcome


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
  max_failures: number of problems in a row that may fail, before the back end
    and not the problems must be at fault; 0 = no limit.
  priced: the models that these answers may be charged for. Cached answers
    depend on them, and not on other models of `accounting`. None = on all.
  """

  make_engines: Callable[[], Sequence[engine_lib.Engine]]
  protocol: protocols.Protocol
  accounting: costs.Accounting
  sampling: step_requests.Sampling
  grade: equivalence.Grader
  seed: int = 0
  concurrency: int = 64
  made_by: Any = None
  max_failures: int = 20
  priced: Sequence[costs.RouteSpec] | None = None

  def key(self) -> dict[str, Any]:
    """Returns the settings that answers depend on, as part of a cache key."""
    # The concurrency and the engines' addresses are left out: answers do not
    # depend on them, so cached answers should survive their change.
    accounting = self.accounting
    if self.priced is not None:
      accounting = dataclasses.replace(accounting, specs=tuple(self.priced))
    return {
        'protocol': dataclasses.asdict(self.protocol),
        'sampling': delimiter_lib.settings_key(self.sampling),
        'accounting': dataclasses.asdict(accounting),
        'grade': self.grade.name,
        'seed': self.seed,
        'made_by': self.made_by,
    }


@dataclasses.dataclass(frozen=True)
class Asked:
  """A router that answers live, and its name in the cache.

  router: the router; or a system that writes whole answers itself, with the
    method `answer` of `routers.router.Answerer`.
  name: name of its family.
  setting: its threshold or thresholds, or its rate.
  protocol: which route may write which step; None = as in `Answering`.
  """

  router: Any
  name: str
  setting: Any
  protocol: protocols.Protocol | None = None

  def key(self, answering: Answering) -> dict[str, Any]:
    """Returns what the answers depend on, JSON-like, as the key of a file."""
    settings = answering.key()
    if self.protocol is not None:
      settings['protocol'] = dataclasses.asdict(self.protocol)
    # JSON has no infinity. A finite number beyond every score stands for it;
    # the router has the real threshold.
    threshold = np.clip(self.setting, -1e300, 1e300).tolist()
    return {'router': self.name, 'threshold': threshold, **settings}

  async def answer(
      self,
      answering: Answering,
      problem: types.Problem,
      engines: Sequence[engine_lib.Engine],
  ) -> types.Trajectory:
    """Answers one problem."""
    settings = dict(
        seed=answering.seed, sampling=answering.sampling, grade=answering.grade
    )
    if hasattr(self.router, 'answer'):
      return await self.router.answer(problem, engines, **settings)
    return await driver.answer(
        problem,
        self.router,
        engines,
        protocol=self.protocol or answering.protocol,
        accounting=answering.accounting,
        **settings,
    )


def answer_under(
    answering: Answering,
    problems: Sequence[types.Problem],
    asked: Sequence[Asked],
    folder: pathlib.Path | None = None,
    *,
    is_last: Callable[[Sequence[Outcome]], bool] | None = None,
) -> list[list[Outcome]]:
  """Answers all problems with each router, on newly made engines.

  Engines are made only if an answer is missing.

  Args:
    answering: the settings of the answers; it makes the engines.
    problems: N problems.
    asked: K routers.
    folder: where answers are kept, one file per router; None = nowhere.
    is_last: whether the routers after that of these outcomes are not asked;
      None = all are.

  Returns:
    For each router that is asked its N outcomes, in the order of `problems`.

  Raises:
    engine_lib.Stop: if problems failed for a reason that may pass, or too many
      failed in a row. The answers so far are kept.
    ValueError: if another process answers into the same folder.
  """
  kept = [
      kept_answers.Kept(each, each.key(answering), problems, folder)
      for each in asked
  ]
  needed = _needed(kept, is_last)
  num_missing = sum(len(x.missing()) for x in needed)
  if num_missing:
    with contextlib.ExitStack() as stack:
      if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        stack.callback(lock_lib.Lock(folder).release)
      # Only under the lock is an unfinished record surely not being written.
      for each in needed:
        each.repair()
      total = sum(map(len, needed))
      progress = stack.enter_context(
          progress_lib.Progress(
              total, 'live', unit='problem', done=total - num_missing
          )
      )
      asyncio.run(_answer_missing(answering, needed, progress, is_last))
  return [each.outcomes() for each in _needed(kept, is_last)]


def _needed(
    kept: Sequence[kept_answers.Kept], is_last
) -> Sequence[kept_answers.Kept]:
  """Returns the routers up to the last one, as far as answers tell."""
  for i, each in enumerate(kept):
    if each.missing():
      break  # Of what comes after it, nothing is known.
    if is_last is not None and is_last(each.outcomes()):
      return kept[: i + 1]
  return kept


async def _answer_missing(answering, kept, progress, is_last) -> None:
  """Answers what is missing, with one router after the other."""
  engines = answering.make_engines()
  try:
    # One after the other, so that the engines keep their prefix caches.
    for each in kept:
      if each.missing():
        await answer_all(answering, each, engines, progress)
      if is_last is not None and is_last(each.outcomes()):
        break
  finally:
    # Engines are closed in the event loop that used them, because the HTTP
    # client of an engine is bound to one event loop.
    for engine in engines:
      await engine.close()


async def answer_all(
    answering: Answering,
    kept: kept_answers.Kept,
    engines: Sequence[engine_lib.Engine],
    progress: progress_lib.Progress,
) -> None:
  """Answers the problems that one router has not answered yet."""
  missing = kept.missing()
  problems = [kept.problems[i] for i in missing]

  async def answer(problem: types.Problem) -> types.Trajectory:
    return await kept.asked.answer(answering, problem, engines)

  failures = failures_lib.Failures(
      lambda place, reason: kept.add(missing[place], Refused(reason)),
      answering.max_failures,
  )

  def take(place: int, trajectory: types.Trajectory) -> None:
    kept.add(missing[place], measure(trajectory, answering))
    failures.settle()

  try:
    await collect.collect_each(
        problems,
        answer,
        take,
        concurrency=answering.concurrency,
        on_begin=progress.begin,
        on_done=progress.update,
        on_failed=failures.add,
    )
  finally:
    kept.flush()
  failures.finish(len(kept))


def measure(trajectory: types.Trajectory, answering: Answering) -> Answer:
  """Returns what is kept of a live answer."""
  return of_calls(
      trajectory.calls,
      bool(trajectory.is_correct),
      token_records.num_discarded(trajectory),
      answering.accounting.specs,
      cut_answers.of_steps(trajectory.steps),
  )


def of_calls(
    calls: Sequence[types.Call],
    is_correct: bool,
    num_discarded: int,
    specs: Sequence[costs.RouteSpec],
    is_cut: bool | None = None,
) -> Answer:
  """Returns an answer, charged for its calls; see the fields of `Answer`."""
  wasted = [x for x in calls if x.kind == 'wasted']
  cost, lost = (
      {
          metric: float(costs.total_cost(charged, specs, metric))
          for metric in costs.COST_METRICS
      }
      for charged in (calls, wasted)
  )
  return Answer(
      is_correct,
      cost,
      lost,
      is_cut,
      calls=[token_records.as_json(x) for x in calls],
      num_discarded=num_discarded,
  )
