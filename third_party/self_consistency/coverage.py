"""Repeated sampling: whether any of many samples of one model is right.

Source: Brown et al. 2024, "Large Language Monkeys", arXiv 2407.21787; the
estimator is that of Chen et al. 2021, arXiv 2107.03374, equation 1.
"""

from collections.abc import Sequence

import numpy as np

from routing import types
from routing.engines import engine as engine_lib
from routing.grading import equivalence
from routing.rollout import driver
from routing.rollout import step_requests
from routing.rollout import steps as steps_lib
from third_party.self_consistency import voting


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
  """Returns the unbiased estimate of the coverage of k samples.

  It is 1 - C(n - c, k) / C(n, k), the probability that k of the n samples,
  drawn without replacement, include one of the c that are right.

  Args:
    num_samples: n.
    num_right: c, in 0..n.
    k: in 1..n.

  Raises:
    ValueError: if a number is out of range.
  """
  n, c = num_samples, num_right
  if not 1 <= k <= n or not 0 <= c <= n:
    raise ValueError(
        f'n is {n}, c is {c} and k is {k}; allowed: 1 <= k <= n, 0 <= c <= n.'
    )
  if n - c < k:
    return 1.0  # Any k samples include one that is right.
  # The quotient of the binomials is the product of 1 - k / i over the c
  # factors i = n - c + 1, ..., n; no binomial overflows.
  return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


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
  """Answers one problem by samples of one model and a verifier that never errs.

  It is an upper bound, not a method: the reference answer says which sample is
  right.

  Args:
    problem, engines, seed, sampling, grade, num_samples, route, temperature:
      see `voting.answer`.

  Returns:
    The trajectory: its steps are those of the first sample that is right, or
    of the first sample if none is; its calls those of all samples.

  Raises:
    ValueError: as `voting.answer` does.
  """
  sampled, right = await graded_samples(
      problem,
      engines,
      seed=seed,
      sampling=sampling,
      grade=grade,
      num_samples=num_samples,
      route=route,
      temperature=temperature,
  )
  return types.Trajectory(
      problem=problem,
      steps=sampled.answers[right.index(True) if any(right) else 0],
      discarded=(),
      decisions=(),
      calls=sampled.calls,
      is_correct=any(right),
  )


async def graded_samples(
    problem: types.Problem,
    engines: Sequence[engine_lib.Engine],
    *,
    seed: int,
    sampling: step_requests.Sampling,
    grade: equivalence.Grader,
    num_samples: int,
    route: int,
    temperature: float | None,
) -> tuple[voting.Sampled, list[bool]]:
  """Samples and grades answers; the arguments are those of `answer`.

  Returns:
    The samples, and whether each is right, from which `pass_at_k` estimates
    the coverage of fewer samples.
  """
  sampled = await voting.sample_answers(
      problem,
      voting.engine_of(engines, route),
      seed=seed,
      sampling=voting.at_temperature(sampling, temperature, num_samples),
      num_samples=num_samples,
  )
  right = [
      await driver.grade_text(grade, steps_lib.join(steps), problem)
      for steps in sampled.answers
  ]
  return sampled, right
