"""Reads records from shards, after checking that the files are unaltered."""

import io
import pathlib
from typing import Any

import pyarrow.parquet as pq

from routing import types
from routing.shards import manifest as manifest_lib
from routing.shards import schema


def read_manifest(directory: pathlib.Path | str) -> manifest_lib.Manifest:
  """Returns the manifest of a shard directory.

  Raises:
    ValueError: if there is no manifest, or it is damaged, edited, or of another
      schema version.
  """
  directory = pathlib.Path(directory)
  try:
    return manifest_lib.load(directory)
  except FileNotFoundError as error:
    raise ValueError(
        f'{directory} holds no {manifest_lib.FILE_NAME}: nothing was collected '
        'there. Collect first, or name another work directory.'
    ) from error


def read_ladders(directory: pathlib.Path | str) -> list[types.Ladder]:
  """Returns all ladders of a complete directory, in the order of the problems.

  Raises:
    ValueError: if the collection is not finished, or its records are of another
      kind; or if a shard is missing, truncated, altered or of another schema
      version (the message names the file).
  """
  return _read_all(pathlib.Path(directory), schema.LADDERS)


def read_rollouts(directory: pathlib.Path | str) -> list[types.Rollouts]:
  """Returns all rollouts of a complete directory, in the order of the problems.

  Raises:
    ValueError: as `read_ladders` does.
  """
  return _read_all(pathlib.Path(directory), schema.ROLLOUTS)


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
  directory = pathlib.Path(directory)
  # The hash is checked before the file is parsed, because the parser's errors
  # for a damaged file do not say what to do.
  manifest_lib.check_shard(directory, entry)
  table = pq.read_table(
      io.BytesIO((directory / entry.file).read_bytes()), use_threads=False
  )
  return kind.from_table(table)


def complete_manifest(
    directory: pathlib.Path | str, kind: schema.Kind
) -> manifest_lib.Manifest:
  """Returns the manifest of a finished collection.

  Raises:
    ValueError: if the collection is not finished, or its records are of another
      kind.
  """
  manifest = read_manifest(directory)
  # The kind is checked first: if it is wrong, finishing the collection would
  # not help.
  manifest_lib.check_kind(manifest, kind, str(directory))
  # The records of an unfinished collection would bias what is learned, because
  # hard problems take longest.
  if not manifest.is_complete:
    rows = sum(shard.rows for shard in manifest.shards)
    raise ValueError(
        f'{directory} holds {rows} of {manifest.num_problems} problems; run '
        'the collection again to finish it.'
    )
  return manifest


def _read_all(directory: pathlib.Path, kind: schema.Kind) -> list[Any]:
  """Returns the records of all shards of a complete directory."""
  return [
      record
      for entry in complete_manifest(directory, kind).shards
      for record in read_shard(directory, entry, kind)
  ]
