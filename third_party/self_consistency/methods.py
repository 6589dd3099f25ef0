"""Votes and repeated sampling as methods; the knob is the number of samples."""

from routing.routers import router
from routing.routers import whole_answers
from third_party.self_consistency import coverage
from third_party.self_consistency import voting

NAME = 'self-consistency'
COVERAGE = (
    'repeated sampling, any right'  # An upper bound: it knows the answer.
)
NUM_SAMPLES = (1, 2, 3, 5, 8)
# Temperatures of the samples; that of the paper first.
SETTINGS = tuple(dict(temperature=x) for x in (0.7, 0.5, 1.0, 0.3, 0.85, 1.2))


def _method(name, function) -> router.Method:
  """Returns a function of samples of one model as a method."""

  def fit(train, *, setting, seed):
    del seed  # There is nothing to fit.
    return [
        whole_answers.Family(
            function, 'num_samples', NUM_SAMPLES, dict(setting, route=route)
        )
        for route in range(train.num_routes)
    ]

  return router.Method(
      name,
      router.Needs(None, samples=NUM_SAMPLES[-1]),
      fit,
      SETTINGS,
      # One sample is the model alone, and each family has another model. Of
      # several none need be the model's own greedy answer.
      lowest='',
      highest='',
  )


METHOD = _method(NAME, voting.answer)
ANY_RIGHT = _method(COVERAGE, coverage.answer)
