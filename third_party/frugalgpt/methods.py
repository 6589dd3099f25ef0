"""FrugalGPT's cascade of two models as a method of the comparison.

The small model writes a whole answer. A scorer of (question, answer) estimates
the probability that it is right; from the threshold on it is accepted, else the
large model answers the question from the beginning.
Source: Chen et al. 2023, "FrugalGPT", section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np

from routing import types
from routing.engines import engine as engine_lib
from routing.features import text
from routing.outcomes import live_answers
from routing.rollout import driver
from routing.rollout import step_requests
from routing.rollout import steps as steps_lib
from routing.routers import logistic
from routing.routers import question_level
from routing.routers import router

NAME = 'FrugalGPT'
SETTINGS = tuple(
    dict(strength=strength, width=width)
    for width in (512, 2_048)
    for strength in (0.1, 1.0, 0.03)
)
NUM_KNOBS = 21  # Thresholds, the two extremes included.
_LARGEST = 3  # Words in the longest n-grams.
_DIGITS = 6  # Of a score that count; see `question_level`.


def features(question: str, answer: str, width: int) -> np.ndarray:
  """Returns hashed n-grams of question and answer, `[2 x width]` float64."""
  parts = [text.hash_ngrams(x, width, _LARGEST) for x in (question, answer)]
  # Logarithms, so that the length of the texts matters less.
  both = np.concatenate(parts).astype(np.float64)
  return np.sign(both) * np.log1p(np.abs(both))


@dataclasses.dataclass(frozen=True)
class Scorer:
  """The estimated probability that an answer is right.

  model: a logistic classifier of `features`.
  width: hash buckets of each text.
  """

  model: logistic.Linear
  width: int

  def score(self, question: str, answer: str) -> float:
    """Returns the probability, in [0, 1]."""
    row = features(question, answer, self.width)[None]
    return round(float(self.model.probability(row)[0]), _DIGITS)


@dataclasses.dataclass(frozen=True)
class Family:
  """Cascades that differ in their threshold.

  scorer: judges the small model's answer.
  knobs: thresholds; at 0 every answer is accepted, above 1 none.
  route: the model that answers where the small model's answer is refused.
  fingerprint: identifies the scorer.
  """

  scorer: Scorer
  knobs: tuple[float, ...]
  route: int
  fingerprint: str

  def at(self, knob: float) -> Cascade:
    """Returns the live cascade at a threshold."""
    return Cascade(self.scorer, knob, self.route)

  def replay(
      self, sample: router.Sample, knobs: Sequence[float]
  ) -> list[list[live_answers.Answer]]:
    """Returns the cascades' answers from what the models write alone."""
    scores = [
        self.scorer.score(question, answer)
        for question, answer in zip(
            sample.questions, sample.small_answers, strict=True
        )
    ]
    return [
        [_replayed(sample, n, score >= knob) for n, score in enumerate(scores)]
        for knob in knobs
    ]


def _replayed(
    sample: router.Sample, n: int, is_accepted: bool
) -> live_answers.Answer:
  """Returns the answer of a cascade to problem n."""
  calls = [sample.small_calls[n]]
  if is_accepted:
    return live_answers.of_calls(
        calls, bool(sample.small_correct[n]), 0, sample.accounting.specs
    )
  return live_answers.of_calls(
      [*calls, sample.large_calls[n]],
      bool(sample.large_correct[n]),
      int(calls[0].written),
      sample.accounting.specs,
  )


@dataclasses.dataclass(frozen=True)
class Cascade:
  """A live cascade of the small and one larger model.

  scorer: judges the small model's answer.
  threshold: it is accepted from this score on.
  route: the larger model.
  """

  scorer: Scorer
  threshold: float
  route: int

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
      score = self.scorer.score(problem.question, steps_lib.join(steps))
      route = 0 if score >= self.threshold else self.route
      if route:
        discarded, steps = steps, await write(route)
    text_of = steps_lib.join(steps)
    return types.Trajectory(
        problem=problem,
        steps=steps,
        discarded=discarded,
        decisions=(types.Decision(route, 1.0 - score),),
        calls=tuple(calls),
        is_correct=await driver.grade_text(grade, text_of, problem),
    )


def fit(train, *, setting, seed):
  """Returns the cascades of one scorer, trained on small answers."""
  del seed  # The fit is convex.
  width = setting['width']
  rows = np.stack(
      [
          features(question, answer, width)
          for question, answer in zip(
              train.questions, train.small_answers, strict=True
          )
      ]
  )
  right = train.small_correct > 0.5
  model = logistic.fit(rows, right, strength=setting['strength'])
  scorer = Scorer(model, width)
  # Thresholds at which shares of the training answers are accepted.
  scores = np.round(model.probability(rows), _DIGITS)
  inner = np.quantile(scores, np.linspace(0, 1, NUM_KNOBS - 2), method='lower')
  knobs = (0.0, *np.unique(inner).tolist(), 2.0)
  return [
      Family(
          scorer,
          knobs,
          train.num_routes - 1,
          question_level.fingerprint(NAME, None, scorer),
      )
  ]


CASCADE = router.Method(NAME, router.Needs(None), fit, SETTINGS)
