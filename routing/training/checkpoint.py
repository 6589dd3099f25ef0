"""Checkpoints of a run: the state with orbax, and JSON files that describe it.

A run directory has `checkpoints/` (the state, to resume from), `features.json`
(feature configuration and statistics) and `config.json`. When a run resumes,
both JSON files are compared with the current settings, so that weights are
never used with features other than those they were trained on.
"""

from collections.abc import Mapping
import json
import pathlib
from typing import TYPE_CHECKING
from typing import Any

from routing.training import state as state_lib

# Loading it takes half a second, so only what trains or resumes does.
if TYPE_CHECKING:
  import orbax.checkpoint as ocp

# The last checkpoint, and the one before it in case the writing of the last one
# was interrupted.
_NUM_CHECKPOINTS = 2


def open_manager(
    directory: pathlib.Path | str, checkpoint_every: int
) -> 'ocp.CheckpointManager':
  """Opens the orbax manager of the checkpoints of a run.

  Close the manager after use, or use it in a `with` statement.

  Args:
    directory: of the run; checkpoints are in `<directory>/checkpoints`.
    checkpoint_every: number of gradient steps between checkpoints.
  """
  import orbax.checkpoint as ocp
  from orbax.checkpoint.checkpoint_managers import preservation_policy

  return ocp.CheckpointManager(
      # Orbax refuses relative paths.
      pathlib.Path(directory).absolute() / 'checkpoints',
      options=ocp.CheckpointManagerOptions(
          preservation_policy=preservation_policy.LatestN(_NUM_CHECKPOINTS),
          save_interval_steps=checkpoint_every,
      ),
  )


def restore_latest(
    manager: 'ocp.CheckpointManager', state: state_lib.TrainState
) -> state_lib.TrainState:
  """Returns the newest saved state, or `state` if no state was saved.

  Args:
    manager: the checkpoint manager of the run.
    state: a state with the structure, shapes and devices of the result.

  Raises:
    ValueError: if the saved state has another structure or other shapes.
  """
  import orbax.checkpoint as ocp

  latest = manager.latest_step()
  if latest is None:
    return state
  return manager.restore(latest, args=ocp.args.StandardRestore(state))


def save(
    manager: 'ocp.CheckpointManager',
    step: int,
    state: state_lib.TrainState,
    *,
    force: bool,
) -> None:
  """Saves the state of a run as a checkpoint, if one is due at this step.

  Args:
    manager: the checkpoint manager of the run.
    step: number of gradient steps done.
    state: the state after these steps.
    force: True = save even if no checkpoint is due, unless this step is saved.
  """
  import orbax.checkpoint as ocp

  # Orbax raises an error if a step is saved twice. A run that is resumed after
  # its last step would cause this error.
  if force and manager.latest_step() == step:
    return
  manager.save(step, args=ocp.args.StandardSave(state), force=force)


def pin_json(path: pathlib.Path, content: Mapping[str, Any], what: str) -> None:
  """Writes a JSON file, or checks that an existing one has the same content.

  Args:
    path: the JSON file.
    content: the content, JSON-like.
    what: what the file describes, for the error message, e.g. 'training set'.

  Raises:
    ValueError: if the file exists with other content. It is not overwritten.
  """
  text = json.dumps(content, indent=2, sort_keys=True)
  if path.exists():
    found = json.loads(path.read_text())
    # `content` is compared after a round trip through JSON, which turns its
    # tuples into lists like those of the file.
    if found != json.loads(text):
      names = differences(found, json.loads(text))
      raise ValueError(
          f'{path} describes another {what} than this run: the two differ in '
          f'{", ".join(names)}. Use another directory, or the {what} that this '
          'directory was made with.'
      )
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  # The file gets its name only when it is complete, so that a killed run leaves
  # no half-written file under this name.
  partial = path.with_suffix('.partial')
  partial.write_text(text)
  partial.replace(path)


def differences(left: Any, right: Any, prefix: str = '') -> list[str]:
  """Returns the dotted names of the fields in which two JSON values differ.

  Args:
    left: a JSON-like value.
    right: another one.
    prefix: dotted name of the enclosing field, with a dot at its end.

  Returns:
    The names, sorted; ['all'] if the values themselves are no dictionaries and
    differ.
  """
  if not (isinstance(left, dict) and isinstance(right, dict)):
    return [] if left == right else [prefix.rstrip('.') or 'all']
  return [
      name
      for key in sorted({*left, *right})
      for name in differences(left.get(key), right.get(key), f'{prefix}{key}.')
  ]
