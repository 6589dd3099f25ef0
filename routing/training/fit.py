"""One training run, from arrays to trained policies, for every estimator."""

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
  """Returns the fields of `loop.Schedule` in a configuration."""
  names = (field.name for field in dataclasses.fields(loop.Schedule))
  return loop.Schedule(**{name: config[name] for name in names})


def make_learner(
    config: ml_collections.ConfigDict,
    num_routes: int,
    num_features: int,
    seed: int,
) -> tuple[networks.Policy, state_lib.TrainState, loop.TrainStep]:
  """Returns the network, the state before the first step, and the jitted step.

  Raises:
    ValueError: if the configuration combines options that exclude each other.
  """
  network = networks.make_network(config.network, num_routes)
  # Here and not in `fit`, so that every caller that builds a step is checked.
  kappa.check(config, estimators.name_of(config))
  state, update = estimators.of(config).make(
      config, network, num_features, seed
  )
  return network, state, step_lib.over_policies(config, update, seed)


def check_data(
    config: ml_collections.ConfigDict, data: validation_lib.Data
) -> None:
  """Raises ValueError unless estimator, network and levels suit the data."""
  is_known = isinstance(data, types.OutcomeBatch)
  given = 'known' if is_known else 'trajectories'
  if given != (expected := estimators.of(config).learns_from):
    raise ValueError(
        f'objective.estimator {estimators.name_of(config)} learns from '
        f'{_IN_WORDS[expected]}; got {_IN_WORDS[given]}.'
    )
  # In a reply tree the decisions of one row belong to different histories. A
  # network with memory would read them as one sequence.
  if (
      is_known
      and not data.is_chain
      and networks.has_memory(config.network.kind)
  ):
    raise ValueError(
        f'network.kind is {config.network.kind}; on reply trees only mlp is '
        'allowed, since the decisions of a problem are no sequence.'
    )
  # The small model alone is the cheapest policy: no lower budget can be met.
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
    validation: arrays of other problems, on which each policy's best step is
      chosen.
    directory: of the run; `checkpoints/` and `metrics.jsonl` go there.
    seed: of weights, dropout and data order.
    report: called with (step, metrics) for each row of metrics.
    devices: number of devices that share each batch. Ignored for a source,
      which has its own layout.
    constant: columns of the features that are constant within a trajectory; see
      `sources.with_constant`. Applied to `train` only if it is arrays.

  Returns:
    The final state. See `state.kept_params` for the parameters to keep.

  Raises:
    ValueError: if a level cannot be met, or the estimator needs other data.
    FloatingPointError: if a loss is not finite; it names the step.
  """
  layout = parallel.first_devices(devices)
  # Before anything is compiled, so that a wrong configuration fails at once.
  check_data(config, validation)
  if not callable(train):
    train = sources.resident(train, seed, config.batch_size, layout, constant)
  num_routes = validation_lib.num_routes(validation)
  network, state, train_step = make_learner(
      config, num_routes, validation.features.shape[-1], seed
  )
  eval_step = validation_lib.make_eval_step(config, network)
  # Validation data and state are replicated; only training batches are sharded.
  # After `make_learner`, which needs F while `features` is still one array.
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
