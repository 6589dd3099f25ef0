"""Gives every trained router its named operating points.

Run:    python -m experiments.calibrate --config=configs/arithmetic.py --workdir=runs/arithmetic
Writes: runs/seed<k>/operating_points.json

'cost<=b' is picked on all validation problems and promises nothing.
'loss<=a@p' promises relative loss <= a with probability p: member and threshold
grid are chosen on one half of validation, the half that also stopped training
early, and tested on the other, which nothing has seen before.
"""  # noqa: E501  Commands stay on one line.

from collections.abc import Sequence
import dataclasses
import json
import pathlib
import sys
from typing import Any

from absl import app
from absl import flags
from absl import logging
import ml_collections
from ml_collections import config_flags
import numpy as np

from experiments import graded as graded_lib
from experiments import train
from routing.calibration import outcomes as outcomes_lib
from routing.calibration import thresholds as thresholds_lib
from routing.problems import splits
from routing.routers import learned
from routing.shards import manifest as manifest_lib

_GRID_SIZE = 200


@dataclasses.dataclass(frozen=True)
class Member:
  """One policy on the validation problems: its scores, and where they lead."""

  scores: np.ndarray
  outcomes: outcomes_lib.Outcomes

  def take(self, problems: np.ndarray) -> 'Member':
    """The same on some of the problems."""
    return Member(self.scores[problems], self.outcomes.take(problems))


def members_of(
    router: learned.LearnedRouter, graded: graded_lib.Graded
) -> list[Member]:
  """Every policy of a router on a split, in the router's own ruler."""
  return [
      Member(scores, outcomes_lib.from_batch(graded.batch, routes))
      for scores, routes in graded_lib.member_choices(router, graded.batch)
  ]


def budget_point(
    members: Sequence[Member], budget: float
) -> tuple[int, thresholds_lib.OperatingPoint]:
  """The most accurate member and threshold within budget on the sample."""
  points = [
      thresholds_lib.for_budget(member.scores, member.outcomes, budget)
      for member in members
  ]
  best = max(range(len(points)), key=lambda k: points[k].accuracy)
  return best, points[best]


def loss_point(
    members: Sequence[Member], alpha: float, delta: float
) -> tuple[int, thresholds_lib.OperatingPoint]:
  """A promise: chosen on one half of the problems, tested on the other.

  Raises:
    ValueError: if the tested half is too small for the promise.
  """
  rows = np.arange(members[0].outcomes.num_problems)
  selection, calibration = splits.halves(rows)
  seen = [member.take(selection) for member in members]
  cost = [
      thresholds_lib.for_loss(member.scores, member.outcomes, alpha).cost
      for member in seen
  ]
  best = int(np.argmin(cost))
  grid = thresholds_lib.grid(
      seen[best].scores, seen[best].outcomes.mask, _GRID_SIZE
  )
  unseen = members[best].take(calibration)
  point = thresholds_lib.learn_then_test(
      unseen.scores, unseen.outcomes, alpha=alpha, delta=delta, thresholds=grid
  )
  return best, point


def to_json(
    name: str,
    member: int,
    point: thresholds_lib.OperatingPoint,
    hashes: dict[str, str],
) -> dict[str, Any]:
  """One entry of `operating_points.json`.

  Scores are chances, so 0 is 'always' and 2 is 'never' as well as -inf and inf
  are, and JSON knows these.
  """
  promise = point.promise
  return {
      'name': name,
      'member': member,
      'threshold': float(np.clip(point.threshold, 0.0, 2.0)),
      'promise': {
          'what': promise.quantity,
          'level': promise.level,
          'delta': promise.delta,
          'n': promise.num_problems,
          'p_value': promise.p_value,
          'measured': {
              key: round(getattr(point, key), 4)
              for key in ('accuracy', 'cost', 'loss', 'gain')
          },
      },
      **hashes,
  }


def points_of(
    config: ml_collections.ConfigDict,
    router: learned.LearnedRouter,
    validation: graded_lib.Graded,
) -> list[dict[str, Any]]:
  """All named points of one router.

  Raises:
    ValueError: if a budget is outside [small cost, 1], or a promise cannot be
      made from so few problems.
  """
  members = members_of(router, validation)
  delta = config.calibration.delta
  hashes = {
      'checkpoint_hash': router.checkpoint_hash,
      'shards_hash': validation.content_hash,
  }
  points = []
  for budget in config.calibration.budgets:
    member, point = budget_point(members, budget)
    points.append(to_json(f'cost<={budget:g}', member, point, hashes))
  for alpha in config.calibration.alphas:
    member, point = loss_point(members, alpha, delta)
    name = f'loss<={alpha:g}@{1 - delta:g}'
    points.append(to_json(name, member, point, hashes))
  return points


def calibrate_all(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> list[pathlib.Path]:
  """Calibrates every seed, or none; returns the files.

  Raises:
    ValueError: if a seed is not trained, or a point cannot be had.
  """
  directories = [
      train.run_directory(workdir, seed) for seed in config.train_seeds
  ]
  content: dict[pathlib.Path, list[dict[str, Any]]] = {}
  validation = None
  for directory in directories:
    router = learned.load(directory)
    if validation is None:
      validation = graded_lib.load(workdir, 'validation', router.card)
    points = points_of(config, router, validation)
    content[directory / learned.POINTS_FILE] = points
    for point in points:
      logging.info('%s: %s', directory.name, _line(point))
  # All seeds are done, so that an error above has left every file as it was.
  for path, points in content.items():
    text = json.dumps(points, indent=2, allow_nan=False) + '\n'
    manifest_lib.replace_file(path, lambda p, text=text: p.write_text(text))
  return list(content)


def _line(point: dict[str, Any]) -> str:
  figures = point['promise']['measured']
  return (
      f'{point["name"]}: member {point["member"]}, threshold '
      f'{point["threshold"]:.4g}, accuracy {figures["accuracy"]:.3f}, cost '
      f'{figures["cost"]:.3f}, loss {figures["loss"]:.3f}'
  )


def define_flags() -> None:
  """Defines the flags; only when run: the pipeline imports this module."""
  config_flags.DEFINE_config_file('config', lock_config=True)
  flags.DEFINE_string('workdir', None, 'Directory of the experiment.')
  flags.mark_flags_as_required(['config', 'workdir'])


def main(argv: Sequence[str]) -> None:
  """Calibrates all seeds."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  logging.set_verbosity(logging.INFO)
  values = flags.FLAGS
  try:
    calibrate_all(values.config, values.workdir)
  except (ValueError, FileNotFoundError) as error:
    sys.exit(f'calibrate: {error}')


if __name__ == '__main__':
  define_flags()
  app.run(main)
