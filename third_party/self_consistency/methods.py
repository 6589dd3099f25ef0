"""Self-consistency as a method of the comparison; the knob is the samples."""

from routing.routers import router
from routing.routers import whole_answers
from third_party.self_consistency import voting

NAME = 'self-consistency'
NUM_SAMPLES = (1, 2, 3, 5, 8)
# Temperatures of the samples; that of the paper first.
SETTINGS = (dict(temperature=0.7), dict(temperature=0.5), dict(temperature=1.0))


def fit(train, *, setting, seed):
  """Returns votes of each model; there is nothing to fit."""
  del seed
  return [
      whole_answers.Family(
          voting.answer, 'num_samples', NUM_SAMPLES, dict(setting, route=route)
      )
      for route in range(train.num_routes)
  ]


METHOD = router.Method(
    NAME,
    router.Needs(None, samples=NUM_SAMPLES[-1]),
    fit,
    SETTINGS,
    # One sample is the model alone, and each family has another model. A vote
    # of several is no model's own answer.
    lowest='',
    highest='',
)
