"""From a configuration to the objects that it names, for every stage alike."""

from collections.abc import Mapping
import dataclasses
import json
import math
import os
import pathlib
from typing import Any

import ml_collections
import safetensors

from routing import costs
from routing import protocols
from routing import types
from routing.engines import embedded
from routing.engines import endpoint as endpoint_lib
from routing.engines import engine as engine_lib
from routing.engines import openai
from routing.engines import prompts
from routing.engines import resilience
from routing.engines import vllm
from routing.grading import equivalence
from routing.lm import export
from routing.lm import tokenizer as tokenizer_lib
from routing.problems import arithmetic
from routing.problems import splits
from routing.rollout import collect
from routing.rollout import driver
from routing.shards import manifest as manifest_lib

SPLITS = splits.SPLITS
_MODELS = ('small', 'large')  # Of the embedded pair, by route.


def problems(
    config: ml_collections.ConfigDict, split: str
) -> list[types.Problem]:
  """The problems of one split, as many as the configuration asks for."""
  if split not in SPLITS:
    raise ValueError(f'Unknown split {split!r}; allowed: {", ".join(SPLITS)}.')
  check_source(config.problems.source)
  # All sizes, since the splits are drawn to be disjoint.
  sizes = {name: config.problems[name] for name in SPLITS}
  return arithmetic.load(config.problems.seed, **sizes)[split]


def check_source(source: str) -> None:
  """Raises ValueError unless problems of this source can be made."""
  if source != 'arithmetic':
    raise ValueError(f'Unknown problem source {source!r}; allowed: arithmetic.')


def model_directories(
    config: ml_collections.ConfigDict,
) -> list[pathlib.Path | None]:
  """Directory of each model's weights, smallest model first; None = unknown.

  Raises:
    ValueError: if a directory that is named does not exist.
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
  """The directory that an entry stands for; of '', none."""
  if entry == 'shipped':
    return export.shipped(name)
  return pathlib.Path(entry) if entry else None


def engines(config: ml_collections.ConfigDict) -> list[engine_lib.Engine]:
  """The engines, one a route, smallest first. The caller closes them.

  Raises:
    ValueError: if the kind of engine is unknown, or if it cannot give what the
      features are to be made of.
  """
  built = _ENGINES[engine_kind(config)](config)
  if 'hidden' in config.features.groups:
    engine_lib.require(built[:1], hidden_size=1)
  return built


def engine_kind(config: ml_collections.ConfigDict) -> str:
  """Returns the kind of the engines; raises ValueError if there is no such."""
  # Configurations from before there were others name no kind.
  kind = config.engine.get('kind', 'embedded')
  if kind not in _ENGINES:
    raise ValueError(
        f'Unknown engine.kind {kind!r}; allowed: {", ".join(_ENGINES)}.'
    )
  return kind


def limits(config: ml_collections.ConfigDict) -> resilience.Limits:
  """How much a run may ask and spend."""
  # Configurations from before there were limits name none.
  return resilience.Limits(**config.collect.get('limits', {}))


def steady_engines(
    config: ml_collections.ConfigDict,
) -> list[engine_lib.Engine]:
  """The same, none of which gives up at once, under `limits` together.

  For what has no watch of its own, as `unattended_collection` keeps.

  Raises:
    ValueError: as `engines` does.
  """
  allowed = limits(config)
  meter = resilience.Meter(specs(config), allowed)
  return resilience.steady(engines(config), allowed, meter)


def _embedded_engines(
    config: ml_collections.ConfigDict,
) -> list[engine_lib.Engine]:
  """The embedded pair, in this process."""
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
  """The models as vLLM runs them, a process each."""
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
  """Sets what vLLM reads from the environment, but for what is set already."""
  for name, value in config.engine.environment.items():
    os.environ.setdefault(name, value)


def vllm_settings(
    config: ml_collections.ConfigDict, route: int
) -> vllm.Settings:
  """The settings of one route."""
  return vllm.Settings(**_route_fields(config, vllm.Settings, route))


def _route_fields(
    config: ml_collections.ConfigDict, kind: type, route: int
) -> dict[str, Any]:
  """The fields of `kind` in `config.engine`: of a tuple, the route's entry."""
  names = {field.name for field in dataclasses.fields(kind)}
  return {
      name: value[route] if isinstance(value, tuple) else value
      for name, value in config.engine.to_dict().items()
      if name in names
  }


def _openai_engines(
    config: ml_collections.ConfigDict,
) -> list[engine_lib.Engine]:
  """The models behind servers."""
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
  """The key that an environment variable holds; keys belong in no file."""
  if not variable:
    return {}
  if variable not in os.environ:
    raise ValueError(
        f'The environment variable {variable} is not set; engine.'
        'api_key_variable says that it holds the key of the server.'
    )
  return {'api_key': os.environ[variable]}


def dialogue(config: ml_collections.ConfigDict) -> prompts.Dialogue | None:
  """How problems are put to a chat model; None = as plain text."""
  if not config.engine.user:
    return None
  return prompts.Dialogue(config.engine.system, config.engine.user)


def prompter(
    config: ml_collections.ConfigDict, folder: pathlib.Path
) -> prompts.Prompter:
  """Prompts for the model of a directory, with its own tokenizer."""
  return prompts.Prompter(prompts.load_tokenizer(folder), dialogue(config))


# Of `config.engine`: what answers do not depend on. Of the weights and specs
# they do, but these have names of their own wherever answers are compared.
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

# What a configuration may name as `engine.kind`.
_ENGINES = {
    'embedded': _embedded_engines,
    'vllm': _vllm_engines,
    'openai': _openai_engines,
}


def _named_directories(
    config: ml_collections.ConfigDict,
) -> list[tuple[str, pathlib.Path | None]]:
  """(name, directory) of each route, smallest first."""
  return list(zip(_MODELS, model_directories(config), strict=True))


def specs(config: ml_collections.ConfigDict) -> tuple[costs.RouteSpec, ...]:
  """What charging each route's tokens needs to know, smallest first.

  What `engine.specs` says of a route comes before what its weights say.

  Raises:
    ValueError: if neither says all.
  """
  return tuple(
      _spec(name, folder, config.engine.get('specs', {}).get(name, {}))
      for name, folder in _named_directories(config)
  )


def _spec(
    name: str, folder: pathlib.Path | None, given: Mapping[str, float]
) -> costs.RouteSpec:
  """What charging the tokens of one route needs to know."""
  if folder is not None:
    known = costs.spec_by_parameters(name, *_shape(folder))
    return dataclasses.replace(known, **given)
  missing = [
      field.name
      for field in dataclasses.fields(costs.RouteSpec)
      if field.name != 'name' and field.name not in given
  ]
  if missing:
    raise ValueError(
        f'The weights of {name} are not at hand, so engine.specs.{name} must '
        f'say {", ".join(missing)}; an estimate where nobody knows.'
    )
  return costs.RouteSpec(name, **given)


def _shape(folder: pathlib.Path) -> tuple[int, int, int]:
  """Parameters, layers and attention width of the model in a directory."""
  model = json.loads((folder / 'config.json').read_text())
  num_heads = model['num_attention_heads']
  head_size = model.get('head_dim') or model['hidden_size'] // num_heads
  parameters = 0
  for path in weight_files(folder):
    with safetensors.safe_open(path, 'numpy') as tensors:
      for name in tensors.keys():
        parameters += math.prod(tensors.get_slice(name).get_shape())
  return parameters, model['num_hidden_layers'], num_heads * head_size


def weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """The files of a model's weights.

  Raises:
    FileNotFoundError: if there are none.
  """
  files = sorted(folder.glob('*.safetensors'))
  if not files:
    raise FileNotFoundError(f'{folder} holds no *.safetensors file.')
  return files


def check_concurrency(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError if traces would evict one another's cache.

  They would be charged for reading again.
  """
  num_slots = config.engine.get('num_slots')  # Servers have none of their own.
  if num_slots and config.collect.concurrency > num_slots:
    raise ValueError(
        f'collect.concurrency is {config.collect.concurrency}; allowed: at '
        f'most engine.num_slots, {num_slots}.'
    )


def accounting(
    config: ml_collections.ConfigDict, reference: float = float('nan')
) -> costs.Accounting:
  """The books in the configured ruler; see `costs.Accounting`."""
  return costs.Accounting(specs(config), config.ruler, reference)


def protocol(config: ml_collections.ConfigDict) -> protocols.Protocol:
  """The decision process; an empty view is the protocol's own."""
  return protocols.Protocol(config.protocol.name, config.protocol.view or None)


def grader(config: ml_collections.ConfigDict) -> equivalence.Grader:
  """The grader of the problem source."""
  del config  # All sources so far want an exact answer.
  return equivalence.by_name('exact')


def sampling(config: ml_collections.ConfigDict) -> driver.Sampling:
  """How traces are written, when collecting and when live."""
  return driver.Sampling(
      temperature=config.collect.temperature,
      max_decisions=config.protocol.max_decisions,
      max_tokens=config.collect.max_tokens,
  )


def plan(config: ml_collections.ConfigDict) -> collect.Plan:
  """What is collected of each problem."""
  return collect.Plan(
      sampling=sampling(config),
      seed=config.seed,
      num_samples=config.collect.samples,
  )


def specs_of(settings: Mapping[str, Any]) -> tuple[costs.RouteSpec, ...]:
  """The specs that a manifest's settings record; needs no engine."""
  return tuple(costs.RouteSpec(**model) for model in settings['models'])


def engine_key(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """What of the back end answers may depend on, besides the weights.

  JSON-like. Left out is where the models are and how fast they answer.
  """
  given = json.loads(config.engine.to_json_best_effort())
  return {k: v for k, v in given.items() if k not in _WITHOUT_EFFECT}


def weight_hashes(config: ml_collections.ConfigDict) -> list[str]:
  """SHA-256 of each route's weights: data of two pairs must never mix.

  Of a model whose weights are not at hand, its name on the server.
  """
  return [
      '+'.join(manifest_lib.hash_file(path) for path in weight_files(folder))
      if folder
      else _route_fields(config, endpoint_lib.Endpoint, route)['model']
      for route, folder in enumerate(model_directories(config))
  ]
