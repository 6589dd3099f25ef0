"""The logs of unfinished blocks, with one record per problem.

A shard is written when its block is complete. Until then each record of the
block is in a log of the block, as an Arrow table with one row. When the
manifest lists the shard, the logs are deleted.

A block has a log of its writer, and one of each other process that collects for
it. So no two processes append to one file. Where files cannot be appended to,
each record is a file of its own.
"""

from collections.abc import Set
import pathlib
import struct
import time
from typing import Any

import pyarrow as pa

from routing.shards import files
from routing.shards import record_log
from routing.shards import schema

SUFFIX = '.log'
# Seconds between attempts to find a record in the logs of other processes. A
# network file system may show an old list of files: NFS for up to a minute.
_WAITS = (0.1, 0.5, 2.0, 5.0, 15.0, 30.0, 30.0)
_INDEX = struct.Struct('<I')  # Index of the problem, before the table.


def stem(kind: schema.Kind, number: int) -> str:
  """Returns the beginning of the file names of a kind's block `number`."""
  return f'{kind.name}-{number:05d}'


def path(
    directory: pathlib.Path, kind: schema.Kind, number: int, owner: str = ''
) -> pathlib.Path:
  """Returns a log of block `number`.

  Args:
    directory: of the shards.
    kind: of the records.
    number: of the block.
    owner: name of the process that appends to it, without '-' and '.'; '' = the
      writer of the shards.
  """
  return directory / (stem(kind, number) + (owner and f'.{owner}') + SUFFIX)


def paths(directory: pathlib.Path, kind: schema.Kind) -> list[pathlib.Path]:
  """Returns all logs of all blocks in a directory, in order."""
  found = directory.glob(f'{kind.name}-*{SUFFIX}')
  return sorted(found, key=lambda log: log.name)


def paths_of(
    directory: pathlib.Path, kind: schema.Kind, block: int
) -> list[pathlib.Path]:
  """Returns the logs of one block, in order."""
  return [log for log in paths(directory, kind) if number(log) == block]


def number(log: pathlib.Path) -> int:
  """Returns the index of a log's block, which is in its file name."""
  return int(log.name.partition('.')[0].rpartition('-')[2])


def append(
    log: pathlib.Path, kind: schema.Kind, index: int, record: Any
) -> None:
  """Appends a problem's record; it is on the disk when this returns.

  Args:
    log: a log of the problem's block.
    kind: the kind of the record.
    index: index of the problem in its split.
    record: the record.
  """
  sink = pa.BufferOutputStream()
  table = kind.to_table([record])
  with pa.ipc.new_stream(sink, table.schema) as stream:
    stream.write_table(table)
  if not files.is_local(log):
    log = log.with_name(f'{log.stem}.{index}{SUFFIX}')
  record_log.append(log, _INDEX.pack(index) + sink.getvalue().to_pybytes())


def read(log: pathlib.Path) -> dict[int, pa.Table]:
  """Returns the records of a log: {index of the problem: table of one row}.

  Raises:
    ValueError: if the log is damaged.
  """
  return _decode(record_log.read(log))


def read_block(
    directory: pathlib.Path,
    kind: schema.Kind,
    block: int,
    known: Set[int] = frozenset(),
) -> dict[int, pa.Table]:
  """Returns the records in all logs of a block, as `read` does.

  If several logs have a record of the same problem, because a process was taken
  for dead before its record was known, one of them is returned.

  Args:
    directory: of the shards.
    kind: of the records.
    block: number of the block.
    known: indices of problems whose records are in the logs. While they are not
      seen here, this waits for up to 83 s.
  """
  found = {}
  for seconds in (0.0, *_WAITS):
    time.sleep(seconds)
    for log in paths_of(directory, kind, block):
      found.update(read(log))
    if known <= found.keys():
      break
  return found


def repair(log: pathlib.Path) -> dict[int, pa.Table]:
  """Returns the records of a log, and removes an unfinished one at its end.

  Another process's log is not changed: that process may still append to it.

  Raises:
    ValueError: if the log is damaged.
  """
  if '.' in log.stem:
    return read(log)
  return _decode(record_log.repair(log))


def _decode(records: list[bytes]) -> dict[int, pa.Table]:
  """Returns the index and the table in each record."""
  tables = {}
  for record in records:
    (index,) = _INDEX.unpack_from(record)
    with pa.ipc.open_stream(record[_INDEX.size :]) as stream:
      tables[index] = stream.read_all()
  return tables
