"""Graders: compare the final answer of a text with the reference answer.

A grader is any callable `(text, reference) -> bool`, where `text` is the whole
answer as the user reads it. A text without a final answer grades wrong; it
raises no error.
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
  """The interface of a grader; it may be called from several threads."""

  def __call__(self, text: str, reference: str) -> bool:
    """Returns whether the final answer of `text` equals `reference`."""
    ...


def exact(text: str, reference: str) -> bool:
  """Returns whether the final answer has the characters of the reference.

  Runs of white space count as one space.
  """
  answer = answers.find(text)
  return answer is not None and answer.split() == reference.split()


class MathVerify:
  """A grader by mathematical equivalence (`math-verify`), with a time limit.

  An answer that cannot be parsed, or compared within the limit, grades wrong.

  Args:
    timeout: maximum seconds for one comparison.
  """

  # The package limits its time by a signal, which works only in the main thread
  # and does not interrupt a long multiplication of integers. Here it runs in a
  # child process instead, which is started at the first call and killed when it
  # exceeds the limit.

  def __init__(self, timeout: float = 5.0):
    if not timeout > 0:
      raise ValueError(f'timeout is {timeout} s; it must be positive.')
    self._timeout = timeout
    self._lock = threading.Lock()  # One child: one question at a time.
    self._child: subprocess.Popen | None = None

  def __call__(self, text: str, reference: str) -> bool:
    answer = answers.find(text)
    return answer is not None and self.is_equivalent(answer, reference)

  def is_equivalent(self, answer: str, reference: str) -> bool:
    """Returns whether an answer, found already, equals the reference."""
    # Most right answers are the reference itself; no need to ask the child.
    if answer.split() == reference.split():
      return True
    with self._lock:
      try:
        return self._ask(answer, reference)
      except BrokenPipeError:  # The child has died; ask a new one, once.
        pass
      try:
        return self._ask(answer, reference)
      except BrokenPipeError:  # This question kills it.
        return False

  def close(self) -> None:
    """Kills the child process; a later call would start a new one."""
    if self._child is not None:
      self._child.kill()
      self._child.communicate()
      self._child = None

  def _ask(self, answer: str, reference: str) -> bool:
    """Asks the child for one verdict.

    Raises:
      BrokenPipeError: if the child is dead.
    """
    if self._child is None:
      self._start()
    line = json.dumps([answer, reference]) + '\n'
    try:
      self._child.stdin.write(line.encode())
      return self._read(self._timeout) == b'1\n'
    except TimeoutError:
      self.close()  # Its late verdict must not answer the next question.
      return False
    except BrokenPipeError:
      self.close()
      raise

  def _start(self) -> None:
    """Starts the child, and waits until it has loaded `math-verify`."""
    # -P keeps the worker's folder off sys.path, where its modules could shadow
    # installed packages.
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
          'The math-verify process did not start (time limit '
          f'{_START_SECONDS:g} s); check that math-verify is installed.'
      ) from error

  def _read(self, timeout: float) -> bytes:
    """Returns the child's next line of output.

    Raises:
      TimeoutError: if no full line comes within `timeout` seconds.
      BrokenPipeError: if the child has closed its output.
    """
    # `select` and `os.read` instead of `readline`, which cannot time out.
    deadline = time.monotonic() + timeout
    out, line = self._child.stdout, b''
    while not line.endswith(b'\n'):
      left = max(deadline - time.monotonic(), 0)
      ready, _, _ = select.select([out], [], [], left)
      if not ready:
        raise TimeoutError
      part = os.read(out.fileno(), 64)
      if not part:  # End of file.
        raise BrokenPipeError
      line += part
    return line


_GRADERS = {'exact': lambda: exact, 'math_verify': MathVerify}


def by_name(name: str) -> Grader:
  """Returns the grader of a given name.

  Raises:
    ValueError: if the name is unknown.
  """
  if name not in _GRADERS:
    raise ValueError(
        f'Unknown grader {name!r}; allowed: {", ".join(_GRADERS)}.'
    )
  return _GRADERS[name]()
