"""Prints what each stage would do, its size and a rough time; does nothing.

No model is loaded and nothing is written. What collecting takes is in
`dry_run.py`. Times of the other stages are the work, counted from the
configuration, at a speed that was measured once; expect a factor of three. What
cannot be counted beforehand is shown as unknown. What is shown as done is what
the pipeline would skip.
"""

from collections.abc import Sequence
import pathlib

import ml_collections

from experiments import builders
from experiments import collection_facts
from experiments import dry_run
from experiments import evaluate
from experiments import pipeline
from experiments import plan_table
from experiments import records_on_disk
from experiments import report
from experiments import train
from experiments.scoring import score_steps
from routing.objectives import lagrangian
from routing.training import estimators

# Processor seconds on an AMD EPYC, without a GPU, of arithmetic.py:demo. There,
# training took 17.5 and calibration 4.0; evaluation is what these and
# collecting leave of the time of the whole pipeline.
_TRAIN_FLOPS = 7e10  # Counted operations a second; zeros are skipped.
_TRAIN_START = 5.0  # Compilation, for each seed.
_PER_THRESHOLD = 3e-6  # Calibration: a policy at a threshold on a problem.
_PER_FIT = 2e-3  # Evaluation: a setting of a learner on a training problem.
_PER_RESAMPLE = 5e-7  # Evaluation: a method on a problem of a resample.
_REPORT = 8.0
_START = 3.0  # Of every stage: imports, reading records.


def _num_policies(config: ml_collections.ConfigDict) -> int:
  """Returns K, how many policies one seed trains."""
  return len(config.objective.levels) or lagrangian.NUM_SPREAD


def _num_features(config: ml_collections.ConfigDict) -> int:
  """Returns F; an upper bound where the hidden state's length is not known."""
  hidden = collection_facts.hidden_size(builders.routes(config)[0]) or 1
  return builders.features(config, len(config.routes), hidden).size


def _num_weights(config: ml_collections.ConfigDict) -> int:
  """Returns how many weights one policy has, biases and attention left out."""
  widths = [_num_features(config), *config.network.hidden, len(config.routes)]
  return sum(a * b for a, b in zip(widths, widths[1:], strict=False))


def _is_done(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str, name: str
) -> bool:
  """Returns whether the pipeline would skip a stage of this name."""
  in_order = pipeline.stages(config, pathlib.Path(workdir))
  (stage,) = [x for x in in_order if x.name == name]
  return stage.is_done()


def score_rows(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> list[plan_table.Row]:
  """Returns what scoring steps would do; nothing where there is no scorer."""
  if not score_steps.is_on(config):
    return []
  is_done = _is_done(config, workdir, score_steps.STAGE)
  sizes = [_number(config.problems[x]) for x in score_steps.SPLITS]
  return [
      plan_table.Row(
          score_steps.STAGE,
          f'steps of the ladders of {", ".join(score_steps.SPLITS)}, by '
          f'{config.scorer.model}',
          f'{" + ".join(sizes)} problems',
          0 if is_done else None,
      )
  ]


def train_rows(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> list[plan_table.Row]:
  """Returns what training would do."""
  left = [x for x in config.train_seeds if not train.is_finished(workdir, x)]
  num_policies = _num_policies(config)
  decisions = builders.sampling(config).max_decisions
  # Forward and backward: 6 operations per weight and decision.
  flops = 6 * _num_weights(config) * config.batch_size * decisions
  seconds = config.num_steps * num_policies * flops / _TRAIN_FLOPS
  of_all = len(left) and _START + len(left) * (_TRAIN_START + seconds)
  name = estimators.name_of(config)
  if estimators.of(config).writes_its_own:  # Models answer in between.
    of_all = None if left else 0
  network = f'{config.network.kind} {"x".join(map(str, config.network.hidden))}'
  return [
      plan_table.Row(
          'train',
          f'{num_policies} policies ({network}, {name}), '
          f'left: {len(left)} of {len(config.train_seeds)} seeds',
          f'{config.num_steps:,} steps of {config.batch_size:,} problems, '
          f'{_num_weights(config):,} weights a policy',
          of_all,
      )
  ]


def _number(count: int) -> str:
  return f'{count:,}' if count >= 0 else 'all'


def calibrate_rows(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> list[plan_table.Row]:
  """Returns what calibration would do."""
  runs = [train.run_directory(workdir, x) for x in config.train_seeds]
  is_done = _is_done(config, workdir, 'calibrate')
  sizes = [config.problems[x] for x in ('select', 'prove')]
  num_policies = _num_policies(config) * len(runs)
  work = num_policies * config.calibration.num_thresholds * sum(sizes)
  is_known = min(sizes) >= 0 and config.calibration.source != 'live'
  seconds = _START + work * _PER_THRESHOLD if is_known else None
  return [
      plan_table.Row(
          'calibrate',
          f'points of {num_policies} policies, chosen on select, promises '
          'tested on prove',
          f'{config.calibration.num_thresholds} thresholds on '
          f'{" + ".join(map(_number, sizes))} problems',
          0 if is_done else seconds,
      )
  ]


def evaluate_rows(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> list[plan_table.Row]:
  """Returns what evaluation would do."""
  is_done = _is_done(config, workdir, 'evaluate')
  trained, tested = config.problems.train, config.problems.test
  fits = len(config.evaluation.learners) * config.evaluation.num_trials
  # The policies of all seeds, and the anchors.
  methods = len(config.evaluation.learners) + len(config.train_seeds) + 4
  seconds = None
  if min(trained, tested) >= 0 and config.evaluation.source != 'live':
    seconds = _START + fits * trained * _PER_FIT
    seconds += config.evaluation.resamples * methods * tested * _PER_RESAMPLE
  rows = [
      plan_table.Row(
          'evaluate',
          f'{fits} fits of {len(config.evaluation.learners)} supervised '
          f'baselines, {config.evaluation.resamples:,} bootstrap resamples',
          f'{_number(trained)} problems of train, {_number(tested)} of test',
          0 if is_done else seconds,
      )
  ]
  if config.evaluation.num_live:
    rows.append(
        plan_table.Row(
            'evaluate',
            'test problems answered live at each operating point',
            f'at most {config.evaluation.num_live:,} a point',
            0 if is_done else None,
        )
    )
  return rows


def report_rows(workdir: pathlib.Path | str) -> list[plan_table.Row]:
  """Returns what the report would do."""
  names = ', '.join(report.FILES)
  is_there = (pathlib.Path(workdir) / evaluate.RESULTS_FILE).exists()
  is_done = is_there and report.is_current(workdir)
  size = f'{len(report.FILES)} files' if is_there else 'no results yet'
  return [plan_table.Row('report', names, size, 0 if is_done else _REPORT)]


def show_score_steps(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> None:
  """Prints what scoring steps would do.

  Raises:
    ValueError: if the configuration has no scorer, or its settings are wrong.
  """
  score_steps.check_is_on(config)
  plan_table.show(
      score_rows(config, workdir), [_needs(config, workdir), plan_table.BASIS]
  )


def show_train(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> None:
  """Prints what training would do."""
  plan_table.show(
      train_rows(config, workdir), [_needs(config, workdir), plan_table.BASIS]
  )


def show_calibrate(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> None:
  """Prints what calibration would do."""
  plan_table.show(
      calibrate_rows(config, workdir),
      [_needs(config, workdir), plan_table.BASIS],
  )


def show_evaluate(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> None:
  """Prints what evaluation would do."""
  plan_table.show(
      evaluate_rows(config, workdir),
      [_needs(config, workdir), plan_table.BASIS],
  )


def show_report(
    workdir: pathlib.Path | str | None,
    compare: bool = False,
    directories: Sequence[str] = (),
) -> None:
  """Prints what the report would do; arguments as those of `report.main`."""
  if compare:
    size = f'{len(directories)} runs'
    rows = [
        plan_table.Row('report', 'one page of runs side by side', size, _REPORT)
    ]
  elif workdir is None:
    raise ValueError('Give --workdir=<run>, or --compare and directories.')
  else:
    rows = report_rows(workdir)
  plan_table.show(rows, [plan_table.BASIS])


def show_pipeline(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> None:
  """Prints what collecting takes, and what the other stages would do."""
  dry_run.show(config, workdir)
  plan_table.show(
      [
          *score_rows(config, workdir),
          *train_rows(config, workdir),
          *calibrate_rows(config, workdir),
          *evaluate_rows(config, workdir),
          *report_rows(workdir),
      ],
      [plan_table.BASIS],
  )


def _needs(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> str:
  """Returns which records are still missing, before a stage that needs them."""
  missing = []
  for kind, split in records_on_disk.needed(config):
    try:
      _ = records_on_disk.open_split(config, workdir, split, kind).manifest
    except (ValueError, FileNotFoundError):
      missing.append(f'{kind} {split}')
  if not missing:
    return 'All records are collected.'
  return f'Not collected yet: {", ".join(missing)}.'
