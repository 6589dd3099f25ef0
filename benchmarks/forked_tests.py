"""Runs test files in a forked process, with a changed module or a tracer."""

import collections
from collections.abc import Callable
from collections.abc import Sequence
import importlib.machinery
import importlib.util
import os
import pathlib
import signal
import sys
import threading
import time
from typing import Any

from absl import flags

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Reached:
  """A pytest plugin that records the seconds and the lines of each test."""

  def __init__(self, paths: Sequence[str]):
    self.of_file = {str(ROOT / path): path for path in paths}
    self.test, self.tests = '', {}
    self.lines = collections.defaultdict(set)

  def start(self) -> None:
    sys.settrace(self._call)
    threading.settrace(self._call)

  def _call(self, frame, event, arg):
    del event, arg
    path = self.of_file.get(frame.f_code.co_filename)
    if path is None:
      return None

    def line(frame, event, arg):
      del arg
      if event == 'line':
        self.lines[path, frame.f_lineno].add(self.test)
      return line

    return line

  def pytest_runtest_logreport(self, report):
    self.tests.setdefault(report.nodeid, 0.0)
    self.tests[report.nodeid] += report.duration

  def pytest_runtest_logstart(self, nodeid, location):
    del location
    self.test = nodeid

  def to_json(self) -> dict[str, Any]:
    lines = collections.defaultdict(dict)
    for (path, number), tests in self.lines.items():
      # Lines that run during imports belong to no test.
      if tests - {''}:
        lines[path][number] = sorted(tests - {''})
    return {'tests': self.tests, 'lines': lines}


class Chosen:
  """A pytest plugin that selects given tests, in the given order."""

  def __init__(self, tests: Sequence[str]):
    self.place = {name: k for k, name in enumerate(tests)}

  def pytest_collection_modifyitems(self, items):
    items[:] = [x for x in items if x.nodeid in self.place]
    items.sort(key=lambda x: self.place[x.nodeid])


class Loader(importlib.machinery.SourceFileLoader):
  """Loads a module from a changed text; also a finder for `sys.meta_path`."""

  def __init__(self, path: str, text: str):
    name = path.removesuffix('.py').replace('/', '.')
    super().__init__(name, str(ROOT / path))
    self.text = text

  def get_code(self, fullname):
    del fullname
    return compile(self.text, self.path, 'exec', dont_inherit=True)

  def find_spec(self, name, path=None, target=None):
    del path, target
    if name != self.name:
      return None
    return importlib.util.spec_from_file_location(name, self.path, loader=self)


def in_fork(function: Callable[[], int], limit: float, log: str) -> int | None:
  """Runs a function in a fork; returns its exit status, None after the limit.

  Args:
    function: returns an exit status.
    limit: seconds until the fork is killed.
    log: file for its standard output and error.
  """
  child = os.fork()
  if not child:
    status = 70
    try:
      os.setpgrp()
      file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
      for stream in (1, 2):
        os.dup2(file, stream)
      os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
      # Modules that tests import may define flags with the same names.
      for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0]):
        if flag.name in flags.FLAGS:
          delattr(flags.FLAGS, flag.name)
      status = int(function())
    finally:
      os._exit(status)
  end = time.monotonic() + limit
  while time.monotonic() < end:
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
      return os.waitstatus_to_exitcode(status)
    time.sleep(0.02)
  os.killpg(child, signal.SIGKILL)
  os.waitpid(child, 0)
  return None


def run_tests(files: Sequence[str], plugin: object) -> int:
  """Runs test files in this process; returns pytest's status, 0 if all pass."""
  import pytest

  args = ['-x', '-m', 'not slow', '-p', 'no:cacheprovider', '-p', 'no:xdist']
  args += ['--assert=plain', '--hypothesis-seed=0']
  return pytest.main([*args, *files], [plugin])
