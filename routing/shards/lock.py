"""A lock that lets only one process at a time write to a directory.

The lock is an advisory lock (`flock`) on a file in the directory. The operating
system releases it when the process ends, however it ends. So a file that a dead
process left behind does not block anyone.
"""

import datetime
import fcntl
import json
import os
import pathlib
import shlex
import socket
import sys
import tempfile
import weakref

from absl import logging

from routing.shards import files

FILE_NAME = 'writer.lock'


class Lock:
  """The only writer's lock on a directory; held until `release`.

  The file says which process holds the lock: host, pid, command, and since
  when. Directories in other places than this machine's file systems cannot be
  locked (`files`); a warning says so.

  Args:
    directory: an existing directory.

  Raises:
    ValueError: if another writer holds the lock. The message says which.
  """

  def __init__(self, directory: pathlib.Path):
    self._path = directory / FILE_NAME
    if not files.is_local(directory):
      # A lock of the temporary file, which nobody else has.
      descriptor, name = tempfile.mkstemp()
      os.close(descriptor)  # It is opened below, by its name.
      self._path = pathlib.Path(name)
      _warn(directory, 'it is not on this machine')
    while True:
      self._file = self._path.open('a+')
      self._take(directory)
      # The holder before may have deleted the file after it was opened here. A
      # lock on a deleted file keeps nobody out, so the new file is locked.
      if self._is_current():
        break
      self._file.close()
    self._file.truncate(0)
    self._file.write(json.dumps(_describe()) + '\n')
    self._file.flush()
    _held.add(self)

  @property
  def is_held(self) -> bool:
    """Whether the lock is still held."""
    return not self._file.closed

  def release(self) -> None:
    """Releases the lock and deletes its file."""
    if self._file.closed:
      return
    # Deleted before it is released: afterwards it may be another process's.
    self._path.unlink(missing_ok=True)
    self._file.close()

  def abandon(self) -> None:
    """Closes this process's copy of a lock that its parent process holds."""
    self._file.close()

  def _take(self, directory: pathlib.Path) -> None:
    """Locks the open file, or raises ValueError."""
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      self._file.seek(0)
      holder = _read_holder(self._file.read())
      self._file.close()
      raise ValueError(
          f'{directory} is being written by {holder}. Only one process may '
          'write there: wait until it ends, or end it.'
      ) from None
    except OSError as error:
      _warn(directory, error)

  def _is_current(self) -> bool:
    """Returns whether the open file is still the one with the lock's name."""
    try:
      return os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
    except FileNotFoundError:
      return False


def _warn(directory: pathlib.Path, reason: object) -> None:
  """Warns that a directory cannot be locked."""
  logging.warning(
      '%s cannot be locked (%s). Make sure that no other process writes there.',
      directory,
      reason,
  )


# A child process that is forked, e.g. a worker of a process pool, inherits the
# open file and with it the lock. It may outlive a parent that is killed, and
# would then block the next writer. So it closes its copies.
_held: weakref.WeakSet[Lock] = weakref.WeakSet()


def _abandon_all() -> None:
  for lock in list(_held):
    lock.abandon()


os.register_at_fork(after_in_child=_abandon_all)


def _describe() -> dict[str, str | int]:
  """Returns what the file says of the process that holds the lock."""
  return {
      'host': socket.gethostname(),
      'pid': os.getpid(),
      'command': shlex.join(sys.argv),
      'since': datetime.datetime.now().astimezone().isoformat(' ', 'seconds'),
  }


def _read_holder(text: str) -> str:
  """Returns the process that a lock file describes, in words."""
  try:
    found = json.loads(text)
    return (
        f'process {found["pid"]} on {found["host"]} since {found["since"]} '
        f'({found["command"]})'
    )
  except (ValueError, KeyError, TypeError):
    return 'another process'  # Which has not described itself yet.
