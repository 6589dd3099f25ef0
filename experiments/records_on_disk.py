"""Opens the records that a run collects, and gives them as outcome sources.

A run collects records of `config.data.kind` for all four splits. They are in
its own work directory, or in the one that `config.data.directory` names, which
several runs may share. An estimator that learns from trajectories also has
rollouts of its own.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import functools
import itertools
import pathlib
from typing import Any

import ml_collections

from experiments import builders
from routing import costs
from routing import progress as progress_lib
from routing import types
from routing.engines import engine as engine_lib
from routing.engines import memoized
from routing.outcomes import live
from routing.outcomes import live_answers
from routing.outcomes import records
from routing.outcomes import sources
from routing.rollout import trees
from routing.routers import card as card_lib
from routing.routers import fixed
from routing.shards import manifest as manifest_lib
from routing.shards import reader
from routing.shards import reply_shards
from routing.shards import schema
from routing.training import estimators

KINDS = {
    'ladders': schema.LADDERS,
    'replies': reply_shards.REPLIES,
    'rollouts': schema.ROLLOUTS,
}
SOURCES = ('known', 'recorded', 'live')
# `data.directory` begins so if the records come with the package.
_SHIPPED = 'shipped/'
# Folder of a work directory: live answers of all stages, seeds and splits.
ANSWERS_FOLDER = 'live_answers'


def check(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError if `data.kind` does not fit the other settings."""
  kind, protocol = config.data.kind, config.protocol.name
  if kind not in KINDS:
    raise ValueError(f'data.kind is {kind!r}; allowed: {", ".join(KINDS)}.')
  if (kind == 'ladders') != (protocol == 'escalate') and kind != 'rollouts':
    raise ValueError(
        f'data.kind is {kind!r} and protocol.name is {protocol!r}; allowed: '
        'ladders or rollouts in escalate, replies or rollouts in switch and '
        'redraft.'
    )
  if kind == 'rollouts' and estimators.of(config).learns_from == 'known':
    raise ValueError(
        "objective.estimator is 'exact', which needs every trace's outcome; "
        "data.kind is 'rollouts'. Use vtrace or on_policy, or collect ladders "
        '(escalate) or replies (switch, redraft).'
    )
  for stage in ('calibration', 'evaluation'):
    source = config[stage].source
    allowed = ('known',) if kind != 'rollouts' else ('recorded', 'live')
    if source not in allowed:
      raise ValueError(
          f'{stage}.source is {source!r}; allowed for data.kind {kind!r}: '
          f'{", ".join(allowed)}.'
      )


def needed(config: ml_collections.ConfigDict) -> list[tuple[str, str]]:
  """Returns (kind, split) of all records that a run collects, in order."""
  kind = config.data.kind
  found = [(kind, split) for split in builders.SPLITS]
  if estimators.of(config).learns_from != 'known' and kind != 'rollouts':
    # Training uses only these two splits; the others are evaluated as `kind`.
    found += [('rollouts', split) for split in ('train', 'select')]
  return found


def is_shared(config: ml_collections.ConfigDict, kind: str) -> bool:
  """Returns whether records of a kind are another run's, and only read here."""
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
  return pathlib.Path(home) / folder / split


@dataclasses.dataclass(frozen=True)
class Split:
  """The records of one split on disk.

  directory: of the shards.
  kind: of the records.
  num_problems: only this many problems are read, from the first; None = all.
  """

  directory: pathlib.Path
  kind: schema.Kind
  num_problems: int | None = None

  @functools.cached_property
  def manifest(self) -> manifest_lib.Manifest:
    """The manifest.

    Raises:
      ValueError: if the collection of the split is not complete.
    """
    return reader.complete_manifest(self.directory, self.kind)

  @property
  def specs(self) -> tuple[costs.RouteSpec, ...]:
    """The models that the records were collected with."""
    return builders.specs_of(self.manifest.settings)

  @property
  def weights_sha256(self) -> tuple[str, ...]:
    """See `card.Card.weights_sha256`; empty in manifests without hashes."""
    return tuple(self.manifest.settings.get('weights_sha256', ()))

  def file(self, index: int) -> list[Any]:
    """Returns the records of one file."""
    entry = self.manifest.shards[index]
    return reader.read_shard(self.directory, entry, self.kind)

  def files(self) -> Iterator[list[Any]]:
    """Yields the records of each file, one file at a time."""
    return map(self.file, range(len(self.manifest.shards)))

  def records(self) -> Iterator[Any]:
    """Yields the records, in the order of the problems."""
    rows = itertools.chain.from_iterable(self.files())
    if self.num_problems is None:
      return rows
    # A failed problem has no row, so rows are not numbered as problems are.
    entries = zip(self._places(), rows, strict=False)
    return (x for place, x in entries if place < self.num_problems)

  def _places(self) -> Iterator[int]:
    """Yields the index of the problem of each row."""
    failed = {failure.index for failure in self.manifest.failures}
    return (i for i in itertools.count() if i not in failed)


def open_split(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    split: str,
    kind: str | None = None,
) -> Split:
  """Returns a split's records; `kind` None stands for `config.data.kind`."""
  kind = kind or config.data.kind
  where = directory(config, workdir, split, kind)
  size = config.problems[split] if is_shared(config, kind) else None
  return Split(where, KINDS[kind], size)


def known_records(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str, split: str
) -> Iterator[types.Ladder] | Iterator[trees.ReplyTree]:
  """Yields the known outcomes of each problem: its ladder or its reply tree.

  Raises:
    ValueError: if the collection is not complete, or a reply is missing.
  """
  found = _counted(open_split(config, workdir, split), f'read {split}')
  if config.data.kind == 'ladders':
    return found
  # Shards hold each reply once; the tree over all traces is rebuilt from them.
  grower = trees.TreeBuilder(
      builders.protocol(config),
      builders.sampling(config),
      builders.grader(config),
  )
  return map(grower.build, found)


def _counted(opened: Split, name: str) -> Iterator[Any]:
  """Yields the records of a split, and shows on a terminal how many it read."""
  total = opened.num_problems or sum(x.rows for x in opened.manifest.shards)
  with progress_lib.Progress(
      total, name, unit='problem', is_brief=True
  ) as shown:
    for record in opened.records():
      yield record
      shown.update()


def known_table(
    known: Sequence[types.Ladder] | Iterator[trees.ReplyTree],
    card: card_lib.Card,
):
  """Returns the outcome table of ladders or reply trees; reads them once."""
  known = iter(known)
  first = next(known, None)
  if first is None:
    raise ValueError('The split holds 0 records; at least 1 is needed.')
  known = itertools.chain([first], known)  # Put back what was looked at.
  if isinstance(first, types.Ladder):
    return records.ladder_table(
        known, card.features, card.accounting, card.protocol
    )
  return records.tree_table(known, card.features, card.accounting)


def check_card(
    card: card_lib.Card, config: ml_collections.ConfigDict, split: Split
) -> None:
  """Raises ValueError unless router, records and configuration fit together.

  Models, weights, protocol and cost metric must be the same.
  """
  if split.specs != card.specs:
    raise ValueError(
        f'{split.directory} was collected with {_names(split.specs)}, but the '
        f'router was trained for {_names(card.specs)}; use the same models.'
    )
  check_weights(card, split.weights_sha256, f'{split.directory} is')
  protocol = builders.protocol(config)
  if card.protocol != protocol:
    raise ValueError(
        f'The router was trained for {card.protocol.name}, '
        f'{card.protocol.view}; use that protocol, not {protocol.name}, '
        f'{protocol.view}.'
    )
  if card.metric != config.cost_metric:
    raise ValueError(
        f'The router was trained for cost metric {card.metric!r}; set '
        f'cost_metric to it, not to {config.cost_metric!r}.'
    )


def check_weights(card: card_lib.Card, found: Sequence[str], what: str) -> None:
  """Raises ValueError unless the models are those a router was trained on.

  Two pairs may have the same names, sizes and prices. An older card, without
  hashes, is not compared.

  Args:
    card: of the router.
    found: the hashes to compare, as `card.weights_sha256`.
    what: where they are from, with a verb, e.g. 'shards/test is'.
  """
  if card.weights_sha256 and tuple(found) != card.weights_sha256:
    raise ValueError(
        f'{what} of models with weights {_shown(found)}, but the router was '
        f'trained on {_shown(card.weights_sha256)}; use the same models.'
    )


def check_same_pair(split: Split, other: Split) -> None:
  """Raises ValueError unless two splits were collected with the same models."""
  for name, a, b in (
      ('models', _names(split.specs), _names(other.specs)),
      ('weights', _shown(split.weights_sha256), _shown(other.weights_sha256)),
  ):
    if a != b:
      raise ValueError(
          f'{split.directory} was collected with {name} {a}, but '
          f'{other.directory} with {b}. Collect both with the same models.'
      )


def _shown(weights: Sequence[str]) -> str:
  return ', '.join(weights) or 'that were not recorded'


def _names(specs: Sequence[costs.RouteSpec]) -> str:
  return ', '.join(f'{x.name} ({x.parameters:,} parameters)' for x in specs)


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
    ValueError: if the collection is not complete, or has other models or
      another protocol than the router.
  """
  opened = open_split(config, workdir, split)
  check_card(card, config, opened)
  if name == 'known':
    return _known(config, workdir, split, card)
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


def _known(config, workdir, split, card) -> sources.Known:
  """Returns the source of exactly known outcomes of a split."""
  # Ladders and trees are large, so each is dropped once it is in the table.
  # What else is needed is noted on the way.
  problems, counts = [], []

  def noted():
    for record in known_records(config, workdir, split):
      problems.append(record.problem)
      if isinstance(record, types.Ladder):
        counts.append(1 + max(x.sample for x in record.completions))
      yield record

  table = known_table(noted(), card)
  # Graded once: an outcome is 0 or 1, so losses have an exact binomial test.
  return sources.Known(
      table, problems, is_graded_once=max(counts, default=1) == 1
  )


def answering(
    config: ml_collections.ConfigDict, card: card_lib.Card
) -> live_answers.Answering:
  """Returns how the engines of a configuration answer problems live.

  Raises:
    ValueError: if their models are not those that the router was trained on.
  """
  weights = builders.model_identities(config)
  check_weights(card, weights, 'The configuration is')
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
