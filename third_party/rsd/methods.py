"""RSD as a method of the comparison.

The small model drafts each step. A process reward model scores the draft, and
the draft is kept if its reward r is at least delta; else the large model writes
the step. Then the small model drafts the next one.
Source: Liao et al. 2025, "Reward-Guided Speculative Decoding for Efficient LLM
Reasoning", algorithm 1 with the binary weighting function.
"""

import numpy as np

from routing.routers import informants
from routing.routers import live_thresholds
from routing.routers import router
from routing.routers import step_scores

NAME = 'RSD'
DELTA = 0.7  # The threshold of its public scripts.
NUM_KNOBS = 11  # Quantiles of the rewards on `train`.
NUM_SCORED = 500  # Problems of `train` whose steps are scored for them.


def fit(train, *, setting, seed):
  """Returns the thresholds on the reward; nothing is learned but their grid."""
  del setting, seed
  scorer = step_scores.scorer_of(train, NAME)
  rewards = step_scores.scored_steps(train, scorer, NUM_SCORED)
  knobs = live_thresholds.quantile_knobs(
      1.0 - np.concatenate(rewards),
      NUM_KNOBS,
      # A draft is kept at r = delta, so the threshold on 1 - r lies above it.
      float(np.nextafter(1.0 - DELTA, 1.0)),
  )
  return [
      live_thresholds.Thresholds(
          step_scores.shortfall,
          knobs,
          step_scores.fingerprint(scorer, train.num_routes - 1),
          informants.OfDraft(scorer),
          train.num_routes - 1,
          is_shared=True,
      )
  ]


METHOD = router.Method(NAME, router.Needs(router.REDRAFT, step_score=True), fit)
