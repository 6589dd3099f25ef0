"""Writes records to shards so that a kill at any moment loses only work.

Problems are cut into blocks of `shard_size` in their order; a block is written
when its last record has arrived. A file appears whole or not at all, and counts
once the manifest lists it, so after a kill nothing is there twice and nothing
that was listed is missing.

A collection may be opened again with more problems after the same first ones.
Then its last block may have room: what its file holds is read and written again
with the rest of the block, to a file of another name. The old file is listed
until the new one is, and deleted afterwards.
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
  """Takes records in any order, and writes them in the order of the problems.

  Args:
    directory: of the shards; made if missing, resumed if begun, extended if
      begun with the first of these problems.
    problems: all problems of the split, in order.
    settings: all that the records follow from besides the problems.
    shard_size: problems a file.

  Raises:
    ValueError: if `directory` holds data of other settings, of another kind or
      schema version, shards without a manifest, or a shard that is not as it
      was written. Nothing is changed then.
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
    self._blocks: dict[int, dict[int, Any]] = {}
    wanted = manifest_lib.Manifest(
        settings={
            **settings,
            'problems_hash': manifest_lib.hash_problems(self._problems),
        },
        num_problems=len(self._problems),
        shard_size=shard_size,
        kind=self.kind.name,
    )
    self._manifest = self._open(wanted)
    # Problems of a block with room, whose records are in a file already.
    self._kept: set[int] = set()
    self._take_up()

  @property
  def manifest(self) -> manifest_lib.Manifest:
    """What is on disk."""
    return self._manifest

  def missing(self) -> list[int]:
    """Indices of the problems in no shard yet that did not fail, in order."""
    size = self._manifest.shard_size
    written = {x.first for x in self._manifest.shards if self._is_full(x)}
    there = self._failed() | self._kept
    return [
        i
        for i in range(len(self._problems))
        if i - i % size not in written and i not in there
    ]

  def add(self, index: int, record: Any) -> None:
    """Takes the record of problem `index`; writes its block if now full.

    Raises:
      ValueError: if it is the record of another problem, or came before.
    """
    if self._problems[index].id != record.problem.id:
      raise ValueError(
          f'Problem {index} is {self._problems[index].id}, but the record is '
          f'of {record.problem.id}.'
      )
    first = self._check_new(index)
    self._blocks.setdefault(first, {})[index] = record
    self._write_if_full(first)

  def fail(self, index: int, reason: str) -> None:
    """Notes that there will be no record of problem `index`.

    Its shard is written without it, and it is not asked for again.

    Raises:
      ValueError: if its record came before.
    """
    first = self._check_new(index)
    self._manifest = self._manifest.with_failure(
        manifest_lib.Failure(index, self._problems[index].id, reason)
    )
    manifest_lib.save(self._directory, self._manifest)
    self._write_if_full(first)

  def _failed(self) -> set[int]:
    return {failure.index for failure in self._manifest.failures}

  def _check_new(self, index: int) -> int:
    """Returns the first index of the block of a problem that is still open."""
    first = index - index % self._manifest.shard_size
    is_written = any(
        shard.first == first and self._is_full(shard)
        for shard in self._manifest.shards
    )
    is_known = index in self._blocks.get(first, ()) or index in self._failed()
    if is_written or is_known:
      name = self._problems[index].id
      raise ValueError(f'A record of problem {name} came before.')
    return first

  def _places(self, first: int) -> range:
    """Indices of the block from `first` on."""
    last = min(first + self._manifest.shard_size, len(self._problems))
    return range(first, last)

  def _is_full(self, shard: manifest_lib.ShardEntry) -> bool:
    """Whether a shard holds all of its block that did not fail."""
    places = self._places(shard.first)
    return shard.rows + len(self._failed().intersection(places)) == len(places)

  def _take_up(self) -> None:
    """Takes the records of shards that have room, to write them again."""
    for shard in self._manifest.shards:
      self._delete_others(shard)
      if self._is_full(shard):
        continue
      places = {self._problems[i].id: i for i in self._places(shard.first)}
      records = reader.read_shard(self._directory, shard, self.kind)
      block = {places[record.problem.id]: record for record in records}
      self._blocks[shard.first] = block
      self._kept.update(block)

  def _write_if_full(self, first: int) -> None:
    """Writes the block from `first` on if nothing of it is missing."""
    places = self._places(first)
    block = self._blocks.get(first, {})
    present = [i for i in places if i in block]
    failed = self._failed().intersection(places)
    if present and len(present) + len(failed) == len(places):
      self._write([block[i] for i in present], first)
      del self._blocks[first]

  def _open(self, wanted: manifest_lib.Manifest) -> manifest_lib.Manifest:
    """Begins the directory, or goes on with it."""
    if not (self._directory / manifest_lib.FILE_NAME).exists():
      if any(self._directory.glob('*.parquet')):
        raise ValueError(
            f'{self._directory} holds shards but no {manifest_lib.FILE_NAME}; '
            'use another work directory. Nothing was overwritten.'
        )
      self._directory.mkdir(parents=True, exist_ok=True)
      manifest_lib.save(self._directory, wanted)
      return wanted
    before = manifest_lib.load(self._directory)
    found = before.extended(self._problems, wanted)
    manifest_lib.check_same(found, wanted, str(self._directory))
    there = [s for s in found.shards if (self._directory / s.file).exists()]
    for shard in there:
      manifest_lib.check_shard(self._directory, shard)
    if found != before:
      # From here on no reader takes what is there for all that is wanted.
      manifest_lib.save(self._directory, found)
    # A shard whose file was deleted is collected anew.
    return dataclasses.replace(found, shards=tuple(there))

  def _stem(self, first: int) -> str:
    return f'{self.kind.name}-{first // self._manifest.shard_size:05d}'

  def _delete_others(self, shard: manifest_lib.ShardEntry) -> None:
    """Deletes files of the same block that the manifest does not list."""
    stem = self._stem(shard.first)
    for pattern in (f'{stem}.parquet', f'{stem}-*.parquet'):
      for path in self._directory.glob(pattern):
        if path.name != shard.file:
          path.unlink()

  def _write(self, records: Sequence[Any], first: int) -> None:
    """Writes one shard, then the manifest that lists it."""
    name = self._stem(first)
    if first in {shard.first for shard in self._manifest.shards}:
      # The file with the first of these is listed still, and must stay.
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
    manifest_lib.save(self._directory, self._manifest)
    self._delete_others(entry)


class LadderWriter(Writer):
  """Writes `types.Ladder`s."""

  kind = schema.LADDERS


class RolloutWriter(Writer):
  """Writes `types.Rollouts`."""

  kind = schema.ROLLOUTS
