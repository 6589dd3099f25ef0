"""Builds the objects that a configuration names, the same for every stage."""

from collections.abc import Mapping
import dataclasses
import functools
import json
import os
from typing import Any

from absl import logging
import ml_collections

from routing import costs
from routing import protocols
from routing import types
from routing.engines import back_ends
from routing.engines import engine as engine_lib
from routing.engines import meter as meter_lib
from routing.engines import resilience
from routing.engines import route as route_lib
from routing.features import observation
from routing.grading import equivalence
from routing.rollout import collect
from routing.rollout import step_requests
from routing.tasks import delimiter as delimiter_lib
from routing.tasks import prompt as prompt_lib
from routing.tasks import registry
from routing.tasks import splits
from routing.tasks import tables
from routing.tasks import task as task_lib

SPLITS = splits.SPLITS
# Approximate limit of replies per problem and model, where models rarely agree
# and the traces multiply. The embedded pair needs up to 60.
MAX_REPLIES = 200
# Variables that keep vLLM and torch, in all their processes, from printing more
# than errors. The processes inherit variables, but no settings of loggers.
_QUIET = dict(
    VLLM_LOGGING_LEVEL='ERROR',
    TORCH_CPP_LOG_LEVEL='ERROR',
    TORCH_LOGS='-torch._library',
    PYTHONWARNINGS='ignore::FutureWarning',
)
# The prices of a route that nobody bills.
_PRICES = dict(price_input=0.0, price_cached=0.0, price_output=0.0)


def task(config: ml_collections.ConfigDict) -> task_lib.Task:
  """Returns the task; raises ValueError if name or options are unknown."""
  return registry.make(**_plain(config.task))


def problems(
    config: ml_collections.ConfigDict, split: str
) -> list[types.Problem]:
  """Returns the problems of one split; `config.problems` gives their number."""
  if split not in SPLITS:
    raise ValueError(f'Unknown split {split!r}; allowed: {", ".join(SPLITS)}.')
  # As JSON, because keys of a cache must be hashable.
  given = json.dumps([_plain(config.task), _plain(config.problems)])
  return list(_load(given).parts[split])


@functools.lru_cache(maxsize=4)
def _load(given: str) -> tables.Loaded:
  """Loads all splits together: each excludes the problems of the others."""
  options, sizes = json.loads(given)
  loaded = registry.make(**options).source.load(sizes, sizes.pop('seed'))
  if loaded.dropped:
    logging.info(
        'Task %s: rows left out: %s.',
        options['name'],
        task_lib.why_dropped(loaded.dropped),
    )
  return loaded


def routes(config: ml_collections.ConfigDict) -> tuple[route_lib.Route, ...]:
  """Returns the routes, smallest model first.

  A route without a prompt of its own has the task's.

  Raises:
    ValueError: if there are fewer than two, two have the same name, or a route
      has an unknown or a missing field.
  """
  asked = task(config).prompt
  found = tuple(
      _route(_plain(entry), index, asked)
      for index, entry in enumerate(config.routes)
  )
  names = [route.name for route in found]
  if len(found) < 2 or len(set(names)) < len(names):
    raise ValueError(
        f'config.routes has the names {names}; allowed: two or more, all '
        'different, smallest model first.'
    )
  return found


def _route(
    entry: Mapping[str, Any], index: int, asked: prompt_lib.Prompt
) -> route_lib.Route:
  """Returns the route of one entry of `config.routes`."""
  known = [field.name for field in dataclasses.fields(route_lib.Route)]
  unknown = [name for name in entry if name not in known]
  missing = [name for name in ('name', 'engine', 'model') if name not in entry]
  if unknown or missing:
    raise ValueError(
        f'config.routes[{index}] has '
        + (f'the field {unknown[0]!r}' if unknown else f'no {missing[0]!r}')
        + f'; allowed: {", ".join(known)}; needed: name, engine, model.'
    )
  given = entry.get('prompt') or {}
  try:
    prompt = dataclasses.replace(asked, **given)
  except TypeError as error:
    raise ValueError(f'config.routes[{index}].prompt: {error}') from error
  return route_lib.Route(**{**entry, 'prompt': prompt})


def engines(config: ml_collections.ConfigDict) -> list[engine_lib.Engine]:
  """Returns one engine per route, smallest first; the caller closes them.

  Raises:
    ValueError: if a back end or setting is unknown, an API key is not set, or
      the small model's engine does not return the hidden states that the
      features need.
  """
  set_environment(config)  # Before the first engine, which may read it.
  # All keys before the first engine: one that was built, and is left behind by
  # an error, would keep its process and its memory.
  keys = list(map(_api_key, routes(config)))
  built = [
      back_ends.make(route, index, key)
      for index, (route, key) in enumerate(
          zip(routes(config), keys, strict=True)
      )
  ]
  if 'hidden' in config.features.groups:
    # Observations use the hidden states of the smallest model only.
    engine_lib.require(built[:1], hidden_size=1)
  return built


def _api_key(route: route_lib.Route) -> str:
  """Returns the API key of a route from the environment; 'none' if it has none.

  Raises:
    ValueError: if the variable that the route names is not set.
  """
  if not route.api_key_variable:
    return 'none'
  if route.api_key_variable not in os.environ:
    raise ValueError(
        f'The environment variable {route.api_key_variable} is not set. Set it '
        f'to the API key of the server of route {route.name!r}.'
    )
  return os.environ[route.api_key_variable]


def set_environment(config: ml_collections.ConfigDict) -> None:
  """Sets the variables of `config.environment` that are not set already.

  Also those that keep the processes of the back ends quiet.
  """
  for name, value in {**_QUIET, **config.get('environment', {})}.items():
    os.environ.setdefault(name, value)


def limits(config: ml_collections.ConfigDict) -> resilience.Limits:
  """Returns the limits on requests and spending of a run.

  Raises:
    ValueError: if a limit is negative, or dollars are limited although no route
      has a price.
  """
  # Older saved configurations have no `limits`.
  allowed = resilience.Limits(**config.collect.get('limits', {}))
  if allowed.dollars and not any(map(is_billed, routes(config))):
    raise ValueError(
        f'collect.limits.dollars is {allowed.dollars:g}, but no route has a '
        'price; give routes[i].spec.price_input, price_cached and '
        'price_output, or set collect.limits.tokens instead.'
    )
  return allowed


def steady_engines(
    config: ml_collections.ConfigDict,
) -> list[engine_lib.Engine]:
  """Returns `engines` that retry failed requests, under `limits` together.

  For live answers; a collection is limited by `unattended_collection`.

  Raises:
    ValueError: as `engines` does.
  """
  allowed = limits(config)
  # One meter for all engines: the limits are on the sum of their spending.
  meter = meter_lib.Meter(billed_specs(config), allowed.dollars, allowed.tokens)
  return resilience.with_retries(engines(config), allowed, meter)


def specs(config: ml_collections.ConfigDict) -> tuple[costs.RouteSpec, ...]:
  """Returns the prices and sizes of each route, smallest model first.

  Raises:
    ValueError: if a field is neither given nor follows from the weights, or a
      price that follows from a size is compared with smaller, given ones.
  """
  asked = routes(config)
  found = tuple(route.cost_spec() for route in asked)
  given = [
      spec.price_output
      for route, spec in zip(asked, found, strict=True)
      if is_billed(route)
  ]
  for route, spec in zip(asked, found, strict=True):
    # Prices by size are relative, 1 dollar for every million parameters, which
    # is thousands of times a list price.
    if given and not is_billed(route) and spec.price_output > max(given):
      raise ValueError(
          f'Route {route.name!r} has no price, and the {spec.price_output:g} '
          'that follow from its size are not dollars, as the '
          f'{max(given):g} of another route are; give its spec price_input, '
          'price_cached and price_output.'
      )
  return found


def is_billed(route: route_lib.Route) -> bool:
  """Returns whether the configuration gives prices for a route."""
  return any(name in route.spec for name in _PRICES)


def billed_specs(
    config: ml_collections.ConfigDict,
) -> tuple[costs.RouteSpec, ...]:
  """Returns `specs` for sums in dollars: prices of 0 where none are given.

  A price that follows from the size of a model only relates the costs of two
  models to one another. Nobody is billed for it.

  Raises:
    ValueError: as `specs` does.
  """
  return tuple(
      spec if is_billed(route) else dataclasses.replace(spec, **_PRICES)
      for route, spec in zip(routes(config), specs(config), strict=True)
  )


def check_routes(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError if a route's engine or settings are not allowed.

  This includes a back end that cannot end steps as the task does, and more
  problems in flight than an engine caches: traces would evict one another from
  the prefix cache, and pay to be read again.
  """
  delimiter = task(config).delimiter
  for route in routes(config):
    back_ends.check_delimiter(route, delimiter)
  check_slots(config, 'collect.concurrency', config.collect.concurrency)


def check_slots(
    config: ml_collections.ConfigDict, name: str, concurrency: int
) -> None:
  """Raises ValueError if an engine has fewer slots than problems in flight.

  Args:
    config: of the run.
    name: of the field that says how many are in flight, for the message.
    concurrency: its value.
  """
  for route in routes(config):
    slots = getattr(back_ends.settings(route), 'num_slots', None)
    if slots and concurrency > slots:
      raise ValueError(
          f'{name} is {concurrency}; allowed: at most num_slots of route '
          f'{route.name!r}, {slots}. Lower it, or raise num_slots.'
      )


def protocol(config: ml_collections.ConfigDict) -> protocols.Protocol:
  """Returns the protocol; an empty view stands for the protocol's default."""
  return protocols.Protocol(config.protocol.name, config.protocol.view or None)


def features(
    config: ml_collections.ConfigDict, num_routes: int, hidden_size: int
) -> observation.FeatureConfig:
  """Returns what the policy observes; sizes as in `observation.configure`."""
  return observation.configure(
      config.features,
      num_routes=num_routes,
      max_decisions=sampling(config).max_decisions,
      hidden_size=hidden_size,
  )


def grader(config: ml_collections.ConfigDict) -> equivalence.Grader:
  """Returns the grader of the task."""
  asked = task(config)
  return equivalence.by_name(asked.grader, asked.finders)


def sampling(config: ml_collections.ConfigDict) -> step_requests.Sampling:
  """Returns the sampling settings, for collection and live answers alike.

  A limit of 0 stands for the limit of the task.
  """
  asked = task(config)
  temperature = config.collect.temperature
  found = routes(config)
  if any('temperature' in route.sampling for route in found):
    temperature = tuple(
        float(route.sampling.get('temperature', temperature)) for route in found
    )
  return step_requests.Sampling(
      temperature=temperature,
      max_decisions=config.protocol.max_decisions or asked.max_decisions,
      max_tokens=config.collect.max_tokens or asked.max_tokens,
      finders=tuple(asked.finders),
      delimiter=asked.delimiter,
  )


def plan(config: ml_collections.ConfigDict) -> collect.Plan:
  """Returns how a ladder is collected: sampling, seed, number of endings."""
  return collect.Plan(
      sampling=sampling(config),
      seed=config.seed,
      num_samples=config.collect.samples,
  )


def specs_of(settings: Mapping[str, Any]) -> tuple[costs.RouteSpec, ...]:
  """Returns the specs that a manifest records; needs no engine or weights."""
  return tuple(costs.RouteSpec(**model) for model in settings['models'])


def answer_keys(config: ml_collections.ConfigDict) -> list[dict[str, Any]]:
  """Returns for each route all that its answers depend on; JSON-like."""
  return [back_ends.answer_key(route) for route in routes(config)]


def asking_key(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns how models are asked: sampling, and each route's prompt; JSON-like.

  Unlike `answer_keys` it says nothing of the models and of what runs them.
  """
  key = {
      'sampling': delimiter_lib.settings_key(sampling(config)),
      'routes': [
          {
              'prompt': route.prompt and dataclasses.asdict(route.prompt),
              'template': dict(route.template),
              'truncation': route.truncation,
          }
          for route in routes(config)
      ],
  }
  return json.loads(json.dumps(key))


def task_key(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns all of the task that collected records depend on; JSON-like."""
  asked = task(config)
  options = _plain(config.task)
  for part in (options, *options.get('parts', ())):
    part.pop('path', None)  # Where the files are changes nothing.
  # Older records do not name the blank line.
  if asked.delimiter == delimiter_lib.BLANK_LINE:
    options.pop('delimiter', None)
  return {
      **options,
      'finders': list(asked.finders),
      'grader': asked.grader,
  }


def model_identities(config: ml_collections.ConfigDict) -> list[str]:
  """Returns what identifies each route's model, smallest model first.

  It keeps records of two pairs apart: a hash of the weights, the commit of a
  model of the hub, or the name on a server where the weights are not available.
  """
  return [route.identity for route in routes(config)]


def _plain(given: Any) -> Any:
  """Returns a part of a configuration as plain dictionaries and lists."""
  if isinstance(given, ml_collections.ConfigDict):
    given = given.to_dict()
  return json.loads(json.dumps(given))
