"""Power sampling as a method of the comparison; the knob is the moves."""

from routing.routers import router
from routing.routers import whole_answers
from third_party.power_sampling import chain

NAME = 'power sampling'
NUM_MOVES = (0, 1, 2, 4)
SETTINGS = tuple(dict(alpha=x) for x in (4.0, 2.0, 8.0, 3.0, 6.0, 1.5))


def fit(train, *, setting, seed):
  """Returns the chains of each model; there is nothing to fit."""
  del seed
  train.check_tokens(NAME)
  return [
      whole_answers.Family(
          chain.answer, 'num_moves', NUM_MOVES, dict(setting, route=route)
      )
      for route in range(train.num_routes)
  ]


METHOD = router.Method(
    NAME,
    # Two samples stand for what the seed decides.
    router.Needs(None, tokens=True, samples=2),
    fit,
    SETTINGS,
    lowest='',
    highest='',
)
