"""What methods with a step scorer share: the scorer, and scores of `train`."""

import numpy as np

from routing import types
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
        'config.compare.scorer.model.',
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


def shortfall(trace: types.Trace) -> float:
  """Returns 1 - r, where r is the score of the draft."""
  return 1.0 - trace.evidence[-1]


def fingerprint(scorer: informants.Scorer, route: int) -> str:
  """Returns the name of thresholds on `shortfall` in caches of answers.

  Systems that apply the same rule share their answers.
  """
  return f'step score/{scorer.name}/{route}'
