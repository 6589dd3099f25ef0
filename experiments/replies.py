"""Collects every reply of every model on one split into `<workdir>/<split>/`.

Run:    python -m experiments.replies --config=configs/arithmetic_redraft.py --workdir=runs/replies --split=test
Resume: the same command; what is on disk is kept.

They are the same for all protocols, rulers and routers of one pair: what is
collected or evaluated with `--replies=runs/replies` needs no model any more.
"""  # noqa: E501  Commands stay on one line.

import asyncio
from collections.abc import Iterator
from collections.abc import Sequence
import functools
import pathlib
from typing import Any

from absl import flags
from absl import logging
import ml_collections

from experiments import builders
from experiments import collect
from experiments import launch
from experiments import overnight
from routing.engines import engine as engine_lib
from routing.engines import remembered
from routing.lm import tokenizer as tokenizer_lib
from routing.rollout import replies as replies_lib
from routing.shards import manifest as manifest_lib
from routing.shards import reader
from routing.shards import replies as reply_shards

# Of one model on one problem; the embedded pair's largest problem has 60.
_MAX_REPLIES = 200


def settings(config: ml_collections.ConfigDict, split: str) -> dict[str, Any]:
  """All that the replies follow from, besides the problems themselves."""
  known = collect.settings(config, split)
  sampling = known.pop('plan')['sampling']
  return {**known, 'sampling': sampling, 'max_replies': _MAX_REPLIES}


def collect_split(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    split: str,
    num_problems: int | None = None,
) -> pathlib.Path:
  """Collects what is missing of a split; returns its shard directory.

  Args:
    config: names problems, engines and sampling.
    workdir: gets a directory for each split.
    split: name of it.
    num_problems: the first so many of the split; None = all.

  Raises:
    ValueError: if the configuration asks for what cannot be, or the directory
      holds data of other settings, or a shard that is not as it was written.
      Nothing is overwritten then.
    engine_lib.Stop: if it came to an end before all problems did.
  """
  collect.check_concurrency(config)
  directory = pathlib.Path(workdir) / split
  problems = builders.problems(config, split)[:num_problems]
  writer = reply_shards.ReplyWriter(
      directory, problems, settings(config, split), config.collect.shard_size
  )
  if writer.missing():
    asyncio.run(
        overnight.collect_missing(
            functools.partial(
                replies_lib.collect_replies,
                sampling=builders.sampling(config),
                max_replies=_MAX_REPLIES,
            ),
            problems,
            builders.engines(config),
            writer,
            specs=builders.specs(config),
            concurrency=config.collect.concurrency,
            limits=builders.limits(config),
            name=f'replies {split}',
        )
    )
  return directory


def memories(
    config: ml_collections.ConfigDict,
    directory: pathlib.Path | str,
    splits: Sequence[str],
) -> list[remembered.Memory]:
  """What each model replies to the problems of some splits, by route.

  Args:
    config: of a run.
    directory: the `workdir` that the replies were collected with.
    splits: names.

  Raises:
    ValueError: as `read` does.
  """
  # Observations read the smallest model's hidden states alone.
  found = [
      remembered.Memory(keeps_hidden=route == 0)
      for route in range(len(builders.specs(config)))
  ]
  for split in splits:
    reply_shards.remember(read(config, directory, split), found)
  return found


def read(
    config: ml_collections.ConfigDict, directory: pathlib.Path | str, split: str
) -> Iterator[replies_lib.Replies]:
  """The replies on a split, as far as they are collected.

  Args:
    config: of a run.
    directory: the `workdir` that the replies were collected with.
    split: name.

  Raises:
    ValueError: if nothing is collected, or with other models or settings.
  """
  return reply_shards.read(_checked(config, directory, split))


def read_all(
    config: ml_collections.ConfigDict, directory: pathlib.Path | str, split: str
) -> tuple[int, Iterator[replies_lib.Replies]]:
  """How many problems were to be collected, and the replies on all of them.

  Args are those of `read`.

  Raises:
    ValueError: as `read` does, or if the collection is not finished.
  """
  folder = _checked(config, directory, split)
  manifest = reader.complete_manifest(folder, reply_shards.REPLIES)
  return manifest.num_problems, reply_shards.read(folder)


def _checked(
    config: ml_collections.ConfigDict, directory: pathlib.Path | str, split: str
) -> pathlib.Path:
  """The directory of a split, if it is of the models and settings named."""
  folder = pathlib.Path(directory) / split
  wanted = settings(config, split)
  there = dict(reader.read_manifest(folder).settings)
  there.pop('problems_hash')
  if manifest_lib.hash_json(there) != manifest_lib.hash_json(wanted):
    names = [key for key in wanted if there.get(key) != wanted[key]]
    raise ValueError(
        f'{folder} holds replies of other settings than the configuration '
        f'({", ".join(names)} differ); collect them in another directory.'
    )
  return folder


def engines(
    config: ml_collections.ConfigDict, known: Sequence[remembered.Memory]
) -> list[engine_lib.Engine]:
  """The engines of a configuration, asked only what is not known.

  Raises:
    ValueError: if they are not the embedded ones: of others it is not known
      what their prefix caches hold.
  """
  kind = config.engine.get('kind', 'embedded')
  if kind != 'embedded':
    raise ValueError(
        f'engine.kind is {kind!r}; replies are remembered of embedded models '
        'alone.'
    )
  encode = tokenizer_lib.Tokenizer().encode
  return [
      remembered.RememberedEngine(engine, encode, memory)
      for engine, memory in zip(builders.engines(config), known, strict=True)
  ]


def engines_for(
    config: ml_collections.ConfigDict,
    directory: pathlib.Path | str | None,
    split: str,
) -> list[engine_lib.Engine]:
  """The engines, with what they replied to a split if that is at hand.

  Args:
    config: of a run.
    directory: of the replies; None = the models are asked everything.
    split: name.
  """
  if directory is None:
    return builders.engines(config)
  return engines(config, memories(config, directory, [split]))


def main(
    config: ml_collections.ConfigDict,
    workdir: str,
    split: str,
    problems: int | None,
) -> None:
  """Collects one split."""
  directory = collect_split(config, workdir, split, problems)
  logging.info(collect.summary(manifest_lib.load(directory), directory))


if __name__ == '__main__':
  flags.DEFINE_enum('split', 'train', builders.SPLITS, 'What to collect.')
  flags.DEFINE_integer('problems', None, 'Only the first so many.', 1)
  launch.run(main, 'config', 'workdir', 'split', 'problems')
