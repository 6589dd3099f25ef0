"""Trains the policies on collected ladders, one run per seed.

Run:    python -m experiments.train --config=configs/arithmetic.py --workdir=runs/arithmetic
Resume: the same command; finished seeds are kept, an unfinished one goes on.
Writes: runs/seed<k>/{config.json, features.json, metrics.jsonl, checkpoints/, router.safetensors, router.json}
"""  # noqa: E501  Commands stay on one line.

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

from absl import logging
import ml_collections
import numpy as np

from experiments import builders
from experiments import launch
from experiments import workdirs
from routing import costs
from routing import progress as progress_lib
from routing import protocols
from routing import types
from routing.features import batching
from routing.features import observation
from routing.features import standardize
from routing.problems import splits
from routing.routers import card as card_lib
from routing.routers import learned
from routing.shards import reader
from routing.training import checkpoint
from routing.training import fit as fit_lib
from routing.training import loop


@dataclasses.dataclass(frozen=True)
class TrainingSet:
  """What every seed trains on; features are standardised.

  shards: content hash of each split.
  """

  features: observation.FeatureConfig
  statistics: standardize.Statistics
  accounting: costs.Accounting
  protocol: protocols.Protocol
  train: types.LadderBatch
  validation: types.LadderBatch
  shards: dict[str, str]


def run_directory(workdir: pathlib.Path | str, seed: int) -> pathlib.Path:
  """Where the run of one training seed is."""
  return pathlib.Path(workdir).absolute() / 'runs' / f'seed{seed}'


def is_finished(workdir: pathlib.Path | str, seed: int) -> bool:
  """The run of this seed has left its router."""
  return (run_directory(workdir, seed) / learned.CARD_FILE).exists()


def feature_config(
    config: ml_collections.ConfigDict,
    num_routes: int,
    ladders: Sequence[types.Ladder],
) -> observation.FeatureConfig:
  """What is observed; the shards say how long a hidden state is."""
  hidden = ladders[0].steps[0].hidden
  return observation.configure(
      config.features,
      num_routes=num_routes,
      max_steps=config.protocol.max_steps,
      hidden_size=0 if hidden is None else len(hidden),
  )


def load_training_set(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> TrainingSet:
  """Reads and featurises the shards of train and validation.

  Raises:
    ValueError: if a split is not collected, or not as it was written.
  """
  directory = pathlib.Path(workdir) / 'shards'
  manifests = {
      split: reader.read_manifest(directory / split)
      for split in ('train', 'validation')
  }
  ladders = {
      split: reader.read_ladders(directory / split) for split in manifests
  }
  # The other half must not have a say in when training stops: calibration
  # makes its promises on it.
  ladders['validation'], _ = splits.halves(ladders['validation'])
  specs = builders.specs_of(manifests['train'].settings)
  accounting = batching.with_reference(
      costs.Accounting(specs, config.ruler), ladders['train']
  )
  protocol = builders.protocol(config)
  features = feature_config(config, len(specs), ladders['train'])
  batches = {
      split: batching.ladder_batch(
          ladders[split], features, accounting, protocol
      )
      for split in ladders
  }
  statistics = standardize.measure(
      batches['train'].features, batches['train'].mask
  )
  return TrainingSet(
      features=features,
      statistics=statistics,
      accounting=accounting,
      protocol=protocol,
      train=batching.standardized(batches['train'], statistics),
      validation=batching.standardized(batches['validation'], statistics),
      shards={split: manifests[split].content_hash for split in manifests},
  )


def make_card(
    config: ml_collections.ConfigDict, data: TrainingSet
) -> card_lib.Card:
  """What the router of this run will say of itself."""
  return card_lib.Card(
      specs=data.accounting.specs,
      ruler=data.accounting.ruler,
      reference=data.accounting.reference,
      protocol=data.protocol,
      features=data.features,
      network=config.network.to_dict(),
      form=config.objective.form,
      levels=tuple(config.objective.levels),
  )


def features_record(data: TrainingSet) -> dict[str, Any]:
  """What `features.json` holds: what is observed, and measured on what."""
  return {
      'features': dataclasses.asdict(data.features),
      'mean': data.statistics.mean.tolist(),
      'std': data.statistics.std.tolist(),
      'reference': data.accounting.reference,
      'shards': data.shards,
  }


def _reporter(progress: progress_lib.Progress) -> Callable[..., None]:
  """Shows the first member's and the mean validation figures."""
  seen = [0]

  def report(step: int, row: loop.Scalars) -> None:
    figures = {
        name: float(np.mean(row[name]))
        for name in ('loss', 'multiplier', 'best_score')
        if name in row
    }
    progress.update(step - seen[0], **figures)
    seen[0] = step

  return report


def train_seed(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    seed: int,
    data: TrainingSet,
) -> learned.LearnedRouter:
  """Trains one seed, or resumes it, and leaves its router.

  Raises:
    ValueError: if the run directory is of another configuration or of other
      shards. Nothing is overwritten then.
    FloatingPointError: if the loss is not finite.
  """
  directory = workdirs.claim(run_directory(workdir, seed), config)
  checkpoint.pin_json(
      directory / 'features.json', features_record(data), 'training set'
  )
  if is_finished(workdir, seed):
    return learned.load(directory)
  with progress_lib.Progress(config.num_steps, f'train seed {seed}') as shown:
    state = fit_lib.fit(
        config,
        data.train,
        data.validation,
        directory,
        seed=seed,
        report=_reporter(shown),
    )
  router = learned.LearnedRouter(
      make_card(config, data), state.best_params, data.statistics
  )
  router.save(directory)
  logging.info(
      'Seed %d: best steps %s, validation scores %s, in %s',
      seed,
      np.asarray(state.best_step).tolist(),
      np.asarray(state.best_score).round(4).tolist(),
      directory,
  )
  return router


def train_all(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> list[pathlib.Path]:
  """Trains every seed of `config.train_seeds`; returns their directories."""
  data = load_training_set(config, workdir)
  for seed in config.train_seeds:
    train_seed(config, workdir, seed, data)
  return [run_directory(workdir, seed) for seed in config.train_seeds]


if __name__ == '__main__':
  launch.run(train_all, 'config', 'workdir')
