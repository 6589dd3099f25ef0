"""The loop: steps, validation, metrics, checkpoints; knows no objective.

Early stopping keeps the best rather than ends the run: each member's parameters
of highest validation score are carried in the state.
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
  """How long a run is, and how often it looks up.

  num_steps: gradient steps in all.
  log_every, eval_every, checkpoint_every: in gradient steps.
  """

  num_steps: int
  log_every: int
  eval_every: int
  checkpoint_every: int

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if value < 1:
        raise ValueError(f'{field.name} is {value}; allowed: >= 1.')

  def is_due(self, step: int, every: int) -> bool:
    """At each multiple, and at the last step."""
    return step % every == 0 or step == self.num_steps


def _check_finite(steps: list[int], losses: list[jax.Array]) -> None:
  """Raises FloatingPointError with the first step of a non-finite loss."""
  for step, loss in zip(steps, jax.device_get(losses), strict=True):
    if not np.isfinite(loss).all():
      raise FloatingPointError(f'The loss is {loss} at step {step}.')


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
  """Trains, or resumes from `directory`, and returns the final state.

  Args:
    schedule: length and intervals.
    directory: of the run; gets `checkpoints/` and `metrics.jsonl`.
    state: before the first step.
    train_step: (state, batch) -> (state, metrics), with 'loss' among them.
    eval_step: state -> (state, metrics), with the best members updated.
    batch_at: the batch of each step; pure, so that a resumed run sees exactly
      what an uninterrupted run sees.
    report: called with each row of metrics, e.g. to show progress.

  Raises:
    FloatingPointError: naming the step at which the loss was not finite.
      Nothing is saved from then on.
  """
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  with checkpoint.open_manager(directory, schedule.checkpoint_every) as manager:
    state = checkpoint.restore_latest(manager, state)
    start = int(state.step)
    write = metrics_lib.MetricWriter(directory / 'metrics.jsonl', start)
    unchecked: dict[int, jax.Array] = {}
    for step in range(start + 1, schedule.num_steps + 1):
      state, metrics = train_step(state, batch_at(step - 1, state))
      unchecked[step] = metrics['loss']
      is_logged = schedule.is_due(step, schedule.log_every)
      is_evaluated = schedule.is_due(step, schedule.eval_every)
      is_saved = schedule.is_due(step, schedule.checkpoint_every)
      if is_logged or is_evaluated or is_saved:
        # Losses are fetched late, so that the device never waits for the host.
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
      if is_saved:
        checkpoint.save(manager, step, state, force=step == schedule.num_steps)
    manager.wait_until_finished()
    write.close()
  return state
