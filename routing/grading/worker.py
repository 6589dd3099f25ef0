"""A script that compares answers: it reads and prints lines of JSON.

`pool.Pool` runs it in child processes. Its arguments are a script that compares
(`math_worker.py`, `generator_worker.py`), and the limits: seconds of the
processor for one comparison, and bytes of memory. A line of input is
`[answer, reference]`, a line of output `[is_equal, reason]`.

The comparing script has three functions. `prepare()` loads its packages,
`check()` makes a first comparison and returns whether it came out right, and
`compare(answer, reference)` returns whether both are equal and the reason.
Neither script imports from this package, so that both start without JAX.
"""

import importlib.util
import json
import os
import resource
import signal
import sys


def _limit(memory: int) -> None:
  """Bounds the address space, where the system can."""
  try:
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
  except (OSError, ValueError):  # macOS has no such limit.
    pass


def _load(path: str):
  """Returns the comparing script as a module."""
  spec = importlib.util.spec_from_file_location('comparing', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def main(path: str, seconds: float, memory: int) -> None:
  """Prints a verdict for each line of standard input, until the input ends."""
  # What libraries print must not reach the verdicts.
  out = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  comparing = _load(path)
  # The packages are loaded before 'ready' is printed, so that loading does not
  # count towards the time limit of the first comparison.
  comparing.prepare()
  _limit(memory)
  if not comparing.check():
    raise MemoryError(f'{memory} bytes are too few for a comparison.')
  print('"ready"', file=out, flush=True)
  for line in sys.stdin:
    is_full = False
    # The signal kills the process: no handler, which a long operation on
    # integers would not let run. Seconds of the processor, so that a verdict
    # does not depend on what else the machine does.
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
      verdict = comparing.compare(*json.loads(line))
    except MemoryError:
      verdict, is_full = (False, 'out of memory'), True
    except RecursionError:
      verdict = False, 'nested too deeply'
    except Exception:  # Answers that cannot be compared are not equal.
      verdict = False, 'cannot be compared'
    signal.setitimer(signal.ITIMER_PROF, 0)
    print(json.dumps(verdict), file=out, flush=True)
    if is_full:
      return  # A new process starts with free memory.


if __name__ == '__main__':
  main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
