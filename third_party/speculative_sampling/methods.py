"""Speculative sampling as a method of the comparison; the knob: drafts."""

from routing.routers import router
from routing.routers import whole_answers
from third_party.speculative_sampling import decoding

NAME = 'speculative sampling'
NUM_DRAFTS = (8, 6, 4, 2, 1, 0)  # The more, the cheaper in `price`.


def fit(train, *, setting, seed):
  """Returns the decoder; there is nothing to fit."""
  del setting, seed
  train.check_tokens(NAME)
  return [whole_answers.Family(decoding.answer, 'num_drafts', NUM_DRAFTS)]


METHOD = router.Method(
    NAME,
    router.Needs(None, tokens=True),
    fit,
    # Greedy, the text is that of the large model at any knob.
    lowest='large',
    highest='large',
)
