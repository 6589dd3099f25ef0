"""Prints what a service would serve; loads no model and listens nowhere."""

import pathlib

import ml_collections

from experiments import builders
from experiments import collection_facts
from experiments import plan_table
from experiments import serve
from experiments import served_router
from routing.engines import route as route_lib
from routing.routers import learned
from routing.serving import keys as keys_lib

# Until a model of the embedded pair has compiled, on one core of an AMD EPYC.
_EMBEDDED_SECONDS = 10.0


def show(
    config: ml_collections.ConfigDict,
    router: str,
    host: str,
    port: int,
    keys: str | None,
    state: str | None,
    new_key: str | None,
    traces: str | None,
    allow_other_pair: bool,
) -> None:
  """Checks what `serve.main` would serve, and prints it; loads no model."""
  found = learned.load(router)
  served_router.check(config, found, allow_other_pair=allow_other_pair)
  given = serve.settings(config)
  users = () if keys is None else keys_lib.read(pathlib.Path(keys))
  serve.check_host(host, users)
  serve.bind(host, port).close()
  rows = [
      plan_table.Row('serve', *_load_row(route))
      for route in builders.routes(config)
  ]
  points = ', '.join(point.name for point in found.points)
  plan_table.show(
      rows,
      [
          f'At http://{host}:{port}/v1, for {len(users) or "all"} callers, '
          f'{given.concurrency} answers at once. Points: {points}.',
          f'State: {state or "none, lost at a restart"}. Spans: '
          f'{traces or "none"}.',
          *([f'The key {new_key!r} would be made instead.'] if new_key else []),
      ],
  )


def _load_row(route: route_lib.Route) -> tuple[str, str, float | None]:
  """Returns what would be loaded for a route, its size and its seconds."""
  if route.is_served:
    return f'{route.name}: asks {route.model} elsewhere', 'nothing to load', 0
  parameters = collection_facts.parameters(route)
  if parameters is None:
    return f'{route.name}: {route.model}', 'unknown, not on this machine', None
  return (
      f'{route.name}: {route.model}, by {route.engine}',
      f'{parameters:,} parameters',
      # Only the embedded pair compiles a fixed number of programs.
      _EMBEDDED_SECONDS if route.engine == 'embedded' else None,
  )
