"""Builds the objects that a configuration names, the same for every stage."""

from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
from typing import Any

import ml_collections

from routing import costs
from routing import protocols
from routing import types
from routing.engines import embedded
from routing.engines import endpoint as endpoint_lib
from routing.engines import engine as engine_lib
from routing.engines import model_files
from routing.engines import openai
from routing.engines import prompts
from routing.engines import resilience
from routing.engines import vllm
from routing.grading import equivalence
from routing.lm import export
from routing.lm import tokenizer as tokenizer_lib
from routing.rollout import collect
from routing.rollout import driver
from routing.shards import manifest as manifest_lib
from routing.tasks import arithmetic
from routing.tasks import splits

SPLITS = splits.SPLITS
_MODELS = ('small', 'large')  # Names of the routes, by index.


def problems(
    config: ml_collections.ConfigDict, split: str
) -> list[types.Problem]:
  """Returns the problems of one split; `config.problems` gives their number."""
  if split not in SPLITS:
    raise ValueError(f'Unknown split {split!r}; allowed: {", ".join(SPLITS)}.')
  check_source(config.problems.source)
  # All splits are drawn together: each excludes the problems of the others.
  sizes = {name: config.problems[name] for name in SPLITS}
  return arithmetic.load(config.problems.seed, **sizes)[split]


def check_source(source: str) -> None:
  """Raises ValueError unless problems of this source can be made."""
  if source != 'arithmetic':
    raise ValueError(f'Unknown problem source {source!r}; allowed: arithmetic.')


def model_directories(
    config: ml_collections.ConfigDict,
) -> list[pathlib.Path | None]:
  """Returns each model's directory of weights, smallest first; None = unknown.

  Raises:
    ValueError: if a directory that the configuration names does not exist.
  """
  pair = config.engine.pair
  if pair == 'shipped':
    entries = [pair] * len(_MODELS)
  elif isinstance(pair, str):
    entries = [f'{pair}/{name}' for name in _MODELS]
  else:
    entries = pair
  folders = list(map(_folder, _MODELS, entries))
  for folder in folders:
    if folder is not None and not folder.is_dir():
      raise ValueError(
          f'engine.pair is {pair!r}, but {folder} does not exist; allowed: '
          "'shipped', or a directory that holds small/ and large/."
      )
  return folders


def _folder(name: str, entry: str) -> pathlib.Path | None:
  """Returns the directory that an entry of `engine.pair` names; '' = None."""
  if entry == 'shipped':
    return export.shipped(name)
  return pathlib.Path(entry) if entry else None


def engines(config: ml_collections.ConfigDict) -> list[engine_lib.Engine]:
  """Returns one engine per route, smallest first; the caller closes them.

  Raises:
    ValueError: if the kind of engine is unknown, or it does not return the
      hidden states that the features need.
  """
  built = _ENGINES[engine_kind(config)](config)
  if 'hidden' in config.features.groups:
    # Observations use the hidden states of the smallest model only.
    engine_lib.require(built[:1], hidden_size=1)
  return built


def engine_kind(config: ml_collections.ConfigDict) -> str:
  """Returns the kind of the engines; raises ValueError if it is unknown."""
  # Older saved configurations have no `kind`.
  kind = config.engine.get('kind', 'embedded')
  if kind not in _ENGINES:
    raise ValueError(
        f'Unknown engine.kind {kind!r}; allowed: {", ".join(_ENGINES)}.'
    )
  return kind


def limits(config: ml_collections.ConfigDict) -> resilience.Limits:
  """Returns the limits on requests and spending of a run."""
  # Older saved configurations have no `limits`.
  return resilience.Limits(**config.collect.get('limits', {}))


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
  meter = resilience.Meter(specs(config), allowed)
  return resilience.with_retries(engines(config), allowed, meter)


def _embedded_engines(
    config: ml_collections.ConfigDict,
) -> list[engine_lib.Engine]:
  """Returns the engines of the embedded pair, which run in this process."""
  return [
      embedded.EmbeddedEngine(
          name,
          route,
          *export.load_pretrained(folder),
          tokenizer_lib.Tokenizer(),
          max_batch=config.engine.max_batch,
          num_slots=config.engine.num_slots,
      )
      for route, (name, folder) in enumerate(_named_directories(config))
  ]


def _vllm_engines(
    config: ml_collections.ConfigDict,
) -> list[engine_lib.Engine]:
  """Returns the engines of models that vLLM runs on this machine."""
  # Before the first engine: vLLM reads its environment when it starts.
  set_environment(config)
  return [
      vllm.VllmEngine(
          name,
          route,
          folder,
          vllm_settings(config, route),
          prompter(config, folder),
      )
      for route, (name, folder) in enumerate(_named_directories(config))
  ]


def set_environment(config: ml_collections.ConfigDict) -> None:
  """Sets the variables of `engine.environment` that are not set already."""
  for name, value in config.engine.environment.items():
    os.environ.setdefault(name, value)


def vllm_settings(
    config: ml_collections.ConfigDict, route: int
) -> vllm.Settings:
  """Returns the vLLM settings of one route."""
  return vllm.Settings(**_route_fields(config, vllm.Settings, route))


def _route_fields(
    config: ml_collections.ConfigDict, kind: type, route: int
) -> dict[str, Any]:
  """Returns a route's values of the fields of `kind` in `config.engine`."""
  names = {field.name for field in dataclasses.fields(kind)}
  return {
      name: value[route] if isinstance(value, tuple) else value
      for name, value in config.engine.to_dict().items()
      if name in names
  }


def _openai_engines(
    config: ml_collections.ConfigDict,
) -> list[engine_lib.Engine]:
  """Returns the engines of models on servers with OpenAI's API."""
  variables = config.engine.api_key_variable
  if isinstance(variables, str):
    variables = [variables] * len(_MODELS)
  return [
      openai.OpenAIEngine(
          name,
          route,
          endpoint_lib.Endpoint(
              **_route_fields(config, endpoint_lib.Endpoint, route),
              **_api_key(variables[route]),
          ),
          prompter=prompter(config, folder) if folder else None,
          dialogue=dialogue(config),
      )
      for route, (name, folder) in enumerate(_named_directories(config))
  ]


def _api_key(variable: str) -> dict[str, str]:
  """Returns the API key from an environment variable, as keyword arguments."""
  # Configurations are saved to disk, so they name the variable, not the key.
  if not variable:
    return {}
  if variable not in os.environ:
    raise ValueError(
        f'The environment variable {variable} is not set. Set it to the API '
        'key of the server, as engine.api_key_variable says.'
    )
  return {'api_key': os.environ[variable]}


def dialogue(config: ml_collections.ConfigDict) -> prompts.Dialogue | None:
  """Returns the messages that put a question to a chat model; None = text."""
  if not config.engine.user:
    return None
  return prompts.Dialogue(config.engine.system, config.engine.user)


def prompter(
    config: ml_collections.ConfigDict, folder: pathlib.Path
) -> prompts.Prompter:
  """Returns the prompter of a model, with the tokenizer of its directory."""
  return prompts.Prompter(prompts.load_tokenizer(folder), dialogue(config))


# Fields of `config.engine` that `engine_key` leaves out. Most do not affect
# answers. `pair` and `specs` do affect what is recorded, but wherever records
# are compared, hashes of the weights and the specs are compared separately.
_WITHOUT_EFFECT = (
    'pair',
    'specs',
    'base_url',
    'api_key_variable',
    'timeout',
    'max_batch',
    'num_slots',
    'environment',
)

# The allowed values of `engine.kind`.
_ENGINES = {
    'embedded': _embedded_engines,
    'vllm': _vllm_engines,
    'openai': _openai_engines,
}


def _named_directories(
    config: ml_collections.ConfigDict,
) -> list[tuple[str, pathlib.Path | None]]:
  """Returns (name, directory) of each route, smallest model first."""
  return list(zip(_MODELS, model_directories(config), strict=True))


def specs(config: ml_collections.ConfigDict) -> tuple[costs.RouteSpec, ...]:
  """Returns the prices and sizes of each route, smallest model first.

  A field given in `engine.specs` overrides the one derived from the weights.

  Raises:
    ValueError: if a field is neither given nor derivable.
  """
  return tuple(
      _spec(name, folder, config.engine.get('specs', {}).get(name, {}))
      for name, folder in _named_directories(config)
  )


def _spec(
    name: str, folder: pathlib.Path | None, given: Mapping[str, float]
) -> costs.RouteSpec:
  """Returns the prices and sizes of one route; `given` comes before weights."""
  if folder is not None:
    known = costs.spec_by_parameters(name, *model_files.shape(folder))
    return dataclasses.replace(known, **given)
  missing = [
      field.name
      for field in dataclasses.fields(costs.RouteSpec)
      if field.name != 'name' and field.name not in given
  ]
  if missing:
    raise ValueError(
        f'The weights of {name} are not available, so engine.specs.{name} must '
        f'give {", ".join(missing)}; estimate what is not published.'
    )
  return costs.RouteSpec(name, **given)


def check_concurrency(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError if more problems are in flight than cache slots.

  Traces would evict one another from the prefix cache, and pay to read again.
  """
  num_slots = config.engine.get('num_slots')  # None for servers: not ours.
  if num_slots and config.collect.concurrency > num_slots:
    raise ValueError(
        f'collect.concurrency is {config.collect.concurrency}; allowed: at '
        f'most engine.num_slots, {num_slots}. Lower it, or raise num_slots.'
    )


def accounting(
    config: ml_collections.ConfigDict, reference: float = float('nan')
) -> costs.Accounting:
  """Returns the cost accounting in the configured cost metric."""
  return costs.Accounting(specs(config), config.cost_metric, reference)


def protocol(config: ml_collections.ConfigDict) -> protocols.Protocol:
  """Returns the protocol; an empty view stands for the protocol's default."""
  return protocols.Protocol(config.protocol.name, config.protocol.view or None)


def grader(config: ml_collections.ConfigDict) -> equivalence.Grader:
  """Returns the grader of the problem source."""
  del config  # The only source so far has integer answers.
  return equivalence.by_name('exact')


def sampling(config: ml_collections.ConfigDict) -> driver.Sampling:
  """Returns the sampling settings, for collection and live answers alike."""
  return driver.Sampling(
      temperature=config.collect.temperature,
      max_decisions=config.protocol.max_decisions,
      max_tokens=config.collect.max_tokens,
  )


def plan(config: ml_collections.ConfigDict) -> collect.Plan:
  """Returns what is collected for each problem of a ladder collection."""
  return collect.Plan(
      sampling=sampling(config),
      seed=config.seed,
      num_samples=config.collect.samples,
  )


def specs_of(settings: Mapping[str, Any]) -> tuple[costs.RouteSpec, ...]:
  """Returns the specs that a manifest records; needs no engine or weights."""
  return tuple(costs.RouteSpec(**model) for model in settings['models'])


def engine_key(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the engine settings that answers may depend on; JSON-like.

  Where the models are and how fast they answer is left out, so that a change of
  server does not invalidate live answers on disk.
  """
  given = json.loads(config.engine.to_json_best_effort())
  return {k: v for k, v in given.items() if k not in _WITHOUT_EFFECT}


def weight_hashes(config: ml_collections.ConfigDict) -> list[str]:
  """Returns the SHA-256 of each route's weights, smallest model first.

  They keep records of two pairs apart. A model whose weights are not available
  is identified by its name on the server.
  """
  return [
      '+'.join(map(manifest_lib.hash_file, model_files.weight_files(folder)))
      if folder
      else _route_fields(config, endpoint_lib.Endpoint, route)['model']
      for route, folder in enumerate(model_directories(config))
  ]
