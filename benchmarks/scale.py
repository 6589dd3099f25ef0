"""How time and memory grow from a thousand to a million ladders.

Run:   python -m benchmarks.scale [--largest=6] [--workdir=/tmp/scale]
Keeps: a work directory for each size, deleted when it is done

All that follows a collection, on made-up ladders of 20 steps
(`made_ladders`), six tenths of them for training, one for choices, one for
promises and two for the test: shards are written and read, features
standardised, policies trained for one epoch from a stream, the exact frontier,
operating points, evaluation and report made. The stages are the project's own.
Each runs in a process of its own, so that its peak memory is its own. Seconds
are those of the processor, all threads together, without starting Python and
loading the libraries; so a busy machine counts for less. The last line is a
JSON object: for each size and stage seconds and peak MiB, and the exponents of
growth. It takes half an hour, and 30 GB of disk.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
import math
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app
from absl import flags
import ml_collections
import numpy as np
from rich import console as console_lib
from rich import table as table_lib

from benchmarks import made_ladders
from configs import arithmetic
from experiments import builders
from experiments import calibrate
from experiments import evaluate
from experiments import records_on_disk
from experiments import report
from experiments import train
from experiments import training_data
from experiments import workdirs
from routing.routers import families
from routing.shards import writer as writer_lib

_SHARES = {'train': 0.6, 'select': 0.1, 'prove': 0.1, 'test': 0.2}
_SHARD_SIZE = 1_000
_ROOT = pathlib.Path(__file__).resolve().parents[1]


def get_config(num: int) -> ml_collections.ConfigDict:
  """Returns the configuration of `num` ladders in all four splits.

  Features are those of configs/own_models.py, i.e. of a real pair of models;
  the rest is that of configs/arithmetic.py, for one epoch of training.
  """
  config = arithmetic.get_config()
  config.problems.update({x: round(num * y) for x, y in _SHARES.items()})
  config.train_seeds = (0,)
  config.protocol.max_decisions = made_ladders.NUM_STEPS
  config.features.groups = ('confidence', 'progress', 'cost', 'text')
  config.objective.levels = ()
  config.collect.shard_size = min(_SHARD_SIZE, num // 10)
  config.stream = dict(num_shards_in_memory=4, num_devices=1)
  config.num_steps = math.ceil(config.problems.train / config.batch_size)
  config.eval_every = config.log_every = max(config.num_steps // 10, 1)
  config.checkpoint_every = config.num_steps
  config.calibration.budgets = (0.5, 0.6, 0.7)
  # Learners fit on all decisions of train at once; there is no model to ask.
  config.evaluation.update(learners=(), num_live=0)
  return config


def write(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Makes the ladders of each split up, and writes them to shards."""
  workdirs.claim(workdir, config)
  specs = [dataclasses.asdict(x) for x in builders.specs(config)]
  for split, num in config.problems.items():
    if split not in _SHARES:
      continue
    settings = {
        'split': split,
        'made_up': made_ladders.__name__,
        'models': specs,
        'weights_sha256': builders.model_identities(config),
    }
    problems = made_ladders.Problems(split, num)
    directory = records_on_disk.directory(config, workdir, split)
    size = config.collect.shard_size
    with writer_lib.LadderWriter(
        directory, problems, settings, size
    ) as writer:
      for first in range(0, num, size):
        count = min(size, num - first)
        writer.add_block(first, made_ladders.ladders(split, first, count))


def read(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Reads every ladder as objects, as a page or an analysis does."""
  for split in _SHARES:
    for _ in records_on_disk.open_split(config, workdir, split).records():
      pass


def statistics(
    config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> None:
  """Reads train and select, and measures their features."""
  training_data.load(config, workdir)


def frontier(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Makes the exact frontier of each policy on the test problems."""
  router = train.load_router(workdir, config.train_seeds[0])
  source = records_on_disk.source(
      config, workdir, 'test', router.card, 'known'
  )
  for family in families.policies(router):
    found = source.frontier(family, config.cost_metric, 0)
    if not np.all(np.diff(found.thresholds) > 0):
      raise AssertionError('The thresholds of a frontier must rise.')


STAGES: Mapping[str, Callable[[Any, pathlib.Path], Any]] = {
    'write': write,
    'read': read,
    'statistics': statistics,
    'train': train.train_all,
    'frontier': frontier,
    'calibrate': calibrate.calibrate_all,
    'evaluate': evaluate.evaluate,
    'report': lambda config, workdir: report.write(workdir),
}


def _seconds() -> float:
  used = resource.getrusage(resource.RUSAGE_SELF)
  return used.ru_utime + used.ru_stime


def _peak_mib() -> float:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def run_stage(name: str, num: int, workdir: pathlib.Path) -> dict[str, float]:
  """Runs one stage here, and returns what it took.

  Returns:
    'seconds' of the processor, 'elapsed' by the clock; 'start_mib' and
    'peak_mib', the most memory of this process before and after.
  """
  start, begun, before = _seconds(), time.monotonic(), _peak_mib()
  STAGES[name](get_config(num), workdir)
  return {
      'seconds': _seconds() - start,
      'elapsed': time.monotonic() - begun,
      'start_mib': before,
      'peak_mib': _peak_mib(),
  }


def measure(num: int, workdir: pathlib.Path) -> dict[str, dict[str, float]]:
  """Runs all stages on `num` ladders, each in a process of its own."""
  found = {}
  for name in STAGES:
    command = [
        *(sys.executable, '-m', 'benchmarks.scale', f'--stage={name}'),
        *(f'--num={num}', f'--workdir={workdir}'),
    ]
    done = subprocess.run(
        command, cwd=_ROOT, stdout=subprocess.PIPE, check=True, text=True
    )
    found[name] = json.loads(done.stdout.splitlines()[-1])
    print(f'{num:>9,} {name:<10} {_shown(found[name])}', flush=True)
  page = workdir / report.FILES[0]
  found['report']['page_bytes'] = page.stat().st_size
  return found


def _shown(taken: Mapping[str, float]) -> str:
  return (
      f'{taken["seconds"]:9.1f} s of processor, {taken["elapsed"]:9.1f} s, '
      f'{taken["peak_mib"]:7.0f} MiB'
  )


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float | None:
  """Returns b of the line log value = a + b log size; None with one size.

  Of the two largest sizes: what a stage does once would flatten the line.
  """
  if len(sizes) < 2:
    return None
  last = [math.log(values[i] / values[i - 1]) for i in (-1,)]
  return last[0] / math.log(sizes[-1] / sizes[-2])


def summary(
    found: Mapping[int, Mapping[str, Mapping[str, float]]],
) -> dict[str, Any]:
  """Returns the content of the last line.

  Args:
    found: size -> stage -> what it took.
  """
  sizes = sorted(found)
  of = lambda stage, field: [found[n][stage][field] for n in sizes]
  total = [sum(x['seconds'] for x in found[n].values()) for n in sizes]
  return {
      'sizes': sizes,
      'steps': made_ladders.NUM_STEPS,
      'stages': {
          stage: {
              'seconds': [round(x, 2) for x in of(stage, 'seconds')],
              'elapsed': [round(x, 2) for x in of(stage, 'elapsed')],
              'us_per_trajectory': [
                  round(1e6 * x / n, 1)
                  for x, n in zip(of(stage, 'seconds'), sizes, strict=True)
              ],
              'peak_mib': [round(x) for x in of(stage, 'peak_mib')],
              'exponent': _rounded(exponent(sizes, of(stage, 'seconds'))),
          }
          for stage in STAGES
      },
      'start_mib': round(found[sizes[-1]]['write']['start_mib']),
      'total_seconds': [round(x, 1) for x in total],
      'total_elapsed': [
          round(sum(x['elapsed'] for x in found[n].values()), 1) for n in sizes
      ],
      'exponent': _rounded(exponent(sizes, total)),
      'peak_mib': [
          round(max(x['peak_mib'] for x in found[n].values())) for n in sizes
      ],
      'page_bytes': [found[n]['report']['page_bytes'] for n in sizes],
  }


def _rounded(value: float | None) -> float | None:
  return None if value is None else round(value, 3)


def show(figures: Mapping[str, Any]) -> None:
  """Prints seconds per trajectory and peak memory of each stage and size."""
  table = table_lib.Table(
      title='Microseconds of processor per trajectory; peak MiB'
  )
  table.add_column('stage')
  for size in figures['sizes']:
    table.add_column(f'{size:,}', justify='right')
  table.add_column('exponent', justify='right')
  for name, taken in figures['stages'].items():
    cells = [
        f'{us:,.0f}; {mib:,}'
        for us, mib in zip(
            taken['us_per_trajectory'], taken['peak_mib'], strict=True
        )
    ]
    table.add_row(name, *cells, str(taken['exponent']))
  console_lib.Console(width=140).print(table)


def main(argv: Sequence[str]) -> None:
  """Runs one stage, or all stages at all sizes; the last line is JSON."""
  given = flags.FLAGS
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  if given.stage:
    taken = run_stage(given.stage, given.num, pathlib.Path(given.workdir))
    print(json.dumps(taken))
    return
  home = pathlib.Path(tempfile.mkdtemp(prefix='scale', dir=given.workdir))
  found = {}
  try:
    for power in range(given.smallest, given.largest + 1):
      workdir = home / str(power)
      found[10**power] = measure(10**power, workdir)
      shutil.rmtree(workdir)
  finally:
    shutil.rmtree(home, ignore_errors=True)
  figures = summary(found)
  show(figures)
  print(json.dumps(figures))


if __name__ == '__main__':
  flags.DEFINE_integer('smallest', 3, 'Power of ten, of the first size.')
  flags.DEFINE_integer('largest', 6, 'Power of ten, of the last size.')
  flags.DEFINE_string('workdir', None, 'Where files are kept meanwhile.')
  flags.DEFINE_enum('stage', None, list(STAGES), 'Runs this stage only, here.')
  flags.DEFINE_integer('num', 1_000, 'Ladders, of --stage.')
  # A made-up run asks no accelerator.
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  app.run(main)
