"""Collects all replies: each step that any model would write on a problem.

In `switch` and `redraft` the number of possible courses doubles with each step.
Under greedy decoding most of them have the same text: where models agree on a
step they write the same text, and what follows depends on the text alone. So
there are few distinct traces. With every model's reply to each of them recorded
(`engines.memoized`), any router can be run without a model.
"""

import asyncio
import collections
from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Any

from routing import types
from routing.engines import engine as engine_lib
from routing.engines import prefix_cache
from routing.rollout import collect
from routing.rollout import driver
from routing.rollout import steps as steps_lib


@dataclasses.dataclass(frozen=True)
class Reply:
  """A reply: the step that one model writes after one trace.

  trace: the text of the steps before.
  step: the complete step; its usage is that of the call that wrote it.
  prompt_ids: token ids of the prompt under the model's tokenizer, chat template
    included; None if the engine cannot provide them.
  """

  trace: str
  step: types.Step
  prompt_ids: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Replies:
  """The replies of all models on one problem.

  problem: the problem.
  replies: one for each model and each trace that it can be asked to continue.
  caches: how the engine of each route caches prefixes, smallest model first.
  """

  problem: types.Problem
  replies: tuple[Reply, ...]
  caches: tuple[prefix_cache.PrefixCache, ...]


async def collect_replies(
    problems: Sequence[types.Problem],
    engines: Sequence[engine_lib.Engine],
    sink: Callable[[int, Replies], None],
    *,
    sampling: driver.Sampling,
    max_replies: int = 0,
    **loop: Any,
) -> None:
  """Collects the replies on every problem, many problems concurrently.

  Args:
    problems: the problems; they are started in this order.
    engines: one engine per route, smallest first.
    sink: called with (index, replies) when a problem is done, in any order.
    sampling: sampling settings and limits; temperature must be 0.
    max_replies: approximate limit per problem and model, for problems where
      models rarely agree. Replies to short traces are collected first; the rest
      are generated when a router asks for them. 0 = no limit.
    **loop: `concurrency` and the other keyword arguments of
      `collect.collect_each`.

  Raises:
    ValueError: if the temperature is not 0, or an engine cannot continue a
      half-written answer.
    Exception: as `collect.collect_each` does.
  """
  if sampling.temperature > 0:
    raise ValueError(
        f'temperature is {sampling.temperature}; it must be 0, because only '
        'greedy replies are the same each time and can be stored.'
    )
  engine_lib.require(engines, continues_prefix=True)
  await collect.collect_each(
      problems,
      lambda problem: collect_problem(problem, engines, sampling, max_replies),
      sink,
      **loop,
  )


async def collect_problem(
    problem: types.Problem,
    engines: Sequence[engine_lib.Engine],
    sampling: driver.Sampling,
    max_replies: int = 0,
) -> Replies:
  """Returns the replies on one problem, by breadth-first search over traces.

  Starting from the empty trace, every model is asked for its reply to each
  trace; each new text makes a new trace.
  """
  # One session: the prompts of a problem share most of their tokens. The usage
  # recorded here is only a start; `prefix_cache.charged` computes it per path.
  session = driver.new_session(problem)
  # Keyed by (route, text): different writers of one text make one trace.
  found: dict[tuple[int, str], types.Step] = {}
  pending = collections.deque([()])
  seen = {''}
  try:
    while pending:
      kept = pending.popleft()
      trace = steps_lib.join(kept)
      unknown = [x for x in engines if (x.route, trace) not in found]
      # Past the limit nothing new is generated, but the traces that are pending
      # may still lead to replies that were found with earlier ones.
      if max_replies and len(found) >= max_replies * len(engines):
        unknown = []
      # All models concurrently: a problem with many traces takes long, and its
      # shard is written only when its last problem is done.
      written = await asyncio.gather(
          *(_write_to_end(problem, kept, x, sampling, session) for x in unknown)
      )
      for steps in written:
        _add(found, trace, steps)
      for engine in engines:
        step = found.get((engine.route, trace))
        if step is None:  # A token or reply limit ended it.
          continue
        steps = *kept, step
        is_asked = len(steps) < sampling.max_decisions
        is_new = trace + step.text not in seen
        if is_asked and is_new and driver.is_open(steps, sampling):
          seen.add(trace + step.text)
          pending.append(steps)
  finally:
    driver.forget(engines, session)
  return Replies(
      problem,
      tuple(
          Reply(trace, step, _prompt_ids(engines[route], problem, trace))
          for (route, trace), step in found.items()
      ),
      tuple(engine.capabilities.prefix_cache for engine in engines),
  )


def _prompt_ids(
    engine: engine_lib.Engine, problem: types.Problem, trace: str
) -> tuple[int, ...] | None:
  ids = engine.encode(problem.question, trace)
  return None if ids is None else tuple(map(int, ids))


async def _write_to_end(
    problem: types.Problem,
    kept: Sequence[types.Step],
    engine: engine_lib.Engine,
    sampling: driver.Sampling,
    session: str,
) -> tuple[types.Step, ...]:
  """Returns the steps that one model writes from a trace to the end.

  One request gives a reply to each prefix of its text. Asked step by step, the
  model would read again what it has just written.
  """
  return await driver.write(
      problem,
      kept,
      engine,
      to_end=True,
      seed=0,  # Without effect under greedy decoding.
      sampling=sampling,
      session=session,
  )


def _add(
    found: dict[tuple[int, str], types.Step],
    trace: str,
    written: Sequence[types.Step],
) -> None:
  """Adds steps that one call wrote after `trace`, each under its own trace."""
  for step in written:
    if steps_lib.is_cut(step):
      return  # With more tokens left the model would have written more.
    # Observations do not use a larger model's hidden state, and it is large.
    kept = dataclasses.replace(step, hidden=None) if step.route else step
    # Keeps the first: longer traces may have been derived from it already.
    found.setdefault((step.route, trace), kept)
    trace += step.text
