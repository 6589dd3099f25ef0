"""Collects rollouts: answers to problems under a behaviour policy.

In `escalate`, one ladder covers every possible answer to a problem. In `switch`
and `redraft` the number of possible answers doubles with each step. With greedy
decoding they can still be enumerated (`rollout.trees`). Otherwise a behaviour
policy samples some of them. Its action probabilities are recorded, so that
training can weight each sampled answer by importance.
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
from routing.rollout import step_requests

# (problem, index of the trajectory) -> the router for this trajectory. Each
# trajectory has its own router, because each needs its own random numbers.
Behaviour = Callable[[types.Problem, int], driver.Router]
Sink = Callable[[int, types.Rollouts], None]


@dataclasses.dataclass(frozen=True)
class Plan:
  """Settings of a rollout collection.

  protocol: the decision process.
  sampling: sampling settings and limits of every answer.
  num_trajectories: number of trajectories per problem; 0 = collect only the
    answer of the largest model alone.
  seed: of the collection; the seed of each request is derived from it.
  """

  protocol: protocols.Protocol
  sampling: step_requests.Sampling
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
    sink: called with (index of the problem, its rollouts) when a problem is
      done; problems are done in any order.
    behaviour: returns the router of each trajectory.
    plan: settings of the collection.
    accounting: computes the cost that the routers see in `Trace.spent`; None if
      they ignore it.
    grade: the grader of final answers.
    references: problem id -> the answer of the largest model alone, for
      problems where it is known, e.g. from an earlier round of on-policy
      training. It is not generated again.
    **loop: `concurrency` and the other keyword arguments of
      `collect.collect_each`.

  Raises:
    ValueError: if there are fewer than 2 engines.
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
  """Returns the rollouts of one problem, collected one after the other.

  The arguments are those of `collect_rollouts`; `reference` is the known answer
  of the largest model alone, or None.
  """
  if reference is None:
    reference = await _answer_alone(problem, engines[-1], plan, grade)
  # The trajectories of one problem run one after the other; only problems run
  # concurrently. So the limit on concurrent problems also limits the number of
  # answers in flight.
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
          sample=index,  # Gives each trajectory other random numbers.
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
  """Returns the graded answer that the largest model writes alone."""
  # This answer has a session of its own. Otherwise a trajectory could find the
  # answer in the prefix cache and would cost less.
  async with engine.open(problem.question) as session:
    written = await step_requests.write(
        problem,
        (),
        session,
        to_end=True,  # One request, like a ladder's completion from step 0.
        seed=plan.seed,
        sampling=plan.sampling,
    )
  return await collect.graded(problem, (), written, engine, grade)


def without_large_hidden(trajectory: types.Trajectory) -> types.Trajectory:
  """Returns the trajectory without the hidden states of larger models."""
  # Observations use hidden states of the small model only
  # (`features.observation`); those of larger models would fill most of a shard.
  return dataclasses.replace(
      trajectory,
      steps=tuple(
          dataclasses.replace(step, hidden=None) if step.route > 0 else step
          for step in trajectory.steps
      ),
  )
