"""Writes records to shards, such that a crash loses no finished problem.

Problems are divided, in their order, into blocks of `shard_size`. Each record
that arrives is appended to the log of its block (`shards.block_log`), and is on
the disk at once. When the last record of a block has arrived, the block is
written to a file, its shard, and its log is deleted. Shards are written
atomically, and are valid once the manifest lists them. Their bytes do not
depend on the order in which the records arrived, nor on interruptions, nor on
who collected them: other processes may append records to logs of their own, and
tell the writer (`note`), which alone writes shards.

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

import pyarrow as pa
import pyarrow.parquet as pq

from routing import types
from routing.shards import block_log
from routing.shards import files
from routing.shards import lock as lock_lib
from routing.shards import manifest as manifest_lib
from routing.shards import reader
from routing.shards import schema
from routing.shards import tidy


class Writer:
  """Accepts records in any order, and writes them in the order of the problems.

  Subclasses set `kind`. A writer locks its directory until the collection is
  complete or the writer, a context manager, is closed.

  Args:
    directory: of the shards. If it does not exist, it is created. If it has
      part of the same collection, the collection is resumed. If it has a
      collection of the first of the problems, the collection is extended.
    problems: all problems of the split, in order.
    settings: everything that the records depend on, except the problems.
    shard_size: number of problems in a block.

  Raises:
    ValueError: if `directory` has data of other settings, another kind or
      schema version, shards without a manifest, or an altered shard or log; or
      if another writer has locked it. In this case nothing in it is changed.
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
    self._directory = files.path(directory)
    self._problems = problems  # Not copied: a million may be made when asked.
    # Indices of the problems whose records are in a log.
    self._logged: set[int] = set()
    # Those whose records are in the shard of a block that has room for more.
    self._reloaded: set[int] = set()
    requested = manifest_lib.Manifest(
        settings={
            **settings,
            'problems_hash': manifest_lib.hash_problems(self._problems),
        },
        num_problems=len(self._problems),
        shard_size=shard_size,
        kind=self.kind.name,
    )
    self._lock: lock_lib.Lock | None = None
    # Many processes may open a finished collection at once, e.g. the runs of a
    # sweep. They need no lock, except to tidy up.
    is_finished, is_tidy = tidy.state(self._directory, self.kind, len(problems))
    if not (is_finished and is_tidy):
      self._directory.mkdir(parents=True, exist_ok=True)
      try:
        self._lock = lock_lib.Lock(self._directory)
      except ValueError:
        if not is_finished:
          raise
    try:
      self._manifest = self._check(requested)
      if self._lock is not None:
        self._recover()
    except BaseException:
      self.close()
      raise

  @property
  def manifest(self) -> manifest_lib.Manifest:
    """The manifest that is on disk."""
    return self._manifest

  def __enter__(self) -> 'Writer':
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def close(self) -> None:
    """Unlocks the directory; nothing may be added any more."""
    if self._lock is not None:
      self._lock.release()

  def missing(self) -> list[int]:
    """Returns the indices of the problems that are still to be collected.

    They have no record in a shard or a log, and were not refused.
    """
    size = self._manifest.shard_size
    written = {x.first for x in self._manifest.shards if self._is_full(x)}
    there = self._manifest.failed | self._reloaded | self._logged
    return [
        i
        for i in range(len(self._problems))
        if i - i % size not in written and i not in there
    ]

  def add(self, index: int, record: Any) -> None:
    """Writes the record of a problem to the disk; its block, if it is complete.

    Args:
      index: index of the problem in the split.
      record: the record, of the type that belongs to `kind`.

    Raises:
      ValueError: if the record is of another problem, or the problem already
        has a record or a failure.
    """
    self._check_is_of(index, record)
    first = self._check_new(index)
    number = first // self._manifest.shard_size
    log = block_log.path(self._directory, self.kind, number)
    block_log.append(log, self.kind, index, record)
    self.note(index)

  def note(self, index: int) -> None:
    """Takes note that the record of a problem is in a log of its block.

    Raises:
      ValueError: if the problem already has a record or a failure.
    """
    first = self._check_new(index)
    self._logged.add(index)
    self._write_if_full(first)

  def fail(self, index: int, reason: str) -> None:
    """Records that problem `index` can never be collected, and why.

    The shard is written without this problem, and `missing` no longer lists it.
    A problem that may succeed later must not be recorded.

    Raises:
      ValueError: if the problem already has a record or a failure.
    """
    first = self._check_new(index)
    self._manifest = self._manifest.with_failure(
        manifest_lib.Failure(index, self._problems[index].id, reason)
    )
    # Saved at once: the process may be killed before the block is complete.
    manifest_lib.save(self._directory, self._manifest)
    self._write_if_full(first)

  def add_block(self, first: int, records: Sequence[Any]) -> None:
    """Writes the records of a whole block to its shard at once.

    The shard is that of `add`, but no log protects a part of it meanwhile.

    Args:
      first: index of the block's first problem.
      records: of all problems of the block, in order.

    Raises:
      ValueError: as `add` does, or if these are not the records of one block.
    """
    places, size = self._places(first), self._manifest.shard_size
    if first < 0 or first % size or not places or len(records) != len(places):
      raise ValueError(
          f'Problem {first} and {len(records)} records; allowed: a multiple of '
          f'{size}, and {len(places)} records.'
      )
    for index, record in zip(places, records, strict=True):
      self._check_is_of(index, record)
      self._check_new(index)
    name = block_log.stem(self.kind, first // self._manifest.shard_size)
    self._save(first, name, self.kind.to_table(records))
    if self._manifest.is_complete:
      self.close()

  def _check_is_of(self, index: int, record: Any) -> None:
    """Raises ValueError unless the record is of problem `index`."""
    # An index that is off by one would pair every record with a wrong problem.
    if self._problems[index].id != record.problem.id:
      raise ValueError(
          f'Problem {index} is {self._problems[index].id}, but the record is '
          f'of {record.problem.id}.'
      )

  def _check_new(self, index: int) -> int:
    """Returns the first index of the block of `index`, which needs a record.

    Raises:
      ValueError: if the problem already has a record or a failure, or the
        writer is closed.
    """
    first = index - index % self._manifest.shard_size
    shard = self._manifest.shards_by_first.get(first)
    is_written = shard is not None and self._is_full(shard)
    known = self._manifest.failed, self._reloaded, self._logged
    if is_written or any(index in x for x in known):
      name = self._problems[index].id
      raise ValueError(
          f'Problem {name} (index {index}) already has a record or a failure; '
          'each problem gets only one.'
      )
    if self._lock is None or not self._lock.is_held:
      raise ValueError(f'The writer of {self._directory} is closed.')
    return first

  def _places(self, first: int) -> range:
    """Returns the problem indices of the block that starts at `first`."""
    last = min(first + self._manifest.shard_size, len(self._problems))
    return range(first, last)

  def _is_full(self, shard: manifest_lib.ShardEntry) -> bool:
    """Returns whether a block has a record or a failure for each problem."""
    places = self._places(shard.first)
    failed = self._manifest.failed.intersection(places)
    return shard.rows + len(failed) == len(places)

  def _check(self, requested: manifest_lib.Manifest) -> manifest_lib.Manifest:
    """Checks that the collection in the directory can be resumed, or begun.

    Args:
      requested: the empty manifest of the collection with current settings.

    Returns:
      The manifest to continue from.

    Raises:
      ValueError: see the class.
    """
    if not (self._directory / manifest_lib.FILE_NAME).exists():
      # Records without a manifest are not this writer's to overwrite.
      if any(
          x.suffix in ('.parquet', block_log.SUFFIX)
          for x in self._directory.glob('*')
      ):
        raise ValueError(
            f'{self._directory} holds shards but no {manifest_lib.FILE_NAME}; '
            'use another work directory. Nothing was overwritten.'
        )
      return requested
    found = manifest_lib.load(self._directory)
    found = found.extended(self._problems, requested)
    manifest_lib.check_same(found, requested, str(self._directory))
    there = [s for s in found.shards if (self._directory / s.file).exists()]
    for shard in there:
      manifest_lib.check_shard(self._directory, shard)
    # The problems of a shard whose file was deleted are collected again.
    return dataclasses.replace(found, shards=tuple(there))

  def _recover(self) -> None:
    """Saves the manifest, and takes over what an earlier process left.

    Records of incomplete blocks are kept; a block whose log is complete is
    written. Files of a killed process that are not needed are deleted.
    """
    full = {x.first for x in self._manifest.shards if self._is_full(x)}
    logged = self._read_logs(full)
    # First, so that readers of an extended collection see it is unfinished.
    path = self._directory / manifest_lib.FILE_NAME
    if not path.exists() or manifest_lib.load(path.parent) != self._manifest:
      manifest_lib.save(self._directory, self._manifest)
    for shard in self._manifest.shards:
      block = shard.first // self._manifest.shard_size
      tidy.delete_others(self._directory, self.kind, block, shard)
      if shard.first in full:
        tidy.delete_logs(self._directory, self.kind, block)
        continue
      # Matched by the problem's id, because failed problems have no row.
      places = {self._problems[i].id: i for i in self._places(shard.first)}
      table = reader.read_table(self._directory, shard)
      self._reloaded.update(places[x] for x in table['id'].to_pylist())
    self._logged = logged
    size = self._manifest.shard_size
    for first in sorted({index - index % size for index in logged}):
      self._write_if_full(first)
    if self._manifest.is_complete:
      self.close()  # Nothing can be added any more.

  def _read_logs(self, full: set[int]) -> set[int]:
    """Returns the indices of the problems whose records are in logs.

    Args:
      full: first indices of the blocks whose logs are not needed any more.

    Raises:
      ValueError: if a log is damaged, or its records are of other problems.
    """
    logged = set()
    for path in block_log.paths(self._directory, self.kind):
      first = block_log.number(path) * self._manifest.shard_size
      places = () if first in full else self._places(first)
      for index, table in block_log.repair(path).items() if places else ():
        (name,) = table['id'].to_pylist()
        if index not in places or self._problems[index].id != name:
          raise ValueError(
              f'{path} has problem {index}, {name}, which does not belong '
              'there. Delete the file and run the collection again.'
          )
        logged.add(index)
    return logged

  def _write_if_full(self, first: int) -> None:
    """Writes the block that starts at `first`, if it is complete.

    It is complete if each of its problems has a record or a failure.
    """
    places = self._places(first)
    new = self._logged.intersection(places)
    known = new.union(
        self._manifest.failed.intersection(places),
        self._reloaded.intersection(places),
    )
    # Without a new record, each problem of the block failed, or its shard,
    # which is complete now, has the records of all others.
    if new and known.issuperset(places):
      self._write(first, new)
      self._logged -= new
      self._reloaded.difference_update(places)
    if self._manifest.is_complete:
      self.close()  # Nothing can be added any more.

  def _write(self, first: int, logged: set[int]) -> None:
    """Writes the block at `first`, of which some are logged, to a shard."""
    number = first // self._manifest.shard_size
    name = block_log.stem(self.kind, number)
    old = [x for x in self._manifest.shards if x.first == first]
    if old:
      # The manifest still lists the block's old file, so it must not be
      # overwritten.
      name = f'{name}-{len(self._places(first))}'
    # The records come from the disk, as after an interruption, in the order of
    # their problems: the bytes do not depend on the order of their arrival.
    rows = block_log.read_block(self._directory, self.kind, number, logged)
    if lost := logged - rows.keys():
      raise ValueError(
          f'The logs of {name} in {self._directory} lack the problems '
          f'{sorted(lost)}; run the collection again.'
      )
    tables = [reader.read_table(self._directory, x) for x in old]
    tables += [rows[index] for index in sorted(rows)]
    table = pa.concat_tables([x.cast(self.kind.schema) for x in tables])
    self._save(first, name, table.combine_chunks())

  def _save(self, first: int, name: str, table: pa.Table) -> None:
    """Writes a table to the shard of the block at `first`, and lists it."""
    path = self._directory / f'{name}.parquet'
    manifest_lib.replace_file(
        path, lambda p: pq.write_table(table, p, compression='zstd')
    )
    entry = manifest_lib.ShardEntry(
        file=path.name,
        first=first,
        rows=len(table),
        sha256=manifest_lib.hash_file(path),
    )
    self._manifest = self._manifest.with_shard(entry)
    # Only now, since the manifest lists the new shard.
    manifest_lib.save(self._directory, self._manifest)
    block = first // self._manifest.shard_size
    tidy.delete_others(self._directory, self.kind, block, entry)
    tidy.delete_logs(self._directory, self.kind, block)


class LadderWriter(Writer):
  """A writer of shards of `types.Ladder`."""

  kind = schema.LADDERS


class RolloutWriter(Writer):
  """A writer of shards of `types.Rollouts`."""

  kind = schema.ROLLOUTS
