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
import gc
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
from routing.training import memory

_SHARES = {'train': 0.6, 'select': 0.1, 'prove': 0.1, 'test': 0.2}
_SHARD_SIZE = 1_000
# Called at the end of a stage, with its name.
Lap = Callable[[str], None]
_ROOT = pathlib.Path(__file__).resolve().parents[1]


def get_config(num: int, has_text: bool = False) -> ml_collections.ConfigDict:
  """Returns the configuration of `num` ladders in all four splits.

  Features are those that any engine gives, with `has_text` those of
  configs/own_models.py; the rest is that of configs/arithmetic.py, for one
  epoch of training.
  """
  config = arithmetic.get_config()
  config.problems.update({x: round(num * y) for x, y in _SHARES.items()})
  config.train_seeds = (0,)
  config.protocol.max_decisions = made_ladders.NUM_STEPS
  config.features.groups = ('confidence', 'progress', 'cost')
  if has_text:
    config.features.groups += ('text',)
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


def write(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, lap: Lap
) -> None:
  """Makes the ladders of each split up, and writes them to shards."""
  # 60,000 objects a block make Python look for cycles all the time.
  gc.disable()
  workdirs.claim(workdir, config)
  specs = [dataclasses.asdict(x) for x in builders.specs(config)]
  for split in _SHARES:
    num, size = config.problems[split], config.collect.shard_size
    settings = {
        'split': split,
        'made_up': made_ladders.__name__,
        'models': specs,
        'weights_sha256': builders.model_identities(config),
    }
    problems = made_ladders.Problems(split, num)
    directory = records_on_disk.directory(config, workdir, split)
    lap('write')
    with writer_lib.LadderWriter(directory, problems, settings, size) as writer:
      for first in range(0, num, size):
        count = min(size, num - first)
        made = made_ladders.ladders(split, first, count)
        lap('make up')
        writer.add_block(first, made)
        lap('write')


def read(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, lap: Lap
) -> None:
  """Reads every shard as columns, and checks that it is unaltered."""
  for split in _SHARES:
    for _ in records_on_disk.open_split(config, workdir, split).tables():
      pass
  lap('read')


def fit(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, lap: Lap
) -> None:
  """Measures the features of train, and trains for one epoch."""
  memory.keep_freed()  # As `train.train_all` does.
  data = training_data.load(config, workdir)
  lap('statistics')
  for seed in config.train_seeds:
    train.train_seed(config, workdir, seed, data)
  lap('train')


def frontier(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, lap: Lap
) -> None:
  """Makes the exact frontier of each policy on the test problems."""
  router = train.load_router(workdir, config.train_seeds[0])
  source = records_on_disk.source(config, workdir, 'test', router.card, 'known')
  for family in families.policies(router):
    found = source.frontier(family, config.cost_metric, 0)
    if not np.all(np.diff(found.thresholds) > 0):
      raise AssertionError('The thresholds of a frontier must rise.')
  lap('frontier')


def _whole(name: str, run: Callable[..., Any], *fields: str) -> Callable:
  """Returns a process with one stage, which is all of `run`."""

  def process(config, workdir, lap):
    given = {'config': config, 'workdir': workdir}
    run(*(given[field] for field in fields))
    lap(name)

  return process


# What runs in one process, in order; each notes the stages it consists of.
PROCESSES: Mapping[str, Callable[[Any, pathlib.Path, Lap], Any]] = {
    'write': write,
    'read': read,
    'fit': fit,
    'frontier': frontier,
    'calibrate': _whole(
        'calibrate', calibrate.calibrate_all, 'config', 'workdir'
    ),
    'evaluate': _whole('evaluate', evaluate.evaluate, 'config', 'workdir'),
    'report': _whole('report', report.write, 'workdir'),
}


class Laps:
  """Notes what each stage of a process has taken."""

  def __init__(self):
    self._last = self._now()
    self.taken: dict[str, dict[str, float]] = {}

  def __call__(self, stage: str) -> None:
    """Notes that all since the last call was part of a stage."""
    now = self._now()
    taken = self.taken.setdefault(stage, {'seconds': 0.0, 'elapsed': 0.0})
    for name, before, after in zip(taken, self._last, now, strict=False):
      taken[name] += after - before
    # The most so far: a stage is charged for those before it in its process.
    taken['peak_mib'] = peak_mib()
    self._last = now

  def _now(self) -> tuple[float, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, time.monotonic()


def peak_mib() -> float:
  """Returns the most memory that this process had at once, in MiB."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def run_process(
    name: str, num: int, workdir: pathlib.Path, has_text: bool = False
) -> dict[str, dict[str, float]]:
  """Runs one of `PROCESSES` here.

  Returns:
    For each stage 'seconds' of the processor, 'elapsed' by the clock, and
    'peak_mib' of this process up to its end.
  """
  laps = Laps()
  PROCESSES[name](get_config(num, has_text), workdir, laps)
  return laps.taken


def measure(
    num: int, workdir: pathlib.Path, has_text: bool = False
) -> dict[str, dict[str, float]]:
  """Runs all stages on `num` ladders; returns what each took."""
  found = {}
  for name in PROCESSES:
    command = [
        *(sys.executable, '-m', 'benchmarks.scale', f'--process={name}'),
        *(f'--num={num}', f'--workdir={workdir}', '--verbosity=-1'),
        f'--text={has_text}',
    ]
    done = subprocess.run(
        command, cwd=_ROOT, stdout=subprocess.PIPE, check=True, text=True
    )
    taken = json.loads(done.stdout.splitlines()[-1])
    for stage, x in taken.items():
      print(
          f'{num:>9,} {stage:<10} {x["seconds"]:9.1f} s of processor, '
          f'{x["elapsed"]:9.1f} s, {x["peak_mib"]:7.0f} MiB',
          flush=True,
      )
    found |= taken
  page = workdir / report.FILES[0]
  found['report']['page_bytes'] = page.stat().st_size
  return found


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float | None:
  """Returns b of values in proportion to size^b; None with one size.

  Between the two largest sizes: what a stage does once, such as compiling,
  counts for most at the small ones. n log n is 1.1 there.
  """
  if len(sizes) < 2:
    return None
  return math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2])


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
          for stage in found[sizes[0]]
      },
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
  if given.process:
    home = pathlib.Path(given.workdir)
    taken = run_process(given.process, given.num, home, given.text)
    print(json.dumps(taken))
    return
  if given.workdir is not None:
    pathlib.Path(given.workdir).mkdir(parents=True, exist_ok=True)
  home = pathlib.Path(tempfile.mkdtemp(prefix='scale', dir=given.workdir))
  found = {}
  try:
    for power in range(given.smallest, given.largest + 1):
      workdir = home / str(power)
      found[10**power] = measure(10**power, workdir, given.text)
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
  flags.DEFINE_enum('process', None, list(PROCESSES), 'Runs this alone, here.')
  flags.DEFINE_bool('text', False, 'Observes the words of question and step.')
  flags.DEFINE_integer('num', 1_000, 'Ladders, of --process.')
  # A made-up run asks no accelerator.
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  app.run(main)
