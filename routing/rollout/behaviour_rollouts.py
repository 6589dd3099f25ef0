"""Collects rollouts: problems as a behaviour policy answered them.

What `escalate` could have done follows from one ladder; in `switch` and
`redraft` the ways through a problem double with each step. Where they cannot
all be tried (`rollout.trees`: greedy models alone), a behaviour policy draws
some, and training weighs them by its recorded probabilities.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

from routing import costs
from routing import protocols
from routing import types
from routing.engines import engine as engine_lib
from routing.grading import equivalence
from routing.rollout import collect
from routing.rollout import driver

# From a problem and the index of a trajectory to the router that answers it.
Behaviour = Callable[[types.Problem, int], driver.Router]
Sink = Callable[[int, types.Rollouts], None]


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is collected of each problem.

  protocol: the decision process.
  sampling: how traces are written.
  num_trajectories: of the behaviour policy; 0 = only the reference.
  seed: of the collection; each request's seed follows from it.
  """

  protocol: protocols.Protocol
  sampling: driver.Sampling
  num_trajectories: int = 1
  seed: int = 0

  def __post_init__(self):
    if self.num_trajectories < 0:
      raise ValueError(
          f'num_trajectories is {self.num_trajectories}; allowed: >= 0.'
      )


async def collect_rollouts(
    problems: Sequence[types.Problem],
    engines: Sequence[engine_lib.Engine],
    sink: Sink,
    *,
    behaviour: Behaviour,
    plan: Plan,
    accounting: costs.Accounting | None,
    grade: equivalence.Grader,
    references: Mapping[str, types.Completion] | None = None,
    **loop: Any,
) -> None:
  """Collects the rollouts of every problem, many at a time.

  Args:
    problems: what to collect; they start in this order.
    engines: A >= 2 engines, smallest first.
    sink: called with (index, rollouts) as each is ready, in any order.
    behaviour: gives each trajectory its router.
    plan: what to collect of each.
    accounting: see `driver.answer`; None for routers that do not look.
    grade: the grader.
    references: by problem id, what is known already of the largest model alone
      and need not be written again.
    **loop: `concurrency` and the rest of `collect.collect_each`; a problem has
      one answer under way at a time.

  Raises:
    ValueError: if there is no larger model.
    Exception: as `collect.collect_each` does.
  """
  if len(engines) < 2:
    raise ValueError(f'Routing needs 2 engines or more, got {len(engines)}.')
  known = references or {}
  await collect.collect_each(
      problems,
      lambda problem: collect_problem(
          problem,
          engines,
          behaviour,
          plan,
          accounting,
          grade,
          known.get(problem.id),
      ),
      sink,
      **loop,
  )


async def collect_problem(
    problem: types.Problem,
    engines: Sequence[engine_lib.Engine],
    behaviour: Behaviour,
    plan: Plan,
    accounting: costs.Accounting | None,
    grade: equivalence.Grader,
    reference: types.Completion | None = None,
) -> types.Rollouts:
  """The rollouts of one problem, one answer after the other."""
  if reference is None:
    reference = await _answer_alone(problem, engines[-1], plan, grade)
  trajectories = [
      await driver.answer(
          problem,
          behaviour(problem, index),
          engines,
          protocol=plan.protocol,
          accounting=accounting,
          grade=grade,
          seed=plan.seed,
          sampling=plan.sampling,
          sample=index,
      )
      for index in range(plan.num_trajectories)
  ]
  return types.Rollouts(
      problem, reference, tuple(map(without_unread, trajectories))
  )


async def _answer_alone(
    problem: types.Problem,
    engine: engine_lib.Engine,
    plan: Plan,
    grade: equivalence.Grader,
) -> types.Completion:
  """What the largest model answers without a router."""
  session = driver.new_session(problem)
  try:
    written = await driver.write(
        problem,
        (),
        engine,
        to_end=True,
        seed=plan.seed,
        sampling=plan.sampling,
        session=session,
    )
  finally:
    driver.forget([engine], session)
  return await collect.graded(problem, (), written, engine, grade)


def without_unread(trajectory: types.Trajectory) -> types.Trajectory:
  """The trajectory without the larger models' hidden states.

  Observations hold the small model's alone, and the others' would be most of
  what a shard weighs.
  """
  return dataclasses.replace(
      trajectory,
      steps=tuple(
          dataclasses.replace(step, hidden=None) if step.route > 0 else step
          for step in trajectory.steps
      ),
  )
