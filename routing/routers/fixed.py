"""Live routers without training: the baselines of every table.

Each router hands over to one larger route for good. Under the view `peek` even
`LargeRouter` pays for one discarded draft of the small model. To run the large
model without that draft, call the model directly instead of through a router.
"""

import dataclasses
import math

from routing import types
from routing.features import observation
from routing.routers import router


def check_route(route: int) -> int:
  """Returns `route`; raises ValueError if it is the smallest route, 0."""
  if route < 1:
    raise ValueError(f'The hand-over route is {route}; it must be 1 or larger.')
  return route


def check_statistic(statistic: str) -> str:
  """Returns a statistic; raises ValueError if it is not one of those allowed.

  The allowed ones are `observation.UNCERTAINTIES`.
  """
  if statistic not in observation.UNCERTAINTIES:
    raise ValueError(
        f'The statistic is {statistic!r}; allowed: '
        f'{", ".join(observation.UNCERTAINTIES)}.'
    )
  return statistic


@dataclasses.dataclass(frozen=True)
class SmallRouter:
  """A router that never hands over: the small model writes the whole answer."""

  def decide(self, trace: types.Trace) -> types.Decision:
    """Returns route 0 with score 0."""
    del trace
    return types.Decision(route=0, score=0.0)


@dataclasses.dataclass(frozen=True)
class LargeRouter:
  """A router that hands over at the first decision.

  route: the larger route that takes over.
  """

  route: int = 1

  def __post_init__(self):
    check_route(self.route)

  def decide(self, trace: types.Trace) -> types.Decision:
    """Returns `self.route` with score 1."""
    del trace
    return types.Decision(route=self.route, score=1.0)


@dataclasses.dataclass(frozen=True)
class StepRouter:
  """A router that hands over at step k, if the answer has that many steps.

  step: k >= 0, the number of steps that the small model writes.
  route: the larger route that takes over.
  """

  step: int
  route: int = 1

  def __post_init__(self):
    check_route(self.route)
    if self.step < 0:
      raise ValueError(f'The hand-over step is {self.step}; it must be >= 0.')

  def decide(self, trace: types.Trace) -> types.Decision:
    """Hands over once the trace has k steps; the score is the step count."""
    # `trace.steps` holds accepted steps only; a draft is not among them.
    step = len(trace.steps)
    route = self.route if step >= self.step else 0
    return types.Decision(route=route, score=float(step))


@dataclasses.dataclass(frozen=True)
class RandomRouter:
  """A router that hands over with the same probability at every step.

  The draw is a pure function of (seed, question, step), so the same trace
  always gets the same decision.

  rate: probability of a hand-over, in [0, 1].
  seed: seed of the draws.
  route: the larger route that takes over.
  """

  rate: float
  seed: int = 0
  route: int = 1

  def __post_init__(self):
    check_route(self.route)
    if not 0 <= self.rate <= 1:
      raise ValueError(
          f'The hand-over rate is {self.rate}; it must be in [0, 1].'
      )

  def decide(self, trace: types.Trace) -> types.Decision:
    """Draws whether to hand over at this step of this question."""
    draw = router.draw(self.seed, len(trace.steps), trace.question)
    is_handover = draw < self.rate
    return types.Decision(
        route=self.route if is_handover else 0,
        # Higher means hand over, as for every other score.
        score=1.0 - draw,
        # Probability of the action that is taken; off-policy weights divide by
        # this number.
        probability=self.rate if is_handover else 1.0 - self.rate,
    )


# Nats of a step whose log-probabilities are missing: above every known step and
# below inf, so every threshold hands over there but the one that never does.
UNKNOWN = 1e6


@dataclasses.dataclass(frozen=True)
class ConfidenceRouter:
  """A router that hands over at the first step with a very unlikely token.

  threshold: nats; the router hands over when -min log-probability of a step's
    tokens reaches this value.
  route: the larger route that takes over.
  statistic: one of `observation.UNCERTAINTIES`, instead of the minimum.
  may_be_unknown: True where the engine is known to give log-probabilities of
    most steps: a step without them then counts as `UNKNOWN` nats uncertain.
  """

  threshold: float
  route: int = 1
  statistic: str = 'minimum'
  may_be_unknown: bool = False

  def __post_init__(self):
    check_route(self.route)
    check_statistic(self.statistic)

  def decide(self, trace: types.Trace) -> types.Decision:
    """Hands over if the uncertainty score of the newest step is high enough.

    The newest step is the draft under `peek`, else the last step of the trace.

    Raises:
      ValueError: if the engine returned no log-probabilities, unless
        `may_be_unknown`.
    """
    # Calibration uses the same function, so its thresholds fit these scores.
    score = observation.uncertainty(trace, self.statistic)
    # Any comparison with NaN is False: without this check the router would
    # silently never hand over.
    if math.isnan(score) and self.may_be_unknown:
      score = UNKNOWN
    if math.isnan(score):
      raise ValueError(
          'Confidence routing needs log-probabilities, but the engine returned '
          'none; use an engine that returns them or another router.'
      )
    route = self.route if score >= self.threshold else 0
    return types.Decision(route=route, score=score)
