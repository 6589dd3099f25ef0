"""Defines a route: a model, the back end that runs it, and its prices.

A run has one route per model, smallest first, and each may have another back
end. A route says everything that a stage must know of its model; the engine
that runs the model is made of it by `back_ends.make`.
"""

from collections.abc import Mapping
import dataclasses
import functools
import json
import pathlib
from typing import Any

import routing
from routing import costs
from routing.engines import model_files
from routing.tasks import prompt as prompt_lib

# Fields of `Route.sampling`.
SAMPLING = ('temperature', 'top_p', 'top_k', 'min_p', 'repetition_penalty')
# Beginning of the names of the models that ship with the package.
_SHIPPED = 'shipped/'


@dataclasses.dataclass(frozen=True)
class Route:
  """One model with its back end.

  name: short name, for tables and messages, e.g. 'small'.
  engine: name of the back end, one of `back_ends.BACK_ENDS`.
  model: directory of the weights, a name on the Hugging Face hub, or 'shipped/'
    and the name of a model that ships with the package. For a server: the
    server's name of the model. For llama.cpp: a GGUF
    file, or 'owner/repository/file' on the hub.
  weights: for a server: directory or hub name of the same model, for its
    tokenizer, size and identity; '' = not available. llama.cpp needs it.
  revision: commit or tag on the hub; '' = the newest.
  prompt: how a question is put to this model; None = as the task puts it.
  template: further arguments of the chat template, e.g. enable_thinking=False.
  spec: fields of `costs.RouteSpec`, e.g. prices, instead of those that follow
    from the weights; all fields if the weights are not available.
  sampling: how this model samples, where it differs from the run: temperature,
    top_p, top_k, min_p and repetition_penalty. By default the run's temperature
    and no truncation; a model's `generation_config.json` has no effect.
  settings: of the back end; the fields of its dataclass of settings.
  api_key_variable: environment variable that holds the key of a server's
    account; '' = the server needs no key.
  """

  name: str
  engine: str
  model: str
  weights: str = ''
  revision: str = ''
  prompt: prompt_lib.Prompt | None = None
  template: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  spec: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  sampling: Mapping[str, float] = dataclasses.field(default_factory=dict)
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  api_key_variable: str = ''

  def __post_init__(self):
    unknown = [name for name in self.sampling if name not in SAMPLING]
    if unknown:
      raise ValueError(
          f'Route {self.name!r} has the sampling field {unknown[0]!r}; '
          f'allowed: {", ".join(SAMPLING)}.'
      )

  @property
  def truncation(self) -> dict[str, float]:
    """The fields of `sampling` other than the temperature."""
    return {k: v for k, v in self.sampling.items() if k != 'temperature'}

  @property
  def folder(self) -> pathlib.Path | None:
    """The directory of weights and tokenizer; None = not available.

    A model of the hub is downloaded, unless it is in the local cache.

    Raises:
      ValueError: if there is no such directory, and no such name on the hub.
    """
    name = self.weights if self.is_served else self.model
    return find(name, self.revision) if name else None

  @property
  def is_served(self) -> bool:
    """True if `model` does not name weights in the format of `transformers`."""
    return self.engine in ('openai', 'llama_cpp')

  @property
  def runs_file(self) -> bool:
    """True if `model` is a GGUF file that llama.cpp loads on this machine."""
    return self.engine == 'llama_cpp' and not self.settings.get('base_url')

  @property
  def identity(self) -> str:
    """What identifies the model: a hash of its weights, else its served name.

    A model of the hub is identified by its name and commit.
    """
    if self.runs_file:
      return model_files.hash_file(find_file(self.model, self.revision))
    folder = self.folder
    if folder is None:
      return self.model
    if folder.parent.name == 'snapshots':  # The layout of the hub's cache.
      return f'{folder.parents[1].name}@{folder.name}'
    return model_files.hash_weights(folder)

  def cost_spec(self) -> costs.RouteSpec:
    """Returns the prices and the size of the model.

    Raises:
      ValueError: if a field is neither given nor follows from the weights.
    """
    folder = self.folder
    if folder is not None:
      parameters, num_layers, width = model_files.shape(folder)
      # Prices follow from the number that counts, unless they are given too.
      parameters = self.spec.get('parameters', parameters)
      known = costs.spec_by_parameters(self.name, parameters, num_layers, width)
      return dataclasses.replace(known, **self.spec)
    missing = [
        field.name
        for field in dataclasses.fields(costs.RouteSpec)
        if field.name != 'name' and field.name not in self.spec
    ]
    if missing:
      raise ValueError(
          f'The weights of route {self.name!r} are not available, so its spec '
          f'must give {", ".join(missing)}; estimate what is not published.'
      )
    return costs.RouteSpec(self.name, **self.spec)

  def answer_key(self, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all that an answer of this route depends on; JSON-like.

    Args:
      settings: all settings of the back end that may change an answer.
    """
    folder = self.folder
    return json.loads(
        json.dumps(
            {
                'engine': self.engine,
                'model': self.identity,
                'served_name': self.model
                if self.is_served and not self.runs_file
                else '',
                # Chat template, special tokens and sampling defaults.
                'files_sha256': model_files.hash_small_files(folder)
                if folder
                else '',
                'prompt': dataclasses.asdict(self.prompt)
                if self.prompt
                else None,
                'template': dict(self.template),
                'settings': dict(settings),
                # Left out where there is none, so that records from before
                # this field keep their key.
                **({'sampling': dict(self.sampling)} if self.sampling else {}),
            }
        )
    )


@functools.lru_cache(maxsize=32)
def find(name: str, revision: str = '') -> pathlib.Path:
  """Returns the directory of a model's files; see `Route.model`.

  Raises:
    ValueError: if there is no such directory, and no such name on the hub.
  """
  if name.startswith(_SHIPPED):
    folder = pathlib.Path(routing.__file__).parent / 'lm' / 'weights'
    folder /= name.removeprefix(_SHIPPED)
    if not (folder / 'config.json').exists():
      raise ValueError(
          f'No model {name!r} ships with the package; allowed: shipped/small, '
          'shipped/large, and the step scorer shipped/reward.'
      )
    return folder
  folder = pathlib.Path(name)
  if folder.is_dir():
    return folder
  # A name on the hub has at most one slash, and does not begin with one.
  if name.count('/') > 1 or name.startswith(('/', '.')):
    raise ValueError(
        f'The model {name!r} does not exist; allowed: a directory, a name on '
        'the Hugging Face hub, shipped/small or shipped/large.'
    )
  import huggingface_hub
  from huggingface_hub import errors

  try:
    return pathlib.Path(
        huggingface_hub.snapshot_download(
            name,
            revision=revision or None,
            # Weights in other formats would double the download.
            allow_patterns=['*.json', '*.safetensors', '*.jinja', '*.txt'],
        )
    )
  except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
    raise ValueError(
        f'The model {name!r} is neither a directory nor to be had from the '
        f'Hugging Face hub: {error}'
    ) from error


@functools.lru_cache(maxsize=32)
def find_file(name: str, revision: str = '') -> pathlib.Path:
  """Returns the path of a GGUF file, which is downloaded if it is on the hub.

  Args:
    name: a path, or 'owner/repository/file' on the Hugging Face hub.
    revision: commit or tag on the hub; '' = the newest.

  Raises:
    ValueError: if there is no such file.
  """
  path = pathlib.Path(name)
  if path.is_file():
    return path
  if name.count('/') != 2 or name.startswith(('/', '.')):
    raise ValueError(
        f'The file {name!r} does not exist; allowed: a path, or '
        "'owner/repository/file' on the Hugging Face hub."
    )
  import huggingface_hub
  from huggingface_hub import errors

  owner, repository, file = name.split('/')
  try:
    return pathlib.Path(
        huggingface_hub.hf_hub_download(
            f'{owner}/{repository}', file, revision=revision or None
        )
    )
  except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
    raise ValueError(
        f'The file {name!r} neither exists nor is to be had from the Hugging '
        f'Face hub: {error}'
    ) from error
