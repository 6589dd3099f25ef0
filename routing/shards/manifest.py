"""The manifest of a directory of shards: their files, hashes and settings.

A shard is a Parquet file with the records of consecutive problems. The manifest
is replaced atomically after each shard is written. So it never lists a shard
that does not exist. A shard file that the manifest does not list is ignored.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import tempfile
from typing import Any

from routing import types
from routing.shards import files
from routing.shards import schema
from routing.tasks import splits

FILE_NAME = 'manifest.json'
TEMPORARY_SUFFIX = '.tmp'


@dataclasses.dataclass(frozen=True)
class ShardEntry:
  """The manifest's entry for one shard file.

  A shard has the records of one block, i.e. of `shard_size` consecutive
  problems.

  file: name of the file in the directory.
  first: index of the first problem of the block.
  rows: number of records; failed problems of the block have no record.
  sha256: SHA-256 of the file's bytes, in hex.
  """

  file: str
  first: int
  rows: int
  sha256: str


@dataclasses.dataclass(frozen=True)
class Failure:
  """A problem for which no record could be collected.

  index: index of the problem in its split.
  id: id of the problem.
  reason: why the collection failed, as a sentence.
  """

  index: int
  id: str
  reason: str


@dataclasses.dataclass(frozen=True)
class Manifest:
  """The content of a shard directory.

  settings: everything that the records depend on (problems, models, sampling,
    seed), JSON-like. All records in a directory have the same settings.
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

  # Cached, as the writer asks at each record, and shards may be thousands.
  @functools.cached_property
  def is_complete(self) -> bool:
    """True if every problem is in a shard or recorded as failed."""
    rows = sum(shard.rows for shard in self.shards)
    return rows + len(self.failures) == self.num_problems

  @functools.cached_property
  def failed(self) -> frozenset[int]:
    """The indices of the problems without a record."""
    return frozenset(failure.index for failure in self.failures)

  @functools.cached_property
  def shards_by_first(self) -> Mapping[int, ShardEntry]:
    """The shards by the index of their block's first problem."""
    return {shard.first: shard for shard in self.shards}

  @property
  def settings_hash(self) -> str:
    """SHA-256 of the settings; it shows whether a saved manifest was edited."""
    return hash_json(self.settings)

  @property
  def content_hash(self) -> str:
    """SHA-256 over settings and shards; it identifies the collected data."""
    # Failures are left out, because their reasons may differ between two
    # collections of the same data.
    hashes = [shard.sha256 for shard in self.shards]
    return hash_json({'settings': self.settings_hash, 'shards': hashes})

  def first(self, num_problems: int) -> 'Manifest':
    """Returns the manifest of the blocks that hold the first problems.

    The last of these blocks may hold more of them than `num_problems`.
    """
    num_blocks = -(-num_problems // self.shard_size)
    end = min(num_blocks * self.shard_size, self.num_problems)
    return dataclasses.replace(
        self,
        num_problems=end,
        shards=tuple(x for x in self.shards if x.first < end),
        failures=tuple(x for x in self.failures if x.index < end),
    )

  def with_failure(self, failure: Failure) -> 'Manifest':
    """Returns the manifest with `failure` added."""
    failures = sorted([*self.failures, failure], key=lambda x: x.index)
    return dataclasses.replace(self, failures=tuple(failures))

  def with_shard(self, entry: ShardEntry) -> 'Manifest':
    """Returns the manifest with `entry` added.

    If there is an entry for the same block, with fewer records, it is replaced.
    """
    # Blocks are compared by `first`, because a block that was completed has
    # another file name and more rows.
    others = [shard for shard in self.shards if shard.first != entry.first]
    shards = sorted([*others, entry], key=lambda shard: shard.first)
    return dataclasses.replace(self, shards=tuple(shards))

  def extended(
      self, problems: Sequence[types.Problem], requested: 'Manifest'
  ) -> 'Manifest':
    """Returns the manifest of the same collection with more problems.

    The problems of this manifest must come first among `problems`. If they do
    not, or there are no more, the manifest is returned unchanged.

    Args:
      problems: all problems that are requested now, in order.
      requested: the empty manifest of a collection of `problems`. Only the
        number and the hash of the problems are taken from it. For any other
        difference `check_same` raises an error later.
    """
    # Problems are compared by the recorded hash. It covers questions and
    # answers, because shards would be wrong if one of these had changed under
    # the same id.
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

  The order of the keys of a dictionary does not matter.
  """
  # Separators are given, so that the bytes, and with them the hash, do not
  # depend on the defaults of `json`.
  text = json.dumps(value, sort_keys=True, separators=(',', ':'))
  return hashlib.sha256(text.encode()).hexdigest()


def hash_problems(problems: Sequence[types.Problem]) -> str:
  """Returns the SHA-256 over the problems' ids, questions and answers."""
  # Questions enter by `question_hash`, so that differences in case and white
  # space do not matter. The text is that of `hash_json` of the whole list, made
  # in parts: a million problems have one of 100 MB.
  found = hashlib.sha256(b'[')
  for index, p in enumerate(problems):
    row = [p.id, splits.question_hash(p.question), p.answer]
    text = json.dumps(row, separators=(',', ':'))
    found.update(f'{"," if index else ""}{text}'.encode())
  found.update(b']')
  return found.hexdigest()


def hash_file(path: pathlib.Path) -> str:
  """Returns the SHA-256 of a file's bytes, in hex."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def replace_file(
    path: pathlib.Path, write: Callable[[pathlib.Path], object]
) -> None:
  """Replaces a file atomically: a crash leaves the old or the new content.

  Args:
    path: the file; an earlier one is replaced.
    write: a function that writes the new content to the path in its argument;
      what it returns is ignored.
  """
  if not files.is_local(path):  # Which is replaced as a whole.
    with tempfile.TemporaryDirectory() as folder:
      here = pathlib.Path(folder) / path.name
      write(here)
      path.write_bytes(here.read_bytes())
    return
  # The temporary file is in the same directory, because a rename is atomic only
  # within one file system.
  temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
  write(temporary)
  # The content must be on the disk before the rename. Otherwise a crash could
  # leave an empty file under the final name.
  sync(temporary)
  os.replace(temporary, path)
  sync(path.parent)  # So that the rename survives a power failure.


def sync(path: pathlib.Path) -> None:
  """Blocks until a file or directory is written to the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def save(directory: pathlib.Path, manifest: Manifest) -> None:
  """Writes a manifest to `manifest.json` in `directory`, atomically."""
  # `settings_hash` follows from the settings. `load` compares the two, to
  # detect manual edits.
  content = {
      'schema_version': schema.VERSION,
      'settings_hash': manifest.settings_hash,
      **dataclasses.asdict(manifest),
  }
  text = json.dumps(content, indent=2) + '\n'
  replace_file(directory / FILE_NAME, lambda path: path.write_text(text))


def load(directory: pathlib.Path) -> Manifest:
  """Returns the manifest in `manifest.json` of `directory`.

  Raises:
    FileNotFoundError: if the file does not exist.
    ValueError: if the file is damaged or edited, or has another schema version.
  """
  path = directory / FILE_NAME
  try:
    content = json.loads(path.read_text())
    # The version is checked first, because a manifest of another version may
    # have other fields.
    schema.check_version(content['schema_version'], str(path))
    written_hash = content['settings_hash']
    manifest = Manifest(
        settings=content['settings'],
        num_problems=content['num_problems'],
        shard_size=content['shard_size'],
        shards=tuple(ShardEntry(**entry) for entry in content['shards']),
        failures=tuple(Failure(**x) for x in content.get('failures', ())),
        # Older manifests have no kind; all their records are ladders.
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
    requested: the manifest that the current settings give.
    directory: name of the directory, for the error message.
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
  """Returns the fields that must agree for a collection to be resumed."""
  # The round trip through JSON turns tuples into lists, so that the requested
  # manifest can be compared with one that was read from disk.
  content = {
      'settings': manifest.settings,
      'num_problems': manifest.num_problems,
      'shard_size': manifest.shard_size,
      'kind': manifest.kind,
  }
  return json.loads(json.dumps(content))


def _differences(a: Any, b: Any, name: str = ''):
  """Yields (dotted field name, a's value, b's value) where a and b differ."""
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
        f'{directory} holds {manifest.kind}, but {kind.name} are needed. Set '
        'config.data.kind to match, or use another work directory.'
    )


def check_shard(directory: pathlib.Path, entry: ShardEntry) -> None:
  """Raises ValueError, naming the file, if a shard is missing or altered."""
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
