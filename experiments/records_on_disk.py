"""The records of a run: where they are, and what they say as arrays.

A run collects records of `config.data.kind` for all four splits, in its own
work directory or, with `config.data.directory`, in another that several runs
share. An estimator that learns from trajectories has rollouts besides.
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
from routing.engines import remembered
from routing.outcomes import live
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
# Of a work directory: live answers, of all stages, seeds and splits.
ANSWERS_FOLDER = 'live_answers'


def check(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError if what is collected does not suit its use."""
  kind, protocol = config.data.kind, config.protocol.name
  if kind not in KINDS:
    raise ValueError(f'data.kind is {kind!r}; allowed: {", ".join(KINDS)}.')
  if (kind == 'ladders') != (protocol == 'escalate') and kind != 'rollouts':
    raise ValueError(
        f'data.kind is {kind!r} and protocol.name {protocol!r}; allowed: '
        'ladders or rollouts in escalate, replies or rollouts in switch and '
        'redraft.'
    )
  if kind == 'rollouts' and estimators.of(config).learns_from == 'known':
    raise ValueError(
        "objective.estimator is 'exact', which needs to know every way through "
        "a problem; data.kind is 'rollouts'. Use vtrace or on_policy, or "
        'collect ladders (escalate) or replies (switch, redraft).'
    )
  for stage in ('calibration', 'evaluation'):
    source = config[stage].source
    allowed = ('known',) if kind != 'rollouts' else ('recorded', 'live')
    if source not in allowed:
      raise ValueError(
          f'{stage}.source is {source!r}; where data.kind is {kind!r} allowed: '
          f'{", ".join(allowed)}.'
      )


def needed(config: ml_collections.ConfigDict) -> list[tuple[str, str]]:
  """(kind, split) of all records that a run collects, in order."""
  kind = config.data.kind
  found = [(kind, split) for split in builders.SPLITS]
  if estimators.of(config).learns_from != 'known' and kind != 'rollouts':
    found += [('rollouts', split) for split in ('train', 'select')]
  return found


def is_shared(config: ml_collections.ConfigDict, kind: str) -> bool:
  """Whether records of a kind are another directory's, and only read here."""
  return bool(config.data.directory) and kind == config.data.kind


def directory(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    split: str,
    kind: str | None = None,
) -> pathlib.Path:
  """Where the records of a split are; `kind` None = `config.data.kind`."""
  kind = kind or config.data.kind
  folder = 'shards' if kind == config.data.kind else 'rollouts'
  home = config.data.directory if is_shared(config, kind) else workdir
  return pathlib.Path(home) / folder / split


@dataclasses.dataclass(frozen=True)
class Split:
  """The files of a complete shard directory.

  directory: where they are.
  kind: of the records.
  num_problems: the first so many are read; None = all.
  """

  directory: pathlib.Path
  kind: schema.Kind
  num_problems: int | None = None

  @functools.cached_property
  def manifest(self) -> manifest_lib.Manifest:
    """What is there.

    Raises:
      ValueError: if the split is not collected to its end.
    """
    return reader.complete_manifest(self.directory, self.kind)

  @property
  def specs(self) -> tuple[costs.RouteSpec, ...]:
    """The models it was collected with."""
    return builders.specs_of(self.manifest.settings)

  @property
  def weights_sha256(self) -> tuple[str, ...]:
    """See `card.Card.weights_sha256`; empty if nobody noted it."""
    return tuple(self.manifest.settings.get('weights_sha256', ()))

  def file(self, index: int) -> list[Any]:
    """The records of one file."""
    entry = self.manifest.shards[index]
    return reader.read_shard(self.directory, entry, self.kind)

  def files(self) -> Iterator[list[Any]]:
    """Yields the records of each file, one file at a time."""
    return map(self.file, range(len(self.manifest.shards)))

  def records(self) -> Iterator[Any]:
    """Yields the records, in order."""
    rows = itertools.chain.from_iterable(self.files())
    if self.num_problems is None:
      return rows
    # A problem that failed is missing, and moves no other into its place.
    entries = zip(self._places(), rows, strict=False)
    return (x for place, x in entries if place < self.num_problems)

  def _places(self) -> Iterator[int]:
    failed = {failure.index for failure in self.manifest.failures}
    return (i for i in itertools.count() if i not in failed)


def open_split(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    split: str,
    kind: str | None = None,
) -> Split:
  """The records of a split; `kind` None = `config.data.kind`."""
  kind = kind or config.data.kind
  where = directory(config, workdir, split, kind)
  size = config.problems[split] if is_shared(config, kind) else None
  return Split(where, KINDS[kind], size)


def known_records(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str, split: str
) -> Iterator[types.Ladder] | Iterator[trees.Tree]:
  """Yields what is known of each problem: ladders, or trees grown of replies.

  Raises:
    ValueError: if the split is not collected to its end, or a reply is missing.
  """
  found = _counted(open_split(config, workdir, split), f'read {split}')
  if config.data.kind == 'ladders':
    return found
  grower = trees.Grower(
      builders.protocol(config),
      builders.sampling(config),
      builders.grader(config),
  )
  return map(grower.grow, found)


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
    known: Sequence[types.Ladder] | Iterator[trees.Tree], card: card_lib.Card
):
  """The outcome table of ladders or trees, as a router sees them."""
  known = iter(known)
  first = next(known, None)
  if first is None:
    raise ValueError('There are no records; at least 1 is needed.')
  known = itertools.chain([first], known)
  if isinstance(first, types.Ladder):
    return records.ladder_table(
        known, card.features, card.accounting, card.protocol
    )
  return records.tree_table(known, card.features, card.accounting)


def check_card(
    card: card_lib.Card, config: ml_collections.ConfigDict, split: Split
) -> None:
  """Raises ValueError unless a router, its records and a run are alike.

  Models, protocol and ruler must be the same.
  """
  if split.specs != card.specs:
    raise ValueError(
        f'{split.directory} was collected with {_names(split.specs)}, the '
        f'router was trained for {_names(card.specs)}; the models must be the '
        'same.'
    )
  check_weights(card, split.weights_sha256, f'{split.directory} is')
  wanted = builders.protocol(config)
  if card.protocol != wanted:
    raise ValueError(
        f'The router is of {card.protocol.name}, {card.protocol.view}; the '
        f'configuration names {wanted.name}, {wanted.view}.'
    )
  if card.ruler != config.ruler:
    raise ValueError(
        f'The router was trained for ruler {card.ruler!r}; the configuration '
        f'names {config.ruler!r}.'
    )


def check_weights(card: card_lib.Card, found: Sequence[str], what: str) -> None:
  """Raises ValueError unless models are those that a router was trained on.

  Pairs of different weights may share their names, sizes and prices. A card
  from before weights were noted is not compared.

  Args:
    card: of the router.
    found: as `card.weights_sha256`.
    what: has these models, with its verb, e.g. 'shards/test is'.
  """
  if card.weights_sha256 and tuple(found) != card.weights_sha256:
    raise ValueError(
        f'{what} of models with weights {_shown(found)}, the router was '
        f'trained on {_shown(card.weights_sha256)}; the models must be the '
        'same.'
    )


def check_same_pair(split: Split, other: Split) -> None:
  """Raises ValueError unless two splits are of the same models."""
  for name, a, b in (
      ('models', _names(split.specs), _names(other.specs)),
      ('weights', _shown(split.weights_sha256), _shown(other.weights_sha256)),
  ):
    if a != b:
      raise ValueError(
          f'{split.directory} is of {name} {a}, but {other.directory} of {b}; '
          'collect both with the same models.'
      )


def _shown(weights: Sequence[str]) -> str:
  return ', '.join(weights) or 'that nobody noted'


def _names(specs: Sequence[costs.RouteSpec]) -> str:
  return ', '.join(f'{x.name} ({x.parameters:,} parameters)' for x in specs)


def source(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    split: str,
    card: card_lib.Card,
    name: str,
) -> sources.Source:
  """What thresholds earn on the problems of a split, as a router sees them.

  Args:
    config: of the run.
    workdir: of the run.
    split: name.
    card: of the router.
    name: of `SOURCES`. Live answers are kept for all stages of the run.

  Raises:
    ValueError: if the split is not collected to its end, or is of other models
      or another protocol than the router.
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
      config.calibration.least_effective,
  )
  if name == 'recorded':
    return met
  completions = [x.reference for x in rollouts]
  return live.Live(
      answering=answering(config, card),
      problems=met.problems,
      large_correct=met.large_correct,
      large_cost=records.large_costs(completions, card.accounting),
      random_router=functools.partial(
          fixed.RandomRouter, route=len(card.specs) - 1
      ),
      met=met,
      folder=pathlib.Path(workdir) / ANSWERS_FOLDER,
  )


def _known(config, workdir, split, card) -> sources.Known:
  problems, counts = [], []

  def noted():
    for record in known_records(config, workdir, split):
      problems.append(record.problem)
      if isinstance(record, types.Ladder):
        counts.append(1 + max(x.sample for x in record.completions))
      yield record

  table = known_table(noted(), card)
  return sources.Known(
      table, problems, is_graded_once=max(counts, default=1) == 1
  )


def answering(
    config: ml_collections.ConfigDict, card: card_lib.Card
) -> live.Answering:
  """How problems are answered live, by the engines of a configuration.

  Raises:
    ValueError: if these are other models than the router was trained on.
  """
  weights = builders.weight_hashes(config)
  check_weights(card, weights, 'The configuration is')
  return live.Answering(
      make_engines=functools.partial(builders.steady_engines, config),
      protocol=builders.protocol(config),
      accounting=card.accounting,
      sampling=builders.sampling(config),
      grade=builders.grader(config),
      # The seed of collection: the same requests as in the shards.
      seed=config.seed,
      concurrency=config.collect.concurrency,
      made_by={
          'weights_sha256': weights,
          'engine': builders.engine_key(config),
      },
  )


def engines(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str, split: str
) -> list[engine_lib.Engine]:
  """The engines of a run; replies to a split that are known are not asked anew.

  What is charged stays what the engines alone would have charged.
  """
  asked = builders.engines(config)
  if config.data.kind != 'replies':
    return asked
  # Observations read the smallest model's hidden states alone.
  memories = [
      remembered.Memory(keeps_hidden=engine.route == 0) for engine in asked
  ]
  reply_shards.remember(open_split(config, workdir, split).records(), memories)
  return list(map(remembered.RememberedEngine, asked, memories))
