"""Processes that compare answers, each within limits of time and memory.

The package `math-verify` limits its time by a signal. This works only in the
main thread, and does not interrupt a long multiplication of integers. So it
runs in child processes, which are killed at the limit. So does what puzzle
generators say of an answer, for the same reason.
"""

import json
import os
import pathlib
import queue
import select
import signal
import subprocess
import sys
import threading
import time
import weakref

_SCRIPT = pathlib.Path(__file__).with_name('worker.py')
# Comparing script -> the package that it needs.
MATH, GENERATOR = 'math_worker.py', 'generator_worker.py'
_PACKAGES = {MATH: 'math-verify', GENERATOR: 'reasoning-gym'}
# Time limit for starting a child process, which imports a computer algebra
# system; on a busy machine this is slow.
_START_SECONDS = 120.0
# A child may wait for its turn on a busy machine: so many seconds of the clock
# for each second of the processor.
_CLOCK_FACTOR = 12


class Pool:
  """Processes that say whether an answer agrees with a reference.

  May be used from several threads. Processes are started when they are needed,
  and end with this object or this process.

  Args:
    size: number of processes, at most as many comparisons at the same time.
    timeout: seconds of the processor for one comparison; twelve times as many
      of the clock. A process that exceeds either is killed.
    memory: bytes of address space of one process; a comparison that needs more
      ends the process.
    script: what compares, `MATH` or `GENERATOR`.
  """

  def __init__(
      self, size: int, timeout: float, memory: int, script: str = MATH
  ):
    self._workers = [_Worker(script, timeout, memory) for _ in range(size)]
    # The last one returned is taken first, so that no more are started than
    # work at the same time.
    self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
    for worker in self._workers:
      self._idle.put(worker)
    self._finalizer = weakref.finalize(self, _stop, self._workers)

  def compare(self, answer: str, reference: str) -> tuple[bool, str]:
    """Returns whether an answer agrees with a reference, and the reason.

    Answers that cannot be compared within the limits are not equal; the
    reason says so.

    Raises:
      RuntimeError: if the pool is closed, or a process does not start.
    """
    worker = self._idle.get()
    try:
      return worker.compare(answer, reference)
    finally:
      self._idle.put(worker)

  def close(self) -> None:
    """Kills all processes; later comparisons raise. May be called again."""
    self._finalizer()


def _stop(workers: list['_Worker']) -> None:
  for worker in workers:
    worker.stop()


class _Worker:
  """One child process, which answers one question at a time."""

  def __init__(self, script: str, timeout: float, memory: int):
    self._script, self._timeout, self._memory = script, timeout, memory
    self._child: subprocess.Popen | None = None
    self._stopped = threading.Event()
    self._lock = threading.Lock()

  def stop(self) -> None:
    """Kills the process for good, also during a question."""
    # The event is set before the process is looked up, and `_start` does it the
    # other way round, so that one of both sees the other.
    self._stopped.set()
    child = self._child
    if child is not None:
      child.kill()
    with self._lock:  # A question that was open has returned.
      self._end()

  def compare(self, answer: str, reference: str) -> tuple[bool, str]:
    """See `Pool.compare`."""
    with self._lock:
      verdict = self._ask(answer, reference)
      if verdict[1] in ('out of memory', 'the comparison crashed'):
        # Perhaps an earlier question is to blame; a new process decides.
        verdict = self._ask(answer, reference)
      return verdict

  def _ask(self, answer: str, reference: str) -> tuple[bool, str]:
    if self._stopped.is_set():
      raise RuntimeError('The grader is closed; make a new one.')
    if self._child is None or self._child.poll() is not None:
      self._start()
    line = json.dumps([answer, reference]) + '\n'
    try:
      self._child.stdin.write(line.encode())
      is_equal, reason = self._read(self._timeout * _CLOCK_FACTOR)
    except TimeoutError:
      is_equal, reason = False, 'timed out'
    except BrokenPipeError:
      self._child.wait()
      is_late = self._child.returncode == -signal.SIGPROF
      is_equal = False
      reason = 'timed out' if is_late else 'the comparison crashed'
    if self._stopped.is_set():
      raise RuntimeError('The grader was closed during a comparison.')
    # Otherwise a late verdict would be read as that on the next question.
    if not is_equal and reason in ('timed out', 'out of memory'):
      self._end()
    return bool(is_equal), reason

  def _end(self) -> None:
    """Kills the process; the next question starts a new one."""
    if self._child is not None:
      self._child.kill()
      self._child.communicate()
      self._child = None

  def _start(self) -> None:
    """Starts the process, and waits until it has loaded its package.

    Raises:
      RuntimeError: if the process ends, or is not ready within the time limit.
    """
    self._end()  # Of a process that has died.
    # -P keeps the directory of the script off sys.path. Modules in it could
    # shadow installed packages.
    self._child = subprocess.Popen(
        [
            *(sys.executable, '-P', str(_SCRIPT)),
            str(_SCRIPT.with_name(self._script)),
            *(str(self._timeout), str(self._memory)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    if self._stopped.is_set():
      self._child.kill()
    try:
      self._read(_START_SECONDS)
    except (TimeoutError, BrokenPipeError) as error:
      self._end()
      if self._stopped.is_set():
        raise RuntimeError('The grader was closed; make a new one.') from error
      package = _PACKAGES[self._script]
      raise RuntimeError(
          f'The {package} process did not start (time limit '
          f'{_START_SECONDS:g} s, memory {self._memory / 2**20:.0f} MiB); '
          f'check that {package} is installed, or allow more memory.'
      ) from error

  def _read(self, timeout: float):
    """Returns the content of the next line that the child process prints.

    Raises:
      TimeoutError: if no full line arrives within `timeout` seconds.
      BrokenPipeError: if the child process has closed its output.
    """
    # `readline` has no time limit, so `select` and `os.read` are used.
    deadline = time.monotonic() + timeout
    out, line = self._child.stdout, b''
    while not line.endswith(b'\n'):
      left = max(deadline - time.monotonic(), 0)
      ready, _, _ = select.select([out], [], [], left)
      if not ready:
        raise TimeoutError('The grading process did not answer in time.')
      part = os.read(out.fileno(), 1024)
      if not part:  # End of file.
        raise BrokenPipeError('The grading process has ended.')
      line += part
    return json.loads(line)
