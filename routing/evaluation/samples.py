"""Turns ladders into what the methods of a comparison learn from and meet."""

import asyncio
from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from routing import costs
from routing import protocols
from routing import types
from routing.evaluation import entries
from routing.features import embedding as embedding_lib
from routing.features import observation
from routing.features import traces
from routing.outcomes import live_answers
from routing.outcomes import records
from routing.outcomes import sources
from routing.outcomes import table as table_lib
from routing.outcomes import token_records
from routing.rollout import collect
from routing.rollout import steps as steps_lib
from routing.routers import router as router_lib


def of_ladders(
    ladders: Sequence[types.Ladder],
    features: observation.FeatureConfig,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
    embed: embedding_lib.Embedding | None = None,
) -> router_lib.Sample:
  """Returns the problems of ladders with their outcomes in one view.

  Args:
    ladders: of N problems.
    features: what routers observe.
    accounting: see `router.Sample`; specs beyond the writers are allowed.
    protocol: `escalate`, either view.
    embed: a sentence embedding, if the comparison offers one.

  Raises:
    ValueError: as `records.ladder_table` does.
  """
  num_routes = features.num_routes
  writers = dataclasses.replace(accounting, specs=accounting.specs[:num_routes])
  table = records.ladder_table(ladders, features, writers, protocol)
  questions = tuple(x.problem.question for x in ladders)
  table = dataclasses.replace(
      table,
      decisions=dataclasses.replace(table.decisions, questions=questions),
      ending_cost={
          **table.ending_cost,
          **_token_counts(table, ladders, num_routes, features, protocol),
      },
  )
  num_samples = 1 + max(
      (x.sample for ladder in ladders for x in ladder.completions), default=0
  )
  return router_lib.Sample(
      source=sources.Known(
          table,
          [x.problem for x in ladders],
          is_graded_once=num_samples == 1,
      ),
      features=features,
      accounting=accounting,
      small_answers=tuple(steps_lib.join(x.steps) for x in ladders),
      small_correct=np.array([float(x.is_correct) for x in ladders]),
      small_calls=tuple(_whole_answer(x) for x in ladders),
      large_calls=tuple(
          token_records.hand_over(x) for x in map(_large_alone, ladders)
      ),
      embed=embed,
      small_steps=tuple(tuple(s.text for s in x.steps) for x in ladders),
  )


def _whole_answer(ladder: types.Ladder) -> types.Call:
  """Returns the call by which the smallest model writes its answer at once."""
  # In a ladder each step has the usage of a request of its own. One request for
  # all of them reads the question only.
  usages = [step.usage for step in ladder.steps]
  return types.Call(
      route=0,
      read=int(usages[0].read),
      cached=int(usages[0].cached),
      written=sum(int(x.written) for x in usages),
      seconds=float(sum(x.seconds for x in usages)),
      kind='hand_over',
  )


def _large_alone(ladder: types.Ladder) -> types.Completion:
  """Returns the largest model's own answer, its first sample."""
  first = [x for x in ladder.completions if not x.step and not x.sample]
  return max(first, key=lambda x: x.route)


def _token_counts(
    table: table_lib.OutcomeTable,
    ladders: Sequence[types.Ladder],
    num_routes: int,
    features: observation.FeatureConfig,
    protocol: protocols.Protocol,
) -> dict[str, np.ndarray]:
  """Returns the tokens of each kind of each ending, a mean over samples."""
  counted = []
  for ladder in ladders:
    first = token_records.question_read(ladder, num_routes)
    for ending in token_records.of_ladder(
        ladder, num_routes, features.max_decisions, protocol
    ):
      counted.append(
          np.mean(
              [
                  token_records.count(x.calls, x.num_discarded, first)
                  for x in ending
              ],
              axis=0,
          )
      )
  # Costs are looked up by the number of the ending, so the orders must agree.
  if len(counted) != len(table.ending_problem):
    raise ValueError(
        f'{len(counted)} token records for {len(table.ending_problem)} endings.'
    )
  return dict(zip(entries.TOKENS, np.array(counted).T, strict=True))


def alone(
    sample: router_lib.Sample, ladders: Sequence[types.Ladder]
) -> entries.Alone:
  """Returns what the models do alone on the problems of a sample."""
  table = sample.source.table
  first = [token_records.question_read(x, sample.num_routes) for x in ladders]
  return entries.Alone(
      problems=sample.source.problems,
      large_correct=table.large_correct.astype(np.float64),
      large_cost=table.large_cost,
      large_tokens=np.array(
          [
              token_records.count([call], 0, read)
              for call, read in zip(sample.large_calls, first, strict=True)
          ]
      ),
      question_read=np.array(first),
  )


def recorded_traces(
    ladders: Sequence[types.Ladder],
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
    max_decisions: int,
) -> list[types.Trace]:
  """Returns the traces of all decisions of `escalate` on some problems."""
  shown = []
  for ladder in ladders:
    seen = None
    for step in range(min(ladder.num_decisions, max_decisions)):
      trace = traces.of_ladder(ladder, step, accounting, protocol)
      seen = dataclasses.replace(trace, previous=seen)
      shown.append(seen)
  return shown


@dataclasses.dataclass
class _Noting:
  """A router that takes given routes in turn, and keeps the traces it sees.

  routes: of the decisions; after the last one they begin again.
  informant: that of the router whose traces are wanted.
  seen: the traces so far.
  """

  routes: tuple[int, ...]
  informant: Any
  seen: list[types.Trace] = dataclasses.field(default_factory=list)

  def decide(self, trace: types.Trace) -> types.Decision:
    """Keeps the trace; the route depends on the number of steps alone."""
    self.seen.append(trace)
    return types.Decision(self.routes[len(trace.steps) % len(self.routes)], 0.0)


def driven_traces(
    answering: live_answers.Answering,
    problems: Sequence[types.Problem],
    protocol: protocols.Protocol,
    informant: Any,
) -> list[types.Trace]:
  """Returns the traces of all decisions on some problems, in any protocol.

  Two routers write the answers: one keeps to the small model, and one
  alternates between the smallest and the largest.

  Args:
    answering: makes the engines.
    problems: the problems.
    protocol: which route may write which step.
    informant: what is asked before each decision; None = nothing.
  """

  async def run() -> list[types.Trace]:
    engines = answering.make_engines()
    try:
      routers = [
          _Noting(routes, informant)
          for routes in ((0,), (0, len(engines) - 1))
          for _ in problems
      ]
      await collect.together(
          live_answers.Asked(router, '', 0.0, protocol).answer(
              answering, problem, engines
          )
          for router, problem in zip(routers, [*problems] * 2, strict=True)
      )
    finally:
      for engine in engines:
        await engine.close()
    return [trace for router in routers for trace in router.seen]

  return asyncio.run(run())
