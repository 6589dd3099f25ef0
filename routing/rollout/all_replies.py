"""Collects all replies: each step that any model would write on a problem.

A reply is the step that one model writes next after a trace. In `switch` and
`redraft` the number of possible answers doubles with each step. Under greedy
decoding most of them have the same text: models often write the same step, and
what follows depends on the text alone. So there are few distinct traces. Once
every model's reply to each trace is recorded, any router can be run without a
model (`engines.memoized`).
"""

import collections
from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Any

from routing import types
from routing.engines import boundaries
from routing.engines import engine as engine_lib
from routing.engines import prefix_cache
from routing.rollout import collect
from routing.rollout import step_requests
from routing.rollout import steps as steps_lib


@dataclasses.dataclass(frozen=True)
class Reply:
  """A reply: the step that one model writes next after one trace.

  trace: the text of the accepted steps before the reply.
  step: the complete step, with the usage of the call that wrote it.
  prompt_ids: token ids of the prompt (question and trace) under the model's
    tokenizer, including its chat template; None if the engine cannot give them.
  """

  trace: str
  step: types.Step
  prompt_ids: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Replies:
  """The replies of all models on one problem.

  problem: the problem.
  replies: one for each model and each trace that a router can ask the model to
    continue.
  caches: `[A]`, the prefix-cache behaviour of each route's engine.
  """

  problem: types.Problem
  replies: tuple[Reply, ...]
  caches: tuple[prefix_cache.PrefixCache, ...]


async def collect_replies(
    problems: Sequence[types.Problem],
    engines: Sequence[engine_lib.Engine],
    sink: Callable[[int, Replies], None],
    *,
    sampling: step_requests.Sampling,
    max_replies: int = 0,
    **loop: Any,
) -> None:
  """Collects the replies on every problem, many problems concurrently.

  Args:
    problems: the problems; they are started in this order.
    engines: one engine per route, smallest first.
    sink: called with (index of the problem, its replies) when a problem is
      done; problems are done in any order.
    sampling: sampling settings and limits of every answer; the temperature must
      be 0.
    max_replies: approximate number of replies per problem and model to stop at,
      for problems on which the models rarely agree. Replies to short traces are
      collected first; missing ones are generated when a router asks for them.
      0 = no limit.
    **loop: `concurrency` and the other keyword arguments of
      `collect.collect_each`.

  Raises:
    ValueError: if the temperature is not 0, or an engine cannot continue a
      half-written answer.
    Exception: as `collect.collect_each` does.
  """
  if not sampling.is_greedy:
    raise ValueError(
        f'temperature is {sampling.temperature}; it must be 0, because a '
        'stored reply stands for later ones only if decoding is greedy.'
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
    sampling: step_requests.Sampling,
    max_replies: int = 0,
) -> Replies:
  """Returns the replies on one problem, by breadth-first search over traces.

  The search starts from the empty trace. It asks every model for a reply to
  each trace; a trace extended by a reply is a new trace, unless its text is
  known. The arguments are those of `collect_replies`.
  """
  # Keyed by (route, text of the trace): traces with the same text are the same,
  # whoever wrote their steps.
  found: dict[tuple[int, str], types.Step] = {}
  pending = collections.deque([()])
  seen = {''}
  # All requests to an engine share one session, because their prompts share
  # most of their tokens. The cached tokens recorded here depend on the order of
  # the search; `prefix_cache.charged` recomputes them for each path.
  async with engine_lib.open_all(engines, problem.question) as sessions:
    while pending:
      kept = pending.popleft()
      trace = steps_lib.join(kept)
      unknown = [x for x in sessions if (x.route, trace) not in found]
      # Past the limit no model is called any more. Pending traces are still
      # visited, because replies to them may have been found earlier.
      if max_replies and len(found) >= max_replies * len(engines):
        unknown = []
      # All models are asked concurrently, because a problem with many traces
      # takes long, and a shard is written only when its last problem is done.
      written = await collect.together(
          _write_to_end(problem, kept, x, sampling) for x in unknown
      )
      for steps in written:
        _add(found, trace, steps)
      for engine in engines:
        step = found.get((engine.route, trace))
        if step is None:  # There is no reply, because of a limit.
          continue
        steps = *kept, step
        is_asked = len(steps) < sampling.max_decisions
        is_new = trace + step.text not in seen
        if is_asked and is_new and step_requests.is_open(steps, sampling):
          seen.add(trace + step.text)
          pending.append(steps)
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
  """Returns the token ids of a prompt, or None if the engine gives none."""
  ids = engine.encode(problem.question, trace)
  return None if ids is None else tuple(map(int, ids))


async def _write_to_end(
    problem: types.Problem,
    kept: Sequence[types.Step],
    session: engine_lib.Session,
    sampling: step_requests.Sampling,
) -> tuple[types.Step, ...]:
  """Returns the steps that one model writes from a trace to the answer's end.

  Each of these steps is the model's reply to the trace before it. So one
  request gives several replies. With one request per step, the model would have
  to read again the text that it has just written.
  """
  return await step_requests.write(
      problem,
      kept,
      session,
      to_end=True,
      seed=0,  # The seed has no effect under greedy decoding.
      sampling=sampling,
  )


def _add(
    found: dict[tuple[int, str], types.Step],
    trace: str,
    written: Sequence[types.Step],
) -> None:
  """Adds the steps that one call wrote after `trace` to the replies `found`.

  Each step is added as a reply to `trace` plus the steps before it.
  """
  for step in written:
    if boundaries.is_cut(step):
      return  # Cut off by the token limit, so it is not the model's whole step.
    # Hidden states of larger models are dropped: they take much space, and
    # observations do not use them.
    kept = dataclasses.replace(step, hidden=None) if step.route else step
    # An earlier reply is not replaced, because longer traces may have been
    # derived from it.
    found.setdefault((step.route, trace), kept)
    trace += step.text
