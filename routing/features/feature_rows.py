"""Rows of features in memory, or in a file where they would fill the memory.

The observations of a million ladders take 40 GB. Networks and trees score them
some thousand at a time, so they need not be in memory at once.
"""

import os
import pathlib
import tempfile
from typing import Any
from typing import BinaryIO

import numpy as np

# Larger arrays go to a file.
MAX_BYTES = 1 << 28
_BLOCK = 8_192  # Rows that are read from a file at a time.


class Rows:
  """`[M, F]` float32 in a file, read like an array; the file has no name.

  Args:
    file: holds the rows; it is deleted by the system once nobody has it open.
    shape: M and F.
  """

  dtype = np.dtype(np.float32)
  ndim = 2

  def __init__(self, file: BinaryIO, shape: tuple[int, int]):
    self._file, self.shape = file, shape

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
    """Returns the chosen rows: a slice of step 1, or an array of indices."""
    if isinstance(rows, slice):
      start, stop, step = rows.indices(len(self))
      if step != 1:
        raise ValueError(f'The step of the slice is {step}; allowed: 1.')
      return self._read(start, max(stop, start))
    rows = np.asarray(rows)
    if rows.dtype == bool:
      if rows.shape != (len(self),):
        raise IndexError(
            f'A mask of shape {rows.shape}; allowed: {(len(self),)}.'
        )
      rows = np.flatnonzero(rows)
    wrong = rows[(rows < -len(self)) | (rows >= len(self))]
    if wrong.size:
      raise IndexError(
          f'Row {wrong.flat[0]}; allowed: {-len(self)} to {len(self) - 1}.'
      )
    out = np.empty((*rows.shape, self.shape[1]), np.float32)
    # Indices count from the end where they are negative, as in an array.
    flat, filled = rows.ravel() % len(self), out.reshape(-1, self.shape[1])
    order = np.argsort(flat, kind='stable')
    # One read serves all indices of a block.
    blocks = flat[order] // _BLOCK
    for part in np.split(order, np.flatnonzero(np.diff(blocks)) + 1):
      if len(part):
        low, high = flat[part[0]], flat[part[-1]]
        filled[part] = self._read(low, high + 1)[flat[part] - low]
    return out

  def __array__(
      self, dtype: Any = None, copy: bool | None = None
  ) -> np.ndarray:
    """Returns all rows, for callers that need them in memory."""
    del copy
    return self[:].astype(dtype or np.float32, copy=False)

  def _read(self, start: int, stop: int) -> np.ndarray:
    size = 4 * self.shape[1]
    out = np.empty((stop - start, self.shape[1]), np.float32)
    view, offset = _bytes(out), int(start) * size
    while len(view):  # A read may return a part only.
      num = os.preadv(self._file.fileno(), [view], offset)
      if not num:
        raise OSError('A file of features is shorter than what was written.')
      view, offset = view[num:], offset + num
    return out


class Writer:
  """Collects rows of features, first in memory, from `max_bytes` on in a file.

  Args:
    folder: where the file is made; None = the system's folder for such files.
    max_bytes: the most that is kept in memory.
  """

  def __init__(
      self,
      folder: pathlib.Path | None = None,
      max_bytes: int | None = None,
  ):
    self._folder = folder
    self._max_bytes = MAX_BYTES if max_bytes is None else max_bytes
    self._parts: list[np.ndarray] = []
    self._file: BinaryIO | None = None
    self._num_rows, self._width = 0, 0

  def add(self, rows: np.ndarray) -> None:
    """Appends rows `[m, F]`."""
    rows = np.ascontiguousarray(rows, np.float32)
    self._num_rows, self._width = self._num_rows + len(rows), rows.shape[1]
    self._parts.append(rows)
    is_much = 4 * self._num_rows * self._width > self._max_bytes
    if self._file is None and is_much:
      self._file = tempfile.TemporaryFile(dir=self._folder)
    if self._file is not None:
      for part in self._parts:
        self._file.write(_bytes(part))
      self._parts.clear()

  def rows(self) -> np.ndarray | Rows:
    """Returns all rows in order, as an array or in a file."""
    if self._file is None:
      return np.concatenate(self._parts)
    self._file.flush()
    return Rows(self._file, (self._num_rows, self._width))


def _bytes(array: np.ndarray) -> memoryview:
  """Returns the bytes of an array, which may be empty."""
  return memoryview(array.reshape(-1).view(np.uint8))  # pyrefly: ignore
