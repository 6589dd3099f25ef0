"""Collects the ladders of one split into `<workdir>/shards/<split>/`.

Run:    python -m experiments.collect --config=configs/arithmetic.py --workdir=runs/arithmetic --split=train
Resume: the same command; what is on disk is kept. Ctrl-C finishes the shards in hand first.
"""  # noqa: E501  Commands stay on one line.

import asyncio
import dataclasses
import functools
import pathlib
from typing import Any

from absl import flags
from absl import logging
import ml_collections

from experiments import builders
from experiments import launch
from experiments import overnight
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


def check_concurrency(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError if traces would evict one another's cache.

  They would be charged for reading again.
  """
  num_slots = config.engine.get('num_slots')  # Servers have none of their own.
  if num_slots and config.collect.concurrency > num_slots:
    raise ValueError(
        f'collect.concurrency is {config.collect.concurrency}; allowed: at '
        f'most engine.num_slots, {num_slots}.'
    )


def collect_split(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str, split: str
) -> pathlib.Path:
  """Collects what is missing of a split; returns its shard directory.

  Raises:
    ValueError: if the configuration asks for what cannot be, or the directory
      holds data of other settings, or a shard that is not as it was written.
      Nothing is overwritten then.
    engine_lib.Stop: if it came to an end before all problems did.
  """
  check_concurrency(config)
  directory = shard_directory(workdir, split)
  problems = builders.problems(config, split)
  writer = writer_lib.LadderWriter(
      directory, problems, settings(config, split), config.collect.shard_size
  )
  if writer.missing():
    asyncio.run(
        overnight.collect_missing(
            functools.partial(
                collect.collect_ladders,
                plan=builders.plan(config),
                grade=builders.grader(config),
            ),
            problems,
            builders.engines(config),
            writer,
            specs=builders.specs(config),
            concurrency=config.collect.concurrency,
            limits=builders.limits(config),
            name=f'collect {split}',
        )
    )
  return directory


def summary(manifest: manifest_lib.Manifest, directory: pathlib.Path) -> str:
  """One line for the log."""
  rows = sum(shard.rows for shard in manifest.shards)
  shards, failed = len(manifest.shards), len(manifest.failures)
  line = f'{rows} {manifest.kind} in {shards} shards under {directory}'
  if not failed:
    return line
  first = manifest.failures[0]
  return (
      f'{line}; {failed} problems failed and are listed in '
      f'{manifest_lib.FILE_NAME}, the first, {first.id}, since: {first.reason}'
  )


def main(config: ml_collections.ConfigDict, workdir: str, split: str) -> None:
  """Collects one split."""
  directory = collect_split(config, workdir, split)
  logging.info(summary(manifest_lib.load(directory), directory))


if __name__ == '__main__':
  flags.DEFINE_enum('split', 'train', builders.SPLITS, 'What to collect.')
  launch.run(main, 'config', 'workdir', 'split')
