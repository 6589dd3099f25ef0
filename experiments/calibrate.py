"""Calibrates every trained router: chooses and tests its operating points.

Run:    python -m experiments.calibrate --config=configs/arithmetic.py --workdir=runs/arithmetic
Resume: the same command; live answers are kept
Writes: in runs/seed<k>/: operating_points.json; refused_points.json, the promises that `prove` has too few problems for; looks.json, the looks at `prove`; calibrated.json, the inputs; seen.json, with the problems of `prove` added

An operating point is the policy of one budget level and a threshold. The policy
and the thresholds worth testing are chosen on `select`. Promises are then
tested on `prove`, which no stage has seen before. A second look at `prove`
raises an error unless `calibration.num_choices` or `procedure` allows for it.

    cost<=b                most accurate at mean cost <= b on `select`; not a
                           promise
    loss<=a@p              relative loss <= a with probability p
    cost<=b@p              mean cost <= b with probability p
    loss<=a@p&cost<=b@p    both, each with probability p
    loss<=a@p[group]       the loss of one group; p for all groups together
    loss<=a@p/steps0,3     one threshold for decisions 0 to 2, another from 3 on

Each promise holds with its own probability p, not all of a file together.
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

from experiments import builders
from experiments import command_line
from experiments import records_on_disk
from experiments import tracking
from experiments import train
from routing import progress as progress_lib
from routing.calibration import calibrator as calibrator_lib
from routing.calibration import looks as looks_lib
from routing.outcomes import sources
from routing.routers import families
from routing.routers import learned
from routing.routers import promises
from routing.routers import saved as saved_lib
from routing.shards import manifest as manifest_lib
from routing.tasks import seen as seen_lib

REFUSED_FILE = 'refused_points.json'
RECORD_FILE = 'calibrated.json'  # The inputs and outputs, for `is_current`.


def settings(
    config: ml_collections.ConfigDict,
) -> calibrator_lib.CalibrationSettings:
  """Returns the operating points that a configuration asks for.

  Raises:
    ValueError: if a setting is not allowed, or `calibration.source` does not
      support it.
  """
  fields = {
      field.name
      for field in dataclasses.fields(calibrator_lib.CalibrationSettings)
  }
  # The other fields of config.calibration, such as `source`, are not settings
  # of the calibrator.
  given = config.calibration.to_dict()
  found = calibrator_lib.CalibrationSettings(
      **{k: v for k, v in given.items() if k in fields}
  )
  found.check_source(config.calibration.source)
  return found


@dataclasses.dataclass(frozen=True)
class Run:
  """A router whose policies are chosen on `select`, not yet tested on `prove`.

  directory: of the training run.
  seen: the problems that the router has seen, with those of `prove` added.
  looks: the looks at `prove` so far, with the coming one added.
  calibrator: its `points()` is the look at `prove`.
  """

  directory: pathlib.Path
  seen: seen_lib.Seen
  looks: list[looks_lib.Look]
  calibrator: calibrator_lib.Calibrator


def prepare(
    config: ml_collections.ConfigDict,
    router: learned.LearnedRouter,
    source: Mapping[str, sources.Source],
    prove: manifest_lib.Manifest,
    directory: pathlib.Path,
) -> Run:
  """Chooses on `select`, and checks that `prove` may be looked at.

  Args:
    config: of the run.
    router: must not have seen the problems of `prove`.
    source: the sources of outcomes of 'select' and 'prove'.
    prove: manifest of the shards that `prove` was read from.
    directory: of the training run.

  Raises:
    ValueError: if the router has seen the problems, the source does not support
      a setting, or a further look at `prove` is not allowed.
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
      calibrator_lib.Calibrator(
          families.policies(router),
          source['select'],
          source['prove'],
          settings(config),
          metric=router.card.metric,
          max_decisions=router.card.features.max_decisions,
          hashes={
              'checkpoint_hash': router.checkpoint_hash,
              'shards_hash': prove.content_hash,
          },
      ),
  )


def note_look(run: Run) -> None:
  """Saves that a router's promises are about to be tested on `prove`.

  Before the test: after a crash in the middle of it somebody may already know
  its result, and a second look must count as a second one.
  """
  looks_lib.write(run.directory / looks_lib.FILE_NAME, run.looks)
  saved_lib.replace_seen(run.directory, run.seen)


def take_look(
    config: ml_collections.ConfigDict, run: Run
) -> dict[pathlib.Path, Any]:
  """Tests the promises of a router on `prove`, after `note_look`.

  Each point is given how models are asked: a promise holds for no other way,
  and a service compares it with its own.

  Returns:
    What is to be written: refused promises and operating points, by file.
  """
  asking = builders.asking_key(config)
  points = [point | {'asking': asking} for point in run.calibrator.points()]
  return {
      run.directory / REFUSED_FILE: run.calibrator.refused,
      run.directory / learned.POINTS_FILE: points,
  }


def _settings(
    config: ml_collections.ConfigDict,
    router: learned.LearnedRouter,
    prove: manifest_lib.Manifest,
) -> dict[str, Any]:
  """Returns all that determines a test on `prove`, except its problems.

  Looking again with the same settings shows nothing new; with other settings it
  is a second test on the same sample.
  """
  collected = dict(prove.settings)
  collected.pop('problems_hash')  # A look records its problems separately.
  return {
      **dataclasses.asdict(settings(config)),
      'source': config.calibration.source,
      'min_effective_size': config.calibration.min_effective_size,
      'cost_metric': router.card.metric,
      'checkpoint': router.checkpoint_hash,
      'collected': manifest_lib.hash_json(collected),
  }


def open_sources(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    router: learned.LearnedRouter,
) -> dict[str, sources.Source]:
  """Returns the sources that evaluate thresholds on `select` and `prove`.

  Args:
    config: of the run; `calibration.source` names the kind of source.
    workdir: of the run.
    router: its card says what is observed and how costs are measured.
  """
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
  """Calibrates all seeds, or none; returns the files of operating points.

  Raises:
    ValueError: if a setting is not allowed, a seed is not trained or has seen
      problems of `prove`, or a further look at `prove` is not allowed.
  """
  settings(config)  # Raises before any work if a setting is not allowed.
  routers = [train.load_router(workdir, seed) for seed in config.train_seeds]
  prove = records_on_disk.open_split(config, workdir, 'prove').manifest
  runs, opened = [], None
  for seed, router in zip(config.train_seeds, routers, strict=True):
    directory = train.run_directory(workdir, seed)
    # A live source answers under one router's decisions. Known and recorded
    # outcomes do not depend on the router, so they are read once.
    if opened is None or config.calibration.source == 'live':
      opened = open_sources(config, workdir, router)
    with _progress_line(f'choose on select, seed {seed}'):
      runs.append(prepare(config, router, opened, prove, directory))
  # Nothing has been written so far, so an error above changes no file.
  for run in runs:
    note_look(run)
  content: dict[pathlib.Path, Any] = {}
  for run in runs:
    with _progress_line(f'test on prove, {run.directory.name}'):
      content |= take_look(config, run)
    _log(
        run.directory.name,
        content[run.directory / learned.POINTS_FILE],
        content[run.directory / REFUSED_FILE],
    )
  for path, value in content.items():
    write_json(path, value)
  for seed in config.train_seeds:
    # Written last: if it exists, the files that it describes are complete.
    directory = train.run_directory(workdir, seed)
    write_json(directory / RECORD_FILE, _record(config, workdir, seed))
  for seed, run in zip(config.train_seeds, runs, strict=True):
    _track(config, run.directory, seed, content)
  return [path for path in content if path.name == learned.POINTS_FILE]


def _track(
    config: ml_collections.ConfigDict,
    directory: pathlib.Path,
    seed: int,
    content: Mapping[pathlib.Path, Any],
) -> None:
  """Sends what was measured at the points of a seed; see `tracking`."""
  row: dict[str, float] = {'refused': len(content[directory / REFUSED_FILE])}
  for point in content[directory / learned.POINTS_FILE]:
    for figure in ('accuracy', 'cost', 'loss'):
      measured = point['promise']['measured'][figure]
      row[f'{point["name"]}/{figure}'] = measured
  name = train.shown_name(directory, seed)
  tracking.final(config, directory, name, 'calibration', row)


@contextlib.contextmanager
def _progress_line(name: str) -> Iterator[None]:
  """Shows on a terminal that one thing is being done, and for how long."""
  with progress_lib.Progress(
      1, name, unit='run', has_estimate=False, is_brief=True
  ):
    yield


def is_current(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> bool:
  """Returns whether every seed was calibrated from the current inputs.

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
  """Returns what the points of a seed were made from, and their hash."""
  directory = train.run_directory(workdir, seed)
  record = {
      'checkpoint': saved_lib.read_card(directory)['hash'],
      'shards': {
          split: records_on_disk.open_split(
              config, workdir, split
          ).manifest.content_hash
          for split in ('select', 'prove')
      },
      # Shared shards may hold more problems than this run reads.
      'num_problems': {x: config.problems[x] for x in ('select', 'prove')},
      'settings': config.calibration.to_dict(),
      'written': {
          name: manifest_lib.hash_file(directory / name)
          for name in (learned.POINTS_FILE, REFUSED_FILE)
      },
  }
  # Through JSON, so that tuples equal the lists that are read from the file.
  return json.loads(json.dumps(record))


def write_json(path: pathlib.Path, content: Any) -> None:
  """Replaces a file by JSON-like content."""
  text = json.dumps(content, indent=2, allow_nan=False) + '\n'
  manifest_lib.replace_file(path, lambda p: p.write_text(text))


def _log(
    name: str,
    points: list[dict[str, Any]],
    refused: list[dict[str, Any]],
) -> None:
  """Logs the operating points, and the promises that could not be made."""
  for point in points:
    logging.info('%s: %s', name, _line(point))
  for entry in refused:
    logging.warning(
        '%s: %s cannot be given. %s', name, entry['name'], entry['reason']
    )


def _line(point: Mapping[str, Any]) -> str:
  """Returns an operating point and what was measured at it, as one line."""
  figures = point['promise']['measured']
  thresholds = np.unique(point['threshold'])
  kappas = ', '.join(f'{kappa:.4g}' for kappa in thresholds)
  return (
      f'{point["name"]}: policy {point["policy_index"]}, threshold {kappas}, '
      f'accuracy {figures["accuracy"]:.3f}, cost {figures["cost"]:.3f}, '
      f'loss {figures["loss"]:.3f}; {promises.in_words(point["promise"])}'
  )


if __name__ == '__main__':
  # Here, since the plans import the stages.
  from experiments import stage_plans

  command_line.run(
      calibrate_all, 'config', 'workdir', plan=stage_plans.show_calibrate
  )
