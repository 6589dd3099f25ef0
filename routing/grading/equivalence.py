"""Graders: compare the final answer of a text with the reference answer.

A grader is any callable `(text, reference) -> bool`, where `text` is the whole
answer as the user reads it, reasoning included. A text without a final answer
is graded as wrong; it raises no error.
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
# Time limit for starting the child process, which imports a computer algebra
# system; on a busy machine this is slow.
_START_SECONDS = 120.0


class Grader(Protocol):
  """The interface of a grader; it may be called from several threads."""

  def __call__(self, text: str, reference: str) -> bool:
    """Returns whether the final answer of `text` equals `reference`."""
    ...


def exact(text: str, reference: str) -> bool:
  """Returns whether the final answer of `text` is the reference, literally.

  Only differences in white space between words are ignored.
  """
  answer = answers.find(text)
  return answer is not None and answer.split() == reference.split()


class MathVerify:
  """A grader by mathematical equivalence (`math-verify`), with a time limit.

  An answer that cannot be parsed, or not compared within the time limit, is
  graded as wrong.

  Args:
    timeout: time limit of one comparison, in seconds.
  """

  # The package `math-verify` limits its time by a signal. This works only in
  # the main thread, and does not interrupt a long multiplication of integers.
  # So this class runs the package in a child process, which is started at the
  # first call, and killed when it exceeds the limit.

  def __init__(self, timeout: float = 5.0):
    if not timeout > 0:
      raise ValueError(f'timeout is {timeout} s; it must be positive.')
    self._timeout = timeout
    # There is one child process, which answers one question at a time.
    self._lock = threading.Lock()
    self._child: subprocess.Popen | None = None

  def __call__(self, text: str, reference: str) -> bool:
    answer = answers.find(text)
    return answer is not None and self.is_equivalent(answer, reference)

  def is_equivalent(self, answer: str, reference: str) -> bool:
    """Returns whether two expressions are mathematically equal.

    Args:
      answer: the final answer, without the reasoning before it.
      reference: the reference answer.
    """
    # Most right answers are literally the reference; these need no child.
    if answer.split() == reference.split():
      return True
    with self._lock:
      try:
        return self._ask(answer, reference)
      except BrokenPipeError:  # The child has died; ask a new child, once.
        pass
      try:
        return self._ask(answer, reference)
      except BrokenPipeError:  # This question killed the new child as well.
        return False

  def close(self) -> None:
    """Kills the child process; a later comparison would start a new one."""
    if self._child is not None:
      self._child.kill()
      self._child.communicate()
      self._child = None

  def _ask(self, answer: str, reference: str) -> bool:
    """Asks the child process whether two expressions are equal.

    Returns False if the child exceeds the time limit.

    Raises:
      BrokenPipeError: if the child process has died.
    """
    if self._child is None:
      self._start()
    line = json.dumps([answer, reference]) + '\n'
    try:
      self._child.stdin.write(line.encode())
      return self._read(self._timeout) == b'1\n'
    except TimeoutError:
      # Without this, a late verdict would be read as the answer to the next
      # question.
      self.close()
      return False
    except BrokenPipeError:
      self.close()
      raise

  def _start(self) -> None:
    """Starts the child process, and waits until it has loaded `math-verify`.

    Raises:
      RuntimeError: if the process ends, or is not ready within the time limit.
    """
    # -P keeps the directory of the worker's file off sys.path. Modules in it
    # could shadow installed packages.
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
    """Returns the next line that the child process prints.

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
      part = os.read(out.fileno(), 64)
      if not part:  # End of file.
        raise BrokenPipeError('The grading process has ended.')
      line += part
    return line


_GRADERS = {'exact': lambda: exact, 'math_verify': MathVerify}


def by_name(name: str) -> Grader:
  """Returns the grader with the given name: 'exact' or 'math_verify'.

  Raises:
    ValueError: if no grader has this name.
  """
  if name not in _GRADERS:
    raise ValueError(
        f'Unknown grader {name!r}; allowed: {", ".join(_GRADERS)}.'
    )
  return _GRADERS[name]()
