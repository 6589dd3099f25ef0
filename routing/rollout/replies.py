"""Every step that any model would write on a problem, whoever wrote before.

In `switch` and `redraft` the ways through a problem double with each step, but
under greedy decoding most of them read alike: models that agree on a step write
the same text, and what follows depends on the text alone. So all replies to all
prefixes that can come about are few, and with them at hand
(`engines.remembered`) any router can be run without a model.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Any

from routing import types
from routing.engines import engine as engine_lib
from routing.rollout import collect
from routing.rollout import driver
from routing.rollout import steps as steps_lib


@dataclasses.dataclass(frozen=True)
class Reply:
  """What one model wrote after one trace.

  trace: the text of the steps before.
  step: the complete step.
  """

  trace: str
  step: types.Step


@dataclasses.dataclass(frozen=True)
class Replies:
  """All replies of all models on one problem.

  problem: the problem.
  replies: one for each model and each trace that it can be asked to go on with.
  """

  problem: types.Problem
  replies: tuple[Reply, ...]


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
    max_replies: of a problem and model, against traces that hardly ever read
      alike; the shortest come first, the rest is left for when it is asked
      for. 0 = no limit.
    **loop: `concurrency` and the rest of `collect.collect_each`.

  Raises:
    ValueError: if sampling is not greedy.
    Exception: as `collect.collect_each` does.
  """
  if sampling.temperature > 0:
    raise ValueError(
        f'temperature is {sampling.temperature}; replies are the same each '
        'time, and can be kept, at temperature 0 alone.'
    )
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
  """The replies on one problem, from the empty trace on, step by step."""
  session = driver.new_session(problem)
  found = []
  try:
    open_traces = {'': ()}
    while open_traces:
      longer = {}
      for trace, kept in open_traces.items():
        if max_replies and len(found) >= max_replies * len(engines):
          return Replies(problem, tuple(found))
        for engine in engines:
          (step,) = await driver.write(
              problem,
              kept,
              engine,
              to_end=False,
              seed=0,  # Greedy: of no consequence.
              sampling=sampling,
              session=session,
          )
          if steps_lib.is_cut(step):
            continue
          found.append(Reply(trace, _kept(step)))
          steps = *kept, step
          if driver.is_open(steps, sampling):
            longer.setdefault(trace + step.text, steps)
      open_traces = longer
  finally:
    driver.forget(engines, session)
  return Replies(problem, tuple(found))


def _kept(step: types.Step) -> types.Step:
  """The step without what nobody reads: a larger model's hidden state."""
  return dataclasses.replace(step, hidden=None) if step.route else step
