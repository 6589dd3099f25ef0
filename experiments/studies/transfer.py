"""Evaluates a router of one task on the ladders of another task.

Run:    python -m experiments.studies.transfer --config=configs/paper.py:math --workdir=runs/paper/math --router=runs/paper/gsm8k/runs/seed0
Writes: in transfer/<hash of the router>/: transfer.json, and the recalibrated router

The ladders of --workdir must be collected, with the same models. The thresholds
are used twice. First as they are: what was promised on the first task is not
promised here. Then calibrated again, on `select` and `prove` of this task: only
these promises hold here. Both are evaluated on `test`.
"""  # noqa: E501  Commands stay on one line.

import copy
import dataclasses
import json
import pathlib
from typing import Any

from absl import flags
from absl import logging
import ml_collections

from experiments import builders
from experiments import calibrate
from experiments import command_line
from experiments import records_on_disk
from routing.evaluation import evaluator
from routing.evaluation import methods
from routing.evaluation import results as results_lib
from routing.outcomes import sources
from routing.routers import card as card_lib
from routing.routers import families
from routing.routers import learned
from routing.routers import saved as saved_lib
from routing.shards import manifest as manifest_lib
from routing.tasks import splits

FOLDER = 'transfer'
RESULTS_FILE = 'transfer.json'
NO_PROMISE = 'no promise here: the threshold was calibrated on another task'


def check(config: ml_collections.ConfigDict, card: card_lib.Card) -> None:
  """Raises ValueError unless a router can decide in ladders of another run.

  Models, protocol and cost metric are compared when the ladders are opened.

  Args:
    config: of the run that collected the ladders.
    card: of the router.
  """
  if config.data.kind != 'ladders':
    raise ValueError(
        f'data.kind is {config.data.kind!r}; a router is transferred to '
        'ladders only.'
    )
  expected = builders.features(
      config, len(config.routes), card.features.hidden_size
  )
  for field in dataclasses.fields(expected):
    here, there = (getattr(x, field.name) for x in (expected, card.features))
    if here != there:
      raise ValueError(
          f'The router was trained with {field.name} {there!r}, but this run '
          f'has {here!r}; use the same features and number of decisions.'
      )


def transfer(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    router: pathlib.Path | str,
) -> pathlib.Path:
  """Evaluates a router on another task and returns the file of its results.

  Args:
    config: of the run whose ladders are used.
    workdir: of that run; all its splits are collected.
    router: directory of a trained and calibrated router of another run.

  Raises:
    ValueError: if models, weights, protocol, features or cost metric differ,
      the router is not calibrated, it has seen problems of this run in another
      split, or `prove` was used for another test of it.
  """
  workdir = pathlib.Path(workdir).absolute()
  moved = learned.load(router)
  moved.seen.require_known(str(router))
  if not moved.points:
    raise ValueError(f'{router} has no operating points; calibrate it first.')
  check(config, moved.card)
  opened = {
      split: records_on_disk.source(config, workdir, split, moved.card, 'known')
      for split in ('select', 'prove', 'test')
  }
  for split, source in opened.items():
    moved.seen.check(split, source.problems)
  _check_not_proved(moved, opened['prove'])
  directory = workdir / FOLDER / moved.checkpoint_hash[:16]
  points, refused = _recalibrate(config, workdir, moved, opened, directory)
  content = {
      'router': moved.checkpoint_hash,
      'shards': {
          split: records_on_disk.open_split(
              config, workdir, split
          ).manifest.content_hash
          for split in opened
      },
      **figures(config, moved, points, opened),
      'refused_points': refused,
  }
  path = directory / RESULTS_FILE
  text = json.dumps(results_lib.to_json(content), allow_nan=False) + '\n'
  manifest_lib.replace_file(path, lambda p: p.write_text(text))
  _log(content)
  logging.info('Results are in %s', path)
  return path


def _check_not_proved(
    moved: learned.LearnedRouter, prove: sources.Source
) -> None:
  """Raises ValueError if promises of the router were tested on a problem."""
  # A second test would not be noticed: its looks are in another directory.
  for problem in prove.problems:
    if splits.question_hash(problem.question) in moved.seen.prove:
      raise ValueError(
          f'Promises of this router were tested on problem {problem.id} '
          'before; a transfer needs other problems in prove.'
      )


def _recalibrate(
    config, workdir, moved, opened, directory
) -> tuple[list[card_lib.OperatingPoint], list[dict[str, Any]]]:
  """Calibrates a copy of the router on this task; returns points and refusals.

  The copy is saved in `directory` with its looks at `prove`, so that a second
  test of the same problems is noticed.
  """
  if not (directory / saved_lib.CARD_FILE).exists():
    copied = copy.copy(moved)
    copied.points = ()  # Those of the other task promise nothing here.
    copied.save(directory)
  prove = records_on_disk.open_split(config, workdir, 'prove').manifest
  run = calibrate.prepare(
      config, learned.load(directory), opened, prove, directory
  )
  calibrate.note_look(run)
  content = calibrate.take_look(config, run)
  for path, value in content.items():
    calibrate.write_json(path, value)
  refused = content[directory / calibrate.REFUSED_FILE]
  return learned.load(directory).points, refused


def figures(
    config: ml_collections.ConfigDict,
    router: learned.LearnedRouter,
    points: list[card_lib.OperatingPoint],
    opened: dict[str, sources.Source],
) -> dict[str, Any]:
  """Returns the figures on `test` of both sets of thresholds, and the curves.

  Args:
    config: of the run whose ladders are used.
    router: the router, with the points of its own task.
    points: the points that were calibrated on this task.
    opened: the sources of 'select' and 'test'.
  """
  metric, policies = router.card.metric, families.policies(router)
  kept, _ = evaluator.operating_points(
      router.points, policies, opened['test'], metric
  )
  again, _ = evaluator.operating_points(
      points, policies, opened['test'], metric
  )
  largest = len(router.card.specs) - 1
  return {
      'schema': results_lib.SCHEMA,
      'cost_metric': metric,
      'num_problems': {k: len(v.problems) for k, v in opened.items()},
      # What was promised on the other task stays readable, as no promise.
      'kept': [
          point | {'promise': NO_PROMISE, 'promise_elsewhere': point['promise']}
          for point in kept
      ],
      'recalibrated': again,
      'cost_metrics': evaluator.figures(
          [policies],
          {
              'confidence': [families.Uncertainty(largest)],
              'fixed step': [families.FixedStep(largest)],
          },
          methods.Pair(opened['select'], opened['test']),
          resamples=config.evaluation.resamples,
          seed=config.seed,
      ),
  }


def _log(content: dict[str, Any]) -> None:
  """Logs one line for each threshold."""
  for name in ('kept', 'recalibrated'):
    for point in content[name]:
      logging.info(
          '%s, %s: accuracy %.3f, cost %.3f, loss %.3f; %s',
          name,
          point['name'],
          point['accuracy']['mean'],
          point['cost'],
          point['loss']['mean'],
          point['promise'],
      )
  for entry in content['refused_points']:
    logging.warning('%s cannot be given. %s', entry['name'], entry['reason'])


if __name__ == '__main__':
  flags.DEFINE_string('router', None, 'Directory of the router.', required=True)
  command_line.run(transfer, 'config', 'workdir', 'router')
