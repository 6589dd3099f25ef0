"""RouteLLM's routers as methods of the comparison."""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import numpy as np

from routing.routers import logistic
from routing.routers import question_level
from routing.routers import router
from third_party.routellm import factorisation

# The first setting of each is tried first.
FACTORISATION_SETTINGS = tuple(
    dict(rank=rank, penalty=penalty)
    for penalty in (1e-3, 3e-4, 3e-3)
    for rank in (16, 64)
)
CLASSIFIER_SETTINGS = tuple(
    dict(strength=x) for x in (1.0, 0.3, 3.0, 0.1, 10.0, 0.03)
)
_NEEDS = router.Needs(router.COMMIT, embedding=True)


def strong_wins(train: router.Sample) -> np.ndarray:
  """Returns `[N]` in {0, 1}: only the large model is right.

  A tie counts as a win of the small model, which costs less.
  """
  gain = train.large_correct - train.small_correct
  return (gain > 0.5).astype(np.float64)


def _method(
    name: str,
    settings: tuple[Mapping[str, Any], ...],
    fit_model: Callable[..., Any],
) -> router.Method:
  """Returns a method whose score is the strong model's rate of winning."""

  def fit(train, *, setting, seed):
    embed, informing_route = question_level.embedding_of(train)
    model = fit_model(
        embed.embed(train.questions), strong_wins(train), setting, seed
    )
    return [
        question_level.QuestionFamily(
            model.probability,
            embed,
            question_level.fingerprint(name, embed, model),
            train.num_routes - 1,
            informing_route,
        )
    ]

  return router.Method(name, _NEEDS, fit, settings)


def _factorise(vectors, wins, setting, seed):
  return factorisation.fit(vectors, wins, seed=seed, **setting)


def _classify(vectors, wins, setting, seed):
  del seed  # The fit is convex.
  return logistic.fit(vectors, wins, **setting)


MATRIX_FACTORISATION = _method(
    'RouteLLM, matrix factorisation', FACTORISATION_SETTINGS, _factorise
)
CLASSIFIER = _method('RouteLLM, classifier', CLASSIFIER_SETTINGS, _classify)
