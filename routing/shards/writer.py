"""Writes records to shards, such that a killed process corrupts no directory.

Problems are divided, in their order, into blocks of `shard_size`. A block is
written to a file, its shard, when the last record of the block has arrived.
Shards are written atomically, and are valid once the manifest lists them. If
the process is killed, only the records of unfinished blocks are lost.

A collection may be extended: it is resumed with the same problems and new ones
after them. The last block may then have room for some of the new problems. The
records in its shard are read, and written together with the new records to a
shard with another name. The manifest lists the old shard until the new one is
complete; then the old file is deleted.
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

  Subclasses set `kind`, the kind of record.

  Args:
    directory: of the shards. If it does not exist, it is created. If it has
      part of the same collection, the collection is resumed. If it has a
      collection of the first of the problems, the collection is extended.
    problems: all problems of the split, in order.
    settings: everything that the records depend on, except the problems.
    shard_size: number of problems in a block.

  Raises:
    ValueError: if `directory` has data of other settings, another kind or
      schema version, shards without a manifest, or an altered shard. In this
      case nothing in it is changed.
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
    # Records that are not written yet, by block and problem:
    # {first index of the block: {index of the problem: record}}.
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
    # Indices of the problems whose records are in the shard of a block that has
    # room for more.
    self._reloaded: set[int] = set()
    self._reload_open_blocks()

  @property
  def manifest(self) -> manifest_lib.Manifest:
    """The manifest that is on disk."""
    return self._manifest

  def missing(self) -> list[int]:
    """Returns the indices of the problems that are still to be collected.

    These problems are in no shard and did not fail. A problem whose record this
    writer has received but not written yet counts as missing.
    """
    # `_blocks` is not used, because records in memory are lost if the process
    # is killed.
    size = self._manifest.shard_size
    written = {x.first for x in self._manifest.shards if self._is_full(x)}
    there = self._failed() | self._reloaded
    return [
        i
        for i in range(len(self._problems))
        if i - i % size not in written and i not in there
    ]

  def add(self, index: int, record: Any) -> None:
    """Accepts the record of a problem; writes its block if that is complete.

    Args:
      index: index of the problem in the split.
      record: the record, of the type that belongs to `kind`.

    Raises:
      ValueError: if the record is of another problem, or the problem already
        has a record or a failure.
    """
    # This check catches an index that is off by one, which would otherwise pair
    # every record with a wrong problem.
    if self._problems[index].id != record.problem.id:
      raise ValueError(
          f'Problem {index} is {self._problems[index].id}, but the record is '
          f'of {record.problem.id}.'
      )
    first = self._check_new(index)
    self._blocks.setdefault(first, {})[index] = record
    self._write_if_full(first)

  def fail(self, index: int, reason: str) -> None:
    """Records that problem `index` failed, and for which reason.

    The shard is written without this problem, and `missing` no longer lists it.

    Raises:
      ValueError: if the problem already has a record or a failure.
    """
    first = self._check_new(index)
    self._manifest = self._manifest.with_failure(
        manifest_lib.Failure(index, self._problems[index].id, reason)
    )
    # Saved at once, so that the failure is not lost if the process is killed
    # before the block is complete.
    manifest_lib.save(self._directory, self._manifest)
    self._write_if_full(first)

  def _failed(self) -> set[int]:
    """Returns the indices of the problems that failed."""
    return {failure.index for failure in self._manifest.failures}

  def _check_new(self, index: int) -> int:
    """Checks that a problem may get a record or a failure.

    Args:
      index: index of the problem in the split.

    Returns:
      The index of the first problem in its block.

    Raises:
      ValueError: if the problem already has a record or a failure.
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
          'each problem gets only one.'
      )
    return first

  def _places(self, first: int) -> range:
    """Returns the problem indices of the block that starts at `first`."""
    last = min(first + self._manifest.shard_size, len(self._problems))
    return range(first, last)

  def _is_full(self, shard: manifest_lib.ShardEntry) -> bool:
    """Returns whether a block has a record or a failure for each problem."""
    places = self._places(shard.first)
    return shard.rows + len(self._failed().intersection(places)) == len(places)

  def _reload_open_blocks(self) -> None:
    """Reads the records of incomplete shards, which will be written again.

    Also deletes shard files that are left over from a killed process.
    """
    for shard in self._manifest.shards:
      self._delete_others(shard)
      if self._is_full(shard):
        continue
      # Rows are matched to indices by the problem's id, because failed problems
      # have no row.
      places = {self._problems[i].id: i for i in self._places(shard.first)}
      records = reader.read_shard(self._directory, shard, self.kind)
      block = {places[record.problem.id]: record for record in records}
      self._blocks[shard.first] = block
      self._reloaded.update(block)

  def _write_if_full(self, first: int) -> None:
    """Writes the block that starts at `first`, if it is complete.

    It is complete if each of its problems has a record or a failure.
    """
    places = self._places(first)
    block = self._blocks.get(first, {})
    present = [i for i in places if i in block]
    failed = self._failed().intersection(places)
    # A block in which every problem failed has no records, and gets no file.
    if present and len(present) + len(failed) == len(places):
      self._write([block[i] for i in present], first)
      del self._blocks[first]

  def _open(self, requested: manifest_lib.Manifest) -> manifest_lib.Manifest:
    """Creates the directory, or checks that its collection can be resumed.

    Args:
      requested: the empty manifest of the collection with current settings.

    Returns:
      The manifest to continue from.

    Raises:
      ValueError: see the class.
    """
    if not (self._directory / manifest_lib.FILE_NAME).exists():
      # Shards without a manifest are not from this writer, and must not be
      # overwritten.
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
    # All checks come before the first write, so that nothing has been changed
    # if one of them raises an error.
    manifest_lib.check_same(found, requested, str(self._directory))
    there = [s for s in found.shards if (self._directory / s.file).exists()]
    for shard in there:
      manifest_lib.check_shard(self._directory, shard)
    if found != before:
      # The extended manifest is saved before any new record arrives. So readers
      # see an unfinished collection instead of the complete smaller one.
      manifest_lib.save(self._directory, found)
    # A shard whose file was deleted is not listed any more, so its problems are
    # collected again.
    return dataclasses.replace(found, shards=tuple(there))

  def _stem(self, first: int) -> str:
    """Returns the beginning of the file names of the block at `first`."""
    return f'{self.kind.name}-{first // self._manifest.shard_size:05d}'

  def _delete_others(self, shard: manifest_lib.ShardEntry) -> None:
    """Deletes all files of a shard's block except the file of `shard`.

    Such files are left over if the process is killed between writing a file and
    listing it in the manifest.
    """
    stem = self._stem(shard.first)
    for pattern in (f'{stem}.parquet', f'{stem}-*.parquet'):
      for path in self._directory.glob(pattern):
        if path.name != shard.file:
          path.unlink()

  def _write(self, records: Sequence[Any], first: int) -> None:
    """Writes the shard of the block at `first`, then lists it in the manifest.

    Args:
      records: the records of the block, in the order of their problems, so that
        the bytes of the file do not depend on the order of their arrival.
      first: index of the first problem of the block.
    """
    name = self._stem(first)
    if first in {shard.first for shard in self._manifest.shards}:
      # The manifest still lists the block's old file, so it must not be
      # overwritten.
      name = f'{name}-{len(self._places(first))}'
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
    # The old file may be deleted only after the manifest lists the new one.
    manifest_lib.save(self._directory, self._manifest)
    self._delete_others(entry)


class LadderWriter(Writer):
  """A writer of shards of `types.Ladder`."""

  kind = schema.LADDERS


class RolloutWriter(Writer):
  """A writer of shards of `types.Rollouts`."""

  kind = schema.ROLLOUTS
