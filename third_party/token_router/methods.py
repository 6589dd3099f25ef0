"""Token-level routing as a method of the comparison; the knob: a threshold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np

from routing.outcomes import refusal
from routing.outcomes import training_answers
from routing.routers import live_thresholds
from routing.routers import logistic
from routing.routers import router
from routing.routers import whole_answers
from routing.shards import manifest as manifest_lib
from third_party.token_router import decoding
from third_party.token_router import labels as labels_lib

NAME = 'token router'
# Penalties of the classifier (scikit-learn's C).
SETTINGS = tuple(dict(strength=x) for x in (1.0, 10.0, 0.1, 100.0, 0.01, 1e3))
# Shares of the small model's tokens that the knobs replace, on `train`.
SHARES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.4)

Examples = Callable[[router.Sample], tuple[np.ndarray, np.ndarray]]


def examples(train: router.Sample) -> tuple[np.ndarray, np.ndarray]:
  """Returns the features `[M, F]` and labels `[M]` of tokens of `train`.

  Raises:
    refusal.Refusal: if no model can be asked, or the large model is never
      right.
    engine_lib.Stop: as `training_answers.of_each` does.
  """
  if train.answering is None:
    raise refusal.Refusal(
        f'{NAME} learns from tokens of the models, but none can be asked.',
        None,
        note='',
    )
  problems = train.live_problems

  async def run() -> list[Any]:
    engines = train.answering.make_engines()
    try:
      found = await training_answers.of_each(
          problems,
          lambda x: labels_lib.of_problem(x, engines, train.answering),
          train.answering,
      )
    finally:
      for engine in engines:
        await engine.close()
    return [x for x in found.values() if x is not None]

  kept = asyncio.run(run())
  if not kept:
    raise refusal.Refusal(
        f'{NAME}: the large model is right on none of {len(problems)} '
        'problems, so no token can be labelled.',
        None,
        note='',
    )
  rows, divergent = zip(*kept, strict=True)
  return np.concatenate(rows), np.concatenate(divergent)


def method(find: Examples = examples) -> router.Method:
  """Returns the method.

  Args:
    find: returns the labelled tokens. It is called once for the same problems
      and models: labels are greedy, so no setting and no seed changes them.
  """
  known: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}

  def labelled(train):
    key = (
        manifest_lib.hash_problems(train.live_problems),
        repr(train.answering and train.answering.key()),
    )
    if key not in known:
      known.clear()  # One comparison has one set of labels.
      known[key] = find(train)
    return known[key]

  def fit(train, *, setting, seed):
    """Learns which tokens diverge; the seed changes nothing."""
    del seed
    train.check_tokens(NAME)
    features, divergent = labelled(train)
    classifier = logistic.fit(features, divergent, **setting)
    scores = classifier.probability(features)
    thresholds = np.quantile(scores, 1 - np.array(SHARES), method='higher')
    return [
        whole_answers.Family(
            decoding.answer,
            'threshold',
            live_thresholds.between_extremes(thresholds.tolist()),
            dict(
                weights=tuple(classifier.weights.tolist()),
                constant=classifier.constant,
            ),
        )
    ]

  return router.Method(NAME, router.Needs(None, tokens=True), fit, SETTINGS)


METHOD = method()
