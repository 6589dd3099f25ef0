"""Live routers without training: the baselines of every table.

Each one hands over to one larger route for good. Under the view `peek` even
`LargeRouter` pays for one discarded draft. To run the large model without that
draft, call it directly instead of through a router.
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


@dataclasses.dataclass(frozen=True)
class SmallRouter:
  """Keeps the small model for the whole answer."""

  def decide(self, trace: types.Trace) -> types.Decision:
    """Returns route 0 with score 0."""
    del trace
    return types.Decision(route=0, score=0.0)


@dataclasses.dataclass(frozen=True)
class LargeRouter:
  """Hands over at the first decision.

  route: the route that takes over.
  """

  route: int = 1

  def __post_init__(self):
    check_route(self.route)

  def decide(self, trace: types.Trace) -> types.Decision:
    """Returns the larger route with score 1."""
    del trace
    return types.Decision(route=self.route, score=1.0)


@dataclasses.dataclass(frozen=True)
class StepRouter:
  """Hands over at step k if the trace gets that far.

  step: k >= 0, the number of steps that the small model writes.
  route: the route that takes over.
  """

  step: int
  route: int = 1

  def __post_init__(self):
    check_route(self.route)
    if self.step < 0:
      raise ValueError(f'The hand-over step is {self.step}; it must be >= 0.')

  def decide(self, trace: types.Trace) -> types.Decision:
    """Compares the number of steps in the trace with k."""
    # Accepted steps only: a draft is not part of the trace.
    step = len(trace.steps)
    route = self.route if step >= self.step else 0
    return types.Decision(route=route, score=float(step))


@dataclasses.dataclass(frozen=True)
class RandomRouter:
  """Hands over at every step with the same probability.

  The draw is a pure function of (seed, question, step), so the same trace
  always gets the same decision.

  rate: probability of a hand-over, in [0, 1].
  seed: seed of the draws.
  route: the route that takes over.
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
    """Draws the decision of this question and step."""
    draw = router.draw(self.seed, len(trace.steps), trace.question)
    is_handover = draw < self.rate
    return types.Decision(
        route=self.route if is_handover else 0,
        # Higher means hand over, as for every other score.
        score=1.0 - draw,
        # Of the action that was taken: off-policy weights divide by it.
        probability=self.rate if is_handover else 1.0 - self.rate,
    )


@dataclasses.dataclass(frozen=True)
class ConfidenceRouter:
  """Hands over at the first step with a token that is unlikely enough.

  threshold: nats; the router hands over when -min log-probability of the step
    reaches it.
  route: the route that takes over.
  """

  threshold: float
  route: int = 1

  def __post_init__(self):
    check_route(self.route)

  def decide(self, trace: types.Trace) -> types.Decision:
    """Compares the uncertainty score of the visible step with the threshold.

    The visible step is the draft under `peek`, else the last step of the trace.

    Raises:
      ValueError: if the engine returned no log-probabilities.
    """
    # The feature of training and calibration, so thresholds carry over.
    score = observation.uncertainty(trace)
    # Any comparison with NaN is False: without this check the router would
    # silently never hand over.
    if math.isnan(score):
      raise ValueError(
          'Confidence routing needs log-probabilities, but the engine returned '
          'none; use an engine that returns them or another router.'
      )
    route = self.route if score >= self.threshold else 0
    return types.Decision(route=route, score=score)
