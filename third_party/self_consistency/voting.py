"""Self-consistency: the answer that most samples of one model agree on.

Source: Wang et al. 2022, arXiv 2203.11171, section 2.
"""

import asyncio
from collections.abc import Sequence
import dataclasses

from routing import types
from routing.engines import engine as engine_lib
from routing.grading import equivalence
from routing.rollout import driver
from routing.rollout import step_requests
from routing.rollout import steps as steps_lib


@dataclasses.dataclass(frozen=True)
class Sampled:
  """Several answers of one model to the same problem.

  answers: the steps of each of the k answers.
  calls: the model call of each answer.
  """

  answers: tuple[tuple[types.Step, ...], ...]
  calls: tuple[types.Call, ...]


async def sample_answers(
    problem: types.Problem,
    engine: engine_lib.Engine,
    *,
    seed: int,
    sampling: step_requests.Sampling,
    num_samples: int,
) -> Sampled:
  """Samples answers one after another in one session.

  So the question is read once and then comes from the cache, as on a server
  with prefix caching.

  Args:
    problem: the problem.
    engine: the model.
    seed: of the run; every sample has a seed of its own.
    sampling: temperature and limits; above temperature 0, if there is more
      than one sample.
    num_samples: k, at least 1.

  Raises:
    ValueError: if `num_samples` is below 1, or all samples would be equal.
  """
  if num_samples < 1:
    raise ValueError(f'num_samples is {num_samples}; allowed: >= 1.')
  if num_samples > 1 and not sampling.temperature_of(engine.route):
    raise ValueError(
        f'The temperature is 0, so all {num_samples} samples would be equal; '
        'allowed: above 0, or one sample.'
    )
  answers, calls = [], []
  async with engine.open(problem.question) as session:
    for index in range(num_samples):
      steps = await step_requests.write(
          problem,
          (),
          session,
          to_end=True,
          seed=seed,
          sampling=sampling,
          sample=index,
      )
      answers.append(steps)
      calls.append(steps_lib.as_call('hand_over', steps_lib.call_usage(steps)))
  return Sampled(tuple(answers), tuple(calls))


def majority(texts: Sequence[str], grade: equivalence.Grader) -> int:
  """Returns the index of the answer that most others are equal to.

  Two texts are equal if the grader finds their final answers equal. Texts
  without a final answer have no vote. Of equally frequent answers, the one that
  was sampled first wins, as its first text.

  Args:
    texts: the whole texts of the k answers, k >= 1.
    grade: the task's grader, which compares a text with a reference answer.
  """
  # Equality by a grader need not be transitive; each text joins the first
  # group whose first text it equals.
  groups: list[tuple[int, str, int]] = []  # First index, answer, votes.
  for index, text in enumerate(texts):
    # Graded against nothing, a text still shows its own final answer.
    found = grade(text, '').answer
    if found is None:
      continue
    for place, (first, answer, votes) in enumerate(groups):
      if grade(text, answer).is_correct:
        groups[place] = first, answer, votes + 1
        break
    else:
      groups.append((index, found, 1))
  if not groups:
    return 0
  # `max` takes the first of several, which was sampled first.
  return max(groups, key=lambda group: group[2])[0]


async def answer(
    problem: types.Problem,
    engines: Sequence[engine_lib.Engine],
    *,
    seed: int,
    sampling: step_requests.Sampling,
    grade: equivalence.Grader,
    num_samples: int = 8,
    route: int = 0,
    temperature: float | None = 0.7,
) -> types.Trajectory:
  """Answers one problem by a majority vote over samples of one model.

  Args:
    problem: the problem.
    engines: A engines, with `engines[m].route == m`.
    seed: of the run.
    sampling: limits of each answer.
    grade: the task's grader; it compares the samples, too.
    num_samples: k, at least 1.
    route: the model that is sampled.
    temperature: of the samples; None = that of `sampling`.

  Returns:
    The trajectory: its steps are those of the elected sample, its calls those
    of all samples.

  Raises:
    ValueError: if `num_samples` is below 1, all samples would be equal, or
      there is no such route.
  """
  sampled = await sample_answers(
      problem,
      engine_of(engines, route),
      seed=seed,
      sampling=at_temperature(sampling, temperature, num_samples),
      num_samples=num_samples,
  )
  texts = [steps_lib.join(steps) for steps in sampled.answers]
  # In a thread: a slow grader would block all other problems.
  elected = await asyncio.to_thread(majority, texts, grade)
  return types.Trajectory(
      problem=problem,
      steps=sampled.answers[elected],
      discarded=(),
      decisions=(),
      calls=sampled.calls,
      is_correct=await driver.grade_text(grade, texts[elected], problem),
  )


def at_temperature(
    sampling: step_requests.Sampling,
    temperature: float | None,
    num_samples: int,
) -> step_requests.Sampling:
  """Returns the sampling settings with another temperature; None = the same.

  A single sample keeps the temperature of `sampling`: there is nothing to vote
  on, so it is the answer of the model alone.
  """
  if temperature is None or num_samples == 1:
    return sampling
  return dataclasses.replace(sampling, temperature=temperature)


def engine_of(
    engines: Sequence[engine_lib.Engine], route: int
) -> engine_lib.Engine:
  """Returns the engine of a route; raises ValueError if there is none."""
  driver.check_routes(engines)
  if not 0 <= route < len(engines):
    raise ValueError(f'The route is {route}; allowed: 0 to {len(engines) - 1}.')
  return engines[route]
