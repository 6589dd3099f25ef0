"""Append-only files of records, in which a crash loses no finished record.

A file is a sequence of frames. Each frame has a header with the length and the
checksum of a record, and then the record's bytes. A record is on the disk when
`append` returns. A crash may leave an unfinished frame at the end; readers
ignore it, and `repair` removes it.
"""

import os
import pathlib
import struct
import zlib

from routing.shards import files
from routing.shards import manifest as manifest_lib

_MAGIC = b'\x89rec'  # Begins each frame.
_HEADER = struct.Struct('<4sII')  # Magic, number of bytes, their CRC-32.


def append(path: pathlib.Path, *records: bytes) -> None:
  """Appends records to a file; they are on the disk when this returns.

  Only one process may append to a file at a time. If a crash may have left an
  unfinished record at its end, call `repair` first.

  Args:
    path: the file; if it does not exist, it is created. If it is not of this
      machine (`files`), it must not exist.
    *records: one or more, of any bytes. Several take little longer than one.

  Raises:
    OSError: if the records could not be written, e.g. because the disk is full.
      The file is then as before.
  """
  if not files.is_local(path):
    path.write_bytes(b''.join(map(_frame, records)))
    return
  is_new = not path.exists()
  with path.open('ab', buffering=0) as file:
    size = file.tell()
    try:
      left = b''.join(map(_frame, records))
      while left:  # An unbuffered write may take a part only.
        left = left[file.write(left) :]
      os.fsync(file.fileno())
    except OSError:
      # Otherwise later records would follow an unfinished one.
      os.ftruncate(file.fileno(), size)
      raise
  if is_new:
    manifest_lib.sync(path.parent)  # So that the name survives, too.


def read(path: pathlib.Path) -> list[bytes]:
  """Returns the records of a file, in order; an unfinished one is left out.

  Returns [] if the file does not exist. The file may be appended to meanwhile.

  Raises:
    ValueError: if a record is damaged that is not the last one. No crash does
      this, because each record is on the disk before the next one is written.
  """
  return _parse(path)[0]


def repair(path: pathlib.Path) -> list[bytes]:
  """Cuts an unfinished record off the end of a file; returns the others.

  Raises:
    ValueError: as `read` does; nothing is cut off then.
  """
  records, end = _parse(path)
  if path.exists() and path.stat().st_size > end:
    os.truncate(path, end)
  return records


def _frame(record: bytes) -> bytes:
  """Returns the frame of a record: header and bytes."""
  return _HEADER.pack(_MAGIC, len(record), zlib.crc32(record)) + record


def _parse(path: pathlib.Path) -> tuple[list[bytes], int]:
  """Returns the whole records of a file, and the position after the last."""
  try:
    data = path.read_bytes()
  except FileNotFoundError:
    return [], 0
  records, position = [], 0
  while (record := _record_at(data, position)) is not None:
    records.append(record)
    position += _HEADER.size + len(record)
  # A whole frame further on shows that what is at `position` is damage, not the
  # unfinished end that a crash leaves.
  later = data.find(_MAGIC, position + 1)
  while later >= 0:
    if _record_at(data, later) is not None:
      raise ValueError(
          f'{path} is damaged at byte {position} of {len(data)}, before its '
          'last record. Restore the file; or delete it and run the collection '
          'again, which collects its records again.'
      )
    later = data.find(_MAGIC, later + 1)
  return records, position


def _record_at(data: bytes, position: int) -> bytes | None:
  """Returns the record whose frame begins at a position; None if not whole."""
  if len(data) < position + _HEADER.size:
    return None
  magic, size, checksum = _HEADER.unpack_from(data, position)
  start = position + _HEADER.size
  record = data[start : start + size]
  is_whole = magic == _MAGIC and len(record) == size
  return record if is_whole and zlib.crc32(record) == checksum else None
