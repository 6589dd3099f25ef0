"""Writes ladders to shards so that a kill at any moment loses only work.

Problems are cut into blocks of `shard_size` in their order; a block is written
when its last ladder has arrived. A file appears whole or not at all, and counts
once the manifest lists it, so after a kill nothing is there twice and nothing
that was listed is missing.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
from typing import Any

import pyarrow.parquet as pq

from routing import types
from routing.shards import manifest as manifest_lib
from routing.shards import schema


class LadderWriter:
  """Takes ladders in any order, and writes them in the order of the problems.

  Args:
    directory: of the shards; made if missing, resumed if begun.
    problems: all problems of the split, in order.
    settings: all that the ladders follow from besides the problems.
    shard_size: problems a file.

  Raises:
    ValueError: if `directory` holds data of other settings or of another
      schema version, shards without a manifest, or a shard that is not as it
      was written. Nothing is changed then.
  """

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
    self._blocks: dict[int, dict[int, types.Ladder]] = {}
    wanted = manifest_lib.Manifest(
        settings={
            **settings,
            'problems_hash': manifest_lib.hash_problems(self._problems),
        },
        num_problems=len(self._problems),
        shard_size=shard_size,
    )
    self._manifest = self._open(wanted)

  @property
  def manifest(self) -> manifest_lib.Manifest:
    """What is on disk."""
    return self._manifest

  def missing(self) -> list[int]:
    """Indices of the problems that are in no shard yet, in order."""
    written = {
        index
        for shard in self._manifest.shards
        for index in range(shard.first, shard.first + shard.rows)
    }
    return [i for i in range(len(self._problems)) if i not in written]

  def add(self, index: int, ladder: types.Ladder) -> None:
    """Takes the ladder of problem `index`; writes its block if now full.

    Raises:
      ValueError: if it is the ladder of another problem, or came before.
    """
    if self._problems[index].id != ladder.problem.id:
      raise ValueError(
          f'Problem {index} is {self._problems[index].id}, but the ladder is '
          f'of {ladder.problem.id}.'
      )
    first = index - index % self._manifest.shard_size
    block = self._blocks.setdefault(first, {})
    is_written = any(shard.first == first for shard in self._manifest.shards)
    if is_written or index in block:
      raise ValueError(f'A ladder of problem {ladder.problem.id} came before.')
    block[index] = ladder
    last = min(first + self._manifest.shard_size, len(self._problems))
    if len(block) == last - first:
      self._write([block[i] for i in range(first, last)], first)
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
    return manifest_lib.Manifest(
        found.settings, found.num_problems, found.shard_size, tuple(there)
    )

  def _write(self, ladders: Sequence[types.Ladder], first: int) -> None:
    """Writes one shard, then the manifest that lists it."""
    number = first // self._manifest.shard_size
    path = self._directory / f'ladders-{number:05d}.parquet'
    table = schema.to_table(ladders)
    manifest_lib.replace_file(
        path, lambda p: pq.write_table(table, p, compression='zstd')
    )
    entry = manifest_lib.ShardEntry(
        file=path.name,
        first=first,
        rows=len(ladders),
        sha256=manifest_lib.hash_file(path),
    )
    self._manifest = self._manifest.with_shard(entry)
    manifest_lib.save(self._directory, self._manifest)
