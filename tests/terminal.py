"""A command on a terminal, for tests of what people see."""

from collections.abc import Sequence
import fcntl
import os
import pty
import struct
import subprocess
import termios
import time

_ROWS, _COLUMNS = 40, 110


def run(command: Sequence[str], **fields) -> tuple[int, float, list[str]]:
  """Runs a command whose output and errors go to a terminal.

  Args:
    command: its words.
    **fields: of `subprocess.Popen`.

  Returns:
    The exit code, the seconds until the first output, and the lines as they
    were written: a bar that is drawn again is a further line.
  """
  ours, its = pty.openpty()
  size = struct.pack('HHHH', _ROWS, _COLUMNS, 0, 0)
  fcntl.ioctl(its, termios.TIOCSWINSZ, size)
  start, first, chunks = time.monotonic(), float('inf'), []
  with subprocess.Popen(
      command, stdin=its, stdout=its, stderr=its, **fields
  ) as process:
    os.close(its)
    while chunk := _read(ours):
      first = min(first, time.monotonic() - start)
      chunks.append(chunk)
  os.close(ours)
  text = b''.join(chunks).decode()
  lines = [line for row in text.split('\n') for line in row.split('\r')]
  return process.returncode, first, [line for line in lines if line.strip()]


def _read(terminal: int) -> bytes:
  """What was written next; nothing once all who could write have ended."""
  try:
    return os.read(terminal, 1 << 16)
  except OSError:  # How Linux tells that the other side is closed.
    return b''
