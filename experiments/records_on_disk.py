"""Opens the records that a run collects, and gives them as outcome sources.

A run collects records of `config.data.kind` for all four splits. They are in
its own work directory, or in the one that `config.data.directory` names, which
several runs may share. An estimator that learns from trajectories also has
rollouts of its own.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import functools
import itertools
import pathlib
from typing import Any

import ml_collections

from experiments import builders
from experiments import split_on_disk
from routing import costs
from routing import progress as progress_lib
from routing import protocols
from routing import types
from routing.engines import engine as engine_lib
from routing.engines import memoized
from routing.features import feature_rows
from routing.features import observation
from routing.outcomes import joined_tables
from routing.outcomes import ladder_tables
from routing.outcomes import live
from routing.outcomes import live_answers
from routing.outcomes import records
from routing.outcomes import sources
from routing.outcomes import table as table_lib
from routing.rollout import trees
from routing.routers import card as card_lib
from routing.routers import fixed
from routing.shards import columns
from routing.shards import files
from routing.shards import reader
from routing.shards import reply_shards
from routing.training import estimators

SOURCES = ('known', 'recorded', 'live')
# `data.directory` begins so if the records come with the package.
_SHIPPED = 'shipped/'
# Folder of a work directory: live answers of all stages, seeds and splits.
ANSWERS_FOLDER = 'live_answers'


def check(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError if `data.kind` does not fit the other settings."""
  kind, protocol = config.data.kind, config.protocol.name
  if kind not in split_on_disk.KINDS:
    raise ValueError(
        f'data.kind is {kind!r}; allowed: {", ".join(split_on_disk.KINDS)}.'
    )
  if (kind == 'ladders') != (protocol == 'escalate') and kind != 'rollouts':
    raise ValueError(
        f'data.kind is {kind!r} and protocol.name is {protocol!r}; allowed: '
        'ladders or rollouts in escalate, replies or rollouts in switch and '
        'redraft.'
    )
  delimiter = builders.task(config).delimiter
  if kind == 'replies' and not delimiter.is_text:
    # A reply is collected as a part of a longer text, but a live step also pays
    # for the tokens after its end.
    raise ValueError(
        f"data.kind is 'replies' and task.delimiter is {delimiter}; allowed: a "
        'text. Collect rollouts instead.'
    )
  if kind == 'rollouts' and estimators.of(config).learns_from == 'known':
    raise ValueError(
        "objective.estimator is 'exact', which needs every trace's outcome; "
        "data.kind is 'rollouts'. Use vtrace or on_policy, or collect ladders "
        '(escalate) or replies (switch, redraft).'
    )
  if _subject(config) and (
      kind != 'ladders'
      or estimators.of(config).learns_from != 'known'
      or config.get('scorer', {}).get('model', '')
  ):
    raise ValueError(
        f'data.subject is {_subject(config)!r}, which needs data.kind '
        "'ladders', objective.estimator 'exact' and no scorer.model."
    )
  for stage in ('calibration', 'evaluation'):
    source = config[stage].source
    allowed = ('known',) if kind != 'rollouts' else ('recorded', 'live')
    if source not in allowed:
      raise ValueError(
          f'{stage}.source is {source!r}; allowed for data.kind {kind!r}: '
          f'{", ".join(allowed)}.'
      )


def _subject(config: ml_collections.ConfigDict) -> str:
  # Older saved configurations do not have this field.
  return config.data.get('subject', '')


def needed(config: ml_collections.ConfigDict) -> list[tuple[str, str]]:
  """Returns (kind, split) of all records that a run collects, in order."""
  kind = config.data.kind
  found = [(kind, split) for split in builders.SPLITS]
  if estimators.of(config).learns_from != 'known' and kind != 'rollouts':
    # Training uses only these two splits; the others are evaluated as `kind`.
    found += [('rollouts', split) for split in ('train', 'select')]
  return found


def is_shared(config: ml_collections.ConfigDict, kind: str) -> bool:
  """Returns whether records of a kind belong to another run; then read only."""
  return bool(config.data.directory) and kind == config.data.kind


def is_shipped(config: ml_collections.ConfigDict, kind: str) -> bool:
  """Returns whether records of a kind come with the package."""
  return is_shared(config, kind) and config.data.directory.startswith(_SHIPPED)


def directory(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    split: str,
    kind: str | None = None,
) -> pathlib.Path:
  """Returns a split's directory; `kind` None stands for `config.data.kind`."""
  kind = kind or config.data.kind
  folder = 'shards' if kind == config.data.kind else 'rollouts'
  home = config.data.directory if is_shared(config, kind) else workdir
  if is_shipped(config, kind):
    home = reader.shipped(home.removeprefix(_SHIPPED))
  return files.path(home) / folder / split


def open_split(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    split: str,
    kind: str | None = None,
) -> split_on_disk.Split:
  """Returns a split's records; `kind` None stands for `config.data.kind`."""
  kind = kind or config.data.kind
  where = directory(config, workdir, split, kind)
  size = config.problems[split]
  if size < 0 or not is_shared(config, kind):
    size = None  # All that are there.
  return split_on_disk.Split(
      where, split_on_disk.KINDS[kind], size, _subject(config)
  )


def known_records(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str, split: str
) -> Iterator[types.Ladder] | Iterator[trees.ReplyTree]:
  """Yields the known outcomes of each problem: its ladder or its reply tree.

  Raises:
    ValueError: if the collection is not complete, or a reply is missing.
  """
  opened = open_split(config, workdir, split)
  found = _with_progress(opened, opened.records(), lambda record: 1)
  if config.data.kind == 'ladders':
    return found
  # Shards hold each reply once; the tree over all traces is rebuilt from them.
  grower = trees.TreeBuilder(
      builders.protocol(config),
      builders.sampling(config),
      builders.grader(config),
  )
  return map(grower.build, found)


def known_table(
    known: Iterable[types.Ladder] | Iterable[trees.ReplyTree],
    features: observation.FeatureConfig,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
) -> table_lib.OutcomeTable:
  """Returns the outcome table of ladders or reply trees; reads them once.

  Raises:
    ValueError: if there are no records.
  """
  known = iter(known)
  first = next(known, None)
  if first is None:
    raise ValueError('The split holds 0 records; at least 1 is needed.')
  known = itertools.chain([first], known)  # Put back what was looked at.
  if isinstance(first, types.Ladder):
    return records.ladder_table(known, features, accounting, protocol)
  return records.tree_table(known, features, accounting)


def source(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    split: str,
    card: card_lib.Card,
    name: str,
) -> sources.Source:
  """Returns the source that evaluates thresholds on the problems of a split.

  Args:
    config: of the run.
    workdir: of the run.
    split: name of the split.
    card: of the router.
    name: one of `SOURCES`. Live answers are saved for all stages of the run.

  Raises:
    ValueError: if there is no such source, or the collection is not complete,
      or has other models or another protocol than the router.
  """
  # Any other name would be taken for 'live', whose models may be paid.
  if name not in SOURCES:
    raise ValueError(
        f'The source of outcomes is {name!r}; allowed: {", ".join(SOURCES)}.'
    )
  opened = open_split(config, workdir, split)
  split_on_disk.check_card(card, config, opened)
  if name == 'known':
    return known_outcomes(config, workdir, split, card)
  rollouts = list(opened.records())
  met = records.recorded_source(
      rollouts,
      card.features,
      card.accounting,
      card.protocol,
      config.calibration.min_effective_size,
  )
  if name == 'recorded':
    return met
  # A live source still needs the recorded rollouts: for what the large model
  # does alone, and for the observations from which candidate thresholds come.
  completions = [x.reference for x in rollouts]
  return live.Live(
      answering=answering(config, card),
      problems=met.problems,
      large_correct=met.large_correct,
      large_cut=met.large_cut,
      large_cost=records.large_costs(completions, card.accounting),
      random_router=functools.partial(
          fixed.RandomRouter, route=len(card.specs) - 1
      ),
      grid_source=met,
      folder=pathlib.Path(workdir) / ANSWERS_FOLDER,
  )


def known_outcomes(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    split: str,
    card: card_lib.Card,
) -> sources.Known:
  """Returns the source of exactly known outcomes of a split.

  Args:
    config: of the run.
    workdir: of the run.
    split: name of the split.
    card: of the router.
  """
  if config.data.kind == 'ladders':
    return ladder_source(open_split(config, workdir, split), card, workdir)
  return tree_source(config, workdir, split, card)


def tree_source(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    split: str,
    card: card_lib.Card,
    on_tree: Callable[[trees.ReplyTree], None] = lambda tree: None,
) -> sources.Known:
  """Returns the source of the reply trees of a split.

  Trees are large, so each is dropped once it is in the table.

  Args:
    config, workdir, split, card: as in `known_outcomes`.
    on_tree: called with each tree.
  """
  problems = []

  def noted():
    for tree in known_records(config, workdir, split):
      problems.append(tree.problem)
      on_tree(tree)
      yield tree

  table = known_table(noted(), card.features, card.accounting, card.protocol)
  return sources.Known(table, problems)


def ladder_source(
    opened: split_on_disk.Split,
    card: card_lib.Card,
    workdir: pathlib.Path | str,
) -> sources.Known:
  """Returns the known outcomes of a split of ladders.

  One file is read at a time.

  Args:
    opened: the split.
    card: of the router.
    workdir: of the run, where features go that are too large for memory.
  """
  problems, samples = [], set()

  def tables():
    for shard in _with_progress(opened, opened.tables(), len):
      problems.extend(columns.decode_problems(shard))
      samples.update(ladder_tables.samples(shard))
      yield ladder_tables.of_shard(
          shard, card.features, card.accounting, card.protocol
      )

  table = joined_tables.joined(
      tables(), feature_rows.Writer(pathlib.Path(workdir))
  )
  # Graded once: an outcome is 0 or 1, so losses have an exact binomial test.
  return sources.Known(table, problems, is_graded_once=samples == {0})


def _with_progress(
    opened: split_on_disk.Split,
    parts: Iterable[Any],
    size: Callable[[Any], int],
) -> Iterator[Any]:
  """Yields parts of a split, of `size` records each, and shows how many."""
  with progress_lib.Progress(
      opened.num_records,
      f'read {opened.directory.name}',
      unit='problem',
      is_brief=True,
  ) as shown:
    for part in parts:
      yield part
      shown.update(size(part))


def answering(
    config: ml_collections.ConfigDict,
    card: card_lib.Card,
    *,
    allow_other_pair: bool = False,
) -> live_answers.Answering:
  """Returns how the engines of a configuration answer problems live.

  Args:
    config: of the run.
    card: of the router.
    allow_other_pair: True = the models may be others than those that the router
      was trained on.

  Raises:
    ValueError: if the models are others, and this is not allowed.
  """
  weights = builders.model_identities(config)
  if not allow_other_pair:
    split_on_disk.check_weights(card, weights, 'The configuration is')
  return live_answers.Answering(
      make_engines=functools.partial(builders.steady_engines, config),
      protocol=builders.protocol(config),
      accounting=card.accounting,
      sampling=builders.sampling(config),
      grade=builders.grader(config),
      # The seed of collection, so that requests are the same as in the shards.
      seed=config.seed,
      concurrency=config.collect.concurrency,
      max_failures=builders.limits(config).failures,
      made_by={
          'weights_sha256': weights,
          'routes': builders.answer_keys(config),
      },
  )


def engines(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str, split: str
) -> list[engine_lib.Engine]:
  """Returns the engines of a run, which know the collected replies of a split.

  A known reply is not generated again. It is charged as if it had been.
  """
  asked = builders.engines(config)
  if config.data.kind != 'replies':
    return asked
  # Hidden states take the most memory, and observations use only those of the
  # smallest model.
  memories = [
      memoized.Memory(keeps_hidden=engine.route == 0) for engine in asked
  ]
  reply_shards.remember(open_split(config, workdir, split).records(), memories)
  return list(map(memoized.MemoizedEngine, asked, memories))
