"""From a configuration to the objects that it names, for every stage alike."""

from collections.abc import Mapping
import pathlib
from typing import Any

import ml_collections

from routing import costs
from routing import protocols
from routing import types
from routing.engines import embedded
from routing.engines import engine as engine_lib
from routing.grading import equivalence
from routing.lm import decoder
from routing.lm import export
from routing.lm import tokenizer as tokenizer_lib
from routing.problems import arithmetic
from routing.rollout import collect
from routing.rollout import driver
from routing.shards import manifest as manifest_lib

SPLITS = ('train', 'validation', 'test')
_MODELS = ('small', 'large')  # Of the embedded pair, by route.


def problems(
    config: ml_collections.ConfigDict, split: str
) -> list[types.Problem]:
  """The problems of one split, as many as the configuration asks for."""
  if split not in SPLITS:
    raise ValueError(f'Unknown split {split!r}; allowed: {", ".join(SPLITS)}.')
  source = config.problems.source
  if source != 'arithmetic':
    raise ValueError(f'Unknown problem source {source!r}; allowed: arithmetic.')
  # All three sizes, since the splits are drawn to be disjoint.
  sizes = {name: config.problems[name] for name in SPLITS}
  return arithmetic.load(config.problems.seed, **sizes)[split]


def model_directories(config: ml_collections.ConfigDict) -> list[pathlib.Path]:
  """Where the weights of each route are, smallest first."""
  pair = config.engine.pair
  if pair == 'shipped':
    return [pathlib.Path(export.shipped(name)) for name in _MODELS]
  folders = [pathlib.Path(pair) / name for name in _MODELS]
  for folder in folders:
    if not folder.is_dir():
      raise ValueError(
          f'engine.pair is {pair!r}, but {folder} does not exist; allowed: '
          "'shipped', or a directory that holds small/ and large/."
      )
  return folders


def engines(config: ml_collections.ConfigDict) -> list[engine_lib.Engine]:
  """The engines, one a route, smallest first. The caller closes them."""
  return [
      _embedded_engine(config, route, folder)
      for route, folder in enumerate(model_directories(config))
  ]


def _embedded_engine(
    config: ml_collections.ConfigDict, route: int, folder: pathlib.Path
) -> embedded.EmbeddedEngine:
  """One model of the embedded pair."""
  decoder_config, params = export.load_pretrained(folder)
  return embedded.EmbeddedEngine(
      _MODELS[route],
      route,
      decoder_config,
      params,
      tokenizer_lib.Tokenizer(),
      max_batch=config.engine.max_batch,
      num_slots=config.engine.num_slots,
  )


def specs(config: ml_collections.ConfigDict) -> tuple[costs.RouteSpec, ...]:
  """What charging each route's tokens needs to know, smallest first."""
  loaded = []
  for name, folder in zip(_MODELS, model_directories(config), strict=True):
    decoder_config, params = export.load_pretrained(folder)
    loaded.append(
        costs.spec_by_parameters(
            name,
            decoder.num_parameters(params),
            decoder_config.num_layers,
            decoder_config.num_heads * decoder_config.head_dim,
        )
    )
  return tuple(loaded)


def accounting(
    config: ml_collections.ConfigDict, reference: float = float('nan')
) -> costs.Accounting:
  """The books in the configured ruler; see `costs.Accounting`."""
  return costs.Accounting(specs(config), config.ruler, reference)


def protocol(config: ml_collections.ConfigDict) -> protocols.Protocol:
  """The decision process."""
  return protocols.Protocol(config.protocol.name, config.protocol.view)


def grader(config: ml_collections.ConfigDict) -> equivalence.Grader:
  """The grader of the problem source."""
  del config  # All sources so far want an exact answer.
  return equivalence.by_name('exact')


def sampling(config: ml_collections.ConfigDict) -> driver.Sampling:
  """How traces are written, when collecting and when live."""
  return driver.Sampling(
      temperature=config.collect.temperature,
      max_steps=config.protocol.max_steps,
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


def weight_hashes(config: ml_collections.ConfigDict) -> list[str]:
  """SHA-256 of each route's weights: data of two pairs must never mix."""
  return [
      manifest_lib.hash_file(folder / 'model.safetensors')
      for folder in model_directories(config)
  ]
