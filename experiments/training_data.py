"""Turns collected records into what a run trains on.

An estimator that needs known outcomes gets arrays from ladders or reply trees.
An estimator that learns from trajectories gets rollouts, in memory or streamed
from disk.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses
import itertools
import pathlib
from typing import Any

import ml_collections

from experiments import builders
from experiments import ladder_stream
from experiments import records_on_disk
from experiments import split_on_disk
from routing import costs
from routing import protocols
from routing import types
from routing.features import batching
from routing.features import observation
from routing.features import standardize
from routing.outcomes import batches
from routing.rollout import trees
from routing.routers import learned
from routing.tasks import seen as seen_lib
from routing.training import estimators
from routing.training import sources

Known = Sequence[types.Ladder] | Sequence[trees.ReplyTree]


@dataclasses.dataclass(frozen=True)
class View:
  """How records become arrays: the same for training, validation and service.

  features: what the policy observes.
  accounting: cost accounting, with the reference cost measured on `train`.
  protocol: the decision process.
  statistics: mean and standard deviation of the features on `train`.
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
    """Returns rollouts as arrays, with standardised features."""
    batch = batching.trajectory_batch(
        rollouts, self.features, self.accounting, self.protocol
    )
    return batching.standardized(batch, self.statistics)


@dataclasses.dataclass(frozen=True)
class TrainingSet:
  """The data of a training run, the same for every seed.

  view: how it was made from records.
  train: arrays with standardised features; or shards that yield such arrays,
    where the data does not fit in memory.
  select: arrays for early stopping.
  seen: the problems that a router has seen after training on this data.
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
  """Reads `train` and `select` and computes their features.

  With `config.stream.num_shards_in_memory` > 0, rollouts or ladders of train
  stay on disk. They are read one file at a time: once for the reference cost,
  once for the statistics of the features, and then in each epoch.

  Raises:
    ValueError: if a split is incomplete or damaged, the two splits were
      collected with different models, or the records do not fit the estimator
      or the protocol of the configuration.
  """
  records_on_disk.check(config)
  if estimators.of(config).learns_from == 'known':
    return _known(config, workdir)
  return _rollouts(config, workdir)


def _known(config, workdir) -> TrainingSet:
  """Returns the training set of exactly known outcomes."""
  if num_shards_in_memory(config) and config.data.kind == 'ladders':
    return _streamed_ladders(config, workdir)
  known = {
      name: list(records_on_disk.known_records(config, workdir, name))
      for name in ('train', 'select')
  }
  split = {
      name: records_on_disk.open_split(config, workdir, name) for name in known
  }
  split_on_disk.check_same_pair(split['select'], split['train'])
  specs = split['train'].specs
  # Reference cost and feature statistics are from `train` alone: `select` must
  # stay unseen, as problems in service are.
  accounting = batching.with_reference(
      costs.Accounting(specs, config.cost_metric), _costed(known['train'])
  )
  # The width of hidden states depends on the engine; it is read from the data.
  features = builders.features(config, len(specs), _hidden_size(known['train']))
  protocol = builders.protocol(config)
  tables = {
      name: records_on_disk.known_table(x, features, accounting, protocol)
      for name, x in known.items()
  }
  # Over the decisions of `train`, each once, whatever policy reaches them.
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


def _streamed_ladders(config, workdir) -> TrainingSet:
  """Returns the training set of ladders that stay on disk."""
  split = {
      name: records_on_disk.open_split(config, workdir, name)
      for name in ('train', 'select')
  }
  split_on_disk.check_same_pair(split['select'], split['train'])
  found = ladder_stream.read(config, **split)
  return TrainingSet(
      view=View(
          found.features,
          found.accounting,
          builders.protocol(config),
          found.statistics,
          split['train'].weights_sha256,
      ),
      train=found.train,
      select=found.select,
      seen=found.seen,
      shards={name: x.manifest.content_hash for name, x in split.items()},
  )


def _costed(known: Known) -> Sequence[types.Ladder | types.Rollouts]:
  """Returns the records that the largest model's mean cost is measured on."""
  if isinstance(known[0], types.Ladder):
    return known
  # Of a reply tree only the largest model's own answer, its reference, counts.
  return [types.Rollouts(x.problem, x.reference, ()) for x in known]


def _seen(train: Iterable[Any], select: Iterable[Any]) -> seen_lib.Seen:
  """Returns the record of the problems that training sees."""
  seen = seen_lib.NOTHING.with_problems('train', (x.problem for x in train))
  return seen.with_problems('select', (x.problem for x in select))


def _hidden_size(known: Iterable[Any]) -> int:
  """Returns the width of the small model's hidden states; 0 = none recorded."""
  # A generator, so that reading stops at the first step with hidden states.
  sizes = (
      len(step.hidden)
      for record in known
      for step in _steps(record)
      if step.route == 0 and step.hidden is not None
  )
  return next(sizes, 0)


def _steps(record: Any) -> Iterable[types.Step]:
  """Yields the steps of a record, discarded drafts included."""
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
  """Returns the training set of trajectories, in memory or streamed."""
  split = {
      name: records_on_disk.open_split(config, workdir, name, 'rollouts')
      for name in ('train', 'select')
  }
  protocol = builders.protocol(config)
  for x in split.values():
    _check_protocol(x, protocol)
  split_on_disk.check_same_pair(split['select'], split['train'])
  # Streaming trades speed for memory: each epoch reads the files again.
  make = _streamed if num_shards_in_memory(config) else _resident
  view, train = make(config, split['train'], protocol)
  # `select` is always in memory: it is evaluated whole.
  select = list(split['select'].records())
  # Problems only; a second pass over the files keeps nothing of them in memory.
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
    split: split_on_disk.Split,
    seen: seen_lib.Seen,
    select: Sequence[types.Problem],
) -> seen_lib.Seen:
  """Adds the problems that a split's behaviour policy has seen to `seen`.

  A router that learns from another router's trajectories has indirectly seen
  the problems that the other was trained on.

  Raises:
    ValueError: if the behaviour policy is not the configuration's router, has
      no record of what it has seen, or has seen problems of `select` in another
      split.
  """
  behaviour = split.manifest.settings.get('behaviour', {})
  if behaviour.get('kind') != 'mixture':
    return seen
  router = learned.load(config.behaviour.router)
  if router.checkpoint_hash != behaviour['router']:
    raise ValueError(
        f'{split.directory} was written by router {behaviour["router"][:12]}, '
        f'but behaviour.router {config.behaviour.router} is '
        f'{router.checkpoint_hash[:12]}; set it to the one that wrote it.'
    )
  router.seen.require_known(f'behaviour.router {config.behaviour.router}')
  router.seen.check('select', select)
  return seen.with_inherited(router.seen)


def _check_protocol(
    split: split_on_disk.Split, protocol: protocols.Protocol
) -> None:
  """Raises ValueError if rollouts were collected in another protocol."""
  found = split.manifest.settings['plan']['protocol']
  if found != dataclasses.asdict(protocol):
    raise ValueError(
        f'{split.directory} was collected in {found["name"]}, '
        f'{found["view"]}; the configuration names {protocol.name}, '
        f'{protocol.view}. They must be the same.'
    )


def num_shards_in_memory(config: ml_collections.ConfigDict) -> int:
  """Returns how many files of train are in memory at once; 0 = all."""
  # Older saved configurations do not have this field.
  return config.get('stream', {}).get('num_shards_in_memory', 0)


def _observed(
    config: ml_collections.ConfigDict,
    split: split_on_disk.Split,
    make: Any,
) -> tuple[observation.FeatureConfig, costs.Accounting]:
  """Returns the feature configuration and the cost accounting of a split.

  Args:
    config: of the run.
    split: rollouts of train.
    make: returns an iterable over all records; called once for each pass.
  """
  features = builders.features(config, len(split.specs), _hidden_size(make()))
  # Without its reference the accounting can charge calls, which is how the
  # reference, the mean cost of the large model alone, is measured.
  accounting = costs.Accounting(split.specs, config.cost_metric)
  return features, batching.with_reference(accounting, make())


def _resident(
    config: ml_collections.ConfigDict,
    split: split_on_disk.Split,
    protocol: protocols.Protocol,
) -> tuple[View, sources.Data]:
  """Returns the view of rollouts, and the rollouts as arrays in memory."""
  rollouts = list(split.records())
  features, accounting = _observed(config, split, lambda: rollouts)
  batch = batching.trajectory_batch(rollouts, features, accounting, protocol)
  statistics = standardize.measure(batch.features, batch.mask)
  view = View(features, accounting, protocol, statistics, split.weights_sha256)
  return view, batching.standardized(batch, statistics)


def _streamed(
    config: ml_collections.ConfigDict,
    split: split_on_disk.Split,
    protocol: protocols.Protocol,
) -> tuple[View, sources.Shards]:
  """Returns what training reads from rollouts that stay on the disk.

  It is their view, measured over all files, and the files as one source.
  """
  features, accounting = _observed(config, split, split.records)
  places, sizes = [], []

  def parts():
    # Also notes the number of rows of each file, which batching needs.
    for place, file in split.numbered_files():
      batch = batching.trajectory_batch(file, features, accounting, protocol)
      places.append(place)
      sizes.append(len(batch.mask))
      yield batch.features, batch.mask

  statistics = standardize.measure_parts(parts())
  view = View(features, accounting, protocol, statistics, split.weights_sha256)
  load_file = lambda index: view.trajectories(split.file(places[index]))
  return view, sources.Shards(load_file, sizes)


def references(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> list[types.Rollouts]:
  """Returns the problems of train with the largest model's own answers.

  Trajectories are dropped: on-policy collection writes its own.
  """
  rollouts = records_on_disk.open_split(
      config, workdir, 'train', 'rollouts'
  ).records()
  return [dataclasses.replace(record, trajectories=()) for record in rollouts]


def features_record(data: TrainingSet) -> dict[str, Any]:
  """Returns the content of `features.json`: features, statistics and shards."""
  view = data.view
  return {
      'features': dataclasses.asdict(view.features),
      'mean': view.statistics.mean.tolist(),
      'std': view.statistics.std.tolist(),
      'reference': view.accounting.reference,
      'shards': data.shards,
  }
