"""Checks that engines are in order and that a protocol allows a decision."""

from collections.abc import Sequence

from routing import protocols
from routing import types
from routing.engines import engine as engine_lib


def check_routes(engines: Sequence[engine_lib.Engine]) -> None:
  """Raises ValueError unless `engines[m].route == m` for every index m."""
  routes = [engine.route for engine in engines]
  if routes != list(range(len(engines))):
    raise ValueError(
        f'The engines have routes {routes}; they must be 0, 1, ... in this '
        'order, smallest model first.'
    )


def check_decision(
    decision: types.Decision, protocol: protocols.Protocol, num_routes: int
) -> None:
  """Raises ValueError if the protocol does not allow the chosen route."""
  # The mask after writer 0 serves at every decision: in `escalate` no decision
  # follows once a larger model has written, and in the other protocols the mask
  # does not depend on the writer.
  allowed = protocol.action_mask(0, num_routes)
  if not (0 <= decision.route < num_routes and allowed[decision.route]):
    raise ValueError(
        f'The router chose route {decision.route}; {protocol.name} allows '
        f'{[m for m in range(num_routes) if allowed[m]]} here.'
    )
