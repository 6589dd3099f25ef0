"""Which operating point, or which model alone, answers a request."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

from routing import protocols
from routing.rollout import driver
from routing.routers import card as card_lib
from routing.routers import fixed
from routing.routers import learned
from routing.routers import promises
from routing.serving import openai_schema
from routing.serving import refusals

ROUTER = 'router'
ONLINE = f'{ROUTER}@online'


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
      self, model: str, routing: openai_schema.Routing | None = None
  ) -> Choice:
    """Returns what answers.

    Args:
      model: a name of `models`; a point may be named without its probability,
        as in 'router@loss<=0.05', where only one begins so.
      routing: the limits that the point must fulfil; only with the model
        `router`.

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
      return self._at(self._fulfilling(asked) if asked else self._default)
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

  def _fulfilling(self, asked: dict[str, Any]) -> str:
    """Returns the name of the point that fulfils what a request asks for."""
    if len(asked) > 1 and 'point' in asked:
      raise refusals.invalid(
          'routing', 'Give routing.point, or limits, not both.'
      )
    if 'point' in asked:
      if len(found := self._named(asked['point'])) == 1:
        return found[0]
      raise self._none('point', f'the name {asked["point"]!r}', self._all())
    wanted = {name.removeprefix('max_'): x for name, x in asked.items()}
    found = [point for point in self._router.points if _fulfils(point, wanted)]
    if not found:
      limits = ' and '.join(f'{what} <= {x:g}' for what, x in wanted.items())
      raise self._none(next(iter(asked)), limits, self._all())
    # With a limit on the loss the cheapest. With a limit on the cost alone, the
    # cheapest would always be the smallest budget, whatever the limit: within
    # it, the most accurate is what is asked for.
    if 'loss' in wanted:
      return min(found, key=lambda x: _measured(x, 'cost')).name
    return max(found, key=lambda x: _measured(x, 'accuracy')).name

  def _all(self) -> Sequence[str]:
    return [x.name for x in self._router.points]

  def _none(
      self, param: str, what: str, there: Iterable[str]
  ) -> refusals.Refusal:
    """Returns the refusal of a request that no point fulfils."""
    return refusals.Refusal(
        400,
        f'No operating point fulfils {what}; there are: {", ".join(there)}.',
        param=f'routing.{param}',
        code='no_operating_point',
    )


def _fulfils(point: card_lib.OperatingPoint, wanted: dict[str, float]) -> bool:
  """Returns whether a point keeps every limit, e.g. {'loss': 0.05}."""
  entries = [point.promise, *point.promise.get('also', ())]
  if any('group' in entry for entry in entries):
    return False  # It promises nothing for a question of another group.
  return all(
      any(
          entry['what'] == what and entry['level'] <= limit
          # A budget is kept on the problems on which it was chosen, and may be
          # asked for; a loss is given only where it is promised.
          and (what == 'cost' or entry.get('delta') is not None)
          for entry in entries
      )
      for what, limit in wanted.items()
  )


def _measured(point: card_lib.OperatingPoint, what: str) -> float:
  """Returns what calibration measured at a point."""
  measured = point.promise.get('measured', {})
  if what in measured:
    return measured[what]
  return float('inf') if what == 'cost' else 0.0


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
  entries = [point.promise, *point.promise.get('also', ())]
  is_tested = any(x.get('delta') is not None for x in entries)
  return {
      'point': point.name,
      'is_promised': is_tested and point.name not in unpromised,
      'promise': promises.in_words(point.promise),
      'measured': dict(point.promise.get('measured', {})),
  }
