"""What RSD and TRIM's threshold share: a scorer, and quantiles of its scores."""

import numpy as np

from routing.outcomes import refusal
from routing.routers import informants
from routing.routers import router


def scorer_of(train: router.Sample, name: str) -> informants.Scorer:
  """Returns the step scorer of a comparison.

  Raises:
    refusal.Refusal: if it has none.
  """
  if train.scorer is None:
    raise refusal.Refusal(
        f'{name} needs a step scorer; name a process reward model in '
        'config.scorer.',
        None,
        note='',
    )
  return train.scorer


def scored_steps(
    train: router.Sample, scorer: informants.Scorer, num_problems: int
) -> list[np.ndarray]:
  """Returns the scores of the small model's steps, of the first problems."""
  pairs = list(zip(train.questions, train.small_steps, strict=True))
  found = scorer.score_all(pairs[:num_problems])
  return [x.scores for x in found]
