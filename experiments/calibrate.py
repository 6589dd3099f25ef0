"""Gives every trained router its named operating points.

Run:    python -m experiments.calibrate --config=configs/arithmetic.py --workdir=runs/arithmetic
Resume: the same command; what was answered live is kept
Writes: runs/seed<k>/operating_points.json; refused_points.json: promises that so few problems cannot bear, and why; looks.json: the looks at `prove`; calibrated.json: what the points were made from; and seen.json with the problems of `prove`

Members and the thresholds worth testing are chosen on `select`, promises are
tested on `prove`, which nothing has seen before; another look at it is refused
unless the level was meant for several. 'cost<=b' is chosen on
`select` and promises nothing. All others are promises, each with its own
probability, not all of a file together:

    loss<=a@p              relative loss <= a with probability p
    cost<=b@p              mean cost <= b with probability p
    loss<=a@p&cost<=b@p    both, each with probability p
    loss<=a@p[group]       the loss of one group; p for all groups together
    loss<=a@p/steps0,3     a threshold for decisions 0 to 2, another from 3 on
"""  # noqa: E501  Commands stay on one line.

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import dataclasses
import json
import pathlib
from typing import Any

from absl import logging
import ml_collections
import numpy as np

from experiments import command_line
from experiments import records_on_disk
from experiments import train
from routing import progress as progress_lib
from routing.calibration import calibrator
from routing.calibration import looks as looks_lib
from routing.outcomes import sources
from routing.problems import seen as seen_lib
from routing.routers import families
from routing.routers import learned
from routing.routers import promises
from routing.routers import saved as saved_lib
from routing.shards import manifest as manifest_lib

REFUSED_FILE = 'refused_points.json'
RECORD_FILE = 'calibrated.json'  # What the points were made from.


def wanted(config: ml_collections.ConfigDict) -> calibrator.Wanted:
  """Which points a configuration asks for.

  Raises:
    ValueError: if it asks for what there is not, or its source cannot do.
  """
  fields = {field.name for field in dataclasses.fields(calibrator.Wanted)}
  given = config.calibration.to_dict()
  found = calibrator.Wanted(**{k: v for k, v in given.items() if k in fields})
  found.check_source(config.calibration.source)
  return found


@dataclasses.dataclass(frozen=True)
class Run:
  """One router, all chosen on `select` and nothing tested on `prove` yet.

  directory: of the run.
  seen: its record, with the problems of `prove`.
  looks: at these problems, with the one that is to come.
  found: gives the points.
  """

  directory: pathlib.Path
  seen: seen_lib.Seen
  looks: list[looks_lib.Look]
  found: calibrator.Calibrator


def prepare(
    config: ml_collections.ConfigDict,
    router: learned.LearnedRouter,
    source: Mapping[str, sources.Source],
    prove: manifest_lib.Manifest,
    directory: pathlib.Path,
) -> Run:
  """Chooses on `select`, and sees to it that `prove` may be looked at.

  Args:
    config: of the run.
    router: the router, which must not have seen the problems of `prove`.
    source: `select` and `prove`.
    prove: of the shards that `prove` was read from.
    directory: of the run.

  Raises:
    ValueError: if the router has seen the problems, the source cannot do what
      is wanted, or there may be no further look at `prove`.
  """
  for split in ('select', 'prove'):
    router.seen.check(split, source[split].problems)
  problems = source['prove'].problems
  look = looks_lib.look_at(
      problems, prove.content_hash, _settings(config, router, prove)
  )
  return Run(
      directory,
      router.seen.with_problems('prove', problems),
      looks_lib.added(
          looks_lib.read(directory / looks_lib.FILE_NAME), look, problems
      ),
      calibrator.Calibrator(
          families.members(router),
          source['select'],
          source['prove'],
          wanted(config),
          metric=router.card.ruler,
          max_decisions=router.card.features.max_decisions,
          hashes={
              'checkpoint_hash': router.checkpoint_hash,
              'shards_hash': prove.content_hash,
          },
      ),
  )


def _settings(
    config: ml_collections.ConfigDict,
    router: learned.LearnedRouter,
    prove: manifest_lib.Manifest,
) -> dict[str, Any]:
  """All that a test on `prove` follows from besides its problems."""
  collected = dict(prove.settings)
  collected.pop('problems_hash')  # Other problems are not another setting.
  return {
      **dataclasses.asdict(wanted(config)),
      'source': config.calibration.source,
      'least_effective': config.calibration.least_effective,
      'ruler': router.card.ruler,
      'checkpoint': router.checkpoint_hash,
      'collected': manifest_lib.hash_json(collected),
  }


def open_sources(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    router: learned.LearnedRouter,
) -> dict[str, sources.Source]:
  """What thresholds earn on `select` and `prove`, as a router sees them."""
  return {
      split: records_on_disk.source(
          config,
          workdir,
          split,
          router.card,
          config.calibration.source,
      )
      for split in ('select', 'prove')
  }


def calibrate_all(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> list[pathlib.Path]:
  """Calibrates every seed, or none; returns the files.

  Raises:
    ValueError: if a setting is not allowed, a seed is not trained or has seen
      what it would be tested on, or there may be no further look at `prove`.
  """
  wanted(config)  # Before any work.
  routers = [train.load_router(workdir, seed) for seed in config.train_seeds]
  prove = records_on_disk.open_split(config, workdir, 'prove').manifest
  runs, opened = [], None
  for seed, router in zip(config.train_seeds, routers, strict=True):
    directory = train.run_directory(workdir, seed)
    # Live answers are each router's own; what is recorded serves all.
    if opened is None or config.calibration.source == 'live':
      opened = open_sources(config, workdir, router)
    with _shown(f'choose on select, seed {seed}'):
      runs.append(prepare(config, router, opened, prove, directory))
  # An error above has left every file as it was. Before the look, since from
  # then on somebody may know what came of it.
  for run in runs:
    looks_lib.write(run.directory / looks_lib.FILE_NAME, run.looks)
    saved_lib.replace_seen(run.directory, run.seen)
  content: dict[pathlib.Path, Any] = {}
  for run in runs:
    with _shown(f'test on prove, {run.directory.name}'):
      points = run.found.points()
    content[run.directory / REFUSED_FILE] = run.found.refused
    content[run.directory / learned.POINTS_FILE] = points
    _log(run.directory.name, points, run.found.refused)
  for path, value in content.items():
    _write_json(path, value)
  for seed in config.train_seeds:
    # Last: where it says what is there, the rest is there.
    directory = train.run_directory(workdir, seed)
    _write_json(directory / RECORD_FILE, _record(config, workdir, seed))
  return [path for path in content if path.name == learned.POINTS_FILE]


@contextlib.contextmanager
def _shown(name: str) -> Iterator[None]:
  """Shows on a terminal that one thing is being done, and for how long."""
  with progress_lib.Progress(
      1, name, unit='run', has_estimate=False, is_brief=True
  ):
    yield


def is_current(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> bool:
  """Whether every seed was calibrated from what is there now.

  Raises:
    ValueError: if a seed is not trained, or a split is not collected.
  """
  for seed in config.train_seeds:
    path = train.run_directory(workdir, seed) / RECORD_FILE
    if not path.exists():
      return False
    if json.loads(path.read_text()) != _record(config, workdir, seed):
      return False
  return True


def _record(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str, seed: int
) -> dict[str, Any]:
  """What the points of a seed are made from, and what they are; JSON-like."""
  directory = train.run_directory(workdir, seed)
  record = {
      'checkpoint': saved_lib.read_card(directory)['hash'],
      'shards': {
          split: records_on_disk.open_split(
              config, workdir, split
          ).manifest.content_hash
          for split in ('select', 'prove')
      },
      # Of shards that are shared, so many are read.
      'num_problems': {x: config.problems[x] for x in ('select', 'prove')},
      'settings': config.calibration.to_dict(),
      'written': {
          name: manifest_lib.hash_file(directory / name)
          for name in (learned.POINTS_FILE, REFUSED_FILE)
      },
  }
  return json.loads(json.dumps(record))  # Lists for tuples.


def _write_json(path: pathlib.Path, content: Any) -> None:
  text = json.dumps(content, indent=2, allow_nan=False) + '\n'
  manifest_lib.replace_file(path, lambda p: p.write_text(text))


def _log(
    name: str,
    points: list[dict[str, Any]],
    refused: list[dict[str, Any]],
) -> None:
  """Says what was promised, and what was refused."""
  for point in points:
    logging.info('%s: %s', name, _line(point))
  for entry in refused:
    logging.warning(
        '%s: %s is refused. %s', name, entry['name'], entry['reason']
    )


def _line(point: Mapping[str, Any]) -> str:
  figures = point['promise']['measured']
  thresholds = np.unique(point['threshold'])
  kappas = ', '.join(f'{kappa:.4g}' for kappa in thresholds)
  return (
      f'{point["name"]}: member {point["member"]}, threshold {kappas}, '
      f'accuracy {figures["accuracy"]:.3f}, cost {figures["cost"]:.3f}, '
      f'loss {figures["loss"]:.3f}; {promises.in_words(point["promise"])}'
  )


if __name__ == '__main__':
  command_line.run(calibrate_all, 'config', 'workdir')
