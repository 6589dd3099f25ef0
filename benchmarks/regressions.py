"""Compares the speed ratios of all benchmarks with committed baselines.

Run:   python -m benchmarks.regressions [--only=frontier]
Renew: python -m benchmarks.regressions --write, when nothing else runs
Fails, with exit code 1, if a ratio is worse than its baseline by more than its
tolerance, a factor. Each benchmark runs at a small size, some minutes in all.
Ratios compare two programs on one machine at one time, so that they depend less
on the machine than seconds do. All run on one core: where threads wait for one
another, other work on the machine slows one side down many times more than the
other. What needs vLLM is skipped where it is missing.

`baselines.json` holds for each ratio its value, whether it should be high or
low, its tolerance and the reason for it; and the machine and the commit that
they were measured on.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import importlib.util
import json
import os
import pathlib
import platform
import statistics
import subprocess
import tempfile
import time
from typing import Any

from absl import app
from absl import flags

BASELINES = pathlib.Path(__file__).with_name('baselines.json')


def _frontier() -> dict[str, float]:
  from benchmarks import frontier

  rows = [frontier.measure(30_000, share=0.05) for _ in range(5)]
  return {
      f'ratio_to_{name}': statistics.median(
          row[f'{name}_seconds'] / row['seconds'] for row in rows
      )
      for name in ('loop', 'tuned_loop')
  }


def _outcome_table() -> dict[str, float]:
  from benchmarks import outcome_table

  rows = outcome_table.measure(1_000, repeats=5)
  return {row['question']: row['ratio'] for row in rows}


def _training_step() -> dict[str, float]:
  import torch

  from benchmarks import training_step

  torch.set_num_threads(1)
  size = training_step.small_size(repeats=10)
  # `torch.compile` takes minutes, and says nothing about our side.
  eager = {'eager': training_step.styles(size)['eager']}
  (row,) = training_step.measure('small', size, eager)
  return {'ratio_to_pytorch_eager': row['ratio_to_pytorch']}


def _ladders() -> dict[str, float]:
  from benchmarks import ladders

  # Of the processor: on one core the same as on the wall, if nothing else runs.
  found = ladders.measure(40, clock=time.process_time)
  return {x: found[x] for x in ('ratio_to_no_reuse', 'ratio_to_sequential')}


def _collection() -> dict[str, float]:
  from benchmarks import collection

  found = collection.measure(num_problems=32, num_rounds=1)
  return {x: y for x, y in found.items() if x.startswith('ratio_')}


def _serving() -> dict[str, float]:
  from benchmarks import serving

  with tempfile.TemporaryDirectory() as home:
    found = serving.measure(200, 40, 50, pathlib.Path(home) / 'log')
  return {name: found[name] for name in ('added_p50', 'added_alone_p50')}


# What measures the ratios of each benchmark, and the package that it needs.
BENCHMARKS: dict[str, tuple[Callable[[], dict[str, float]], str]] = {
    'frontier': (_frontier, 'numpy'),
    'outcome_table': (_outcome_table, 'numpy'),
    'training_step': (_training_step, 'torch'),
    'ladders': (_ladders, 'jax'),
    'serving': (_serving, 'aiohttp'),
    'collection': (_collection, 'vllm'),
}


def measure(names: Sequence[str]) -> dict[str, float]:
  """Returns 'benchmark.ratio' -> its value; says what it skips."""
  found = {}
  for name in names:
    run, package = BENCHMARKS[name]
    if importlib.util.find_spec(package) is None:
      print(f'{name}: skipped, since {package} is not installed.', flush=True)
      continue
    print(f'{name} ...', flush=True)
    found |= {f'{name}.{ratio}': value for ratio, value in run().items()}
  return found


def worsening(value: float, baseline: Mapping[str, Any]) -> float:
  """Returns by which factor a ratio is worse than its baseline; < 1 = better.

  Args:
    value: of the ratio.
    baseline: its `value`, and whether it should be 'high' or 'low' (`good`).
  """
  factor = value / baseline['value']
  return factor if baseline['good'] == 'low' else 1 / factor


def compare(
    found: Mapping[str, float], baselines: Mapping[str, Mapping[str, Any]]
) -> tuple[list[str], list[str]]:
  """Returns a line for each ratio, and the names of those that got worse.

  A ratio without a baseline is no regression; its line says so.
  """
  lines, worse = [], []
  for name, value in found.items():
    if name not in baselines:
      lines.append(f'{name}: {value:.3g}, without a baseline')
      continue
    baseline = baselines[name]
    factor, tolerance = worsening(value, baseline), baseline['tolerance']
    line = f'{name}: {value:.3g}, baseline {baseline["value"]:.3g}'
    if factor > tolerance:
      worse.append(name)
      line += f'; WORSE by {factor:.2f}, allowed {tolerance:g}'
    elif factor < 1 / tolerance:
      line += f'; better by {1 / factor:.2f}: renew the baseline'
    lines.append(line)
  return lines, worse


def described_machine() -> dict[str, Any]:
  """Returns what the ratios may depend on besides the code."""
  commit = subprocess.run(
      ['git', 'describe', '--always', '--dirty'],
      cwd=BASELINES.parent,
      capture_output=True,
      text=True,
      check=False,
  )
  return {
      'commit': commit.stdout.strip(),
      'processor': _processor(),
      'cores': os.cpu_count(),
      'cores_used': len(os.sched_getaffinity(0)),
      'python': platform.python_version(),
      'load_before': round(os.getloadavg()[0], 2),
  }


def _processor() -> str:
  path = pathlib.Path('/proc/cpuinfo')
  lines = path.read_text().splitlines() if path.exists() else []
  names = [x.split(':')[1].strip() for x in lines if x.startswith('model name')]
  return names[0] if names else platform.processor()


def renewed(
    content: Mapping[str, Any],
    found: Mapping[str, float],
    machine: Mapping[str, Any],
) -> dict[str, Any]:
  """Returns the baselines with new values; tolerances and reasons stay."""
  ratios = {
      name: {**old, **({'value': found[name]} if name in found else {})}
      for name, old in content['ratios'].items()
  }
  return {**content, 'measured_on': dict(machine), 'ratios': ratios}


def main(argv: Sequence[str]) -> int:
  """Measures, prints a line for each ratio; 1 if one of them got worse."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  # Before jax is loaded, which takes as many threads as there are cores.
  os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
  names = flags.FLAGS.only or list(BENCHMARKS)
  machine = described_machine()
  found = measure(names)
  content = json.loads(BASELINES.read_text())
  if flags.FLAGS.write:
    found = {name: float(f'{value:.3g}') for name, value in found.items()}
    text = json.dumps(renewed(content, found, machine), indent=2) + '\n'
    BASELINES.write_text(text)
    print(f'Wrote {BASELINES}')
    return 0
  lines, worse = compare(found, content['ratios'])
  print(*lines, sep='\n')
  if worse:
    print(f'{len(worse)} of {len(found)} ratios got worse.')
  return 1 if worse else 0


if __name__ == '__main__':
  flags.DEFINE_multi_enum(
      'only', None, list(BENCHMARKS), 'Benchmarks to run; may be repeated.'
  )
  flags.DEFINE_bool('write', False, 'Take what is measured as the baselines.')
  app.run(main)
