"""Measures how long commands take to start, in processor time.

Run: python -m benchmarks.start
`import routing`; loading the shipped router and one decision; `--helpshort` of
every stage. Each is the lowest of three runs, since other work on the machine
only adds to it.
"""

import os
import pathlib
import subprocess
import sys

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_STAGES = ('collect', 'train', 'calibrate', 'evaluate', 'report', 'pipeline')
_OTHERS = ('compare', 'sweep', 'pretrain', 'serve')
_LOAD = (
    'import routing; from routing import types; '
    'print(routing.load("shipped").decide(types.Trace("", ())).route)'
)
# Limits in seconds, as the house promises them.
LIMITS = {'import routing': 1.5} | {
    f'experiments.{name} --helpshort': 4.0 for name in (*_STAGES, *_OTHERS)
}


def seconds(*words: str) -> float:
  """Returns the processor time of a Python process, user and system.

  Raises:
    RuntimeError: if it fails, since a start that fails may well be quick.
  """
  before = os.times()
  done = subprocess.run(
      [sys.executable, *words],
      cwd=_ROOT,
      capture_output=True,
      text=True,
      check=False,
  )
  after = os.times()
  # Help ends with exit code 1, as an error does; only help lists the flags.
  is_help = words[-1] == '--helpshort'
  if done.returncode != is_help or (is_help and 'flags:' not in done.stdout):
    raise RuntimeError(
        f'{" ".join(words)} ends with code {done.returncode}: {done.stderr}'
    )
  user = after.children_user - before.children_user
  return user + after.children_system - before.children_system


def main() -> int:
  """Prints a line for each; 1 if one of them is above its limit."""
  commands = {
      'import routing': ('-c', 'import routing'),
      'load the shipped router, decide once': ('-c', _LOAD),
  }
  for name in (*_STAGES, *_OTHERS):
    module = f'experiments.{name}'
    commands[f'{module} --helpshort'] = ('-m', module, '--helpshort')
  slow = 0
  for name, words in commands.items():
    found = min(seconds(*words) for _ in range(3))
    limit = LIMITS.get(name)
    is_slow = limit is not None and found > limit
    slow += is_slow
    allowed = '' if limit is None else f', allowed {limit:g}'
    said = '  TOO SLOW' if is_slow else ''
    print(f'{found:5.2f} s  {name}{allowed}{said}', flush=True)
  return 1 if slow else 0


if __name__ == '__main__':
  sys.exit(main())
