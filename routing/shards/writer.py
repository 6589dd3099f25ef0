"""Writes records to shards; killing the process never corrupts a directory.

Problems are divided, in their order, into blocks of `shard_size`. A block is
written to a file when its last record has arrived. Files are written atomically
and count once the manifest lists them. So a kill loses at most the records of
unfinished blocks; it neither duplicates records nor loses listed ones.

A collection may be resumed with more problems appended to the same first ones.
Its last block may then have room. The records in its file are read, completed
and written to a file of another name. The old file stays listed until the new
one is, and is deleted afterwards.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

import pyarrow.parquet as pq

from routing import types
from routing.shards import manifest as manifest_lib
from routing.shards import reader
from routing.shards import schema


class Writer:
  """Accepts records in any order, and writes them in the order of the problems.

  Subclasses set `kind`.

  Args:
    directory: of the shards. It is created if missing, resumed if it holds the
      same collection, and extended if it holds one of the first problems.
    problems: all problems of the split, in order.
    settings: everything that the records depend on, except the problems.
    shard_size: problems per file.

  Raises:
    ValueError: if `directory` holds data of other settings, of another kind or
      schema version, shards without a manifest, or an altered shard. Nothing
      is changed then.
  """

  kind: schema.Kind

  def __init__(
      self,
      directory: pathlib.Path | str,
      problems: Sequence[types.Problem],
      settings: Mapping[str, Any],
      shard_size: int,
  ):
    if shard_size < 1:
      raise ValueError(f'shard_size is {shard_size}; allowed: >= 1.')
    self._directory = pathlib.Path(directory)
    self._problems = list(problems)
    # Unwritten records: first index of the block -> index -> record.
    self._blocks: dict[int, dict[int, Any]] = {}
    requested = manifest_lib.Manifest(
        settings={
            **settings,
            'problems_hash': manifest_lib.hash_problems(self._problems),
        },
        num_problems=len(self._problems),
        shard_size=shard_size,
        kind=self.kind.name,
    )
    self._manifest = self._open(requested)
    # Indices whose records are in the file of a block that has room.
    self._reloaded: set[int] = set()
    self._reload_open_blocks()

  @property
  def manifest(self) -> manifest_lib.Manifest:
    """The manifest of what is on disk."""
    return self._manifest

  def missing(self) -> list[int]:
    """Returns the indices of problems still to be collected, in order.

    They are in no shard and did not fail. Records that this writer has received
    but not yet written count as missing.
    """
    # From the manifest, not `_blocks`: only what is on disk survives a kill.
    size = self._manifest.shard_size
    written = {x.first for x in self._manifest.shards if self._is_full(x)}
    there = self._failed() | self._reloaded
    return [
        i
        for i in range(len(self._problems))
        if i - i % size not in written and i not in there
    ]

  def add(self, index: int, record: Any) -> None:
    """Accepts the record of problem `index`; writes its block once it is full.

    Raises:
      ValueError: if the record is of another problem, or the problem has a
        record or a failure already.
    """
    # An index that is off by one would pair every record with a wrong problem.
    if self._problems[index].id != record.problem.id:
      raise ValueError(
          f'Problem {index} is {self._problems[index].id}, but the record is '
          f'of {record.problem.id}.'
      )
    first = self._check_new(index)
    self._blocks.setdefault(first, {})[index] = record
    self._write_if_full(first)

  def fail(self, index: int, reason: str) -> None:
    """Records that problem `index` failed, and why.

    Its shard is written without it, and `missing` never lists it again.

    Raises:
      ValueError: if the problem has a record or a failure already.
    """
    first = self._check_new(index)
    self._manifest = self._manifest.with_failure(
        manifest_lib.Failure(index, self._problems[index].id, reason)
    )
    # Saved at once: the failure must survive a kill before the block is full.
    manifest_lib.save(self._directory, self._manifest)
    self._write_if_full(first)

  def _failed(self) -> set[int]:
    return {failure.index for failure in self._manifest.failures}

  def _check_new(self, index: int) -> int:
    """Returns the first index of a problem's block, if it may get a record.

    Raises:
      ValueError: if the problem has a record or a failure already.
    """
    first = index - index % self._manifest.shard_size
    is_written = any(
        shard.first == first and self._is_full(shard)
        for shard in self._manifest.shards
    )
    is_known = index in self._blocks.get(first, ()) or index in self._failed()
    if is_written or is_known:
      name = self._problems[index].id
      raise ValueError(
          f'Problem {name} (index {index}) already has a record or a failure; '
          'each problem gets one.'
      )
    return first

  def _places(self, first: int) -> range:
    """Returns the indices of the block that starts at `first`."""
    last = min(first + self._manifest.shard_size, len(self._problems))
    return range(first, last)

  def _is_full(self, shard: manifest_lib.ShardEntry) -> bool:
    """Returns whether a shard holds every problem of its block but failures."""
    places = self._places(shard.first)
    return shard.rows + len(self._failed().intersection(places)) == len(places)

  def _reload_open_blocks(self) -> None:
    """Reads the records of shards that have room, to write them again."""
    for shard in self._manifest.shards:
      self._delete_others(shard)
      if self._is_full(shard):
        continue
      # By id: with failures in the block, rows and indices do not line up.
      places = {self._problems[i].id: i for i in self._places(shard.first)}
      records = reader.read_shard(self._directory, shard, self.kind)
      block = {places[record.problem.id]: record for record in records}
      self._blocks[shard.first] = block
      self._reloaded.update(block)

  def _write_if_full(self, first: int) -> None:
    """Writes the block that starts at `first` if nothing of it is missing."""
    places = self._places(first)
    block = self._blocks.get(first, {})
    present = [i for i in places if i in block]
    failed = self._failed().intersection(places)
    # `present`: a block in which every problem failed has no file.
    if present and len(present) + len(failed) == len(places):
      self._write([block[i] for i in present], first)
      del self._blocks[first]

  def _open(self, requested: manifest_lib.Manifest) -> manifest_lib.Manifest:
    """Creates the directory, or checks and resumes it; returns its manifest."""
    if not (self._directory / manifest_lib.FILE_NAME).exists():
      # Shards without a manifest are somebody's data; do not write among them.
      if any(self._directory.glob('*.parquet')):
        raise ValueError(
            f'{self._directory} holds shards but no {manifest_lib.FILE_NAME}; '
            'use another work directory. Nothing was overwritten.'
        )
      self._directory.mkdir(parents=True, exist_ok=True)
      manifest_lib.save(self._directory, requested)
      return requested
    before = manifest_lib.load(self._directory)
    found = before.extended(self._problems, requested)
    # All checks come before the first write, so that an error changes nothing.
    manifest_lib.check_same(found, requested, str(self._directory))
    there = [s for s in found.shards if (self._directory / s.file).exists()]
    for shard in there:
      manifest_lib.check_shard(self._directory, shard)
    if found != before:
      # Saved before any new record: from now on readers see an unfinished
      # collection instead of the complete smaller one.
      manifest_lib.save(self._directory, found)
    # A shard whose file was deleted is collected again.
    return dataclasses.replace(found, shards=tuple(there))

  def _stem(self, first: int) -> str:
    return f'{self.kind.name}-{first // self._manifest.shard_size:05d}'

  def _delete_others(self, shard: manifest_lib.ShardEntry) -> None:
    """Deletes files of the shard's block that the manifest does not list.

    A kill between writing a file and listing it leaves such files.
    """
    stem = self._stem(shard.first)
    for pattern in (f'{stem}.parquet', f'{stem}-*.parquet'):
      for path in self._directory.glob(pattern):
        if path.name != shard.file:
          path.unlink()

  def _write(self, records: Sequence[Any], first: int) -> None:
    """Writes one shard, then the manifest that lists it."""
    name = self._stem(first)
    if first in {shard.first for shard in self._manifest.shards}:
      # The block's old file is still listed, so it must not be overwritten.
      name = f'{name}-{len(self._places(first))}'
    # Records in the order of the problems, so that the bytes of a file do not
    # depend on the order in which they arrived.
    path = self._directory / f'{name}.parquet'
    table = self.kind.to_table(records)
    manifest_lib.replace_file(
        path, lambda p: pq.write_table(table, p, compression='zstd')
    )
    entry = manifest_lib.ShardEntry(
        file=path.name,
        first=first,
        rows=len(records),
        sha256=manifest_lib.hash_file(path),
    )
    self._manifest = self._manifest.with_shard(entry)
    # In this order: the old file may go only once the new one is listed.
    manifest_lib.save(self._directory, self._manifest)
    self._delete_others(entry)


class LadderWriter(Writer):
  """A writer of `types.Ladder`."""

  kind = schema.LADDERS


class RolloutWriter(Writer):
  """A writer of `types.Rollouts`."""

  kind = schema.ROLLOUTS
