"""A fast stand-in for a stage of an experiment, for tests of sweeps.

Run: python -m tests.fake_stage --config=FILE --config.seed=0 --workdir=DIRECTORY
Writes results in the real format, with figures that follow from its overrides.
It records each attempt, and what started it. With a seed above 100 it fails, unless a file `fixed`
lies beside the directories of the runs. It also fails if another process is
running in the same directory.
"""  # noqa: E501  Commands stay on one line.

import json
import os
import pathlib
import sys
import time

SECONDS = 0.2


def work(level: float, seed: int, directory: pathlib.Path) -> None:
  """Makes one attempt at a run, in its directory."""
  directory.mkdir(parents=True, exist_ok=True)
  with (directory / 'attempts.txt').open('a') as file:
    file.write(f'{os.getpid()}\n')
  parent = pathlib.Path(f'/proc/{os.getppid()}/cmdline')
  (directory / 'parent.txt').write_bytes(parent.read_bytes())
  try:
    (directory / 'busy').open('x').close()
  except FileExistsError:
    sys.exit('Two processes in one directory.')
  time.sleep(SECONDS)
  if seed > 100 and not (directory.parent / 'fixed').exists():
    (directory / 'busy').unlink()
    sys.exit(f'Seed {seed} is no good.')
  at_budget = {'0.4': {'accuracy': [level + 0.1], 'cost': [level]}}
  area = level + seed / 10
  method = {
      'select_area': area,
      'area': {'mean': area} if seed < 5 else None,
      'at_budget': at_budget,
      'mean_gap_recovered': None,
  }
  results = {
      'schema': 5,
      'cost_metric': 'price',
      'tuning': {},
      'cost_metrics': {
          'price': {'reference': 'policy', 'methods': {'policy': method}}
      },
  }
  (directory / 'results.json').write_text(json.dumps(results))
  (directory / 'busy').unlink()


if __name__ == '__main__':
  given = dict(word.lstrip('-').split('=', 1) for word in sys.argv[1:])
  work(
      float(given['config.level']),
      int(given['config.seed']),
      pathlib.Path(given['workdir']),
  )
