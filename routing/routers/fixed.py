"""Routers that learn nothing: the anchors of every table, live.

All hand over to one larger route for good. With `peek` even `LargeRouter` pays
a draft first; the large model without a router is simply called.
"""

import dataclasses
import math

from routing import types
from routing.features import observation
from routing.routers import router


def check_route(route: int) -> int:
  """Returns `route`, or raises ValueError if it is not a larger one."""
  if route < 1:
    raise ValueError(f'A hand-over goes to route 1 or larger, got {route}.')
  return route


@dataclasses.dataclass(frozen=True)
class SmallRouter:
  """Never hands over."""

  def decide(self, trace: types.Trace) -> types.Decision:
    """Stays."""
    del trace
    return types.Decision(route=0, score=0.0)


@dataclasses.dataclass(frozen=True)
class LargeRouter:
  """Hands over at the first decision.

  route: whom to.
  """

  route: int = 1

  def __post_init__(self):
    check_route(self.route)

  def decide(self, trace: types.Trace) -> types.Decision:
    """Hands over."""
    del trace
    return types.Decision(route=self.route, score=1.0)


@dataclasses.dataclass(frozen=True)
class StepRouter:
  """Hands over at step k, if the trace gets there.

  step: k, the number of small steps kept.
  route: whom to.
  """

  step: int
  route: int = 1

  def __post_init__(self):
    check_route(self.route)
    if self.step < 0:
      raise ValueError(f'The hand-over step must be >= 0, got {self.step}.')

  def decide(self, trace: types.Trace) -> types.Decision:
    """Compares the number of accepted steps with k."""
    step = len(trace.steps)
    route = self.route if step >= self.step else 0
    return types.Decision(route=route, score=float(step))


@dataclasses.dataclass(frozen=True)
class RandomRouter:
  """Hands over at every step with the same chance.

  Pure in (seed, question, step): the same trace always meets the same coin.

  rate: chance of handing over, in [0, 1].
  seed: of the coins.
  route: whom to.
  """

  rate: float
  seed: int = 0
  route: int = 1

  def __post_init__(self):
    check_route(self.route)
    if not 0 <= self.rate <= 1:
      raise ValueError(f'The rate must be in [0, 1], got {self.rate}.')

  def decide(self, trace: types.Trace) -> types.Decision:
    """Tosses the coin of this question and step."""
    draw = router.draw(self.seed, len(trace.steps), trace.question)
    leaves = draw < self.rate
    return types.Decision(
        route=self.route if leaves else 0,
        score=1.0 - draw,
        probability=self.rate if leaves else 1.0 - self.rate,
    )


@dataclasses.dataclass(frozen=True)
class ConfidenceRouter:
  """Hands over at the first step whose least likely token is doubtful enough.

  threshold: in nats; hand over when -min log-probability >= threshold.
  route: whom to.
  """

  threshold: float
  route: int = 1

  def __post_init__(self):
    check_route(self.route)

  def decide(self, trace: types.Trace) -> types.Decision:
    """Compares the uncertainty of the step under view with the threshold.

    Raises:
      ValueError: if the engine gave no log-probabilities.
    """
    score = observation.uncertainty(trace)
    if math.isnan(score):
      raise ValueError(
          'Confidence routing needs log-probabilities; the engine gave none.'
      )
    route = self.route if score >= self.threshold else 0
    return types.Decision(route=route, score=score)
