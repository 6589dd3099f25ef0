"""A memory of replies that outlives the process, in one append-only file.

Routers of a comparison often make the same requests. The file lets them share
the replies, in later runs as well.
"""

from collections.abc import Callable
from collections.abc import Sequence
import pathlib
import time

import pyarrow as pa

from routing import types
from routing.engines import memoized
from routing.shards import columns
from routing.shards import record_log

# A record of the file holds at most so many replies. It is written when it is
# full, and when a reply comes this long after its first one: a large model may
# need an hour for a full record. A crash loses the unwritten record.
_BLOCK, _SECONDS = 256, 20.0


class DiskMemory(memoized.Memory):
  """Replies that are read from a file at first; new ones are added to it.

  Only one process may write to the file.

  Args:
    path: the file; its directory must exist.
    keeps_hidden: see `Memory`.
    clock: seconds that rise.

  Raises:
    ValueError: if the file is damaged.
  """

  def __init__(
      self,
      path: pathlib.Path,
      *,
      keeps_hidden: bool = True,
      clock: Callable[[], float] = time.monotonic,
  ):
    super().__init__(keeps_hidden=keeps_hidden, keeps_exact=True)
    self._path, self._clock = path, clock
    self._since = clock()  # Of the first reply that is not in the file.
    self._pending: list[tuple[str, str, str, list[types.Step], int]] = []
    for record in record_log.repair(path):
      for row in _decode(record):
        super().store(*row)

  def store(
      self,
      question: str,
      trace: str,
      key: str,
      steps: Sequence[types.Step],
      num_read: int,
  ) -> None:
    """Remembers a reply; writes those that wait to the file when it is time."""
    super().store(question, trace, key, steps, num_read)
    if not self._pending:
      self._since = self._clock()
    self._pending.append((question, trace, key, list(steps), num_read))
    is_late = self._clock() - self._since >= _SECONDS
    if is_late or len(self._pending) >= _BLOCK:
      self.flush()

  def flush(self) -> None:
    """Writes the replies that are not in the file yet to its end."""
    if self._pending:
      record_log.append(self._path, _encode(self._pending))
      self._pending.clear()


def _encode(
    rows: Sequence[tuple[str, str, str, list[types.Step], int]],
) -> bytes:
  """Returns replies as one record of the file, an Arrow stream."""
  question, trace, key, steps, num_read = zip(*rows, strict=True)
  table = pa.table(
      {
          'question': question,
          'trace': trace,
          'key': key,
          'steps': columns.nest_all(steps, columns.encode_steps),
          'num_read': pa.array(num_read, pa.int64()),
      }
  )
  sink = pa.BufferOutputStream()
  options = pa.ipc.IpcWriteOptions(compression='zstd')
  with pa.ipc.new_stream(sink, table.schema, options=options) as stream:
    stream.write_table(table)
  return sink.getvalue().to_pybytes()


def _decode(
    record: bytes,
) -> list[tuple[str, str, str, list[types.Step], int]]:
  """Returns the replies that a record of the file holds."""
  with pa.ipc.open_stream(record) as stream:
    table = stream.read_all()
  plain = [
      table.column(name).to_pylist() for name in ('question', 'trace', 'key')
  ]
  steps = columns.unnest(table.column('steps'), columns.decode_steps)
  num_read = table.column('num_read').to_pylist()
  return list(zip(*plain, steps, num_read, strict=True))
