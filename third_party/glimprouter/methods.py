"""GlimpRouter as a method of the comparison.

Before each step the small model writes one token. If the entropy of this token
reaches a threshold, the large model writes the step, otherwise the small one.
The large model writes the final answer in any case.
Source: "GlimpRouter: Efficient Collaborative Inference by Glimpsing One Token
of Thoughts", arXiv 2601.05110.
"""

from routing import types
from routing.routers import informants
from routing.routers import live_thresholds
from routing.routers import router

NAME = 'GlimpRouter'
PUBLISHED = 1.0  # Nats; the default of its public code.
# Nats. Small models are sure of most first tokens, so small values are dense.
ENTROPIES = (2.0, 1.5, PUBLISHED, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.005)


def entropy(trace: types.Trace) -> float:
  """Returns the entropy of the small model's first token, in nats."""
  return trace.evidence[0]


def fit(train, *, setting, seed):
  """Returns the thresholds on the entropy; nothing is learned."""
  del setting, seed
  large = train.num_routes - 1
  return [
      live_thresholds.Thresholds(
          entropy,
          live_thresholds.between_extremes(ENTROPIES),
          f'{NAME}/{large}',
          informants.FirstToken(),
          large,
          final_route=large,
      )
  ]


METHOD = router.Method(
    NAME,
    router.Needs(router.SWITCH, log_probs=True, probe=True),
    fit,
    # The cheapest is not the small model alone: the large one ends the answer.
    lowest='',
)
