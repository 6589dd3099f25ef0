"""The logs of unfinished blocks: one file per block, one record per problem.

A shard is written when its block is complete. Until then each record of the
block is in the block's log, as an Arrow table with one row. When the manifest
lists the shard, the log is deleted.
"""

import pathlib
import struct
from typing import Any

import pyarrow as pa

from routing.shards import record_log
from routing.shards import schema

SUFFIX = '.log'
_INDEX = struct.Struct('<I')  # Index of the problem, before the table.


def stem(kind: schema.Kind, number: int) -> str:
  """Returns the beginning of the file names of a kind's block `number`."""
  return f'{kind.name}-{number:05d}'


def paths(directory: pathlib.Path, kind: schema.Kind) -> list[pathlib.Path]:
  """Returns the logs of all blocks in a directory, in order."""
  return sorted(directory.glob(f'{kind.name}-*{SUFFIX}'))


def number(log: pathlib.Path) -> int:
  """Returns the index of a log's block, which its file name ends with."""
  return int(log.stem.rpartition('-')[2])


def append(
    log: pathlib.Path, kind: schema.Kind, index: int, record: Any
) -> None:
  """Appends a problem's record; it is on the disk when this returns.

  Args:
    log: the log of the problem's block.
    kind: the kind of the record.
    index: index of the problem in its split.
    record: the record.
  """
  sink = pa.BufferOutputStream()
  table = kind.to_table([record])
  with pa.ipc.new_stream(sink, table.schema) as stream:
    stream.write_table(table)
  record_log.append(log, _INDEX.pack(index) + sink.getvalue().to_pybytes())


def read(log: pathlib.Path) -> dict[int, pa.Table]:
  """Returns the records of a log: {index of the problem: table of one row}.

  Raises:
    ValueError: if the log is damaged.
  """
  return _decode(record_log.read(log))


def repair(log: pathlib.Path) -> dict[int, pa.Table]:
  """Returns the records of a log, and removes an unfinished one at its end.

  Raises:
    ValueError: if the log is damaged.
  """
  return _decode(record_log.repair(log))


def _decode(records: list[bytes]) -> dict[int, pa.Table]:
  """Returns the index and the table in each record."""
  tables = {}
  for record in records:
    (index,) = _INDEX.unpack_from(record)
    with pa.ipc.open_stream(record[_INDEX.size :]) as stream:
      tables[index] = stream.read_all()
  return tables
