"""Trains the policies, one run per seed.

Run:    python -m experiments.train --config=configs/arithmetic.py --workdir=runs/arithmetic
Plan:   the same with --dry_run, which prints size and time and trains nothing
Resume: the same command; finished seeds are kept, an unfinished one continues from its last checkpoint.
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
from experiments import split_on_disk
from experiments import tracking
from experiments import training_data
from experiments import workdirs
from routing import progress as progress_lib
from routing.features import observation
from routing.objectives import lagrangian
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
from routing.training import validation as validation_lib


def run_directory(workdir: pathlib.Path | str, seed: int) -> pathlib.Path:
  """Returns the directory of the run of one training seed."""
  return pathlib.Path(workdir).absolute() / 'runs' / f'seed{seed}'


def shown_name(directory: pathlib.Path, seed: int) -> str:
  """Returns how a tracker shows the run of a seed, given its directory."""
  return f'{directory.parents[1].name}, seed {seed}'


def is_finished(workdir: pathlib.Path | str, seed: int) -> bool:
  """Returns whether the run of a seed has saved its router."""
  return (run_directory(workdir, seed) / learned.CARD_FILE).exists()


def load_router(
    workdir: pathlib.Path | str, seed: int
) -> learned.LearnedRouter:
  """Returns the trained router of a seed, for calibration and evaluation.

  Raises:
    ValueError: if the seed is not trained, or the router has no record of the
      problems that it has seen.
  """
  directory = run_directory(workdir, seed)
  router = learned.load(directory)
  router.seen.require_known(str(directory))
  return router


def with_levels(
    config: ml_collections.ConfigDict, select: validation_lib.Data
) -> ml_collections.ConfigDict:
  """Returns the configuration with budgets, if it names none.

  Args:
    config: of the run; `objective.levels` () = spread them from the cost of the
      small model alone to that of the large one.
    select: the data of `select`, from which the first of these costs is known.
  """
  if config.objective.levels or config.objective.form != 'budget':
    return config
  small_cost = float(validation_lib.always(0, select).cost)
  config = config.copy_and_resolve_references()
  config.objective.levels = lagrangian.spread_levels(small_cost)
  logging.info('Budgets: %s', ', '.join(map(str, config.objective.levels)))
  return config


def make_card(
    config: ml_collections.ConfigDict, view: training_data.View
) -> card_lib.Card:
  """Returns the card of this run's router: all it needs besides its weights."""
  return card_lib.Card(
      specs=view.accounting.specs,
      metric=view.accounting.metric,
      reference=view.accounting.reference,
      protocol=view.protocol,
      features=view.features,
      network=config.network.to_dict(),
      form=config.objective.form,
      levels=tuple(config.objective.levels),
      weights_sha256=view.weights_sha256,
  )


@contextlib.contextmanager
def _reporting(
    config: ml_collections.ConfigDict, directory: pathlib.Path, seed: int
) -> Iterator[Callable[[int, loop.Scalars], None]]:
  """Yields what shows each row of metrics: means on a bar, all in a tracker.

  Args:
    config: of the run.
    directory: of the seed.
    seed: of the run.
  """
  with (
      progress_lib.Progress(
          config.num_steps,
          f'train seed {seed}',
          # The first step and the first look at `select` wait for the compiler.
          pauses=compile_time.watched().seconds,
      ) as bar,
      tracking.opened(config, directory, shown_name(directory, seed)) as track,
  ):
    seen = 0  # The last reported step.

    def report(step: int, row: loop.Scalars) -> None:
      nonlocal seen
      figures = {
          name: float(np.mean(row[name]))
          for name in ('loss', 'multiplier', 'best_score')
          if name in row
      }
      bar.update(step - seen, **figures)
      track(step, row)
      seen = step

    yield report


def _num_devices(config: ml_collections.ConfigDict) -> int:
  # Older saved configurations do not have this field.
  return config.get('stream', {}).get('num_devices', 1)


@contextlib.contextmanager
def _batches(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    seed: int,
    data: training_data.TrainingSet,
) -> Iterator[sources.Data | sources.Source]:
  """Yields the batches of a seed: arrays, or a source of batches.

  A source that collects between gradient steps has its engines closed at the
  end of the block.
  """
  # Rows of a batch are divided over the devices; the state is on each of them.
  layout = parallel.first_devices(_num_devices(config))
  # Columns that are the same at all decisions of a trajectory, the question's
  # n-grams: multiplied once per trajectory instead of once per decision.
  constant = observation.constant(data.view.features)
  if estimators.of(config).writes_its_own:
    # The models that answer now must be those of the validation trajectories.
    card = make_card(config, data.view)
    weights = builders.model_identities(config)
    split_on_disk.check_weights(card, weights, 'The configuration is')
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
        config.stream.num_shards_in_memory,
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
  """Trains one seed, or resumes it, and saves its router.

  Args:
    config: of the run.
    workdir: of the run.
    seed: of weights, dropout and data order.
    data: see `training_data.load`.

  Returns:
    The router; of a seed that was finished before, the saved one.

  Raises:
    ValueError: if the run directory belongs to another configuration or other
      shards. Nothing is overwritten then.
    FloatingPointError: if the loss is not finite.
    engine_lib.Stop: if a collection between gradient steps was stopped.
  """
  directory = workdirs.claim(run_directory(workdir, seed), config)
  # A resumed run must continue on the same features and the same shards.
  checkpoint.pin_json(
      directory / 'features.json',
      training_data.features_record(data),
      'training set',
  )
  # After the checks above: a finished run of other data is an error, too.
  if is_finished(workdir, seed):
    return learned.load(directory)
  config = with_levels(config, data.select)
  with (
      _batches(config, workdir, seed, data) as batches,
      _reporting(config, directory, seed) as report,
  ):
    state = fit_lib.fit(
        config,
        batches,
        data.select,
        directory,
        seed=seed,
        report=report,
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
  # The card is written last; `is_finished` looks for it.
  router.save(directory)
  _log_scores(seed, state, directory)
  return router


def _log_scores(
    seed: int, state: state_lib.TrainState, directory: pathlib.Path
) -> None:
  """Logs each policy's best step and validation score."""
  if not np.isfinite(state.best_score).all():
    logging.warning(
        'Seed %d: a validation score of -inf below means that no step of that '
        'policy could be validated; its last parameters are kept.',
        seed,
    )
  logging.info(
      'Seed %d: best steps %s, validation scores %s, in %s',
      seed,
      np.asarray(state.best_step).tolist(),
      np.asarray(state.best_score).round(4).tolist(),
      directory,
  )


def train_all(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> list[pathlib.Path]:
  """Trains every seed of `config.train_seeds` and returns their directories."""
  # Before the first step: otherwise glibc returns XLA's scratch memory after
  # every step and zeroes it again, an eighth of a step's time.
  memory.keep_freed()
  # Read once: all seeds train on the same arrays.
  data = training_data.load(config, workdir)
  for seed in config.train_seeds:
    train_seed(config, workdir, seed, data)
  return [run_directory(workdir, seed) for seed in config.train_seeds]


if __name__ == '__main__':
  # Here, since the plans import the stages.
  from experiments import stage_plans

  command_line.run(train_all, 'config', 'workdir', plan=stage_plans.show_train)
