"""Writes records to shards so that a kill at any moment loses only work.

Problems are cut into blocks of `shard_size` in their order; a block is written
when its last record has arrived. A file appears whole or not at all, and counts
once the manifest lists it, so after a kill nothing is there twice and nothing
that was listed is missing.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

import pyarrow.parquet as pq

from routing import types
from routing.shards import manifest as manifest_lib
from routing.shards import schema


class Writer:
  """Takes records in any order, and writes them in the order of the problems.

  Args:
    directory: of the shards; made if missing, resumed if begun.
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

  @property
  def manifest(self) -> manifest_lib.Manifest:
    """What is on disk."""
    return self._manifest

  def missing(self) -> list[int]:
    """Indices of the problems in no shard yet that did not fail, in order."""
    size = self._manifest.shard_size
    written = {shard.first for shard in self._manifest.shards}
    failed = self._failed()
    return [
        i
        for i in range(len(self._problems))
        if i - i % size not in written and i not in failed
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
    is_written = any(shard.first == first for shard in self._manifest.shards)
    is_known = index in self._blocks.get(first, ()) or index in self._failed()
    if is_written or is_known:
      name = self._problems[index].id
      raise ValueError(f'A record of problem {name} came before.')
    return first

  def _write_if_full(self, first: int) -> None:
    """Writes the block from `first` on if nothing of it is missing."""
    last = min(first + self._manifest.shard_size, len(self._problems))
    block = self._blocks.get(first, {})
    present = [i for i in range(first, last) if i in block]
    failed = self._failed().intersection(range(first, last))
    if present and len(present) + len(failed) == last - first:
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
    found = manifest_lib.load(self._directory)
    manifest_lib.check_same(found, wanted, str(self._directory))
    there = [s for s in found.shards if (self._directory / s.file).exists()]
    for shard in there:
      manifest_lib.check_shard(self._directory, shard)
    # A shard whose file was deleted is collected anew.
    return dataclasses.replace(found, shards=tuple(there))

  def _write(self, records: Sequence[Any], first: int) -> None:
    """Writes one shard, then the manifest that lists it."""
    number = first // self._manifest.shard_size
    path = self._directory / f'{self.kind.name}-{number:05d}.parquet'
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


class LadderWriter(Writer):
  """Writes `types.Ladder`s."""

  kind = schema.LADDERS


class RolloutWriter(Writer):
  """Writes `types.Rollouts`."""

  kind = schema.ROLLOUTS
