"""The training loop: steps, validation, metrics and checkpoints.

The loop does not depend on the objective. It has no early end: the state keeps,
for each of the K policies, the parameters with the best validation score so
far, and all policies are trained to the last step.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from routing.training import checkpoint
from routing.training import metrics as metrics_lib
from routing.training import sources
from routing.training import state as state_lib

Scalars = Mapping[str, Any]
TrainStep = Callable[[state_lib.TrainState, Any], tuple]
EvalStep = Callable[[state_lib.TrainState], tuple]


@dataclasses.dataclass(frozen=True)
class Schedule:
  """The length of a run and its intervals, in gradient steps, all >= 1.

  num_steps: total number of gradient steps.
  log_every: interval between rows of training metrics.
  eval_every: interval between validations.
  checkpoint_every: interval between checkpoints.
  """

  num_steps: int
  log_every: int
  eval_every: int
  checkpoint_every: int

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if value < 1:
        raise ValueError(f'{field.name} is {value}; it must be at least 1.')

  def is_due(self, step: int, every: int) -> bool:
    """Returns whether `step` is a multiple of `every`, or the last step."""
    return step % every == 0 or step == self.num_steps


def _check_finite(steps: list[int], losses: list[jax.Array]) -> None:
  """Raises FloatingPointError at the first step whose loss is not finite."""
  for step, loss in zip(steps, jax.device_get(losses), strict=True):
    if not np.isfinite(loss).all():
      raise FloatingPointError(
          f'The loss is {loss} at step {step}; it must be finite. Check the '
          'data for values that are not finite, or lower '
          'optimizer.learning_rate.'
      )


def train(
    schedule: Schedule,
    directory: pathlib.Path | str,
    state: state_lib.TrainState,
    *,
    train_step: TrainStep,
    eval_step: EvalStep,
    batch_at: sources.Source,
    report: Callable[[int, Scalars], None] = lambda step, scalars: None,
) -> state_lib.TrainState:
  """Trains from `state`, or resumes from `directory`; returns the final state.

  Args:
    schedule: length of the run, and intervals of logging and saving.
    directory: of the run; `checkpoints/` and `metrics.jsonl` are written there.
    state: the state before the first step.
    train_step: (state, batch) -> (state, metrics with 'loss').
    eval_step: state -> (state with updated best parameters, metrics).
    batch_at: returns the batch of each step. It must be a pure function, so
      that a resumed run sees the same batches as an uninterrupted one.
    report: called with (step, metrics) for each row, e.g. to show progress.

  Raises:
    FloatingPointError: if a loss is not finite. The step is not saved.
  """
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  with checkpoint.open_manager(directory, schedule.checkpoint_every) as manager:
    # `state` gives orbax the structure and shapes of what it restores.
    state = checkpoint.restore_latest(manager, state)
    start = int(state.step)
    write = metrics_lib.MetricWriter(directory / 'metrics.jsonl', start)
    unchecked: dict[int, jax.Array] = {}
    for step in range(start + 1, schedule.num_steps + 1):
      # `step` counts finished steps, `batch_at` counts batches from 0.
      state, metrics = train_step(state, batch_at(step - 1, state))
      unchecked[step] = metrics['loss']
      is_logged = schedule.is_due(step, schedule.log_every)
      is_evaluated = schedule.is_due(step, schedule.eval_every)
      is_saved = schedule.is_due(step, schedule.checkpoint_every)
      if is_logged or is_evaluated or is_saved:
        # Losses are fetched from the device only at these steps: a fetch at
        # each step would keep the host from queueing the next one. The check
        # comes before the save below, so that no checkpoint has a NaN.
        _check_finite(list(unchecked), list(unchecked.values()))
        unchecked.clear()
      row = metrics if is_logged else {}
      if is_evaluated:
        state, scores = eval_step(state)
        row = {**row, **scores}
      if row:
        row = jax.device_get(row)
        write(step, row)
        report(step, row)
      # Saved after validation, so that the best parameters are up to date.
      if is_saved:
        checkpoint.save(manager, step, state, force=step == schedule.num_steps)
    manager.wait_until_finished()  # Orbax writes checkpoints in the background.
    write.close()
  return state
