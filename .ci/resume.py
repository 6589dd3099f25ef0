"""A pipeline that is killed twice must end as one that was left alone.

Run: python .ci/resume.py DIRECTORY
Runs a small pipeline to its end. Then runs it again elsewhere, kills it with
SIGKILL while it collects and again while it trains, and lets it finish. Both
must agree in `results.json` and in every row of training metrics: floats to
`_TOLERANCE`, all else exactly. Left out is what follows from measured time, the
cost metric `seconds` and the hashes of files that hold it, and the hash of the
weights.
"""

from collections.abc import Callable
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time

_SMALL = {
    'problems.train': 24,
    'problems.select': 12,
    'problems.prove': 12,
    'problems.test': 12,
    # Shards come one after the other, so that there is a middle.
    'collect.concurrency': 8,
    'collect.shard_size': 4,
    'num_steps': 60,
    'batch_size': 8,
    'calibration.num_thresholds': 20,
    'calibration.alphas': (0.3,),
    'evaluation.learners': ('fitted Q, linear',),
    'evaluation.resamples': 50,
    'evaluation.num_live': 4,
}
_RUN = 'runs/seed0'
# Hashes of files that hold seconds, or weights.
_HASHES = ('shards', 'points_sha256', 'checkpoints')
# A collection that continues forms other batches, and the last digits of a
# float32 sum depend on the size of the batch.
_TOLERANCE = 1e-4


def start(workdir: pathlib.Path) -> subprocess.Popen:
  """Starts the pipeline, or continues it."""
  words = [f'--config.{name}={value}' for name, value in _SMALL.items()]
  return subprocess.Popen(
      [sys.executable, '-m', 'experiments.pipeline']
      + ['--config=configs/arithmetic.py:smoke', *words]
      + [f'--workdir={workdir}'],
      cwd=pathlib.Path(__file__).parents[1],
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
  )


def finish(workdir: pathlib.Path) -> None:
  """Runs the pipeline to its end."""
  process = start(workdir)
  _, said = process.communicate()
  if process.returncode:
    sys.exit(f'The run in {workdir} failed:\n{said}')


def kill_when(
    workdir: pathlib.Path,
    is_begun: Callable[[], bool],
    is_over: Callable[[], bool],
    what: str,
) -> None:
  """Runs the pipeline until `is_begun`; it must not be over by then."""
  process = start(workdir)
  while not is_begun() and process.poll() is None:
    time.sleep(0.002)
  process.send_signal(signal.SIGKILL)
  _, said = process.communicate()
  if not is_begun() or is_over():
    sys.exit(f'Nothing was interrupted: {what}.\n{said}')
  print(f'Killed: {what}.', flush=True)


def num_shards(workdir: pathlib.Path) -> int:
  """Returns how many shards of `train` are listed."""
  path = workdir / 'shards/train/manifest.json'
  return len(json.loads(path.read_text())['shards']) if path.exists() else 0


def num_checkpoints(workdir: pathlib.Path) -> int:
  """Returns how many checkpoints are whole: their names are numbers."""
  folder = workdir / _RUN / 'checkpoints'
  return len([x for x in folder.glob('*') if x.name.isdigit()])


def compared(workdir: pathlib.Path) -> dict:
  """Returns all that must not depend on what was killed when."""
  results = json.loads((workdir / 'results.json').read_text())
  for name in _HASHES:
    del results[name]
  del results['cost_metrics']['latency']
  rows = (workdir / _RUN / 'metrics.jsonl').read_text().splitlines()
  return {'results': results, 'metrics': list(map(json.loads, rows))}


def differences(a: object, b: object, where: str = '') -> list[str]:
  """Returns the places at which two JSON-like values differ."""
  if isinstance(a, dict) and isinstance(b, dict):
    keys = sorted({*a, *b})
    pairs = [(f'{where}/{key}', a.get(key), b.get(key)) for key in keys]
  elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
    pairs = [(f'{where}/{i}', a[i], b[i]) for i in range(len(a))]
  elif isinstance(a, float) and isinstance(b, float):
    is_same = math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return [] if is_same else [f'{where}: {a!r} and {b!r}']
  else:
    return [] if a == b else [f'{where}: {a!r} and {b!r}']
  return [line for name, x, y in pairs for line in differences(x, y, name)]


def main(directory: str) -> None:
  """Compares a run that was killed with one that was not."""
  home = pathlib.Path(directory).absolute()
  # What the first run has compiled, the others load.
  os.environ['JAX_COMPILATION_CACHE_DIR'] = str(home / 'compiled')
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.2'
  whole, killed = home / 'whole', home / 'killed'
  finish(whole)
  total = num_shards(whole)
  kill_when(
      killed,
      lambda: num_shards(killed) > 0,
      lambda: num_shards(killed) == total,
      'while it collects',
  )
  kill_when(
      killed,
      lambda: num_checkpoints(killed) > 0,
      (killed / _RUN / 'router.json').exists,
      'while it trains',
  )
  finish(killed)
  found = differences(compared(whole), compared(killed))
  if found:
    sys.exit('\n'.join(['The runs differ:', *found[:20]]))
  print('The run that was killed ended as the other one.')


if __name__ == '__main__':
  main(*sys.argv[1:])
