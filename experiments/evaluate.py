"""Evaluates every method on the test problems and answers some of them live.

Run:    python -m experiments.evaluate --config=configs/arithmetic.py --workdir=runs/arithmetic
Writes: results.json

Thresholds and hulls are chosen on `select`. The figures are from `test`, which
no earlier stage has seen.
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
from experiments import live_points
from experiments import records_on_disk
from experiments import split_on_disk
from experiments import tracking
from experiments import train
from experiments.scoring import score_steps
from experiments.scoring import scored_pairs
from routing import costs
from routing import progress as progress_lib
from routing.evaluation import broken_promises
from routing.evaluation import evaluator
from routing.evaluation import methods
from routing.evaluation import results as results_lib
from routing.outcomes import records
from routing.outcomes import sources
from routing.routers import families
from routing.routers import learned
from routing.routers import learners as learners_lib
from routing.routers import saved as saved_lib
from routing.routers import tuning
from routing.shards import manifest as manifest_lib
from routing.tasks import splits
from routing.training import estimators

RESULTS_FILE = 'results.json'


def load_routers(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> list[learned.LearnedRouter]:
  """Returns the trained router of every seed."""
  return [train.load_router(workdir, seed) for seed in config.train_seeds]


def open_pair(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    routers: Sequence[learned.LearnedRouter],
) -> methods.Pair:
  """Returns the sources of outcomes of `select` and `test`.

  Args:
    config: of the run; `evaluation.source` names the kind of source.
    workdir: of the run.
    routers: one for each seed; all have the same features and cost accounting.

  Raises:
    ValueError: if a router has seen problems of `test`, was trained on other
      models, or was calibrated on other records than the current ones.
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
  # The source was opened with the first router's card; the others must agree.
  for router in routers:
    for split in ('select', 'test'):
      opened = records_on_disk.open_split(config, workdir, split)
      split_on_disk.check_card(router.card, config, opened)
    _check_calibrated(
        router, records_on_disk.open_split(config, workdir, 'prove')
    )
    router.seen.check('select', pair.select.problems)
    router.seen.check('test', pair.test.problems)
  return pair


def _check_calibrated(
    router: learned.LearnedRouter, prove: split_on_disk.Split
) -> None:
  """Raises ValueError if a point was calibrated on other records of `prove`."""
  found = prove.manifest.content_hash
  for point in router.points:
    # '' = not recorded, in points of older files.
    if point.shards_hash not in ('', found):
      raise ValueError(
          f'Operating point {point.name!r} was calibrated on shards '
          f'{point.shards_hash[:12]}, but {prove.directory} is {found[:12]}. '
          'Calibrate again.'
      )


def tuned_learners(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    router: learned.LearnedRouter,
    select: sources.Source,
    on_trial: Callable[[], None] = lambda: None,
) -> tuple[dict[str, list[sources.Family]], dict[str, Any]]:
  """Tunes every supervised learner on `select`.

  Returns:
    Name -> families of thresholds of the best setting; and name -> a record of
    the settings that were tried, for `results.json`.
  """
  learners_lib.check(config.evaluation.learners, config.evaluation.num_trials)
  if not config.evaluation.learners:
    return {}, {}
  data = _training_records(config, workdir, router)
  num_decisions = len(data.decisions.depth)
  metric, found, tried = router.card.metric, {}, {}
  for name in config.evaluation.learners:
    start = time.monotonic()
    best = tuning.tune(
        learners_lib.LEARNERS[name],
        data,
        value=lambda x: methods.area_for_tuning(x, select, metric),
        metric=metric,
        features=router.card.features,
        seed=config.seed,
        num_trials=config.evaluation.num_trials,
        on_trial=on_trial,
    )
    found[name] = best.families
    # A learner may fit on a subset of the decisions, to bound its time.
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
  """Returns what the policy was trained on, so that learners get the same."""
  card = router.card
  is_known = estimators.of(config).learns_from == 'known'
  kind = None if is_known else 'rollouts'
  opened = records_on_disk.open_split(config, workdir, 'train', kind)
  split_on_disk.check_card(card, config, opened)
  if is_known:
    return records_on_disk.known_outcomes(config, workdir, 'train', card).table
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
  """Returns the content of `results.json`, except the live answers.

  Args:
    config: of the run.
    workdir: of the run.
    routers: one for each seed; operating points are those of the first.
    pair: `select` and `test`.
  """
  card, largest = routers[0].card, len(routers[0].card.specs) - 1
  others, tried = tuned_learners(
      config, workdir, routers[0], pair.select, on_part
  )
  scored = scored_pairs.pairs(config, workdir, pair, card)
  others |= {
      'confidence': [families.Uncertainty(largest)],
      'confidence, mean': [families.Uncertainty(largest, 'mean')],
      'confidence, first token': [families.Uncertainty(largest, 'first')],
      'fixed step': [families.FixedStep(largest)],
      **{name: [families.StepScore(largest)] for name in scored},
  }
  # Operating points, live answers and coverage are those of the first seed: one
  # router is what a user deploys. Curves and areas are over all seeds.
  of_seed = list(map(families.policies, routers))
  policies = of_seed[0]  # These families keep their scores.
  cost_metrics = evaluator.figures(
      of_seed,
      others,
      pair,
      resamples=config.evaluation.resamples,
      seed=config.seed,
      on_metric=on_part,
      own_pairs=scored,
  )
  points, points_left_out = evaluator.operating_points(
      routers[0].points, policies, pair.test, card.metric
  )
  _log_left_out(cost_metrics, points_left_out)
  return {
      'schema': results_lib.SCHEMA,
      'cost_metric': card.metric,
      'source': pair.test.kind,
      'num_problems': _num_problems(config, workdir),
      # The seed axis of the figures, in the order of `routers`.
      'seeds': list(config.train_seeds),
      'resamples': config.evaluation.resamples,
      **inputs(config, workdir),
      'tuning': tried,
      'cost_metrics': cost_metrics,
      'operating_points': points,
      'points_left_out': points_left_out,
      'refused_points': _refused(config, workdir),
      'coverage': _count_broken(config, routers[0], policies, pair),
  }


def _num_problems(config, workdir) -> dict[str, int]:
  """Returns the number of problems of each split."""
  return {
      name: records_on_disk.open_split(config, workdir, name).num_records
      for name in ('train', 'select', 'prove', 'test')
  }


def _refused(config, workdir) -> list[dict[str, Any]]:
  """Returns the promises that could not be made for the first seed, and why."""
  run = train.run_directory(workdir, config.train_seeds[0])
  path = run / calibrate.REFUSED_FILE
  return json.loads(path.read_text()) if path.exists() else []


def inputs(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> dict[str, Any]:
  """Returns what determines the results, as recorded in `results.json`.

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
      'step_scores': score_steps.identities(config, workdir),
      # None for a seed that is not calibrated: it has no operating points.
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
  """Returns whether `results.json` was made from the current inputs.

  Raises:
    ValueError: if a seed is not trained, or a split is not collected.
  """
  path = pathlib.Path(workdir) / RESULTS_FILE
  if not path.exists():
    return False
  results = json.loads(path.read_text())
  # Compared by content hashes: times of files say nothing after a copy.
  current = inputs(config, workdir)
  return {name: results.get(name) for name in current} == current


def _count_broken(config, router, policies, pair) -> dict[str, Any] | None:
  """Counts broken promises on test problems; None if outcomes are not known."""
  if (
      not isinstance(pair.test, sources.Known)
      or not config.evaluation.num_coverage_samples
  ):
    return None
  # The policy that a promise of loss is about; else the router's default one.
  promised = [
      p.policy_index for p in router.points if p.promise['what'] == 'loss'
  ]
  policy_index = promised[0] if promised else router.policy_index
  family = policies[policy_index]
  # From `select`: thresholds must be fixed before `test` is looked at.
  grid = pair.select.grid(family, config.calibration.num_thresholds)
  counts = broken_promises.count(
      pair.test.evaluate(family, grid, router.card.metric),
      grid,
      num_samples=config.evaluation.num_coverage_samples,
      seed=config.seed,
  )
  return {'policy_index': policy_index, **counts}


def _log_left_out(
    cost_metrics: Mapping[str, Any], points_left_out: Sequence[str]
) -> None:
  """Logs which methods and points are in no table, each reason once."""
  # `dict.fromkeys` drops repetitions: most reasons are the same in all metrics.
  for line in dict.fromkeys(
      f'{name}: {reason}'
      for metric in cost_metrics.values()
      for name, reason in metric['left_out'].items()
  ):
    logging.warning('Left out: %s', line)
  for name in points_left_out:
    logging.warning('Left out: the operating point %s', name)


def evaluate(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> pathlib.Path:
  """Evaluates all seeds, writes `results.json`, and returns its path.

  Raises:
    ValueError: if an earlier stage is not finished, files of different runs are
      mixed, or a router has seen test problems.
  """
  routers = load_routers(config, workdir)
  pair = open_pair(config, workdir, routers)
  num_fits = len(config.evaluation.learners) * config.evaluation.num_trials
  num_parts = num_fits + len(costs.COST_METRICS) + 1
  with progress_lib.Progress(
      num_parts, 'evaluate', unit='part', has_estimate=False
  ) as shown:
    content = figures(config, workdir, routers, pair, shown.update)
    shown.update()
  content = results_lib.to_json(
      content
      | {'live': live_points.answer(config, workdir, routers[0], pair.test)}
  )
  path = pathlib.Path(workdir).absolute() / RESULTS_FILE
  text = json.dumps(content, allow_nan=False) + '\n'
  manifest_lib.replace_file(path, lambda p: p.write_text(text))
  logging.info('Results are in %s', path)
  tracking.final(
      config,
      path.parent,
      path.parent.name,
      'evaluation',
      tracking.of_results(content),
  )
  return path


if __name__ == '__main__':
  # Here, since the plans import the stages.
  from experiments import stage_plans

  command_line.run(
      evaluate, 'config', 'workdir', plan=stage_plans.show_evaluate
  )
