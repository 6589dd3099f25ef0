"""Evaluates every method on the test problems, and answers some of them live.

Run:    python -m experiments.evaluate --config=configs/arithmetic.py --workdir=runs/arithmetic
Writes: results.json

Thresholds and hulls are chosen on `select` problems and seen on `test` ones,
which no stage before has seen.
"""  # noqa: E501  Commands stay on one line.

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import json
import pathlib
import time
from typing import Any

from absl import logging
import ml_collections

from experiments import calibrate
from experiments import command_line
from experiments import records_on_disk
from experiments import train
from routing import costs
from routing import progress as progress_lib
from routing.evaluation import broken_promises
from routing.evaluation import evaluator
from routing.evaluation import methods
from routing.evaluation import results as results_lib
from routing.outcomes import live
from routing.outcomes import records
from routing.outcomes import sources
from routing.problems import splits
from routing.routers import families
from routing.routers import learned
from routing.routers import learners as learners_lib
from routing.routers import saved as saved_lib
from routing.routers import tuning
from routing.shards import manifest as manifest_lib
from routing.training import estimators

RESULTS_FILE = 'results.json'


def load_routers(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> list[learned.LearnedRouter]:
  """The trained router of every seed."""
  return [train.load_router(workdir, seed) for seed in config.train_seeds]


def open_pair(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    routers: Sequence[learned.LearnedRouter],
) -> methods.Pair:
  """`select` and `test`, as routers see them.

  Raises:
    ValueError: if a router has seen the latter, was trained on other models, or
      was calibrated on other records than are there.
  """
  pair = methods.Pair(
      *(
          records_on_disk.source(
              config,
              workdir,
              split,
              routers[0].card,
              config.evaluation.source,
          )
          for split in ('select', 'test')
      )
  )
  for router in routers:
    for split in ('select', 'test'):
      opened = records_on_disk.open_split(config, workdir, split)
      records_on_disk.check_card(router.card, config, opened)
    _check_calibrated(
        router, records_on_disk.open_split(config, workdir, 'prove')
    )
    router.seen.check('select', pair.select.problems)
    router.seen.check('test', pair.test.problems)
  return pair


def _check_calibrated(
    router: learned.LearnedRouter, prove: records_on_disk.Split
) -> None:
  """Raises ValueError if points were calibrated on other records of `prove`."""
  found = prove.manifest.content_hash
  for point in router.points:
    if point.shards_hash not in ('', found):
      raise ValueError(
          f'Operating point {point.name!r} was calibrated on shards '
          f'{point.shards_hash[:12]}, but {prove.directory} is {found[:12]}; '
          'calibrate again.'
      )


def tuned_learners(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    router: learned.LearnedRouter,
    select: sources.Source,
    on_trial: Callable[[], None] = lambda: None,
) -> tuple[dict[str, list[sources.Family]], dict[str, Any]]:
  """The supervised learners, each tuned on `select`, and what was tried."""
  learners_lib.check(config.evaluation.learners, config.evaluation.trials)
  data = _training_records(config, workdir, router)
  num_decisions = len(data.decisions.depth)
  metric, found, tried = router.card.ruler, {}, {}
  for name in config.evaluation.learners:
    start = time.monotonic()
    best = tuning.tune(
        learners_lib.LEARNERS[name],
        data,
        value=lambda x: methods.area_for_tuning(x, select, metric),
        metric=metric,
        features=router.card.features,
        seed=config.seed,
        num_trials=config.evaluation.trials,
        on_trial=on_trial,
    )
    found[name] = best.families
    most = learners_lib.LEARNERS[name].max_decisions or num_decisions
    tried[name] = {
        'setting': best.setting,
        'areas': best.values,
        'decisions': num_decisions,
        'fitted_on': min(num_decisions, most),
    }
    logging.info(
        '%s: %s of %d settings, %.0f s',
        name,
        best.setting,
        len(best.values),
        time.monotonic() - start,
    )
  return found, tried


def _training_records(config, workdir, router):
  """What the policy learnt from, for learners: known outcomes or rollouts."""
  card = router.card
  is_known = estimators.of(config).learns_from == 'known'
  kind = None if is_known else 'rollouts'
  opened = records_on_disk.open_split(config, workdir, 'train', kind)
  records_on_disk.check_card(card, config, opened)
  if is_known:
    known = records_on_disk.known_records(config, workdir, 'train')
    return records_on_disk.known_table(known, card)
  return records.recorded_source(
      list(opened.records()), card.features, card.accounting, card.protocol
  )


def figures(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    routers: Sequence[learned.LearnedRouter],
    pair: methods.Pair,
    on_part: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
  """Everything in `results.json` but what is answered live."""
  card = routers[0].card
  largest = len(card.specs) - 1
  others, tried = tuned_learners(
      config, workdir, routers[0], pair.select, on_part
  )
  others['confidence'] = [families.Uncertainty(largest)]
  others['fixed step'] = [families.FixedStep(largest)]
  members = families.members(routers[0])
  rulers = evaluator.figures(
      [families.members(router) for router in routers],
      others,
      pair,
      resamples=config.evaluation.resamples,
      seed=config.seed,
      on_metric=on_part,
  )
  earned, points_left_out = evaluator.operating_points(
      routers[0].points, members, pair.test, card.ruler
  )
  _log_left_out(rulers, points_left_out)
  counted = {
      name: records_on_disk.open_split(config, workdir, name)
      for name in ('train', 'select', 'prove', 'test')
  }
  return {
      'schema': results_lib.SCHEMA,
      'ruler': card.ruler,
      'source': pair.test.kind,
      'num_problems': {
          name: x.num_problems or sum(y.rows for y in x.manifest.shards)
          for name, x in counted.items()
      },
      'seeds': list(config.train_seeds),
      'resamples': config.evaluation.resamples,
      **inputs(config, workdir),
      'tuning': tried,
      'rulers': rulers,
      'operating_points': earned,
      'points_left_out': points_left_out,
      'refused_points': _refused(config, workdir),
      'coverage': _count_broken(config, routers[0], pair),
  }


def _refused(config, workdir) -> list[dict[str, Any]]:
  """The promises that calibration refused the first seed, and why."""
  run = train.run_directory(workdir, config.train_seeds[0])
  path = run / calibrate.REFUSED_FILE
  return json.loads(path.read_text()) if path.exists() else []


def inputs(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> dict[str, Any]:
  """What the results follow from, as `results.json` records it.

  Raises:
    ValueError: if a seed is not trained, or a split is not collected.
  """
  runs = [train.run_directory(workdir, seed) for seed in config.train_seeds]
  return {
      'config': json.loads(config.to_json_best_effort()),
      'checkpoints': [saved_lib.read_card(run)['hash'] for run in runs],
      'shards': {
          split: records_on_disk.open_split(
              config, workdir, split
          ).manifest.content_hash
          for split in splits.SPLITS
      },
      'points_sha256': [
          manifest_lib.hash_file(run / learned.POINTS_FILE)
          if (run / learned.POINTS_FILE).exists()
          else None
          for run in runs
      ],
  }


def is_current(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> bool:
  """Whether `results.json` is of what is there now.

  Raises:
    ValueError: if a seed is not trained, or a split is not collected.
  """
  path = pathlib.Path(workdir) / RESULTS_FILE
  if not path.exists():
    return False
  results = json.loads(path.read_text())
  wanted = inputs(config, workdir)
  return {name: results.get(name) for name in wanted} == wanted


def _count_broken(config, router, pair) -> dict[str, Any] | None:
  """Broken promises on test problems; None where outcomes are not known."""
  if not isinstance(pair.test, sources.Known) or not config.evaluation.coverage:
    return None
  promised = [p.member for p in router.points if p.promise['what'] == 'loss']
  member = promised[0] if promised else router.member
  family = families.members(router)[member]
  grid = pair.select.grid(family, config.calibration.grid)
  counts = broken_promises.count(
      pair.test.earn(family, grid, router.card.ruler),
      grid,
      num_samples=config.evaluation.coverage,
      seed=config.seed,
  )
  return {'member': member, **counts}


def _log_left_out(
    rulers: Mapping[str, Any], points_left_out: Sequence[str]
) -> None:
  """Warns of what is in no table; once where the rulers agree on why."""
  for line in dict.fromkeys(
      f'{name}: {reason}'
      for ruler in rulers.values()
      for name, reason in ruler['left_out'].items()
  ):
    logging.warning('Left out: %s', line)
  for name in points_left_out:
    logging.warning('Left out: the operating point %s', name)


def answer_at_points(
    config: ml_collections.ConfigDict,
    router: learned.LearnedRouter,
    test: sources.Source,
) -> list[dict[str, Any]]:
  """The first test problems answered live at each named point of a router.

  Beside each the prediction of the source, where it can tell.
  """
  size = config.evaluation.live
  if not size or not router.points or not isinstance(test, sources.Known):
    return []
  answering = records_on_disk.answering(config, router.card)
  problems = test.problems[:size]
  metric, members = router.card.ruler, families.members(router)
  at = [router.at(point.name) for point in router.points]
  answers = live.answer_under(answering, problems, at)
  entries = []
  for point, answered in zip(router.points, answers, strict=True):
    kappas = evaluator.threshold_row(point.threshold)
    predicted = test.earn(members[point.member], kappas, metric)
    compared = live.compare(
        answered,
        test.table.large_cost[metric][: len(problems)],
        predicted.on(slice(0, len(problems))),
        answering,
    )
    entries.append(
        {'name': point.name, 'seed': config.train_seeds[0]} | compared
    )
  return entries


def evaluate(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> pathlib.Path:
  """Evaluates all seeds and writes `results.json`; returns its path.

  Raises:
    ValueError: if an earlier stage is not finished, its files do not belong
      together, or a router has seen the test problems.
  """
  routers = load_routers(config, workdir)
  pair = open_pair(config, workdir, routers)
  # One part for each setting of a learner, each cost metric, and what is left.
  given = config.evaluation
  num_parts = len(given.learners) * given.trials + len(costs.RULERS) + 1
  with progress_lib.Progress(
      num_parts, 'evaluate', unit='part', has_estimate=False
  ) as shown:
    content = figures(config, workdir, routers, pair, shown.update)
    shown.update()
  content |= {'live': answer_at_points(config, routers[0], pair.test)}
  path = pathlib.Path(workdir).absolute() / RESULTS_FILE
  text = json.dumps(results_lib.to_json(content), allow_nan=False) + '\n'
  manifest_lib.replace_file(path, lambda p: p.write_text(text))
  logging.info('Results in %s', path)
  return path


if __name__ == '__main__':
  command_line.run(evaluate, 'config', 'workdir')
