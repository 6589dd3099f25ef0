"""Routers of whole questions: one choice before anything is written.

Such a router decides at step 0 under `escalate`, `commit`, so it pays for no
draft. Its score is that of the question, the same at every step: a question is
handed over at step 0 or never.
"""

from collections.abc import Callable
import dataclasses
import hashlib
import pickle
from typing import Any

import numpy as np

from routing import types
from routing.features import embedding as embedding_lib
from routing.outcomes import table as table_lib
from routing.rollout import inquiry as inquiry_lib
from routing.routers import fixed
from routing.routers import router as router_lib

# Digits of a score that count. A matrix product of many questions may differ
# from that of one in the last digits, and must not change a decision.
_DIGITS = 6


def embedding_of(
    train: router_lib.Sample,
) -> tuple[embedding_lib.Embedding, int]:
  """Returns the embedding of questions, and the route that its tokens go to.

  Without a sentence embedding these are hashed n-grams, and route 0, since no
  model computes them.
  """
  if train.embed is None:
    return embedding_lib.HashedNgrams(), 0
  if train.embed.spec is None:
    return train.embed, 0
  return train.embed, train.informing_route(train.embed.spec.name)


def fingerprint(
    name: str, embed: embedding_lib.Embedding | None, model: Any
) -> str:
  """Returns a name that identifies a fitted model in caches of answers."""
  content = pickle.dumps(model)
  digest = hashlib.sha256(content).hexdigest()[:16]
  return f'{name}/{embed.name if embed else "-"}/{digest}'


@dataclasses.dataclass(frozen=True)
class QuestionFamily:
  """Thresholds on a score of the question.

  score_vectors: from `[N, E]` embeddings to `[N]` scores; higher = the large
    model should answer.
  embed: the embedding of questions.
  fingerprint: identifies the fitted score.
  route: the larger route that takes over.
  informing_route: by which the embedding's tokens are charged; 0 = it has no
    model behind it, and nothing is charged.
  """

  score_vectors: Callable[[np.ndarray], np.ndarray]
  embed: embedding_lib.Embedding
  fingerprint: str
  route: int = 1
  informing_route: int = 0

  def __post_init__(self):
    fixed.check_route(self.route)
    if (self.embed.spec is None) != (self.informing_route == 0):
      raise ValueError(
          f'The embedding {self.embed.name!r} is charged by route '
          f'{self.informing_route}; allowed: 0 if it has no model, else the '
          'route of its model.'
      )

  def score_questions(self, questions: tuple[str, ...]) -> np.ndarray:
    """Returns `[N]` float64 scores."""
    return self.score_embedded(self.embed.embed(questions))

  def score_embedded(self, vectors: np.ndarray) -> np.ndarray:
    """Returns `[N]` float64 scores of `[N, E]` embeddings."""
    scores = np.asarray(self.score_vectors(vectors), np.float64)
    return np.round(scores, _DIGITS)

  def score(
      self, decisions: table_lib.Decisions
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scores and larger routes of M decisions; see `Family`.

    Raises:
      ValueError: if the decisions come without questions.
    """
    if decisions.questions is None:
      raise ValueError('A router of questions needs `Decisions.questions`.')
    scores = self.score_questions(decisions.questions)[decisions.problem]
    return scores, np.full(len(scores), self.route)

  def usage(self, questions: tuple[str, ...]) -> types.Usage | None:
    """Returns what embedding each question consumes, as arrays `[N]`."""
    if self.embed.spec is None:
      return None
    read = self.embed.count_tokens(questions)
    zeros = np.zeros_like(read)
    return types.Usage(self.informing_route, read, zeros, zeros)

  def at(self, knob: float) -> 'QuestionRouter':
    """Returns the live router at a threshold."""
    return QuestionRouter(self, knob)


@dataclasses.dataclass(frozen=True)
class QuestionRouter:
  """A live router that thresholds the score of the question.

  family: gives the score.
  threshold: the large model answers where the score reaches it.
  """

  family: QuestionFamily
  threshold: float

  @property
  def informant(self) -> 'inquiry_lib.Informant | None':
    """Charges the embedding, if a model computes it."""
    return None if self.family.embed.spec is None else Embedder(self.family)

  def decide(self, trace: types.Trace) -> types.Decision:
    """Hands over if the question's score reaches the threshold."""
    if trace.evidence:
      vectors = np.array([trace.evidence], np.float32)
    else:
      vectors = self.family.embed.embed([trace.question])
    score = float(self.family.score_embedded(vectors)[0])
    is_handover = score >= self.threshold
    return types.Decision(self.family.route if is_handover else 0, score)


@dataclasses.dataclass(frozen=True)
class Embedder:
  """The informant of a question's embedding, which is computed only once."""

  family: QuestionFamily

  async def ask(
      self, trace: types.Trace, inquiry: inquiry_lib.Inquiry
  ) -> tuple[float, ...]:
    """Returns the embedding; charges it at the first decision."""
    if trace.previous is not None:
      return trace.previous.evidence
    read = int(self.family.embed.count_tokens([trace.question])[0])
    inquiry.charge(types.Usage(self.family.informing_route, read, 0, 0))
    return tuple(self.family.embed.embed([trace.question])[0].tolist())
