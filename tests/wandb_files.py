"""Reads what Weights & Biases keeps on this machine while it is offline.

A run's file is a log in the format of LevelDB: blocks of 32 KiB that hold
pieces of records, after a head of seven bytes. Each record is a protocol
buffer.
"""

from collections.abc import Iterator
import json
import pathlib
import struct
from typing import Any

_BLOCK = 32_768
_HEAD = struct.Struct('<IHB')  # Checksum, length and kind of a piece.
_FULL, _LAST = 1, 4  # Kinds that end a record; others are continued.


def records(data: bytes) -> Iterator[bytes]:
  """Yields the records of a file."""
  place, parts = _HEAD.size, []
  while place + _HEAD.size <= len(data):
    left = _BLOCK - place % _BLOCK
    if left < _HEAD.size:  # No head fits; the next block begins behind.
      place += left
      continue
    _, length, kind = _HEAD.unpack_from(data, place)
    place += _HEAD.size
    parts.append(data[place : place + length])
    place += length
    if kind in (_FULL, _LAST):
      yield b''.join(parts)
      parts = []


def summaries(folder: pathlib.Path) -> dict[str, Any]:
  """Returns figure -> value of the summaries of all offline runs in a folder.

  Args:
    folder: `wandb/` of a run's directory.
  """
  from wandb.proto import wandb_internal_pb2

  found = {}
  for path in sorted(folder.glob('offline-run-*/*.wandb')):
    for data in records(path.read_bytes()):
      record = wandb_internal_pb2.Record()
      record.ParseFromString(data)
      for item in record.summary.update:
        name = item.key or '.'.join(item.nested_key)
        found[name] = json.loads(item.value_json)
  return found
