"""Collects rollouts: problems as a behaviour policy answered them.

In `escalate`, one ladder shows every possible course of a problem. In `switch`
and `redraft` the number of courses doubles with each step. With greedy models
they can still be enumerated (`rollout.trees`). Otherwise a behaviour policy
draws some of them, and training weights these by its recorded action
probabilities.
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

# (problem, index of a trajectory) -> the router that answers it. A router per
# trajectory, because each needs random numbers of its own.
Behaviour = Callable[[types.Problem, int], driver.Router]
Sink = Callable[[int, types.Rollouts], None]


@dataclasses.dataclass(frozen=True)
class Plan:
  """Settings of a rollout collection.

  protocol: the decision process.
  sampling: sampling settings and limits of every answer.
  num_trajectories: trajectories per problem; 0 = only the reference.
  seed: of the collection; the seed of each request is derived from it.
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
  """Collects the rollouts of every problem, many problems concurrently.

  Args:
    problems: the problems; they are started in this order.
    engines: A >= 2 engines, smallest first.
    sink: called with (index, rollouts) when a problem is done, in any order.
    behaviour: returns the router of each trajectory.
    plan: the settings.
    accounting: see `driver.answer`; None for routers that ignore `Trace.spent`.
    grade: the grader.
    references: problem id -> the largest model's own answer, where it is known
      already and need not be generated again.
    **loop: `concurrency` and the other keyword arguments of
      `collect.collect_each`.

  Raises:
    ValueError: if there are fewer than 2 engines.
    Exception: as `collect.collect_each` does.
  """
  if len(engines) < 2:
    raise ValueError(f'Routing needs 2 engines or more, got {len(engines)}.')
  # E.g. from an earlier round of on-policy training.
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
  """Returns the rollouts of one problem, collected one after the other."""
  if reference is None:
    reference = await _answer_alone(problem, engines[-1], plan, grade)
  # In sequence: concurrency comes from many problems, so that its limit is also
  # the number of answers in flight.
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
          sample=index,  # Part of each request's seed.
      )
      for index in range(plan.num_trajectories)
  ]
  return types.Rollouts(
      problem, reference, tuple(map(without_large_hidden, trajectories))
  )


async def _answer_alone(
    problem: types.Problem,
    engine: engine_lib.Engine,
    plan: Plan,
    grade: equivalence.Grader,
) -> types.Completion:
  """Returns the graded answer of the largest model, without a router."""
  session = driver.new_session(problem)
  try:
    written = await driver.write(
        problem,
        (),
        engine,
        to_end=True,  # One request, as in `Ladder.completions` of step 0.
        seed=plan.seed,
        sampling=plan.sampling,
        session=session,
    )
  finally:
    # A session of its own: no trajectory may find this answer in its cache.
    driver.forget([engine], session)
  return await collect.graded(problem, (), written, engine, grade)


def without_large_hidden(trajectory: types.Trajectory) -> types.Trajectory:
  """Returns the trajectory without the larger models' hidden states."""
  # Observations use the small model's only (`features.observation`), and the
  # others would take up most of a shard.
  return dataclasses.replace(
      trajectory,
      steps=tuple(
          dataclasses.replace(step, hidden=None) if step.route > 0 else step
          for step in trajectory.steps
      ),
  )
