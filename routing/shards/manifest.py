"""The manifest of a shard directory: what is in it, made how, with which hash.

It is replaced whole after each shard, so it never tells of a shard that is not
there; a shard that it does not tell of does not count.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

from routing import types
from routing.problems import splits
from routing.shards import schema

FILE_NAME = 'manifest.json'
TEMPORARY_SUFFIX = '.tmp'


@dataclasses.dataclass(frozen=True)
class ShardEntry:
  """One file: `rows` problems from `first` on, and the hash of its bytes."""

  file: str
  first: int
  rows: int
  sha256: str


@dataclasses.dataclass(frozen=True)
class Failure:
  """A problem of which there is no record, and why: no shard will have it."""

  index: int
  id: str
  reason: str


@dataclasses.dataclass(frozen=True)
class Manifest:
  """What a shard directory holds.

  settings: all that the content follows from (problems, models, sampling,
    seed); JSON-like. Data of other settings never mixes.
  num_problems: rows when complete.
  shard_size: rows a shard; the last may hold fewer.
  shards: those that are complete, by `first`.
  failures: the problems that no shard will hold, by `index`.
  kind: of `schema.KINDS`, what a row holds besides the problem.
  """

  settings: Mapping[str, Any]
  num_problems: int
  shard_size: int
  shards: tuple[ShardEntry, ...] = ()
  failures: tuple[Failure, ...] = ()
  kind: str = schema.LADDERS.name

  @property
  def is_complete(self) -> bool:
    """Whether every problem is in a shard or recorded as failed."""
    rows = sum(shard.rows for shard in self.shards)
    return rows + len(self.failures) == self.num_problems

  @property
  def settings_hash(self) -> str:
    """SHA-256 of the settings."""
    return hash_json(self.settings)

  @property
  def content_hash(self) -> str:
    """SHA-256 over settings and shards: names this very data."""
    hashes = [shard.sha256 for shard in self.shards]
    return hash_json({'settings': self.settings_hash, 'shards': hashes})

  def with_failure(self, failure: Failure) -> 'Manifest':
    """The manifest that also lists `failure`."""
    failures = sorted([*self.failures, failure], key=lambda x: x.index)
    return dataclasses.replace(self, failures=tuple(failures))

  def with_shard(self, entry: ShardEntry) -> 'Manifest':
    """The manifest that lists `entry`, instead of one of the same problems."""
    others = [shard for shard in self.shards if shard.first != entry.first]
    shards = sorted([*others, entry], key=lambda shard: shard.first)
    return dataclasses.replace(self, shards=tuple(shards))

  def extended(
      self, problems: Sequence[types.Problem], wanted: 'Manifest'
  ) -> 'Manifest':
    """The manifest for more problems, if its own are the first of these.

    Args:
      problems: that are wanted.
      wanted: the manifest of a collection of these; what else differs from it
        is kept as it is, and is for `check_same` to refuse.
    """
    begun = problems[: self.num_problems]
    is_start = len(begun) == self.num_problems < len(
        problems
    ) and hash_problems(begun) == self.settings.get('problems_hash')
    if not is_start:
      return self
    hashed = {'problems_hash': wanted.settings['problems_hash']}
    return dataclasses.replace(
        self,
        settings={**self.settings, **hashed},
        num_problems=wanted.num_problems,
    )


def hash_json(value: Any) -> str:
  """SHA-256 of a JSON-like value, whatever the order of its keys."""
  text = json.dumps(value, sort_keys=True, separators=(',', ':'))
  return hashlib.sha256(text.encode()).hexdigest()


def hash_problems(problems: Sequence[types.Problem]) -> str:
  """SHA-256 over ids, questions and answers, in order."""
  return hash_json(
      [[p.id, splits.question_hash(p.question), p.answer] for p in problems]
  )


def hash_file(path: pathlib.Path) -> str:
  """SHA-256 of a file's bytes."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def replace_file(
    path: pathlib.Path, write: Callable[[pathlib.Path], None]
) -> None:
  """Writes a file so that it is there whole or not at all, even after a crash.

  Args:
    path: the file.
    write: writes the content to the path that it is given.
  """
  temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
  write(temporary)
  _sync(temporary)
  os.replace(temporary, path)
  _sync(path.parent)  # The new name, too, must outlive a power cut.


def _sync(path: pathlib.Path) -> None:
  """Waits until a file or directory is on the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def save(directory: pathlib.Path, manifest: Manifest) -> None:
  """Writes `manifest.json`."""
  content = {
      'schema_version': schema.VERSION,
      'settings_hash': manifest.settings_hash,
      **dataclasses.asdict(manifest),
  }
  text = json.dumps(content, indent=2) + '\n'
  replace_file(directory / FILE_NAME, lambda path: path.write_text(text))


def load(directory: pathlib.Path) -> Manifest:
  """Reads `manifest.json`.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: if it is damaged, or of another schema version.
  """
  path = directory / FILE_NAME
  try:
    content = json.loads(path.read_text())
    schema.check_version(content['schema_version'], str(path))
    written_hash = content['settings_hash']
    manifest = Manifest(
        settings=content['settings'],
        num_problems=content['num_problems'],
        shard_size=content['shard_size'],
        shards=tuple(ShardEntry(**entry) for entry in content['shards']),
        failures=tuple(Failure(**x) for x in content.get('failures', ())),
        # Older manifests do not say: there were only ladders.
        kind=content.get('kind', schema.LADDERS.name),
    )
  except (KeyError, TypeError, json.JSONDecodeError) as error:
    raise ValueError(f'{path} is damaged: {error!r}.') from error
  if manifest.settings_hash != written_hash:
    raise ValueError(f'{path} was altered: its settings hash does not match.')
  return manifest


def check_same(found: Manifest, wanted: Manifest, directory: str) -> None:
  """Raises ValueError, naming what differs, unless both collect the same."""
  differences = [
      f'{name}: {a!r} there, {b!r} wanted'
      for name, a, b in _differences(_plan(found), _plan(wanted))
  ]
  if differences:
    raise ValueError(
        f'{directory} holds data of other settings ({"; ".join(differences)}). '
        'Use another work directory; nothing was overwritten.'
    )


def _plan(manifest: Manifest) -> dict[str, Any]:
  """All but the shards, as JSON gives it back."""
  content = {
      'settings': manifest.settings,
      'num_problems': manifest.num_problems,
      'shard_size': manifest.shard_size,
      'kind': manifest.kind,
  }
  return json.loads(json.dumps(content))


def _differences(a: Any, b: Any, name: str = ''):
  """Yields (dotted name, a's value, b's value) where the two differ."""
  if isinstance(a, dict) and isinstance(b, dict):
    for key in sorted({*a, *b}):
      path = f'{name}.{key}' if name else key
      yield from _differences(a.get(key), b.get(key), path)
  elif a != b:
    yield name, a, b


def check_kind(manifest: Manifest, kind: schema.Kind, directory: str) -> None:
  """Raises ValueError unless the directory holds records of this kind."""
  if manifest.kind != kind.name:
    raise ValueError(
        f'{directory} holds {manifest.kind}; {kind.name} are wanted here.'
    )


def check_shard(directory: pathlib.Path, entry: ShardEntry) -> None:
  """Raises ValueError, naming the file, unless its bytes are as written."""
  path = directory / entry.file
  if not path.exists():
    raise ValueError(
        f'{path} is missing; collect again to have it written anew.'
    )
  if hash_file(path) != entry.sha256:
    raise ValueError(
        f'{path} is truncated or altered: its SHA-256 is not the one in '
        f'{FILE_NAME}. Delete the file and collect again.'
    )
