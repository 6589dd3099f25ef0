"""The manifest of a shard directory: its shards, their hashes, its settings.

The manifest is replaced atomically after each shard is written. So it never
lists a shard that does not exist, and a file that it does not list is ignored.
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
  """One shard file.

  file: its name in the directory.
  first: index of the first problem of its block.
  rows: number of records; failed problems of the block have none.
  sha256: hash of its bytes.
  """

  file: str
  first: int
  rows: int
  sha256: str


@dataclasses.dataclass(frozen=True)
class Failure:
  """A problem for which no record could be collected.

  index: of the problem in the split.
  id: of the problem.
  reason: why, as a sentence.
  """

  index: int
  id: str
  reason: str


@dataclasses.dataclass(frozen=True)
class Manifest:
  """The content of a shard directory.

  settings: everything that the records depend on (problems, models, sampling,
    seed); JSON-like. A directory never mixes data of different settings.
  num_problems: number of problems of the split.
  shard_size: problems per shard; the last shard may have fewer.
  shards: the shards written so far, ordered by `first`.
  failures: the problems without a record, ordered by `index`.
  kind: name of the `schema.Kind` of the records, e.g. 'ladders'.
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
    """SHA-256 of the settings, which an edited file would not match."""
    return hash_json(self.settings)

  @property
  def content_hash(self) -> str:
    """SHA-256 over settings and shards, which identifies the data."""
    # Not over failures, whose reasons may differ between equal collections.
    hashes = [shard.sha256 for shard in self.shards]
    return hash_json({'settings': self.settings_hash, 'shards': hashes})

  def with_failure(self, failure: Failure) -> 'Manifest':
    """Returns the manifest with `failure` added."""
    failures = sorted([*self.failures, failure], key=lambda x: x.index)
    return dataclasses.replace(self, failures=tuple(failures))

  def with_shard(self, entry: ShardEntry) -> 'Manifest':
    """Returns the manifest with `entry` added.

    It replaces an entry of the same block, which was not full.
    """
    # By `first`, because a completed block has a new file name and more rows.
    others = [shard for shard in self.shards if shard.first != entry.first]
    shards = sorted([*others, entry], key=lambda shard: shard.first)
    return dataclasses.replace(self, shards=tuple(shards))

  def extended(
      self, problems: Sequence[types.Problem], requested: 'Manifest'
  ) -> 'Manifest':
    """Returns the manifest for more problems, if its own come first in them.

    Otherwise it is returned unchanged.

    Args:
      problems: all problems that are now requested, in order.
      requested: the empty manifest of their collection. Only the problems are
        taken from it; `check_same` raises an error for other differences.
    """
    # The recorded hash, not the ids alone, must match: a changed question or
    # answer under an old id would make the shards wrong.
    begun = problems[: self.num_problems]
    is_start = len(begun) == self.num_problems < len(
        problems
    ) and hash_problems(begun) == self.settings.get('problems_hash')
    if not is_start:
      return self
    hashed = {'problems_hash': requested.settings['problems_hash']}
    return dataclasses.replace(
        self,
        settings={**self.settings, **hashed},
        num_problems=requested.num_problems,
    )


def hash_json(value: Any) -> str:
  """Returns the SHA-256 of a JSON-like value, in hex.

  The order of keys does not matter.
  """
  # Fixed separators: the bytes, and so the hash, must not depend on defaults.
  text = json.dumps(value, sort_keys=True, separators=(',', ':'))
  return hashlib.sha256(text.encode()).hexdigest()


def hash_problems(problems: Sequence[types.Problem]) -> str:
  """Returns the SHA-256 over ids, questions and answers, in order."""
  # The question's hash, so that case and white space do not matter here either.
  return hash_json(
      [[p.id, splits.question_hash(p.question), p.answer] for p in problems]
  )


def hash_file(path: pathlib.Path) -> str:
  """Returns the SHA-256 of a file's bytes, in hex."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def replace_file(
    path: pathlib.Path, write: Callable[[pathlib.Path], None]
) -> None:
  """Writes a file atomically: after a crash it has its old or its new content.

  Args:
    path: the file; an earlier one is replaced.
    write: writes the content to the path that it is given.
  """
  # In the same directory: a rename is atomic only within one file system.
  temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
  write(temporary)
  # Content before name, or a crash could leave the new name on an empty file.
  _sync(temporary)
  os.replace(temporary, path)
  _sync(path.parent)  # The rename itself must survive a power failure.


def _sync(path: pathlib.Path) -> None:
  """Blocks until a file or directory is written to the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def save(directory: pathlib.Path, manifest: Manifest) -> None:
  """Writes the manifest to `manifest.json`, atomically."""
  # `settings_hash` is redundant; `load` compares it to detect manual edits.
  content = {
      'schema_version': schema.VERSION,
      'settings_hash': manifest.settings_hash,
      **dataclasses.asdict(manifest),
  }
  text = json.dumps(content, indent=2) + '\n'
  replace_file(directory / FILE_NAME, lambda path: path.write_text(text))


def load(directory: pathlib.Path) -> Manifest:
  """Returns the manifest in `manifest.json`.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: if it is damaged, edited, or of another schema version.
  """
  path = directory / FILE_NAME
  try:
    content = json.loads(path.read_text())
    # First: another version may have other fields.
    schema.check_version(content['schema_version'], str(path))
    written_hash = content['settings_hash']
    manifest = Manifest(
        settings=content['settings'],
        num_problems=content['num_problems'],
        shard_size=content['shard_size'],
        shards=tuple(ShardEntry(**entry) for entry in content['shards']),
        failures=tuple(Failure(**x) for x in content.get('failures', ())),
        # Absent from older manifests, when all records were ladders.
        kind=content.get('kind', schema.LADDERS.name),
    )
  except (KeyError, TypeError, json.JSONDecodeError) as error:
    raise ValueError(
        f'{path} is damaged: {error!r}. Use another work directory, or restore '
        'the file.'
    ) from error
  if manifest.settings_hash != written_hash:
    raise ValueError(
        f'{path} was altered: its settings do not match their hash. Restore '
        'the file, or use another work directory.'
    )
  return manifest


def check_same(found: Manifest, requested: Manifest, directory: str) -> None:
  """Raises ValueError, naming each difference, unless the settings are equal.

  Args:
    found: the manifest on disk.
    requested: the manifest of the collection that is to be resumed.
    directory: for the message.
  """
  differences = [
      f'{name}: {a!r} on disk, {b!r} requested'
      for name, a, b in _differences(_plan(found), _plan(requested))
  ]
  if differences:
    raise ValueError(
        f'{directory} holds data of other settings ({"; ".join(differences)}). '
        'Use another work directory; nothing was overwritten.'
    )


def _plan(manifest: Manifest) -> dict[str, Any]:
  """Returns everything but shards and failures, as JSON reads it back."""
  # The manifest on disk came from JSON; the requested one may hold tuples.
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
  """Raises ValueError unless the directory holds records of `kind`."""
  if manifest.kind != kind.name:
    raise ValueError(
        f'{directory} holds {manifest.kind}; {kind.name} are needed here. Set '
        'config.data.kind to match, or use another work directory.'
    )


def check_shard(directory: pathlib.Path, entry: ShardEntry) -> None:
  """Raises ValueError, naming the file, unless its hash is the recorded one."""
  path = directory / entry.file
  if not path.exists():
    raise ValueError(
        f'{path} is missing; run the collection again to write it.'
    )
  if hash_file(path) != entry.sha256:
    raise ValueError(
        f'{path} is truncated or altered: its SHA-256 is not the one in '
        f'{FILE_NAME}. Delete the file and run the collection again.'
    )
