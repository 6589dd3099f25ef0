"""Runs one training from arrays to trained policies, for every estimator."""

from collections.abc import Callable
import dataclasses
import pathlib

import ml_collections

from routing import types
from routing.features import batching
from routing.objectives import lagrangian
from routing.policy import networks
from routing.training import estimators
from routing.training import kappa
from routing.training import loop
from routing.training import parallel
from routing.training import sources
from routing.training import state as state_lib
from routing.training import step as step_lib
from routing.training import validation as validation_lib

_IN_WORDS = {
    'known': 'known outcomes (ladders or reply trees)',
    'trajectories': 'trajectories',
}


def _schedule(config: ml_collections.ConfigDict) -> loop.Schedule:
  """Returns the `loop.Schedule` (length and intervals) of a configuration."""
  names = (field.name for field in dataclasses.fields(loop.Schedule))
  return loop.Schedule(**{name: config[name] for name in names})


def make_learner(
    config: ml_collections.ConfigDict,
    num_routes: int,
    num_features: int,
    seed: int,
) -> tuple[networks.Policy, state_lib.TrainState, loop.TrainStep]:
  """Returns the network, the state before the first step, and the jitted step.

  Args:
    config: as in `fit`.
    num_routes: A, the number of actions of the policy.
    num_features: F, the length of an observation.
    seed: of initial weights and dropout.

  Raises:
    ValueError: if the configuration combines options that exclude each other.
  """
  network = networks.make_network(config.network, num_routes)
  # The check is here and not in `fit`, so that it covers every caller that
  # builds a training step.
  kappa.check(config, estimators.name_of(config))
  state, update = estimators.of(config).make(
      config, network, num_features, seed
  )
  return network, state, step_lib.over_policies(config, update, seed)


def check_data(
    config: ml_collections.ConfigDict, data: validation_lib.Data
) -> None:
  """Raises ValueError if a configuration cannot be trained on this data.

  Args:
    config: as in `fit`.
    data: known outcomes or trajectories, of training or of validation.
  """
  is_known = isinstance(data, types.OutcomeBatch)
  given = 'known' if is_known else 'trajectories'
  if given != (expected := estimators.of(config).learns_from):
    raise ValueError(
        f'objective.estimator {estimators.name_of(config)} learns from '
        f'{_IN_WORDS[expected]}; got {_IN_WORDS[given]}.'
    )
  # In a reply tree the decisions of one row belong to different answers. A
  # network with memory would read the row as one sequence.
  if (
      is_known
      and not data.is_chain
      and networks.has_memory(config.network.kind)
  ):
    raise ValueError(
        f'network.kind is {config.network.kind}; on reply trees only mlp is '
        'allowed, because the decisions on a problem are not one sequence.'
    )
  # The small model alone is the cheapest policy, so no budget below its cost
  # can be met.
  lagrangian.check_levels(
      tuple(config.objective.levels),
      float(validation_lib.always(0, data).cost),
      form=config.objective.form,
  )


def fit(
    config: ml_collections.ConfigDict,
    train: validation_lib.Data | sources.Source,
    validation: validation_lib.Data,
    directory: pathlib.Path | str,
    *,
    seed: int,
    report: Callable[[int, loop.Scalars], None] = lambda step, scalars: None,
    devices: int = 1,
    constant: slice = slice(0, 0),
) -> state_lib.TrainState:
  """Trains one policy per level of `config.objective`, or resumes a run.

  Args:
    config: `objective`, `network`, `optimizer`, `multiplier`, `num_steps`,
      `batch_size`, `log_every`, `eval_every`, `checkpoint_every`; for
      trajectories also `critics` and `trust_region`.
    train: NumPy arrays with standardised features, or a source of batches.
    validation: arrays of other problems, from which the best step of each
      policy is chosen.
    directory: of the run; `checkpoints/` and `metrics.jsonl` are written there.
    seed: of weights, dropout and data order.
    report: called with (step, metrics) for each row of metrics.
    devices: number of devices that share each batch. If `train` is a source, it
      has its own layout and this number is ignored.
    constant: the feature columns that are constant within a trajectory; see
      `sources.with_constant`. If `train` is a source, it has its own setting.

  Returns:
    The final state; `state.kept_params` picks its best parameters.

  Raises:
    ValueError: if a level cannot be met, or the data do not suit the estimator.
    FloatingPointError: if a loss is not finite; the message names the step.
  """
  layout = parallel.first_devices(devices)
  # Checked before any compilation, so that a wrong configuration fails at once.
  check_data(config, validation)
  if not callable(train):
    train = sources.resident(train, seed, config.batch_size, layout, constant)
  num_routes = validation_lib.num_routes(validation)
  network, state, train_step = make_learner(
      config, num_routes, validation.features.shape[-1], seed
  )
  eval_step = validation_lib.make_eval_step(config, network)
  # Validation data and state are replicated; only training batches are sharded.
  # `with_constant` must come after `make_learner`, which reads F off the shape
  # of `features`, because it replaces this array.
  validation = layout.whole(
      sources.with_constant(batching.trimmed(validation), constant)
  )
  return loop.train(
      _schedule(config),
      directory,
      layout.whole(state),
      train_step=train_step,
      eval_step=lambda state: eval_step(state, validation),
      batch_at=train,
      report=report,
  )
