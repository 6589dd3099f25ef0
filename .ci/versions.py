"""Saves and loads routers across the lowest and the newest dependencies.

Run: python .ci/versions.py DIRECTORY [--python=3.11]
Makes two environments: `lowest`, with the lowest version that setup.py allows
of each of its dependencies, and `newest`, with the newest. In each it collects
a few ladders, trains a router for a few steps and saves it. Each then loads the
router of the other, must decide alike and refuse another pair of models, and
continues the other's checkpoint. Prints the versions that differ. Needs the
extra `dev`.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_UV = shutil.which(
    'uv', path=f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}'
)
_RESOLUTIONS = {'lowest': 'lowest-direct', 'newest': 'highest'}
# Runs under each environment, with the checkout as its package.
_TRAIN = """
import pathlib
import sys

from configs import arithmetic
from experiments import collect
from experiments import train

if __name__ == '__main__':
  workdir, num_steps = pathlib.Path(sys.argv[1]), int(sys.argv[2])
  config = arithmetic.get_config('smoke')
  config.problems.update(train=12, select=8, prove=8, test=8)
  config.collect.update(max_tokens=30, shard_size=8)
  config.protocol.max_decisions = 2
  config.features.groups = ('confidence', 'progress', 'cost')
  config.update(num_steps=num_steps, checkpoint_every=5, eval_every=5)
  for split in ('train', 'select', 'prove', 'test'):
    collect.collect_split(config, workdir, split)
  if num_steps > 10:  # The run of 10 steps continues.
    for name in ('config.json', 'router.json', 'router.safetensors'):
      (workdir / 'runs/seed0' / name).unlink()
    (workdir / 'config.json').unlink(missing_ok=True)
  train.train_all(config, workdir)
"""
_LOAD = """
import importlib.metadata
import json
import pathlib
import sys

import numpy as np

import routing
from experiments import split_on_disk
from routing import types
from routing.shards import reader

workdir = pathlib.Path(sys.argv[1])
router = routing.load(workdir / 'runs/seed0')
ladders = reader.read_ladders(workdir / 'shards/test')
traces = [
    types.Trace(x.problem.question, (), draft=x.steps[0]) for x in ladders
]
scores = [float(router.decide(x).score) for x in traces]
# A pair that it was not trained for is refused, and named.
other = ['0' * 64 for _ in router.card.specs]
try:
  split_on_disk.check_weights(router.card, other, 'The configuration is')
  raise SystemExit('Another pair was accepted.')
except ValueError as error:
  assert 'weights' in str(error) or 'models' in str(error), error
shipped = routing.load('shipped').at('loss<=0.05@0.9')
route = shipped.decide(types.Trace(question='', steps=())).route
print(json.dumps({'scores': scores, 'shipped': route}))
"""
_TOLERANCE = 1e-4  # Of a probability: float32 in another compiler.


def run(*words: object, **settings: object) -> str:
  """Runs a command and returns its output; ends with all of it if it fails."""
  done = subprocess.run(
      list(map(str, words)),
      capture_output=True,
      text=True,
      check=False,
      **settings,
  )
  if done.returncode:
    sys.exit(f'{" ".join(map(str, words))}\n{done.stdout}{done.stderr}')
  return done.stdout


def make(home: pathlib.Path, name: str, python: str) -> dict[str, str]:
  """Makes an environment; returns its versions by package."""
  shutil.rmtree(home, ignore_errors=True)
  run(_UV, 'venv', '--python', python, home)
  here = ('--python', home / 'bin/python')
  chosen = f'--resolution={_RESOLUTIONS[name]}'
  run(_UV, 'pip', 'install', *here, chosen, _ROOT)
  # Only what it needs is tried; the code is that of the checkout.
  run(_UV, 'pip', 'uninstall', *here, 'stepwise-routing')
  listed = run(_UV, 'pip', 'list', '--format=json', *here)
  return {x['name']: x['version'] for x in json.loads(listed)}


def program(home: pathlib.Path, code: str, *words: object) -> str:
  """Runs Python code in an environment, on the package of the checkout."""
  path = home / 'program.py'
  path.write_text(code)
  environment = dict(os.environ, PYTHONPATH=str(_ROOT))
  return run(home / 'bin/python', path, *words, env=environment)


def loaded(home: pathlib.Path, workdir: pathlib.Path) -> dict:
  """Returns what a router decides when an environment loads it."""
  return json.loads(program(home, _LOAD, workdir).splitlines()[-1])


def exchange(directory: pathlib.Path, name: str, other: str) -> None:
  """Loads and continues in one environment what the other has saved."""
  home, saved = directory / name, directory / f'run-{other}'
  theirs, ours = (loaded(x, saved) for x in (directory / other, home))
  pairs = zip(theirs['scores'], ours['scores'], strict=True)
  worst = max(abs(a - b) for a, b in pairs)
  if worst > _TOLERANCE or theirs['shipped'] != ours['shipped']:
    sys.exit(f'{name} decides otherwise than {other}: {theirs}, {ours}')
  copy = directory / f'run-{other}-continued'
  shutil.rmtree(copy, ignore_errors=True)
  shutil.copytree(saved, copy)
  # Rows of steps before the checkpoint stay only if training continues there.
  log = copy / 'runs/seed0/metrics.jsonl'
  log.write_text(log.read_text().replace('{"step', '{"old": true, "step'))
  program(home, _TRAIN, copy, 20)
  rows = [json.loads(line) for line in log.read_text().splitlines()]
  if [(x['step'], 'old' in x) for x in rows] != [
      *((5, True), (10, True), (15, False), (20, False))
  ]:
    sys.exit(f'{name} did not continue the checkpoint of {other}: {rows}')
  print(
      f'{name} loads the router of {other} (scores differ by {worst:.1g}) '
      'and continues its checkpoint.',
      flush=True,
  )


def main() -> None:
  """Makes both environments, and loads in each what the other has saved."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('directory', type=pathlib.Path)
  parser.add_argument('--python', default='3.11')
  given = parser.parse_args()
  directory = given.directory.absolute()
  homes = {name: directory / name for name in _RESOLUTIONS}
  found = {x: make(home, x, given.python) for x, home in homes.items()}
  names = sorted(found['lowest'].keys() & found['newest'].keys())
  for name in names:
    versions = [found[x][name] for x in _RESOLUTIONS]
    if len(set(versions)) > 1:
      print(f'{name:28} {versions[0]:16} {versions[1]}')
  for name, home in homes.items():
    workdir = directory / f'run-{name}'
    shutil.rmtree(workdir, ignore_errors=True)
    program(home, _TRAIN, workdir, 10)
    print(f'{name}: trained, saved and loaded.', flush=True)
  for name in homes:
    (other,) = set(homes) - {name}
    exchange(directory, name, other)


if __name__ == '__main__':
  main()
