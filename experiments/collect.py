"""Collects the ladders of one split into `<workdir>/shards/<split>/`.

Run:    python -m experiments.collect --config=configs/arithmetic.py --workdir=runs/arithmetic --split=train
Resume: the same command; what is on disk is kept.
"""  # noqa: E501  Commands stay on one line.

import asyncio
from collections.abc import Sequence
import dataclasses
import pathlib
import sys
from typing import Any

from absl import app
from absl import flags
from absl import logging
import ml_collections
from ml_collections import config_flags

from experiments import builders
from routing import progress as progress_lib
from routing import types
from routing.engines import engine as engine_lib
from routing.grading import equivalence
from routing.rollout import collect
from routing.shards import manifest as manifest_lib
from routing.shards import writer as writer_lib


def shard_directory(workdir: pathlib.Path | str, split: str) -> pathlib.Path:
  """Where the ladders of a split are."""
  return pathlib.Path(workdir) / 'shards' / split


def settings(config: ml_collections.ConfigDict, split: str) -> dict[str, Any]:
  """All that the ladders follow from, besides the problems themselves."""
  return {
      'split': split,
      'problems': {
          'source': config.problems.source,
          'seed': config.problems.seed,
      },
      'models': [dataclasses.asdict(spec) for spec in builders.specs(config)],
      'weights_sha256': builders.weight_hashes(config),
      'plan': dataclasses.asdict(builders.plan(config)),
  }


def collect_split(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str, split: str
) -> pathlib.Path:
  """Collects what is missing of a split; returns its shard directory.

  Raises:
    ValueError: if the configuration asks for what cannot be, or the directory
      holds data of other settings, or a shard that is not as it was written.
      Nothing is overwritten then.
  """
  if config.collect.concurrency > config.engine.num_slots:
    # Traces would evict one another's cache and be charged for reading again.
    raise ValueError(
        f'collect.concurrency is {config.collect.concurrency}; allowed: at '
        f'most engine.num_slots, {config.engine.num_slots}.'
    )
  directory = shard_directory(workdir, split)
  problems = builders.problems(config, split)
  writer = writer_lib.LadderWriter(
      directory, problems, settings(config, split), config.collect.shard_size
  )
  if writer.missing():
    asyncio.run(
        collect_missing(
            problems,
            builders.engines(config),
            writer,
            plan=builders.plan(config),
            grade=builders.grader(config),
            concurrency=config.collect.concurrency,
            name=f'collect {split}',
        )
    )
  return directory


async def collect_missing(
    problems: Sequence[types.Problem],
    engines: Sequence[engine_lib.Engine],
    writer: writer_lib.LadderWriter,
    *,
    plan: collect.Plan,
    grade: equivalence.Grader,
    concurrency: int,
    name: str = 'collect',
) -> None:
  """Collects the problems that are in no shard yet, and closes the engines."""
  missing = writer.missing()
  try:
    with progress_lib.Progress(
        len(problems),
        name,
        unit='problem',
        done=len(problems) - len(missing),
    ) as progress:
      await collect.collect_ladders(
          [problems[i] for i in missing],
          engines,
          lambda i, ladder: writer.add(missing[i], ladder),
          plan=plan,
          grade=grade,
          concurrency=concurrency,
          on_done=progress.update,
      )
  finally:
    for engine in engines:
      await engine.close()


def summary(manifest: manifest_lib.Manifest, directory: pathlib.Path) -> str:
  """One line for the log."""
  return (
      f'{manifest.num_problems} ladders in {len(manifest.shards)} shards under '
      f'{directory}'
  )


def define_flags() -> None:
  """Defines the flags; only when run: the pipeline imports this module."""
  config_flags.DEFINE_config_file('config', lock_config=True)
  flags.DEFINE_string('workdir', None, 'Directory of the experiment.')
  flags.DEFINE_enum('split', 'train', builders.SPLITS, 'What to collect.')
  flags.mark_flags_as_required(['config', 'workdir'])


def main(argv: Sequence[str]) -> None:
  """Collects one split."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  logging.set_verbosity(logging.INFO)  # Or progress would not be seen.
  values = flags.FLAGS
  try:
    directory = collect_split(values.config, values.workdir, values.split)
  except (ValueError, FileNotFoundError) as error:
    sys.exit(f'collect: {error}')
  logging.info(summary(manifest_lib.load(directory), directory))


if __name__ == '__main__':
  define_flags()
  app.run(main)
