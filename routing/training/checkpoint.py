"""Checkpoints of a run: the state with orbax, and JSON files that describe it.

A run directory has `checkpoints/` (the state, to resume from), `features.json`
(the observation and its statistics) and `config.json`. Both JSON files are
compared when a run resumes, so weights are never used with other features.
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from routing.training import state as state_lib

# The last, and the one before it in case the last was interrupted.
_NUM_CHECKPOINTS = 2


def open_manager(
    directory: pathlib.Path | str, checkpoint_every: int
) -> ocp.CheckpointManager:
  """Opens the manager of `<directory>/checkpoints`; close it, or use `with`."""
  return ocp.CheckpointManager(
      # Orbax refuses relative paths.
      pathlib.Path(directory).absolute() / 'checkpoints',
      options=ocp.CheckpointManagerOptions(
          preservation_policy=preservation_policy.LatestN(_NUM_CHECKPOINTS),
          save_interval_steps=checkpoint_every,
      ),
  )


def restore_latest(
    manager: ocp.CheckpointManager, state: state_lib.TrainState
) -> state_lib.TrainState:
  """Returns the newest saved state, or `state` if there is none.

  Args:
    manager: of the run.
    state: gives the structure, shapes and devices of the result.

  Raises:
    ValueError: if the saved state has another structure or other shapes.
  """
  latest = manager.latest_step()
  if latest is None:
    return state
  return manager.restore(latest, args=ocp.args.StandardRestore(state))


def save(
    manager: ocp.CheckpointManager,
    step: int,
    state: state_lib.TrainState,
    *,
    force: bool,
) -> None:
  """Saves the state if `step` is due, or if forced and not saved yet."""
  # Orbax raises an error if a step is saved twice: a run that is resumed after
  # its last step would do so.
  if force and manager.latest_step() == step:
    return
  manager.save(step, args=ocp.args.StandardSave(state), force=force)


def pin_json(path: pathlib.Path, content: Mapping[str, Any], what: str) -> None:
  """Writes `content`, or checks that an existing file has the same content.

  Args:
    path: of the JSON file.
    content: JSON-like.
    what: what the file describes, for the error, e.g. 'training set'.

  Raises:
    ValueError: if the file has other content. It is not overwritten.
  """
  text = json.dumps(content, indent=2, sort_keys=True)
  if path.exists():
    found = json.loads(path.read_text())
    # Compared after a round trip through JSON, which turns tuples into lists.
    if found != json.loads(text):
      names = differences(found, json.loads(text))
      raise ValueError(
          f'{path} describes another {what}: they differ in '
          f'{", ".join(names)}. Use another directory, or the {what} that this '
          'one was made with.'
      )
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  # Renamed when complete, so that a killed run leaves no half-written file.
  partial = path.with_suffix('.partial')
  partial.write_text(text)
  partial.replace(path)


def differences(left: Any, right: Any, prefix: str = '') -> list[str]:
  """Returns the dotted names at which two JSON values differ, sorted."""
  if not (isinstance(left, dict) and isinstance(right, dict)):
    return [] if left == right else [prefix.rstrip('.') or 'all']
  return [
      name
      for key in sorted({*left, *right})
      for name in differences(left.get(key), right.get(key), f'{prefix}{key}.')
  ]
