"""Trains the policies, one run per seed.

Run:    python -m experiments.train --config=configs/arithmetic.py --workdir=runs/arithmetic
Resume: the same command; finished seeds are kept, an unfinished one goes on.
Writes: runs/seed<k>/{config.json, features.json, metrics.jsonl, checkpoints/, router.safetensors, router.json, seen.json}
"""  # noqa: E501  Commands stay on one line.

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import functools
import pathlib

from absl import logging
import ml_collections
import numpy as np

from experiments import builders
from experiments import command_line
from experiments import on_policy_rounds
from experiments import records_on_disk
from experiments import training_data
from experiments import workdirs
from routing import progress as progress_lib
from routing.features import observation
from routing.routers import card as card_lib
from routing.routers import learned
from routing.training import checkpoint
from routing.training import compile_time
from routing.training import estimators
from routing.training import fit as fit_lib
from routing.training import loop
from routing.training import memory
from routing.training import parallel
from routing.training import sources
from routing.training import state as state_lib


def run_directory(workdir: pathlib.Path | str, seed: int) -> pathlib.Path:
  """Where the run of one training seed is."""
  return pathlib.Path(workdir).absolute() / 'runs' / f'seed{seed}'


def is_finished(workdir: pathlib.Path | str, seed: int) -> bool:
  """Whether the run of this seed has left its router."""
  return (run_directory(workdir, seed) / learned.CARD_FILE).exists()


def load_router(
    workdir: pathlib.Path | str, seed: int
) -> learned.LearnedRouter:
  """The router of a seed, as the stages after training take it.

  Raises:
    ValueError: if there is none, or it does not say what it has seen.
  """
  directory = run_directory(workdir, seed)
  router = learned.load(directory)
  router.seen.require_known(str(directory))
  return router


def make_card(
    config: ml_collections.ConfigDict, view: training_data.View
) -> card_lib.Card:
  """What the router of this run will say of itself."""
  return card_lib.Card(
      specs=view.accounting.specs,
      ruler=view.accounting.ruler,
      reference=view.accounting.reference,
      protocol=view.protocol,
      features=view.features,
      network=config.network.to_dict(),
      form=config.objective.form,
      levels=tuple(config.objective.levels),
      weights_sha256=view.weights_sha256,
  )


def _progress(
    config: ml_collections.ConfigDict, seed: int
) -> progress_lib.Progress:
  return progress_lib.Progress(
      config.num_steps,
      f'train seed {seed}',
      # The first step and the first look at `select` wait for the compiler.
      pauses=compile_time.watched().seconds,
  )


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


def _num_devices(config: ml_collections.ConfigDict) -> int:
  # Configurations from before there were several name none.
  return config.get('stream', {}).get('num_devices', 1)


@contextlib.contextmanager
def _batches(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    seed: int,
    data: training_data.TrainingSet,
) -> Iterator[sources.Data | sources.Source]:
  """Where the batches of a seed come from; what collects them ends with it."""
  layout = parallel.first_devices(_num_devices(config))
  constant = observation.constant(data.view.features)
  if estimators.of(config).writes_its_own:
    card = make_card(config, data.view)
    weights = builders.weight_hashes(config)
    records_on_disk.check_weights(card, weights, 'The configuration is')
    with on_policy_rounds.collecting(
        config,
        training_data.references(config, workdir),
        data.view,
        card,
        run_directory(workdir, seed),
        seed,
        functools.partial(records_on_disk.engines, config, workdir, 'train'),
    ) as collector:
      yield sources.renewed(
          collector,
          config.on_policy.every,
          seed,
          config.batch_size,
          layout,
          constant,
      )
  elif isinstance(data.train, sources.Shards):
    yield sources.streamed(
        data.train,
        seed,
        config.batch_size,
        config.stream.num_held,
        layout,
        constant,
    )
  else:
    yield data.train


def train_seed(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    seed: int,
    data: training_data.TrainingSet,
) -> learned.LearnedRouter:
  """Trains one seed, or resumes it, and leaves its router; see `train_all`.

  Raises:
    ValueError: if the run directory is of another configuration or of other
      shards. Nothing is overwritten then.
    FloatingPointError: if the loss is not finite.
    engine_lib.Stop: if collecting on the way came to an end.
  """
  directory = workdirs.claim(run_directory(workdir, seed), config)
  checkpoint.pin_json(
      directory / 'features.json',
      training_data.features_record(data),
      'training set',
  )
  if is_finished(workdir, seed):
    return learned.load(directory)
  with (
      _batches(config, workdir, seed, data) as batches,
      _progress(config, seed) as shown,
  ):
    state = fit_lib.fit(
        config,
        batches,
        data.select,
        directory,
        seed=seed,
        report=_reporter(shown),
        devices=_num_devices(config),
        constant=observation.constant(data.view.features),
    )
  router = learned.LearnedRouter(
      make_card(config, data.view),
      state_lib.kept_params(
          state, is_shared=config.network.get('is_conditioned', False)
      ),
      data.view.statistics,
      seen=data.seen,
  )
  router.save(directory)
  if not np.isfinite(state.best_score).all():
    logging.warning(
        'Seed %d: validation could judge no step of the members with a score '
        'of -inf below; their last parameters are kept.',
        seed,
    )
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
  memory.keep_freed()
  data = training_data.load(config, workdir)
  for seed in config.train_seeds:
    train_seed(config, workdir, seed, data)
  return [run_directory(workdir, seed) for seed in config.train_seeds]


if __name__ == '__main__':
  command_line.run(train_all, 'config', 'workdir')
