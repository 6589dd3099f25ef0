"""Reads records from shards, after checking that the files are unaltered."""

from collections.abc import Iterator
import pathlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from routing import types
from routing.shards import block_log
from routing.shards import files
from routing.shards import manifest as manifest_lib
from routing.shards import schema

# Ladders that come with the package, in the layout of a work directory.
SHIPPED = pathlib.Path(__file__).parent / 'shipped'


def shipped(name: str) -> pathlib.Path:
  """Returns the directory of ladders that come with the package.

  Its folder `shards` has one folder for each split; README.md says what was
  collected, and under which licences.

  Args:
    name: of the collection, e.g. 'qwen25_coder'.

  Raises:
    ValueError: if there is no such collection.
  """
  found = sorted(x.name for x in SHIPPED.glob('*') if x.is_dir())
  if name not in found:
    raise ValueError(
        f'No ladders {name!r} come with the package; allowed: '
        f'{", ".join(found)}.'
    )
  return SHIPPED / name


def read_manifest(directory: pathlib.Path | str) -> manifest_lib.Manifest:
  """Returns the manifest of a shard directory.

  Raises:
    ValueError: if there is no manifest, or it is damaged, edited, or of another
      schema version.
  """
  directory = files.path(directory)
  try:
    return manifest_lib.load(directory)
  except FileNotFoundError as error:
    raise ValueError(
        f'{directory} holds no {manifest_lib.FILE_NAME}: nothing was collected '
        'there. Collect first, or name another work directory.'
    ) from error


def read_ladders(
    directory: pathlib.Path | str, *, is_partial: bool = False
) -> list[types.Ladder]:
  """Returns all ladders of a directory, in the order of the problems.

  Args:
    directory: of the shards.
    is_partial: whether to read what there is of an unfinished collection,
      including the logs of unfinished blocks.

  Raises:
    ValueError: if the collection is not finished and `is_partial` is False, or
      its records are of another kind; or if a shard or a log is missing,
      truncated, altered or of another schema version (the message names the
      file).
  """
  return list(read_each(directory, schema.LADDERS, is_partial=is_partial))


def read_rollouts(
    directory: pathlib.Path | str, *, is_partial: bool = False
) -> list[types.Rollouts]:
  """Returns all rollouts of a directory, in the order of the problems.

  Arguments and errors are those of `read_ladders`.
  """
  return list(read_each(directory, schema.ROLLOUTS, is_partial=is_partial))


def read_each(
    directory: pathlib.Path | str,
    kind: schema.Kind,
    *,
    is_partial: bool = False,
) -> Iterator[Any]:
  """Yields the records of a directory, of any kind, one file at a time.

  Arguments, order and errors are those of `read_ladders`.
  """
  directory = files.path(directory)
  if not is_partial:
    for entry in complete_manifest(directory, kind).shards:
      yield from read_shard(directory, entry, kind)
    return
  # The names of the logs are read before the manifest. If a log disappears
  # after that, its block is in a shard; in the other order, it could be missed.
  logs = [
      (path, block_log.read(path)) for path in block_log.paths(directory, kind)
  ]
  manifest = read_manifest(directory)
  manifest_lib.check_kind(manifest, kind, str(directory))
  blocks = {x.first // manifest.shard_size: x for x in manifest.shards}
  rows: dict[int, dict[int, pa.Table]] = {}
  for path, found in logs:
    rows.setdefault(block_log.number(path), {}).update(found)
  for number in sorted({*blocks, *rows}):
    seen = set()
    if number in blocks:
      for record in read_shard(directory, blocks[number], kind):
        seen.add(record.problem.id)
        yield record
    for _, table in sorted(rows.get(number, {}).items()):
      # A log whose block is in a shard by now is about to be deleted.
      if table['id'][0].as_py() not in seen:
        yield from kind.from_table(table)


def read_shard(
    directory: pathlib.Path | str,
    entry: manifest_lib.ShardEntry,
    kind: schema.Kind,
) -> list[Any]:
  """Returns the records of one shard.

  Use it for data that does not fit in memory as a whole.

  Args:
    directory: of the shards.
    entry: the manifest's entry for the shard.
    kind: the kind of its records.

  Raises:
    ValueError: if the file is missing, truncated, altered or of another schema
      version.
  """
  return kind.from_table(read_table(files.path(directory), entry))


def read_table(
    directory: pathlib.Path, entry: manifest_lib.ShardEntry
) -> pa.Table:
  """Returns the table of one shard; arguments, errors as in `read_shard`."""
  # The hash is checked before the file is parsed, because the parser's errors
  # for a damaged file do not say what to do.
  manifest_lib.check_shard(directory, entry)
  # Not `pq.read_table`, which imports pandas and starts threads: a process that
  # ended right after reading was sometimes aborted by those.
  content = pa.BufferReader((directory / entry.file).read_bytes())
  return pq.ParquetFile(content).read(use_threads=False)


def complete_manifest(
    directory: pathlib.Path | str,
    kind: schema.Kind,
    num_problems: int | None = None,
) -> manifest_lib.Manifest:
  """Returns the manifest of a finished collection, or of its finished start.

  Args:
    directory: of the shards.
    kind: of the records.
    num_problems: how many problems are needed, from the first; None = all. The
      blocks that hold them must be finished, and if later ones are not, the
      manifest is that of these blocks alone.

  Raises:
    ValueError: if what is needed is not finished, or the records are of another
      kind.
  """
  manifest = read_manifest(directory)
  # The kind is checked first: if it is wrong, finishing the collection would
  # not help.
  manifest_lib.check_kind(manifest, kind, str(directory))
  # The records of an unfinished block would bias what is learned, because hard
  # problems take longest.
  if not manifest.is_complete and num_problems is not None:
    start = manifest.first(num_problems)
    manifest = start if start.is_complete else manifest
  if not manifest.is_complete:
    rows = sum(shard.rows for shard in manifest.shards)
    raise ValueError(
        f'{directory} holds {rows} of {manifest.num_problems} problems in '
        'complete shards; run the collection again to finish it.'
    )
  return manifest
