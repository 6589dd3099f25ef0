"""AutoMix as a method of the comparison.

The small model writes a whole answer. It is then asked, in k samples, whether
this answer is right. A meta-verifier turns the number of samples that say yes
into a score, and the large model answers anew where the score reaches a
threshold.
Source: Aggarwal et al. 2024, "AutoMix: Automatically Mixing Language Models".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import re

import numpy as np

from routing import types
from routing.engines import engine as engine_lib
from routing.outcomes import live_answers
from routing.outcomes import refusal
from routing.outcomes import training_answers
from routing.rollout import driver
from routing.rollout import inquiry
from routing.rollout import seeds
from routing.rollout import step_requests
from routing.rollout import steps as steps_lib
from routing.routers import live_thresholds
from routing.routers import router
from third_party.automix import meta_verifiers

NAME = 'AutoMix'
NUM_SAMPLES = 8  # Verifications of an answer at most, as in the paper.
TEMPERATURE = 1.0  # Of the verifications.
SETTINGS = tuple(
    dict(meta=meta, num_samples=num_samples)
    for num_samples in (NUM_SAMPLES, 4, 2)
    for meta in ('threshold', 'POMDP')
)
# The wording is our own.
PROMPT = """\
Question:
{question}

Proposed answer:
{answer}

Is the proposed answer right? Check it. Reply with one word, Yes or No."""
_PRICES = (0.6, 0.45, 0.3, 0.2, 0.15, 0.1, 0.05, 0.02, 0.0, -0.05, -0.1)


def says_yes(reply: str) -> bool:
  """Returns whether a verification calls the answer right, if by one token."""
  return re.match(r'\W*y(es)?\b', reply, re.IGNORECASE) is not None


async def verify(
    engine: engine_lib.Engine,
    problem: types.Problem,
    answer: str,
    seed: int,
    num_samples: int = NUM_SAMPLES,
) -> tuple[int, list[types.Call]]:
  """Returns how many of k verifications say yes, and their calls.

  Args:
    engine: of the model that has written the answer.
    problem: the problem.
    answer: the whole answer.
    seed: of the run.
    num_samples: k, at least 1; the first k verifications of any larger k.
  """
  text = PROMPT.format(question=problem.question.strip(), answer=answer.strip())
  found = [
      await inquiry.ask(
          engine,
          text,
          max_tokens=1,
          # All samples continue the same text, which is read once.
          earlier=text if sample else None,
          temperature=TEMPERATURE,
          # A step number that no answer has, so that the noise is another.
          seed=seeds.of_request(seed, problem.id, -1, engine.route, sample),
      )
      for sample in range(num_samples)
  ]
  num_yes = sum(says_yes(reply) for reply, _ in found)
  return num_yes, [steps_lib.as_call('probe', usage) for _, usage in found]


@dataclasses.dataclass(frozen=True)
class Family:
  """Mixtures that differ in their threshold.

  score: from the number of samples that say yes; a higher score speaks for the
    large model.
  knobs: thresholds.
  route: the model that answers where the small model's answer is refused.
  fingerprint: identifies the score.
  num_samples: verifications of an answer.
  """

  score: Callable[[int], float]
  knobs: tuple[float, ...]
  route: int
  fingerprint: str
  num_samples: int = NUM_SAMPLES

  def at(self, knob: float) -> Mixture:
    """Returns the live mixture at a threshold."""
    return Mixture(self.score, knob, self.route, self.num_samples)


@dataclasses.dataclass(frozen=True)
class Mixture:
  """A live mixture of the small and one larger model.

  score: see `Family`.
  threshold: the larger model answers where the score reaches it.
  route: the larger model.
  num_samples: verifications of an answer.
  """

  score: Callable[[int], float]
  threshold: float
  route: int
  num_samples: int = NUM_SAMPLES

  async def answer(
      self,
      problem: types.Problem,
      engines: Sequence[engine_lib.Engine],
      *,
      seed: int,
      sampling: step_requests.Sampling,
      grade,
  ) -> types.Trajectory:
    """Answers one problem; see `routers.router.Answerer`."""
    engine_lib.check_order(engines)
    calls, discarded = [], ()
    async with engine_lib.open_all(engines, problem.question) as sessions:

      async def write(route):
        steps = await step_requests.write(
            problem,
            (),
            sessions[route],
            to_end=True,
            seed=seed,
            sampling=sampling,
        )
        usage = steps_lib.call_usage(steps)
        calls.append(steps_lib.as_call('hand_over', usage))
        return steps

      steps = await write(0)
      num_yes, probes = await verify(
          engines[0], problem, steps_lib.join(steps), seed, self.num_samples
      )
      calls += probes
      score = self.score(num_yes)
      route = self.route if score >= self.threshold else 0
      if route:
        discarded, steps = steps, await write(route)
    return types.Trajectory(
        problem=problem,
        steps=steps,
        discarded=discarded,
        decisions=(types.Decision(route, score),),
        calls=tuple(calls),
        is_correct=await driver.grade_text(
            grade, steps_lib.join(steps), problem
        ),
    )


def _count_yes(
    answering: live_answers.Answering, train: router.Sample, num_samples: int
) -> dict[int, int]:
  """Returns how many verifications call the small model's answers right.

  Returns:
    Index of the problem -> number; those that are refused are left out.
  """
  answer_of = {
      problem.id: answer
      for problem, answer in zip(
          train.source.problems, train.small_answers, strict=True
      )
  }

  async def count() -> dict[int, int]:
    engines = answering.make_engines()

    async def verified(problem: types.Problem) -> int:
      answer = answer_of[problem.id]
      num_yes, _ = await verify(
          engines[0], problem, answer, answering.seed, num_samples
      )
      return num_yes

    try:
      return await training_answers.of_each(
          train.live_problems, verified, answering
      )
    finally:
      for engine in engines:
        await engine.close()

  return asyncio.run(count())


def fit(train, *, setting, seed):
  """Returns the mixtures of one meta-verifier."""
  del seed
  num_samples = setting['num_samples']
  if not train.follows_words or train.answering is None:
    raise refusal.Refusal(
        f'{NAME} asks the small model whether its answer is right; this model '
        'replies to no such question, or cannot be asked.',
        None,
        note='',
    )
  if setting['meta'] == 'POMDP':
    counts = _count_yes(train.answering, train, num_samples)
    known = list(counts)
    score = meta_verifiers.fit_pomdp(
        np.array(list(counts.values())),
        train.small_correct[known],
        train.large_correct[known],
        num_samples,
    )
    inner = _PRICES
  else:
    score = meta_verifiers.Share(num_samples)
    inner = np.arange(num_samples + 1) / num_samples
  return [
      Family(
          score,
          live_thresholds.between_extremes(inner),
          train.num_routes - 1,
          f'{NAME}/{score}/{num_samples}/{train.num_routes - 1}',
          num_samples,
      )
  ]


METHOD = router.Method(
    NAME, router.Needs(None, judge=True, samples=NUM_SAMPLES), fit, SETTINGS
)
