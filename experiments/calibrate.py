"""Gives every trained router its named operating points.

Run:    python -m experiments.calibrate --config=configs/arithmetic.py --workdir=runs/arithmetic
Resume: the same command; what was answered live is kept
Writes: runs/seed<k>/operating_points.json, refused_points.json: promises that so few problems cannot bear, and why; and seen.json with the problems of `prove`

Members and the thresholds worth testing are chosen on `select`, promises are
tested on `prove`, which nothing has seen before. 'cost<=b' is chosen on
`select` and promises nothing. All others are promises, each with its own
probability, not all of a file together:

    loss<=a@p              relative loss <= a with probability p
    cost<=b@p              mean cost <= b with probability p
    loss<=a@p&cost<=b@p    both, each with probability p
    loss<=a@p[group]       the loss of one group; p for all groups together
    loss<=a@p/steps0,3     a threshold for decisions 0 to 2, another from 3 on
"""  # noqa: E501  Commands stay on one line.

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any

from absl import logging
import ml_collections
import numpy as np

from experiments import launch
from experiments import run_data
from experiments import train
from routing.calibration import calibrator
from routing.outcomes import sources
from routing.routers import families
from routing.routers import learned
from routing.shards import manifest as manifest_lib

REFUSED_FILE = 'refused_points.json'


def wanted(config: ml_collections.ConfigDict) -> calibrator.Wanted:
  """Which points a configuration asks for."""
  fields = {field.name for field in dataclasses.fields(calibrator.Wanted)}
  given = config.calibration.to_dict()
  return calibrator.Wanted(**{k: v for k, v in given.items() if k in fields})


def points_of(
    config: ml_collections.ConfigDict,
    router: learned.LearnedRouter,
    source: Mapping[str, sources.Source],
    shards_hash: str,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
  """All named points of one router, and the promises that are refused.

  Args:
    config: of the run.
    router: the router, which must not have seen the problems of `prove`.
    source: `select` and `prove`.
    shards_hash: of what `prove` was read from.

  Raises:
    ValueError: if the router has seen the problems, or a budget is outside
      [small cost, 1].
  """
  for split in ('select', 'prove'):
    router.seen.check(split, source[split].problems)
  found = calibrator.Calibrator(
      families.members(router),
      source['select'],
      source['prove'],
      wanted(config),
      metric=router.card.ruler,
      hashes={
          'checkpoint_hash': router.checkpoint_hash,
          'shards_hash': shards_hash,
      },
  )
  return found.points(), found.refused


def open_sources(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    router: learned.LearnedRouter,
) -> dict[str, sources.Source]:
  """What thresholds earn on `select` and `prove`, as a router sees them."""
  return {
      split: run_data.source(
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
    ValueError: if a seed is not trained, has seen what it would be tested on,
      or a budget is outside [small cost, 1].
  """
  shards_hash = run_data.open_split(
      config, workdir, 'prove'
  ).manifest.content_hash
  content: dict[pathlib.Path, str] = {}
  opened = None
  for seed in config.train_seeds:
    directory = train.run_directory(workdir, seed)
    router = learned.load(directory)
    # Live answers are each router's own; what is recorded serves all.
    if opened is None or config.calibration.source == 'live':
      opened = open_sources(config, workdir, router)
    points, refused = points_of(config, router, opened, shards_hash)
    seen = router.seen.with_problems('prove', opened['prove'].problems)
    content[directory / learned.SEEN_FILE] = json.dumps(seen.to_json())
    content[directory / REFUSED_FILE] = json.dumps(refused, indent=2)
    content[directory / learned.POINTS_FILE] = json.dumps(
        points, indent=2, allow_nan=False
    )
    for point in points:
      logging.info('%s: %s', directory.name, _line(point))
    for entry in refused:
      logging.warning(
          '%s: %s is refused. %s',
          directory.name,
          entry['name'],
          entry['reason'],
      )
  # All seeds are done, so that an error above has left every file as it was.
  for path, text in content.items():
    manifest_lib.replace_file(path, lambda p, t=text: p.write_text(t + '\n'))
  return [path for path in content if path.name == learned.POINTS_FILE]


def _line(point: Mapping[str, Any]) -> str:
  figures = point['promise']['measured']
  thresholds = np.unique(point['threshold'])
  kappas = ', '.join(f'{kappa:.4g}' for kappa in thresholds)
  return (
      f'{point["name"]}: member {point["member"]}, threshold {kappas}, '
      f'accuracy {figures["accuracy"]:.3f}, cost {figures["cost"]:.3f}, '
      f'loss {figures["loss"]:.3f}'
  )


if __name__ == '__main__':
  launch.run(calibrate_all, 'config', 'workdir')
