"""What a run learns from: known outcomes, or rollouts in memory or on disk."""

from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses
import functools
import itertools
import pathlib
from typing import Any

import ml_collections

from experiments import builders
from experiments import records_on_disk
from routing import costs
from routing import protocols
from routing import types
from routing.features import batching
from routing.features import observation
from routing.features import standardize
from routing.outcomes import batches
from routing.outcomes import records as records_lib
from routing.outcomes import table as table_lib
from routing.problems import seen as seen_lib
from routing.rollout import trees
from routing.routers import learned
from routing.training import estimators
from routing.training import sources

Known = Sequence[types.Ladder] | Sequence[trees.ReplyTree]


@dataclasses.dataclass(frozen=True)
class View:
  """How records become what is trained on.

  features: what is observed.
  accounting: what is paid.
  protocol: the decision process.
  statistics: of the features on train.
  weights_sha256: of the models; see `card.Card`.
  """

  features: observation.FeatureConfig
  accounting: costs.Accounting
  protocol: protocols.Protocol
  statistics: standardize.Statistics
  weights_sha256: tuple[str, ...] = ()

  def trajectories(
      self, rollouts: Sequence[types.Rollouts]
  ) -> types.TrajectoryBatch:
    """Rollouts as arrays, with standardised features."""
    batch = batching.trajectory_batch(
        rollouts, self.features, self.accounting, self.protocol
    )
    return batching.standardized(batch, self.statistics)


@dataclasses.dataclass(frozen=True)
class TrainingSet:
  """What every seed trains on; features are standardised.

  view: how it was made of records.
  train: arrays, or, where they are too many, what reads them from disk.
  select: stops training early.
  seen: the problems of both.
  shards: content hash of each split.
  """

  view: View
  train: sources.Data | sources.Shards
  select: sources.Data
  seen: seen_lib.Seen
  shards: dict[str, str]


def load(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> TrainingSet:
  """Reads and featurises `train` and `select`.

  With `config.stream.num_shards_in_memory` > 0 rollouts of train stay on disk:
  they are
  read through once for the expected cost and once for the statistics of their
  features, a file at a time, and then in each epoch.

  Raises:
    ValueError: if a split is not collected, not as it was written, of other
      models than the other one, or not what the configuration's estimator and
      protocol can learn from.
  """
  records_on_disk.check(config)
  if estimators.of(config).learns_from == 'known':
    return _known(config, workdir)
  return _rollouts(config, workdir)


def _known(config, workdir) -> TrainingSet:
  known = {
      name: list(records_on_disk.known_records(config, workdir, name))
      for name in ('train', 'select')
  }
  split = {
      name: records_on_disk.open_split(config, workdir, name) for name in known
  }
  records_on_disk.check_same_pair(split['select'], split['train'])
  specs = split['train'].specs
  accounting = batching.with_reference(
      costs.Accounting(specs, config.cost_metric), _costed(known['train'])
  )
  features = observation.configure(
      config.features,
      num_routes=len(specs),
      max_decisions=config.protocol.max_decisions,
      hidden_size=_hidden_size(known['train']),
  )
  protocol = builders.protocol(config)
  tables = {
      name: _table(x, features, accounting, protocol)
      for name, x in known.items()
  }
  statistics = standardize.measure_decisions(tables['train'].decisions.features)
  batch = {
      name: batches.outcome_batch(x, statistics, config.cost_metric)
      for name, x in tables.items()
  }
  return TrainingSet(
      view=View(
          features,
          accounting,
          protocol,
          statistics,
          split['train'].weights_sha256,
      ),
      seen=_seen(**known),
      shards={name: x.manifest.content_hash for name, x in split.items()},
      **batch,
  )


def _costed(known: Known) -> Sequence[types.Ladder | types.Rollouts]:
  """What the largest model's mean cost is measured on."""
  if isinstance(known[0], types.Ladder):
    return known
  return [types.Rollouts(x.problem, x.reference, ()) for x in known]


def _table(
    known: Known,
    features: observation.FeatureConfig,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
) -> table_lib.OutcomeTable:
  """The outcome table of ladders or trees."""
  if isinstance(known[0], types.Ladder):
    return records_lib.ladder_table(known, features, accounting, protocol)
  return records_lib.tree_table(known, features, accounting)


def _seen(train: Iterable[Any], select: Iterable[Any]) -> seen_lib.Seen:
  """The record of the problems that training sees."""
  seen = seen_lib.NOTHING.with_problems('train', (x.problem for x in train))
  return seen.with_problems('select', (x.problem for x in select))


def _hidden_size(known: Iterable[Any]) -> int:
  """Width of the small model's hidden states; 0 if none are recorded."""
  sizes = (
      len(step.hidden)
      for record in known
      for step in _steps(record)
      if step.route == 0 and step.hidden is not None
  )
  return next(sizes, 0)


def _steps(record: Any) -> Iterable[types.Step]:
  """Steps of a record, the small model's first drafts among them."""
  if isinstance(record, types.Ladder):
    return record.steps
  if isinstance(record, types.Rollouts):
    return itertools.chain.from_iterable(
        (*x.steps, *x.discarded) for x in record.trajectories
    )
  return itertools.chain.from_iterable(
      (*x.steps, *([x.draft] if x.draft else ())) for x in trees.nodes(record)
  )


def _rollouts(config, workdir) -> TrainingSet:
  split = {
      name: records_on_disk.open_split(config, workdir, name, 'rollouts')
      for name in ('train', 'select')
  }
  protocol = builders.protocol(config)
  for x in split.values():
    _check_protocol(x, protocol)
  records_on_disk.check_same_pair(split['select'], split['train'])
  make = _streamed if _num_shards_in_memory(config) else _resident
  view, train = make(config, split['train'], protocol)
  select = list(split['select'].records())
  seen = _seen(split['train'].records(), select)
  for x in split.values():
    seen = _inherit(config, x, seen, [y.problem for y in select])
  return TrainingSet(
      view=view,
      train=train,
      select=view.trajectories(select),
      seen=seen,
      shards={name: x.manifest.content_hash for name, x in split.items()},
  )


def _inherit(
    config: ml_collections.ConfigDict,
    split: records_on_disk.Split,
    seen: seen_lib.Seen,
    select: Sequence[types.Problem],
) -> seen_lib.Seen:
  """The record with what the router that wrote the trajectories has seen.

  Raises:
    ValueError: if this is not the configuration's router, does not say what it
      has seen, or has seen problems of `select` in another split.
  """
  behaviour = split.manifest.settings.get('behaviour', {})
  if behaviour.get('kind') != 'mixture':
    return seen
  router = learned.load(config.behaviour.router)
  if router.checkpoint_hash != behaviour['router']:
    raise ValueError(
        f'{split.directory} was written by router {behaviour["router"][:12]}, '
        f'but behaviour.router {config.behaviour.router} is '
        f'{router.checkpoint_hash[:12]}; name the one that wrote it.'
    )
  router.seen.require_known(f'behaviour.router {config.behaviour.router}')
  router.seen.check('select', select)
  return seen.with_inherited(router.seen)


def _check_protocol(
    split: records_on_disk.Split, protocol: protocols.Protocol
) -> None:
  """Raises ValueError if rollouts are of another decision process."""
  found = split.manifest.settings['plan']['protocol']
  if found != dataclasses.asdict(protocol):
    raise ValueError(
        f'{split.directory} was collected in {found["name"]}, '
        f'{found["view"]}; the configuration names {protocol.name}, '
        f'{protocol.view}.'
    )


def _num_shards_in_memory(config: ml_collections.ConfigDict) -> int:
  # Configurations from before there were streams name none.
  return config.get('stream', {}).get('num_shards_in_memory', 0)


def _observed(
    config: ml_collections.ConfigDict,
    split: records_on_disk.Split,
    make: Any,
) -> tuple[observation.FeatureConfig, costs.Accounting]:
  """What is observed, and what is paid; `make` gives the records anew."""
  features = observation.configure(
      config.features,
      num_routes=len(split.specs),
      max_decisions=config.protocol.max_decisions,
      hidden_size=_hidden_size(make()),
  )
  accounting = costs.Accounting(split.specs, config.cost_metric)
  return features, batching.with_reference(accounting, make())


def _resident(
    config: ml_collections.ConfigDict,
    split: records_on_disk.Split,
    protocol: protocols.Protocol,
) -> tuple[View, sources.Data]:
  """Rollouts of train in memory, and what was measured on them."""
  rollouts = list(split.records())
  features, accounting = _observed(config, split, lambda: rollouts)
  batch = batching.trajectory_batch(rollouts, features, accounting, protocol)
  statistics = standardize.measure(batch.features, batch.mask)
  view = View(features, accounting, protocol, statistics, split.weights_sha256)
  return view, batching.standardized(batch, statistics)


def _streamed(
    config: ml_collections.ConfigDict,
    split: records_on_disk.Split,
    protocol: protocols.Protocol,
) -> tuple[View, sources.Shards]:
  """Rollouts of train on disk, and what was measured one file at a time."""
  features, accounting = _observed(config, split, split.records)
  sizes = []

  def parts():
    for file in split.files():
      batch = batching.trajectory_batch(file, features, accounting, protocol)
      sizes.append(len(batch.mask))
      yield batch.features, batch.mask

  statistics = standardize.measure_parts(parts())
  view = View(features, accounting, protocol, statistics, split.weights_sha256)
  load_file = functools.partial(_load_file, view, split)
  return view, sources.Shards(load_file, sizes)


def _load_file(
    view: View, split: records_on_disk.Split, index: int
) -> types.TrajectoryBatch:
  return view.trajectories(split.file(index))


def references(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> list[types.Rollouts]:
  """The problems of train, with what the largest model does there alone."""
  rollouts = records_on_disk.open_split(
      config, workdir, 'train', 'rollouts'
  ).records()
  return [dataclasses.replace(record, trajectories=()) for record in rollouts]


def features_record(data: TrainingSet) -> dict[str, Any]:
  """What `features.json` holds: what is observed, and measured on what."""
  view = data.view
  return {
      'features': dataclasses.asdict(view.features),
      'mean': view.statistics.mean.tolist(),
      'std': view.statistics.std.tolist(),
      'reference': view.accounting.reference,
      'shards': data.shards,
  }
