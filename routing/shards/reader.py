"""Reads records back, refusing whatever is not as it was written."""

import io
import pathlib
from typing import Any

import pyarrow.parquet as pq

from routing import types
from routing.shards import manifest as manifest_lib
from routing.shards import schema


def read_manifest(directory: pathlib.Path | str) -> manifest_lib.Manifest:
  """The manifest of a shard directory.

  Raises:
    ValueError: if there is none, or it is damaged or of another version.
  """
  directory = pathlib.Path(directory)
  try:
    return manifest_lib.load(directory)
  except FileNotFoundError as error:
    raise ValueError(
        f'{directory} holds no {manifest_lib.FILE_NAME}: nothing was collected '
        'there.'
    ) from error


def read_ladders(directory: pathlib.Path | str) -> list[types.Ladder]:
  """All ladders of a complete shard directory, in the order of the problems.

  Raises:
    ValueError: if the collection is not finished, or of another kind, or a
      shard is missing, truncated, altered or of another schema version; it
      names the file.
  """
  return _read_all(pathlib.Path(directory), schema.LADDERS)


def read_rollouts(directory: pathlib.Path | str) -> list[types.Rollouts]:
  """All rollouts of a complete shard directory, in the order of the problems.

  Raises:
    ValueError: as `read_ladders` does.
  """
  return _read_all(pathlib.Path(directory), schema.ROLLOUTS)


def read_shard(
    directory: pathlib.Path | str,
    entry: manifest_lib.ShardEntry,
    kind: schema.Kind,
) -> list[Any]:
  """The records of one file, for data that exceeds memory.

  Raises:
    ValueError: if it is missing, truncated, altered or of another version.
  """
  directory = pathlib.Path(directory)
  manifest_lib.check_shard(directory, entry)
  table = pq.read_table(
      io.BytesIO((directory / entry.file).read_bytes()), use_threads=False
  )
  return kind.from_table(table)


def complete_manifest(
    directory: pathlib.Path | str, kind: schema.Kind
) -> manifest_lib.Manifest:
  """The manifest of a finished collection, to read it file by file.

  Raises:
    ValueError: if the collection is not finished, or of another kind.
  """
  manifest = read_manifest(directory)
  manifest_lib.check_kind(manifest, kind, str(directory))
  if not manifest.is_complete:
    rows = sum(shard.rows for shard in manifest.shards)
    raise ValueError(
        f'{directory} holds {rows} of {manifest.num_problems} problems; '
        'collect again to have it finished.'
    )
  return manifest


def _read_all(directory: pathlib.Path, kind: schema.Kind) -> list[Any]:
  """The records of all files of a complete directory."""
  return [
      record
      for entry in complete_manifest(directory, kind).shards
      for record in read_shard(directory, entry, kind)
  ]
