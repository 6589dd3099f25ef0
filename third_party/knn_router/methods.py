"""The nearest-neighbour router as a method of the comparison.

Of the k training questions nearest to a question (cosine of the embeddings) it
takes the mean grade and the mean cost of each model. The large model answers if
  (grade of large - grade of small) / (cost of large - cost of small)
reaches the price of a right answer, which is the knob.
Source: Hu et al. 2024, "RouterBench", section 4.1 (the KNN router).
"""

import dataclasses

import numpy as np

from routing.features import embedding
from routing.routers import question_level
from routing.routers import router

NAME = 'nearest questions'
SETTINGS = tuple(dict(neighbours=k) for k in (40, 20, 80, 10, 160, 5))
_CHUNK = 1_024  # Questions per block of similarities; bounds the memory.
_LEAST_COST = 1e-3  # Of the difference of two costs, which must be positive.


@dataclasses.dataclass(frozen=True)
class Neighbours:
  """The training questions, and what the models did on them.

  vectors: `[N, E]` float32, embeddings of length 1.
  gain: `[N]`, grade of the large model minus that of the small one.
  extra_cost: `[N]`, cost of the large model minus that of the small one.
  count: k; with fewer questions, all are neighbours.
  """

  vectors: np.ndarray
  gain: np.ndarray
  extra_cost: np.ndarray
  count: int

  def value(self, vectors: np.ndarray) -> np.ndarray:
    """Returns `[M]`, right answers gained per unit of cost, at questions.

    Args:
      vectors: `[M, E]` embeddings.
    """
    # float64, so that a question's neighbours do not depend on its batch.
    known = self.vectors.astype(np.float64)
    found = []
    for start in range(0, len(vectors), _CHUNK):
      block = np.asarray(vectors[start : start + _CHUNK], np.float64)
      # Rounded, so that equally near questions are ordered by their index.
      similarity = np.round(block @ known.T, 9)
      order = np.argsort(-similarity, axis=1, kind='stable')
      nearest = order[:, : self.count]
      cost = np.maximum(self.extra_cost[nearest].mean(axis=1), _LEAST_COST)
      found.append(self.gain[nearest].mean(axis=1) / cost)
    return np.concatenate(found) if found else np.zeros(0)


def fit(train, *, setting, seed):
  """Returns the thresholds on the value of the nearest questions."""
  del seed  # Nothing is drawn.
  embed, informing_route = question_level.embedding_of(train)
  small = train.source.at_rates([0.0], train.metric)
  model = Neighbours(
      embedding.unit(embed.embed(train.questions)),
      train.large_correct - train.small_correct,
      1.0 - small.cost[0],
      setting['neighbours'],
  )
  return [
      question_level.QuestionFamily(
          model.value,
          embed,
          question_level.fingerprint(NAME, embed, model),
          train.num_routes - 1,
          informing_route,
      )
  ]


NEAREST = router.Method(
    NAME, router.Needs(router.COMMIT, embedding=True), fit, SETTINGS
)
