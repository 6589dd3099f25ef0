"""What a run trains on: ladders or rollouts, in memory or file by file."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import functools
import itertools
import pathlib
from typing import Any

import ml_collections

from experiments import behave
from experiments import builders
from experiments import collect
from routing import costs
from routing import protocols
from routing import types
from routing.features import batching
from routing.features import observation
from routing.features import standardize
from routing.problems import splits
from routing.shards import manifest as manifest_lib
from routing.shards import reader
from routing.shards import schema
from routing.training import fit as fit_lib
from routing.training import sources

Records = Iterable[types.Ladder] | Iterable[types.Rollouts]


@dataclasses.dataclass(frozen=True)
class View:
  """How records become what is trained on.

  features: what is observed.
  accounting: what is paid.
  protocol: the decision process.
  statistics: of the features on train.
  """

  features: observation.FeatureConfig
  accounting: costs.Accounting
  protocol: protocols.Protocol
  statistics: standardize.Statistics

  def arrays(self, records: Records) -> sources.Data:
    """Records of either kind as arrays, with standardised features."""
    batch = _batch(records, self.features, self.accounting, self.protocol)
    return batching.standardized(batch, self.statistics)


@dataclasses.dataclass(frozen=True)
class TrainingSet:
  """What every seed trains on; features are standardised.

  view: how it was made of records.
  train: arrays, or, where they are too many, what reads them from disk.
  validation: of the half of validation that may choose.
  shards: content hash of each split.
  """

  view: View
  train: sources.Data | sources.Shards
  validation: sources.Data
  shards: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Split:
  """The files of a complete shard directory.

  directory: where they are.
  kind: of the records.
  """

  directory: pathlib.Path
  kind: schema.Kind

  @functools.cached_property
  def manifest(self) -> manifest_lib.Manifest:
    """What is there.

    Raises:
      ValueError: if the split is not collected to its end.
    """
    return reader.complete_manifest(self.directory, self.kind)

  def file(self, index: int) -> list[Any]:
    """The records of one file."""
    entry = self.manifest.shards[index]
    return reader.read_shard(self.directory, entry, self.kind)

  def files(self) -> Iterator[list[Any]]:
    """The records of each file, one file at a time."""
    return map(self.file, range(len(self.manifest.shards)))

  def all(self) -> list[Any]:
    """The records of all files."""
    return list(itertools.chain.from_iterable(self.files()))


def open_split(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str, split: str
) -> Split:
  """Where the estimator of a configuration finds a split.

  Raises:
    ValueError: if the estimator does not suit the protocol.
  """
  if fit_lib.estimator_of(config) != 'exact':
    return Split(behave.shard_directory(workdir, split), schema.ROLLOUTS)
  if config.protocol.name != 'escalate':
    raise ValueError(
        'objective.estimator is exact, which knows the protocol escalate '
        f'alone; protocol.name is {config.protocol.name!r}. Others are '
        'learnt from rollouts (vtrace, on_policy), or from trees, by '
        'experiments.train_trees.'
    )
  return Split(collect.shard_directory(workdir, split), schema.LADDERS)


def feature_config(
    config: ml_collections.ConfigDict, num_routes: int, records: Records
) -> observation.FeatureConfig:
  """What is observed; the records say how long a hidden state is."""
  return observation.configure(
      config.features,
      num_routes=num_routes,
      max_steps=config.protocol.max_steps,
      hidden_size=_hidden_size(records),
  )


def _hidden_size(records: Records) -> int:
  """Of the small model's states; 0 if there are none."""
  sizes = (
      len(step.hidden)
      for record in records
      for step in _steps(record)
      if step.route == 0 and step.hidden is not None
  )
  return next(sizes, 0)


def _steps(record: types.Ladder | types.Rollouts) -> Iterator[types.Step]:
  if isinstance(record, types.Ladder):
    return iter(record.steps)
  return itertools.chain.from_iterable(
      (*x.steps, *x.discarded) for x in record.trajectories
  )


def _batch(
    records: Sequence[types.Ladder] | Sequence[types.Rollouts],
    features: observation.FeatureConfig,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
) -> sources.Data:
  """Arrays of records of either kind, not standardised."""
  is_ladder = bool(records) and isinstance(records[0], types.Ladder)
  make = batching.ladder_batch if is_ladder else batching.trajectory_batch
  return make(records, features, accounting, protocol)


def _check_protocol(split: Split, protocol: protocols.Protocol) -> None:
  """Raises ValueError if rollouts are of another decision process."""
  plan = split.manifest.settings.get('plan', {})
  # A plan of ladders names none: they are all of one.
  found = plan.get('protocol', dataclasses.asdict(protocol))
  if found != dataclasses.asdict(protocol):
    raise ValueError(
        f'{split.directory} was collected in {found["name"]}, '
        f'{found["view"]}; the configuration names {protocol.name}, '
        f'{protocol.view}.'
    )


def load(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> TrainingSet:
  """Reads and featurises train, and the half of validation that may choose.

  With `config.stream.num_held` > 0 train stays on disk: it is read through
  once for the expected cost and once for the statistics of its features, a
  file at a time, and then in each epoch.

  Raises:
    ValueError: if a split is not collected, not as it was written, or not what
      the configuration's estimator and protocol can learn from.
  """
  split = {
      name: open_split(config, workdir, name)
      for name in ('train', 'validation')
  }
  protocol = builders.protocol(config)
  for x in split.values():
    _check_protocol(x, protocol)
  make = _streamed if _num_held(config) else _resident
  view, train = make(config, split['train'], protocol)
  # The other half must not have a say in when training stops: calibration
  # makes its promises on it.
  validation, _ = splits.halves(split['validation'].all())
  return TrainingSet(
      view=view,
      train=train,
      validation=view.arrays(validation),
      shards={name: x.manifest.content_hash for name, x in split.items()},
  )


def _num_held(config: ml_collections.ConfigDict) -> int:
  # Configurations from before there were streams name none.
  return config.get('stream', {}).get('num_held', 0)


def _resident(
    config: ml_collections.ConfigDict,
    split: Split,
    protocol: protocols.Protocol,
) -> tuple[View, sources.Data]:
  """Train in memory, and what was measured on it."""
  records = split.all()
  specs = builders.specs_of(split.manifest.settings)
  features = feature_config(config, len(specs), records)
  accounting = batching.with_reference(
      costs.Accounting(specs, config.ruler), records
  )
  batch = _batch(records, features, accounting, protocol)
  statistics = standardize.measure(batch.features, batch.mask)
  view = View(features, accounting, protocol, statistics)
  return view, batching.standardized(batch, statistics)


def _streamed(
    config: ml_collections.ConfigDict,
    split: Split,
    protocol: protocols.Protocol,
) -> tuple[View, sources.Shards]:
  """Train on disk, and what was measured on it, one file at a time."""
  records = lambda: itertools.chain.from_iterable(split.files())
  specs = builders.specs_of(split.manifest.settings)
  features = feature_config(config, len(specs), records())
  accounting = batching.with_reference(
      costs.Accounting(specs, config.ruler), records()
  )
  sizes = []

  def parts():
    for file in split.files():
      batch = _batch(file, features, accounting, protocol)
      sizes.append(len(batch.mask))
      yield batch.features, batch.mask

  statistics = standardize.measure_parts(parts())
  view = View(features, accounting, protocol, statistics)
  return view, sources.Shards(lambda i: view.arrays(split.file(i)), sizes)


def references(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> list[types.Rollouts]:
  """The problems of train, with what the largest model does there alone."""
  files = open_split(config, workdir, 'train').files()
  return [
      dataclasses.replace(record, trajectories=())
      for record in itertools.chain.from_iterable(files)
  ]


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
