"""Graders: does the answer that a text ends with equal the reference?

A grader is any callable `(text, reference) -> bool`; `text` is the whole answer
as the user reads it. A text without an answer is wrong, never an error.
"""

import json
import os
import pathlib
import select
import subprocess
import sys
import threading
import time
from typing import Protocol

from routing.grading import answers

_WORKER = pathlib.Path(__file__).with_name('math_worker.py')
_START_SECONDS = 120.0  # Importing a computer algebra system on a busy machine.


class Grader(Protocol):
  """Anything that can tell a right text from a wrong one."""

  def __call__(self, text: str, reference: str) -> bool:
    """True if the final answer of `text` equals `reference`."""
    ...


def exact(text: str, reference: str) -> bool:
  """The same characters, runs of white space counting as one space."""
  answer = answers.find(text)
  return answer is not None and answer.split() == reference.split()


class MathVerify:
  """Mathematical equivalence by the `math-verify` package, in a time box.

  The package bounds its time by a signal, which works in a main thread only and
  does not stop a long multiplication. So it runs in a child process, started at
  the first call and killed when it is late; a verdict that does not come in
  time, or an answer that cannot be parsed, is wrong.

  Args:
    timeout: seconds that one comparison may take.
  """

  def __init__(self, timeout: float = 5.0):
    if not timeout > 0:
      raise ValueError(f'timeout is {timeout} s; it must be positive.')
    self._timeout = timeout
    self._lock = threading.Lock()
    self._child: subprocess.Popen | None = None

  def __call__(self, text: str, reference: str) -> bool:
    answer = answers.find(text)
    return answer is not None and self.is_equivalent(answer, reference)

  def is_equivalent(self, answer: str, reference: str) -> bool:
    """True if two expressions are equal; for callers that have the answer."""
    if answer.split() == reference.split():
      return True
    with self._lock:
      try:
        return self._ask(answer, reference)
      except BrokenPipeError:  # The child died since; ask another, once.
        pass
      try:
        return self._ask(answer, reference)
      except BrokenPipeError:  # It dies of this very question.
        return False

  def close(self) -> None:
    """Ends the child process; the next call would start another."""
    if self._child is not None:
      self._child.kill()
      self._child.communicate()
      self._child = None

  def _ask(self, answer: str, reference: str) -> bool:
    """One question to the child; raises BrokenPipeError if that is dead."""
    if self._child is None:
      self._start()
    line = json.dumps([answer, reference]) + '\n'
    try:
      self._child.stdin.write(line.encode())
      return self._read(self._timeout) == b'1\n'
    except TimeoutError:
      self.close()
      return False
    except BrokenPipeError:
      self.close()
      raise

  def _start(self) -> None:
    """Starts the child and waits until it can answer."""
    # -P: the worker's own folder must not shadow installed packages.
    self._child = subprocess.Popen(
        [sys.executable, '-P', str(_WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    try:
      self._read(_START_SECONDS)
    except (TimeoutError, BrokenPipeError) as error:
      self.close()
      raise RuntimeError(
          'The math-verify process did not start; is math-verify installed?'
      ) from error

  def _read(self, timeout: float) -> bytes:
    """The child's next line; raises TimeoutError or BrokenPipeError."""
    deadline = time.monotonic() + timeout
    out, line = self._child.stdout, b''
    while not line.endswith(b'\n'):
      left = max(deadline - time.monotonic(), 0)
      ready, _, _ = select.select([out], [], [], left)
      if not ready:
        raise TimeoutError
      part = os.read(out.fileno(), 64)
      if not part:
        raise BrokenPipeError
      line += part
    return line


_GRADERS = {'exact': lambda: exact, 'math_verify': MathVerify}


def by_name(name: str) -> Grader:
  """The grader that a configuration names.

  Raises:
    ValueError: if there is none of that name.
  """
  if name not in _GRADERS:
    raise ValueError(
        f'Unknown grader {name!r}; allowed: {", ".join(_GRADERS)}.'
    )
  return _GRADERS[name]()
