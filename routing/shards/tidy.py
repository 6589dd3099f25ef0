"""Says what a directory of shards holds, and deletes what is not needed.

A process that is killed leaves files: logs of a block whose shard is written,
shards that the manifest does not list.
"""

import pathlib

from routing.shards import block_log
from routing.shards import lock as lock_lib
from routing.shards import manifest as manifest_lib
from routing.shards import schema


def state(
    directory: pathlib.Path, kind: schema.Kind, num_problems: int
) -> tuple[bool, bool]:
  """Returns whether a collection is finished, and whether it is tidy."""
  try:
    found = manifest_lib.load(directory)
  except (FileNotFoundError, ValueError):
    return False, False  # The writer's checks say what is wrong, if anything.
  there = {
      *directory.glob(f'{kind.name}-*.parquet'),
      *block_log.paths(directory, kind),
      *directory.glob(lock_lib.FILE_NAME),
  }
  listed = {directory / x.file for x in found.shards}
  has_all = found.is_complete and found.num_problems == num_problems
  return has_all and listed <= there, listed == there


def delete_logs(
    directory: pathlib.Path, kind: schema.Kind, number: int
) -> None:
  """Deletes all logs of block `number`."""
  for log in block_log.paths_of(directory, kind, number):
    log.unlink(missing_ok=True)


def delete_others(
    directory: pathlib.Path,
    kind: schema.Kind,
    number: int,
    shard: manifest_lib.ShardEntry,
) -> None:
  """Deletes all shards of block `number` except the file of `shard`."""
  stem = block_log.stem(kind, number)
  for pattern in (f'{stem}.parquet', f'{stem}-*.parquet'):
    for path in directory.glob(pattern):
      if path.name != shard.file:
        path.unlink()
