"""Runs all stages, from problems to a calibrated and evaluated router.

Run:    python -m experiments.pipeline --config=configs/arithmetic.py --workdir=runs/arithmetic
Others: --config=configs/arithmetic_redraft.py or arithmetic_switch.py; any protocol, estimator and pair
Plan:   the same with --dry_run, which prints the size and the time of every stage and runs nothing
Resume: the same command. A finished stage is skipped, an unfinished one continues, and a stage whose inputs have changed since runs again.
Grow:   the same command with a larger --config.problems.prove, if calibration.procedure is 'growing'
Writes: the files of every stage, and prints where each is.
"""  # noqa: E501  Commands stay on one line.

import sys

if __name__ == '__main__':
  # Importing takes seconds, and half a minute the first time: say so before.
  print('Loading the libraries ...', file=sys.stderr, flush=True)

from collections.abc import Callable
import dataclasses
import functools
import pathlib
import time

import ml_collections

from experiments import calibrate
from experiments import collect
from experiments import command_line
from experiments import evaluate
from experiments import records_on_disk
from experiments import report
from experiments import settings
from experiments import train
from experiments import workdirs
from experiments.scoring import score_steps
from routing.routers import learned
from routing.training import compile_time


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage of the pipeline and the files that show whether it is done.

  name: as printed, e.g. 'collect ladders train'.
  run: runs the stage.
  files: all of them exist once the stage is done.
  resumes: True if `run` itself checks and keeps finished work; it is then
    always called. Otherwise it is called only while the stage is not done.
  is_current: whether `files`, which all exist, were made from the inputs that
    are on disk now. A ValueError also means that they were not.
  """

  name: str
  run: Callable[[], object]
  files: tuple[pathlib.Path, ...]
  resumes: bool = False
  is_current: Callable[[], bool] = lambda: True

  def is_begun(self) -> bool:
    """Returns whether at least one file of the stage exists."""
    return any(path.exists() for path in self.files)

  def is_done(self) -> bool:
    """Returns whether all files exist and were made from the current inputs."""
    # Existence is enough: a stage writes each file whole or not at all.
    if not all(path.exists() for path in self.files):
      return False
    try:
      return self.is_current()
    except (ValueError, FileNotFoundError):
      # An input is unfinished or was deleted. The stage that makes it says so
      # better than this check could.
      return False


def stages(
    config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> list[Stage]:
  """Returns the stages in the order in which they run."""
  runs = [train.run_directory(workdir, seed) for seed in config.train_seeds]
  return [
      *(
          Stage(
              f'collect {kind} {split}',
              functools.partial(
                  collect.collect_split, config, workdir, split, kind
              ),
              (
                  records_on_disk.directory(config, workdir, split, kind)
                  / 'manifest.json',
              ),
              resumes=True,
              is_current=functools.partial(
                  _is_collected, config, workdir, split, kind
              ),
          )
          for kind, split in records_on_disk.needed(config)
      ),
      *_scoring(config, workdir),
      Stage(
          'train',
          lambda: train.train_all(config, workdir),
          tuple(run / learned.CARD_FILE for run in runs),
          resumes=True,
      ),
      Stage(
          'calibrate',
          lambda: calibrate.calibrate_all(config, workdir),
          tuple(run / learned.POINTS_FILE for run in runs),
          is_current=lambda: calibrate.is_current(config, workdir),
      ),
      Stage(
          'evaluate',
          lambda: evaluate.evaluate(config, workdir),
          (workdir / evaluate.RESULTS_FILE,),
          is_current=lambda: evaluate.is_current(config, workdir),
      ),
      Stage(
          'report',
          lambda: report.write(workdir),
          tuple(workdir / name for name in report.FILES),
          is_current=lambda: report.is_current(workdir),
      ),
  ]


def _scoring(
    config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> list[Stage]:
  """Returns the stage that scores steps, if the configuration has a scorer."""
  if not score_steps.is_on(config):
    return []
  return [
      Stage(
          score_steps.STAGE,
          lambda: score_steps.score_all(config, workdir),
          tuple(
              score_steps.directory(workdir, split) / score_steps.KEY_FILE
              for split in score_steps.SPLITS
          ),
          is_current=lambda: score_steps.is_current(config, workdir),
      )
  ]


def _is_collected(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    split: str,
    kind: str,
) -> bool:
  """Returns whether a split has all problems; ValueError if unfinished."""
  manifest = records_on_disk.open_split(config, workdir, split, kind).manifest
  # A larger split may be shared by runs that read only its first problems.
  return manifest.num_problems >= config.problems[split]


def _say(line: str) -> None:
  """Prints a line at once, also where a file or a pipe would hold it back."""
  print(line, flush=True)


def run(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    say: Callable[[str], None] = _say,
) -> list[pathlib.Path]:
  """Runs the stages that are not done and returns the files of all stages.

  Args:
    config: of the run.
    workdir: directory of the run, made if it does not exist.
    say: takes one line of progress per stage.

  Raises:
    ValueError: if the directory belongs to another configuration, or a stage
      rejects its input. Nothing is overwritten then.
  """
  # Before the claim: a rejected configuration leaves no directory behind.
  settings.check(config)
  directory = workdirs.claim(workdir, config)
  files = []
  in_order = stages(config, directory)
  for number, stage in enumerate(in_order, 1):
    title = f'Stage {number} of {len(in_order)}: {stage.name}'
    start = time.monotonic()
    was_begun, was_done = stage.is_begun(), stage.is_done()
    if not was_done:
      say(title)
    if stage.resumes or not was_done:
      stage.run()
    took = f'{time.monotonic() - start:.0f} s'
    if was_begun:
      took = f'{"resumed" if stage.resumes else "again"}, {took}'
    paths = ' '.join(map(report.shown, stage.files))
    say(f'{title}, done before: {paths}' if was_done else f'  {took}: {paths}')
    files += stage.files
  return files


def main(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Runs the pipeline, prints the table, and says what to try next."""
  compiling = compile_time.watched()
  asked, overrides = command_line.asked()
  names = [stage.name for stage in stages(config, pathlib.Path(workdir))]
  minutes = report.expected_minutes(config, asked)
  for line in report.opening(names, pathlib.Path(workdir), minutes):
    _say(line)
  run(config, workdir)
  report.show(workdir)
  commands = report.next_commands(asked, overrides, workdir)
  _say(f'\nCompiling took {compiling.seconds():.1f} s in all.')
  for line in report.closing(workdir, commands):
    _say(line)


if __name__ == '__main__':
  # Here, since the plans import the stages.
  from experiments import stage_plans

  command_line.run(main, 'config', 'workdir', plan=stage_plans.show_pipeline)
