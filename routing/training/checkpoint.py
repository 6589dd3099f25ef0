"""Checkpoints of a run: the state in orbax, what the numbers mean beside it.

A run directory holds `checkpoints/` (the state, for resuming), `features.json`
(the observation and its statistics) and `config.json`. Both JSON files are
checked when a run resumes, so weights never meet other features.
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from routing.training import state as state_lib

_KEPT = 2  # The last, and the one before in case the last was cut off.


def open_manager(
    directory: pathlib.Path | str, checkpoint_every: int
) -> ocp.CheckpointManager:
  """The manager of `<directory>/checkpoints`; close it, or use it in `with`."""
  return ocp.CheckpointManager(
      pathlib.Path(directory).absolute() / 'checkpoints',
      options=ocp.CheckpointManagerOptions(
          preservation_policy=preservation_policy.LatestN(_KEPT),
          save_interval_steps=checkpoint_every,
      ),
  )


def restore_latest(
    manager: ocp.CheckpointManager, state: state_lib.TrainState
) -> state_lib.TrainState:
  """The newest saved state, or `state` itself if nothing was saved.

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
  """Saves if `step` is due, or if forced and not saved yet."""
  if force and manager.latest_step() == step:
    return
  manager.save(step, args=ocp.args.StandardSave(state), force=force)


def pin_json(path: pathlib.Path, content: Mapping[str, Any], what: str) -> None:
  """Writes `content` once; later calls must bring the same.

  Args:
    path: of the JSON file.
    content: JSON-like.
    what: names the file's meaning in the error.

  Raises:
    ValueError: if the file holds something else. It is left as it is.
  """
  text = json.dumps(content, indent=2, sort_keys=True)
  if path.exists():
    found = json.loads(path.read_text())
    if found != json.loads(text):
      names = differences(found, json.loads(text))
      raise ValueError(
          f'{path} is of another {what} (they differ in {", ".join(names)}); '
          'use another directory, or the one it was made with.'
      )
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_suffix('.partial')
  partial.write_text(text)
  partial.replace(path)


def differences(left: Any, right: Any, prefix: str = '') -> list[str]:
  """Dotted names at which two JSON values differ."""
  if not (isinstance(left, dict) and isinstance(right, dict)):
    return [] if left == right else [prefix.rstrip('.') or 'all']
  return [
      name
      for key in sorted({*left, *right})
      for name in differences(left.get(key), right.get(key), f'{prefix}{key}.')
  ]
