"""Runs the commands of the documents, at the size of a test.

Run:   python -m tests.page_commands
Some:  python -m tests.page_commands serve docs/tutorial.md
Takes: six minutes of processor time, on two cores

Collects every shell command of README.md and docs/: the lines of code blocks
that are marked as shell or have no language, and commands within a text. A rule
of `page_rules` says what becomes of each: how it is made small and run, or why
it is not run here and what runs it instead. A command without a rule is a
fault, and so is a rule without a command.

The commands run in a copy of the checkout, so that they read and write the
paths that the pages name, in two lanes beside each other. Those that become the
same are run once.
"""

from collections.abc import Iterator
from collections.abc import Sequence
from concurrent import futures
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import httpx

from tests import checkout
from tests import page_actions
from tests import page_rules

# Languages of code blocks that hold commands; '' = none is given.
_SHELL = ('', 'bash', 'console', 'sh', 'shell')
_FENCE = re.compile(r'^ *```(\S*)[^\n]*\n(.*?)^ *```', re.M | re.S)
# What a text between backticks begins with if it is a command.
_PROGRAM = re.compile(
    r'(?:[A-Z_]+=\S+ )*(?:curl|docker|litellm|make|pip|python3?|ray|vllm) \S'
)
# The part of a line before its comment; a '#' in quotes begins none.
_CODE = re.compile(r"""((?:'[^']*'|"[^"]*"|[^'"])*?)(?:(?:^|\s+)#\s.*)?$""")
_LONGEST = 900  # Seconds for one command; only what hangs takes as long.
_LAST_LINES = 30  # Of the output of a command that fails.


@dataclasses.dataclass(frozen=True)
class Command:
  """A command of a page.

  Attributes:
    page: file, from the root of the checkout.
    line: where it begins, from 1.
    text: on one line.
  """

  page: str
  line: int
  text: str

  def __str__(self) -> str:
    return f'{self.page}:{self.line}: {self.text}'


def commands_of(page: str, markdown: str) -> list[Command]:
  """Returns the commands of a page, in its order."""
  found = []
  for block in _FENCE.finditer(markdown):
    if block[1] in _SHELL:
      first = markdown.count('\n', 0, block.start(2)) + 1
      found += [(first + n, text) for n, text in _lines(block[2])]
  # Blank lines in place of blocks, so that numbers of lines stay.
  prose = _FENCE.sub(lambda block: '\n' * block[0].count('\n'), markdown)
  for code in re.finditer(r'`([^`]+)`', prose):
    text = ' '.join(code[1].split())
    if _PROGRAM.match(text):
      found.append((prose.count('\n', 0, code.start()) + 1, text))
  return [Command(page, line, text) for line, text in sorted(found)]


def _lines(block: str) -> Iterator[tuple[int, str]]:
  """Yields (number from 0, command) of a block of shell, without comments."""
  joined = ''
  for number, line in enumerate(block.splitlines()):
    if not joined:
      first = number
    joined += line.strip()
    if joined.endswith('\\'):
      joined = joined[:-1].rstrip() + ' '
      continue
    text = _CODE.match(joined)[1].removeprefix('$ ')
    joined = ''
    # `%%bash` is the first line of a cell of a notebook.
    if text and not text.startswith('%%'):
      yield first, text


def all_commands() -> list[Command]:
  """Returns the commands of all pages."""
  return [
      command
      for path in checkout.files('*.md')
      if (name := checkout.name(path)) == 'README.md'
      or name.startswith('docs/')
      for command in commands_of(name, path.read_text(encoding='utf-8'))
  ]


def assigned(
    commands: Sequence[Command], rules: Sequence[page_actions.Rule]
) -> tuple[dict[page_actions.Rule, list[Command]], list[str]]:
  """Returns the commands of each rule, and what is wrong, a line each.

  Wrong are commands that no rule or several rules cover, and rules that cover
  no command.
  """
  found = {rule: [] for rule in rules}
  faults = []
  for command in commands:
    matching = [r for r in rules if re.fullmatch(r.pattern, command.text)]
    if len(matching) != 1:
      patterns = ', '.join(repr(rule.pattern) for rule in matching)
      faults.append(f'{command}\n  has {patterns or "no rule"}')
    else:
      found[matching[0]].append(command)
  faults += [
      f'The rule {rule.pattern!r} covers no command.'
      for rule, covered in found.items()
      if not covered and not faults
  ]
  return found, faults


class Checkout:
  """A copy of the checkout in which the commands run.

  Attributes:
    root: the copy.
  """

  def __init__(self, root: pathlib.Path):
    self.root = root
    for path in checkout.files('*'):
      copy = root / checkout.name(path)
      copy.parent.mkdir(parents=True, exist_ok=True)
      shutil.copy2(path, copy)
    # The file of problems that pages ask the reader to bring.
    lines = [
        json.dumps({'question': f'What is {n} + 2?', 'answer': str(n + 2)})
        for n in range(40)
    ]
    (root / 'problems.jsonl').write_text('\n'.join(lines) + '\n')
    self._is_stopped, self._started = False, []
    # The Makefile's own values, whatever the caller has set for it.
    makefile = (root / 'Makefile').read_text(encoding='utf-8')
    set_there = re.findall(r'^(\w+) \?=', makefile, re.M)
    environment = {x: y for x, y in os.environ.items() if x not in set_there}
    self._environment = environment | {
        # `python` is the interpreter that runs this.
        'PATH': f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}',
        'PYTHONPATH': str(root),
        'MPLBACKEND': 'Agg',
        'HF_HUB_OFFLINE': '1',
        'COLUMNS': '120',
        # What one command has compiled, the others load.
        'JAX_COMPILATION_CACHE_DIR': str(root / 'compiled'),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.2',
    }

  def start(self, command: str, log: pathlib.Path) -> subprocess.Popen:
    """Starts a command; both its outputs go to a file."""
    if self._is_stopped:
      raise RuntimeError('Stopped.')
    with log.open('w') as output:
      process = subprocess.Popen(
          ['bash', '-euo', 'pipefail', '-c', command],
          cwd=self.root,
          env=self._environment,
          stdin=subprocess.DEVNULL,
          stdout=output,
          stderr=subprocess.STDOUT,
          start_new_session=True,
      )
    self._started.append(process)
    return process

  def stop(self) -> None:
    """Ends the commands in progress; none begins afterwards."""
    self._is_stopped = True
    for process in self._started:
      if process.returncode is None:
        _end(process)

  def run(self, command: str) -> tuple[int, str]:
    """Returns the exit code of a command, and what it printed."""
    log = pathlib.Path(tempfile.mkstemp(dir=self.root)[1])
    process = self.start(command, log)
    try:
      process.wait(_LONGEST)
    except subprocess.TimeoutExpired:
      pass  # It is ended, and its exit code says so.
    finally:
      _end(process)
    return process.returncode, log.read_text()

  def made(self, target: str) -> str:
    """Returns the program that a target of the Makefile starts."""
    code, printed = self.run(f'make --dry-run VENV=.venv {target}')
    joined = re.sub(r'\s*\\\n\s*', ' ', printed)
    programs = re.findall(r'^\S*/bin/(python -m .*)$', joined, re.M)
    # Before it come those that install.
    programs = [x for x in programs if not x.startswith('python -m pip')]
    if code or len(programs) != 1:
      raise ValueError(f'make {target} starts no program of ours:\n{printed}')
    return programs[0]


def small(command: Command, does: page_actions.Run, home: Checkout) -> str:
  """Returns the command that is run.

  Raises:
    ValueError: if the command lacks what would be changed.
  """
  text = command.text
  if text.startswith('make '):
    text = home.made(text.removeprefix('make '))
  for old, new in does.changes:
    if old not in text:
      raise ValueError(f'{command}\n  lacks {old!r}, which its rule changes.')
    text = text.replace(old, new)
  return ' '.join([text.strip(), *does.more])


def fault(does: page_actions.Run, home: Checkout, code: int, said: str) -> str:
  """Returns what is wrong after a command; '' if nothing is."""
  if code != does.code:
    last = '\n'.join(said.splitlines()[-_LAST_LINES:])
    return f'ended with code {code}:\n{last}'
  missing = [x for x in does.leaves if not (home.root / x).exists()]
  if missing:
    return f'left no {", ".join(missing)}'
  if does.says and not re.search(does.says, said):
    return f'did not print {does.says!r}:\n{said[-2_000:]}'
  return ''


def served(
    text: str,
    does: page_actions.Serve,
    requests: Sequence[tuple[Command, page_actions.Ask]],
    home: Checkout,
) -> str:
  """Returns what is wrong with a server and its replies; '' if nothing is."""
  port = _free_port()
  text = re.sub(r'--port=\d+', f'--port={port}', text)
  log = pathlib.Path(tempfile.mkstemp(dir=home.root)[1])
  process = home.start(f'exec {text}', log)
  try:
    if not _is_ready(process, f'http://127.0.0.1:{port}/ready'):
      return fault(does, home, process.poll() or 1, log.read_text())
    for command, asks in requests:
      # An error of the server is one of the command, too.
      asked = command.text.replace('curl', 'curl --fail-with-body -sS', 1)
      code, said = home.run(
          asked.replace('127.0.0.1:8000', f'127.0.0.1:{port}')
      )
      if found := fault(page_actions.Run(says=asks.says), home, code, said):
        return f'{command}\n  {found}\n{log.read_text()[-2_000:]}'
    process.terminate()
    return fault(does, home, process.wait(60), log.read_text())
  finally:
    _end(process)


def _end(process: subprocess.Popen) -> None:
  """Ends a command with all that it has started."""
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)
  process.wait()


def _is_ready(process: subprocess.Popen, url: str) -> bool:
  """Waits until a server answers; returns False if it ends before."""
  until = time.monotonic() + _LONGEST
  while process.poll() is None and time.monotonic() < until:
    with contextlib.suppress(httpx.TransportError):
      if httpx.get(url).is_success:
        return True
    time.sleep(0.1)
  return False


def _free_port() -> int:
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


def run_all(
    covered: dict[page_actions.Rule, list[Command]], words: Sequence[str]
) -> list[str]:
  """Runs the commands, those with any of the words; returns the faults."""
  with tempfile.TemporaryDirectory() as folder:
    home = Checkout(pathlib.Path(folder))
    with futures.ThreadPoolExecutor(len(page_rules.LANES)) as pool:
      try:
        lanes = [
            pool.submit(_run_lane, lane, covered, words, home)
            for lane in page_rules.LANES
        ]
        return [fault for lane in lanes for fault in lane.result()]
      except BaseException:  # The pool would wait for all commands.
        home.stop()
        raise


def _run_lane(lane, covered, words, home) -> list[str]:
  """Runs the commands of some rules in their order; returns the faults."""
  # Commands that became the same, by what they became.
  together = {}
  for rule in lane:
    if not isinstance(rule.does, page_actions.Run):
      continue
    for command in covered[rule]:
      if not words or any(word in str(command) for word in words):
        text = small(command, rule.does, home)
        # How two became the same plays no part.
        does = dataclasses.replace(rule.does, changes=(), more=())
        together.setdefault((text, does), []).append(command)
  faults = []
  for (text, does), commands in together.items():
    start = time.monotonic()
    if isinstance(does, page_actions.Serve):
      pages = {command.page for command in commands}
      found = served(text, does, _requests(covered, pages), home)
    else:
      found = fault(does, home, *home.run(text))
    places = ', '.join(f'{x.page}:{x.line}' for x in commands)
    print(f'{time.monotonic() - start:5.1f} s  {places}\n  {text}', flush=True)
    if found:
      faults.append(f'{commands[0]}\n  run as {text}\n  {found}')
      print(faults[-1], flush=True)
  return faults


def _requests(covered, pages):
  """Returns the requests of some pages, with their rules."""
  return [
      (command, rule.does)
      for rule, commands in covered.items()
      if isinstance(rule.does, page_actions.Ask)
      for command in commands
      if command.page in pages
  ]


def main(words: Sequence[str]) -> None:
  """Runs what `words` choose, or lists it."""
  # So that the command in progress is ended, too.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit('Stopped.'))
  covered, faults = assigned(all_commands(), page_rules.RULES)
  if faults:
    sys.exit('\n'.join(faults))
  for rule, commands in covered.items():
    if isinstance(rule.does, page_actions.Leave):
      for command in commands:
        where = rule.does.elsewhere or 'nothing'
        print(f'- {command}\n  {rule.does.reason}; instead: {where}')
  if faults := run_all(covered, words):
    sys.exit('\n\n'.join([f'{len(faults)} faults:', *faults]))


if __name__ == '__main__':
  main(sys.argv[1:])
