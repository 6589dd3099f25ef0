"""One run from arrays to trained members: the exact objective on ladders."""

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import pathlib
from typing import Any

import jax
import ml_collections

from routing import types
from routing.features import batching
from routing.objectives import lagrangian
from routing.policy import networks
from routing.training import loop
from routing.training import state as state_lib
from routing.training import step as step_lib


def _on_device(batch: types.LadderBatch) -> types.LadderBatch:
  return jax.device_put(batching.trimmed(batch))


def _schedule(config: ml_collections.ConfigDict) -> loop.Schedule:
  names = (field.name for field in dataclasses.fields(loop.Schedule))
  return loop.Schedule(**{name: config[name] for name in names})


def fit(
    config: ml_collections.ConfigDict,
    train: types.LadderBatch,
    validation: types.LadderBatch,
    directory: pathlib.Path | str,
    *,
    seed: int,
    report: Callable[[int, loop.Scalars], None] = lambda step, scalars: None,
) -> state_lib.TrainState:
  """Trains one policy per level of `config.objective`, or resumes.

  Args:
    config: `objective`, `network`, `optimizer`, `multiplier`, `num_steps`,
      `batch_size`, `log_every`, `eval_every`, `checkpoint_every`.
    train: NumPy arrays with standardised features.
    validation: the same of other problems; picks each member's best step.
    directory: of the run; gets `checkpoints/` and `metrics.jsonl`.
    seed: of weights, dropout and data order.
    report: called with each row of metrics.

  Returns:
    The final state; `best_params` are what to keep.

  Raises:
    ValueError: if a level cannot be met.
    FloatingPointError: naming the step of a non-finite loss.
  """
  lagrangian.check_levels(
      tuple(config.objective.levels),
      float(validation.stay_cost.mean()),
      form=config.objective.form,
  )
  num_problems, _, num_features = train.features.shape
  network = networks.make_network(
      config.network, num_routes=1 + train.handover_cost.shape[-1]
  )
  eval_step = step_lib.make_eval_step(config, network)
  train, validation = _on_device(train), _on_device(validation)

  def batches_from(start: int) -> Iterator[Any]:
    for rows in batching.minibatches(
        seed, start, num_problems, config.batch_size
    ):
      yield train, rows

  return loop.train(
      _schedule(config),
      directory,
      state_lib.init_state(config, network, num_features, seed),
      train_step=step_lib.make_train_step(
          config, network, step_lib.make_objective(config), seed
      ),
      eval_step=lambda state: eval_step(state, validation),
      batches_from=batches_from,
      report=report,
  )
