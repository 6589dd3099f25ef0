"""What is known of a collection before it runs, without loading a model.

Its problems, the tokens of its prompts, the sizes of its models, and what was
collected already. Nothing of a model is downloaded.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools
import json
import pathlib

import ml_collections

from experiments import builders
from experiments import split_on_disk
from routing import types
from routing.engines import model_files
from routing.engines import prompts
from routing.engines import route as route_lib
from routing.lm import tokenizer
from routing.rollout import forecast
from routing.shards import reader


@dataclasses.dataclass(frozen=True)
class Found:
  """What a directory of records holds already.

  directory: of the records.
  measured: their demand.
  ids: of their problems.
  num_bytes: size of the directory.
  """

  directory: pathlib.Path
  measured: forecast.Measured
  ids: frozenset[str]
  num_bytes: int


@functools.lru_cache(maxsize=32)
def _read_at(directory, kind, num_routes, changed) -> Found:
  """Returns what a directory holds, which was last changed at `changed`."""
  del changed
  ids = []

  def noted():
    if not (directory / 'manifest.json').exists():
      return
    schema = split_on_disk.KINDS[kind]
    for record in reader.read_each(directory, schema, is_partial=True):
      ids.append(record.problem.id)
      yield record

  measured = forecast.measured(noted(), num_routes)
  paths = directory.iterdir() if directory.is_dir() else ()
  size = sum(path.stat().st_size for path in paths)
  return Found(directory, measured, frozenset(ids), size)


def read(directory: pathlib.Path, kind: str, num_routes: int) -> Found:
  """Returns what a directory holds already, nothing if it does not exist."""
  changed = directory.stat().st_mtime_ns if directory.is_dir() else 0
  return _read_at(directory, kind, num_routes, changed)


def problems(
    config: ml_collections.ConfigDict, split: str
) -> tuple[list[types.Problem] | None, str]:
  """Returns the problems of a split, or None and why they cannot be read."""
  try:
    return builders.problems(config, split), ''
  # A data set of the hub raises errors of several libraries.
  except Exception as error:  # pylint: disable=broad-except
    first = str(error).strip().splitlines() or [type(error).__name__]
    return None, f'its problems cannot be read ({first[0]}).'


def configured_size(
    config: ml_collections.ConfigDict, split: str
) -> int | None:
  """Returns how many problems are asked for; None = all there are."""
  size = config.problems[split]
  return size if size >= 0 else None


@functools.lru_cache(maxsize=32)
def _folder(name: str, revision: str) -> pathlib.Path | None:
  """Returns a model's directory if it is on this machine; downloads nothing."""
  if not name:
    return None
  if name.startswith('shipped/') or pathlib.Path(name).is_dir():
    return route_lib.find(name)
  import huggingface_hub

  try:
    found = huggingface_hub.try_to_load_from_cache(
        name, 'config.json', revision=revision or None
    )
  except ValueError:  # No name on the hub.
    return None
  return pathlib.Path(found).parent if isinstance(found, str) else None


def _folder_of(route: route_lib.Route) -> pathlib.Path | None:
  """Returns the directory of a route's weights and tokenizer, as `_folder`."""
  name = route.weights if route.is_served else route.model
  return _folder(name, route.revision)


def count_tokens(
    route: route_lib.Route, problems: Sequence[types.Problem]
) -> list[int] | None:
  """Returns the prompt length of each problem; None = not known."""
  count = counter(route)
  if not problems or count is None:
    return None
  return [count(problem.question) for problem in problems]


def counter(route: route_lib.Route) -> Callable[[str], int] | None:
  """Returns a function that counts prompt tokens; None without a tokenizer."""
  folder = _folder_of(route)
  # In mode 'instruct' the prompt has further words, which differ by request.
  if folder is None or route.settings.get('mode') == 'instruct':
    return None
  if route.engine == 'embedded':
    encode = tokenizer.Tokenizer().encode
    return lambda question: len(encode(question))
  try:
    loaded = prompts.load_tokenizer(folder)
  except (OSError, ValueError):
    return None
  prompter = prompts.Prompter(loaded, route.prompt, route.template)
  return lambda question: len(prompter.ids(question))


def hidden_size(route: route_lib.Route) -> int | None:
  """Returns the length of the hidden states that a route gives; None = none."""
  folder = _folder_of(route)
  if route.engine != 'embedded' or folder is None:
    return None
  return json.loads((folder / 'config.json').read_text())['hidden_size']


def parameters(route: route_lib.Route) -> int | None:
  """Returns the number of parameters of a route's model; None = not known."""
  if 'parameters' in route.spec:
    return route.spec['parameters']
  folder = _folder_of(route)
  try:
    return model_files.shape(folder)[0] if folder else None
  except (FileNotFoundError, KeyError):
    return None
