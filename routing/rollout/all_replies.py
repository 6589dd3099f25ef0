"""Every step that any model would write on a problem, whoever wrote before.

In `switch` and `redraft` the ways through a problem double with each step, but
under greedy decoding most of them read alike: models that agree on a step write
the same text, and what follows depends on the text alone. So all replies to all
prefixes that can come about are few, and with them at hand
(`engines.memoized`) any router can be run without a model.
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
  """What one model wrote after one trace.

  trace: the text of the steps before.
  step: the complete step; its usage is that of the call that wrote it.
  prompt_ids: of the prompt under the model's tokenizer, template included; None
    if its back end cannot tell.
  """

  trace: str
  step: types.Step
  prompt_ids: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Replies:
  """All replies of all models on one problem.

  problem: the problem.
  replies: one for each model and each trace that it can be asked to go on with.
  caches: of each model, how its back end keeps prefixes.
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
  """Collects the replies on every problem, many problems at a time.

  Args:
    problems: what to collect; they start in this order.
    engines: one a route, smallest first.
    sink: called with (index, replies) as each is ready, in any order.
    sampling: how traces are written; greedily.
    max_replies: of a problem and model, about, against traces that hardly ever
      read alike; those to short traces come first, the rest is left for when it
      is asked for. 0 = no limit.
    **loop: `concurrency` and the rest of `collect.collect_each`.

  Raises:
    ValueError: if sampling is not greedy, or an engine cannot go on from a
      half-written answer.
    Exception: as `collect.collect_each` does.
  """
  if sampling.temperature > 0:
    raise ValueError(
        f'temperature is {sampling.temperature}; replies are the same each '
        'time, and can be kept, at temperature 0 alone.'
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
  """The replies on one problem, from the empty trace on.

  A model that is asked goes on to the end, since that spares it reading again
  what it has just written; most of the steps are asked for later anyhow.
  """
  session = driver.new_session(problem)
  found: dict[tuple[int, str], types.Step] = {}
  pending = collections.deque([()])
  seen = {''}
  try:
    while pending:
      kept = pending.popleft()
      trace = steps_lib.join(kept)
      unknown = [x for x in engines if (x.route, trace) not in found]
      if max_replies and len(found) >= max_replies * len(engines):
        unknown = []
      # Both at once: a problem of many traces would hold up its shard.
      written = await asyncio.gather(
          *(_go_on(problem, kept, x, sampling, session) for x in unknown)
      )
      for steps in written:
        _add(found, trace, steps)
      for engine in engines:
        step = found.get((engine.route, trace))
        if step is None:  # Cut short by a limit.
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


async def _go_on(
    problem: types.Problem,
    kept: Sequence[types.Step],
    engine: engine_lib.Engine,
    sampling: driver.Sampling,
    session: str,
) -> tuple[types.Step, ...]:
  """The steps of one model to the end."""
  return await driver.write(
      problem,
      kept,
      engine,
      to_end=True,
      seed=0,  # Greedy: of no consequence.
      sampling=sampling,
      session=session,
  )


def _add(
    found: dict[tuple[int, str], types.Step],
    trace: str,
    written: Sequence[types.Step],
) -> None:
  """Adds steps that were written one after another, from `trace` on."""
  for step in written:
    if steps_lib.is_cut(step):
      return
    # Nobody reads a larger model's hidden state.
    kept = dataclasses.replace(step, hidden=None) if step.route else step
    found.setdefault((step.route, trace), kept)
    trace += step.text
