"""Which operating point, or which model alone, answers a request."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from routing import protocols
from routing.rollout import driver
from routing.rollout import step_requests
from routing.routers import card as card_lib
from routing.routers import fixed
from routing.routers import learned
from routing.routers import promises
from routing.serving import openai_schema
from routing.serving import refusals

ROUTER = 'router'
ONLINE = f'{ROUTER}@online'
# Returns why the promise of a point does not hold; None = it holds.
WhyVoid = Callable[[card_lib.OperatingPoint], str | None]


@dataclasses.dataclass(frozen=True)
class Choice:
  """What answers a request.

  name: as the field `model` of an answer says it.
  router: decides at each step.
  protocol: in which it decides.
  threshold: that scores are compared with; None for one model alone.
  point: the operating point; None for one model alone, and online.
  alone: the route of the model that answers alone; None = a router.
  """

  name: str
  router: driver.Router
  protocol: protocols.Protocol
  threshold: card_lib.Threshold | None = None
  point: card_lib.OperatingPoint | None = None
  alone: int | None = None

  def threshold_at(self, step: int) -> float | None:
    """Returns the threshold at a step, counted from 0; None = there is none."""
    if self.threshold is None:
      return None
    return card_lib.threshold_at(self.threshold, step)


class Points:
  """The operating points of a router, and each of its models alone.

  Args:
    router: the router.
    default: name of the point of the model `router`; '' = the first.
    decider: from a router at a point to what the driver asks.
    online: returns the index of the policy and the threshold of `ONLINE`; None
      = there is no such model.

  Raises:
    ValueError: if the default point does not exist, the router has no point, or
      a model is called like the router.
  """

  def __init__(
      self,
      router: learned.LearnedRouter,
      default: str = '',
      decider: Callable[[learned.LearnedRouter], driver.Router] = lambda x: x,
      online: Callable[[], tuple[int, float]] | None = None,
  ):
    if not router.points:
      raise ValueError(
          'The router has no operating points; run experiments.calibrate first.'
      )
    self._router, self._decider, self._online = router, decider, online
    self._default = router.at(default or router.points[0].name).point.name
    self._names = [spec.name for spec in router.card.specs]
    if any(name.split('@')[0] == ROUTER for name in self._names):
      raise ValueError(f'A route is called {ROUTER!r}; give it another name.')

  def models(self) -> list[tuple[str, card_lib.OperatingPoint | None]]:
    """Returns (name, operating point) of everything that can answer."""
    default = next(x for x in self._router.points if x.name == self._default)
    found = [(ROUTER, default)]
    found += [(f'{ROUTER}@{x.name}', x) for x in self._router.points]
    if self._online is not None:
      found.append((ONLINE, None))
    return found + [(name, None) for name in self._names]

  def choose(
      self,
      model: str,
      routing: openai_schema.Routing | None = None,
      why_void: WhyVoid = lambda point: None,
  ) -> Choice:
    """Returns what answers.

    Args:
      model: a name of `models`; a point may be named without its probability,
        as in 'router@loss<=0.05', where only one begins so.
      routing: the limits that the promise of the point must keep, or its name;
        only with the model `router`.
      why_void: says which promises hold for this answer.

    Raises:
      refusals.Refusal: if there is no such model, or no such point.
    """
    asked = {} if routing is None else routing.model_dump(exclude_none=True)
    if asked and model != ROUTER:
      raise refusals.invalid(
          'routing',
          f'routing is allowed with the model {ROUTER!r} only; the model '
          f'{model!r} says already what answers.',
      )
    if model in self._names:
      return self.alone(self._names.index(model))
    if model == ONLINE and self._online is not None:
      return self._at_online()
    if model == ROUTER:
      name = self._fulfilling(asked, why_void) if asked else self._default
      return self._at(name)
    head, _, name = model.partition('@')
    found = self._named(name) if head == ROUTER and name else []
    if len(found) != 1:
      raise refusals.Refusal(
          404,
          f'The model {model!r} does not exist; there are: '
          f'{", ".join(x for x, _ in self.models())}.',
          param='model',
          code='model_not_found',
      )
    return self._at(found[0])

  def alone(self, route: int) -> Choice:
    """Returns that the model of one route answers alone."""
    return Choice(
        self._names[route],
        fixed.LargeRouter(route) if route else fixed.SmallRouter(),
        # Without drafts: a draft would be the small model's, and be paid.
        protocols.Protocol('escalate', 'commit'),
        alone=route,
    )

  def _at(self, name: str) -> Choice:
    """Returns that the router answers at a point of this name."""
    router = self._router.at(name)
    return Choice(
        f'{ROUTER}@{name}',
        self._decider(router),
        router.card.protocol,
        router.threshold,
        router.point,
    )

  def _at_online(self) -> Choice:
    """Returns that the router answers at the threshold in service."""
    router = self._router.with_threshold(*self._online())
    return Choice(
        ONLINE, self._decider(router), router.card.protocol, router.threshold
    )

  def _named(self, name: str) -> list[str]:
    """Returns the names of the points that a name may mean."""
    known = [x.name for x in self._router.points]
    if name in known:
      return [name]
    return [x for x in known if x.startswith(f'{name}@')]

  def _fulfilling(self, asked: dict[str, Any], why_void: WhyVoid) -> str:
    """Returns the name of the point that fulfils what a request asks for."""
    if len(asked) > 1 and 'point' in asked:
      raise refusals.invalid(
          'routing', 'Give routing.point, or limits, not both.'
      )
    if 'point' in asked:
      if len(found := self._named(asked['point'])) == 1:
        return found[0]
      raise _none(
          'point',
          f'No operating point has the name {asked["point"]!r}; there are: '
          f'{self._names_of()}.',
      )
    loss, cost = asked.get('max_loss'), asked.get('max_cost')
    reasons = {point.name: why_void(point) for point in self._router.points}
    found = [x for x in self._router.points if not _is_of_group(x)]
    held = [x for x in found if reasons[x.name] is None]
    if loss is not None:
      found = held = [x for x in held if _promises(x, 'loss', loss)]
    if cost is not None:
      # Where no cost is promised, what calibration has measured must do.
      found = [x for x in held if _promises(x, 'cost', cost)] or [
          x for x in found if _cost(x) <= cost
      ]
    if not found:
      raise self._unfulfilled(asked, reasons)
    # With a limit on the loss the cheapest. With a limit on the cost alone, the
    # cheapest would always be the smallest budget, whatever the limit: within
    # it, the most accurate is what is asked for.
    if loss is not None:
      return min(found, key=_cost).name
    return max(found, key=lambda x: (_accuracy(x), -_cost(x))).name

  def _unfulfilled(
      self, asked: Mapping[str, Any], reasons: Mapping[str, str | None]
  ) -> refusals.Refusal:
    """Returns the refusal of limits that no point fulfils.

    Args:
      asked: the limits, by their names in the request.
      reasons: for each point, why its promise does not hold; None = it does.
    """
    limits = ' and '.join(
        f'{name.removeprefix("max_")} <= {x:g}' for name, x in asked.items()
    )
    void = {
        point.name: why
        for point in self._router.points
        if (why := reasons[point.name]) is not None and _is_tested(point)
    }
    parts = [
        f'No operating point fulfils {limits}; there are: {self._names_of()}.'
    ]
    if void and 'max_loss' in asked:
      parts.append('For this request some promises do not hold:')
      parts += [f'{name}: {why}' for name, why in void.items()]
    return _none(next(iter(asked)), ' '.join(parts))

  def _names_of(self) -> str:
    return ', '.join(x.name for x in self._router.points)


def _none(param: str, message: str) -> refusals.Refusal:
  """Returns the refusal of a request that no point fulfils."""
  return refusals.Refusal(
      400, message, param=f'routing.{param}', code='no_operating_point'
  )


def _promises(point: card_lib.OperatingPoint, what: str, limit: float) -> bool:
  """Returns whether a point promises that a loss or a cost keeps a limit."""
  return any(
      entry['what'] == what and entry['level'] <= limit
      for entry in _entries(point)
      if entry.get('delta') is not None
  )


def why_void(
    point: card_lib.OperatingPoint,
    asked: step_requests.Sampling,
    tested: step_requests.Sampling,
    unpromised: Mapping[str, str],
    *,
    is_alarm: bool,
) -> str | None:
  """Returns why the promise of a point does not hold; None if it does.

  Args:
    point: the operating point.
    asked: the sampling of the answer.
    tested: the sampling of the calibration.
    unpromised: see `answering.Service`.
    is_alarm: whether the drift alarm of the point was raised.
  """
  if point.name in unpromised:
    return unpromised[point.name]
  if not _is_tested(point):
    return 'Calibration has chosen this point without a promise.'
  if is_alarm:
    return 'The drift alarm of this point was raised.'
  if asked.temperature != tested.temperature:
    return 'The temperature is not that of the calibration.'
  if asked.max_tokens != tested.max_tokens:
    return 'The limit of tokens is not that of the calibration.'
  return None


def _is_tested(point: card_lib.OperatingPoint) -> bool:
  """Returns whether calibration has tested something that a point promises."""
  return any(x.get('delta') is not None for x in _entries(point))


def _is_of_group(point: card_lib.OperatingPoint) -> bool:
  """Returns whether what a point promises is for one group of questions."""
  return any('group' in entry for entry in _entries(point))


def _entries(point: card_lib.OperatingPoint) -> list[Mapping[str, Any]]:
  """Returns the promises of a point."""
  return [point.promise, *point.promise.get('also', ())]


def _cost(point: card_lib.OperatingPoint) -> float:
  """Returns what an answer at a point costs, as far as calibration knows.

  That is what it has measured, or a budget for which it has chosen the point.
  """
  costs = [x['level'] for x in _entries(point) if x['what'] == 'cost']
  return min([*costs, point.promise.get('measured', {}).get('cost', math.inf)])


def _accuracy(point: card_lib.OperatingPoint) -> float:
  """Returns the accuracy that calibration has measured at a point; or 0."""
  return point.promise.get('measured', {}).get('accuracy', 0.0)


def describe(
    point: card_lib.OperatingPoint | None, unpromised: Mapping[str, str]
) -> dict[str, Any] | None:
  """Returns what a point promises, JSON-like; None where there is no point.

  Args:
    point: the operating point.
    unpromised: see `answering.Service`.
  """
  if point is None:
    return None
  return {
      'point': point.name,
      'is_promised': _is_tested(point) and point.name not in unpromised,
      'promise': promises.in_words(point.promise),
      'measured': dict(point.promise.get('measured', {})),
  }
