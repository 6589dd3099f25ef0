"""From problems to a calibrated, evaluated router: all stages, one command.

Run:    python -m experiments.pipeline --config=configs/arithmetic.py --workdir=runs/arithmetic
Others: --config=configs/arithmetic_redraft.py or arithmetic_switch.py; any protocol, estimator and pair
Resume: the same command; a finished stage is skipped, an unfinished one goes on.
Writes: what the stages write, and prints where each file is.
"""  # noqa: E501  Commands stay on one line.

from collections.abc import Callable
from collections.abc import Iterable
import dataclasses
import functools
import os
import pathlib
import time

import ml_collections

from experiments import calibrate
from experiments import collect
from experiments import evaluate
from experiments import launch
from experiments import report
from experiments import run_data
from experiments import train
from experiments import workdirs
from routing.routers import learned


@dataclasses.dataclass(frozen=True)
class Stage:
  """One stage: what it runs, and the files by which it is known to be done.

  resumes: `run` itself keeps what is finished and checks it, so it is always
    called; otherwise it is called only while a file is missing.
  """

  name: str
  run: Callable[[], object]
  files: tuple[pathlib.Path, ...]
  resumes: bool = False

  def is_done(self) -> bool:
    """All files are there; stages write them whole or not at all."""
    return all(path.exists() for path in self.files)


def stages(
    config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> list[Stage]:
  """The stages in order."""
  runs = [train.run_directory(workdir, seed) for seed in config.train_seeds]
  return [
      *(
          Stage(
              f'collect {kind} {split}',
              functools.partial(
                  collect.collect_split, config, workdir, split, kind
              ),
              (
                  run_data.directory(config, workdir, split, kind)
                  / 'manifest.json',
              ),
              resumes=True,
          )
          for kind, split in run_data.needed(config)
      ),
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
      ),
      Stage(
          'evaluate',
          lambda: evaluate.evaluate(config, workdir),
          (workdir / evaluate.RESULTS_FILE,),
      ),
      Stage(
          'report',
          lambda: report.write(workdir),
          tuple(workdir / name for name in report.FILES),
      ),
  ]


def run(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    say: Callable[[str], None] = print,
) -> list[pathlib.Path]:
  """Runs what is missing; returns every stage's files.

  Raises:
    ValueError: if the directory is of another configuration, or a stage
      refuses its input. Nothing is overwritten then.
  """
  directory = workdirs.claim(workdir, config)
  files = []
  for stage in stages(config, directory):
    start = time.monotonic()
    was_done = stage.is_done()
    if stage.resumes or not was_done:
      stage.run()
    took = 'done before' if was_done else f'{time.monotonic() - start:.0f} s'
    say(f'{stage.name:24} {took:>12}  {_shown(stage.files)}')
    files += stage.files
  return files


def _shown(paths: Iterable[pathlib.Path]) -> str:
  """The paths, relative to here where that is shorter."""
  return ' '.join(
      min(str(path), os.path.relpath(path), key=len) for path in paths
  )


def main(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Runs the pipeline and prints the table."""
  run(config, workdir)
  report.show(workdir)


if __name__ == '__main__':
  launch.run(main, 'config', 'workdir')
