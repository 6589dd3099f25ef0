"""Sends training metrics to TensorBoard or Weights & Biases, besides the file.

`metrics.jsonl` is always written. `config.track` names one of `KINDS`; '' sends
nothing. Needs the extra `track`. TensorBoard's files are in `tensorboard/` of
the run's directory; those of Weights & Biases in `wandb/`. Its own environment
variables hold: WANDB_MODE=offline keeps everything on this machine until
`wandb sync`.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import importlib.util
import pathlib
import secrets
from typing import Any

import ml_collections
import numpy as np

from routing.shards import manifest as manifest_lib

KINDS = {'': '', 'tensorboard': 'tensorboardX', 'wandb': 'wandb'}
_PROJECT = 'stepwise-routing'
WANDB_ID_FILE = 'wandb_id.txt'
Report = Callable[[int, Mapping[str, Any]], None]


def kind_of(config: ml_collections.ConfigDict) -> str:
  """Returns where metrics are sent; '' in configurations from before."""
  return config.get('track', '')


def check(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError if `track` is not allowed, or its package is missing."""
  kind = kind_of(config)
  if kind not in KINDS:
    allowed = ', '.join(repr(x) for x in KINDS)
    raise ValueError(f'track is {kind!r}; allowed: {allowed}.')
  package = KINDS[kind]
  if package and importlib.util.find_spec(package) is None:
    raise ValueError(
        f'track is {kind!r}, and the package {package} is not installed: pip '
        "install 'stepwise-routing[track]'."
    )


@contextlib.contextmanager
def opened(
    config: ml_collections.ConfigDict, directory: pathlib.Path, name: str
) -> Iterator[Report]:
  """Yields what takes (step, metrics), as `training.fit` reports them.

  Args:
    config: of the run.
    directory: of the run, where files are written.
    name: of the run, as it is shown.

  Raises:
    ValueError: see `check`.
  """
  check(config)
  kind = kind_of(config)
  if kind == 'tensorboard':
    with contextlib.closing(_TensorBoard(directory)) as report:
      yield report
  elif kind == 'wandb':
    import wandb  # The import takes seconds.

    with wandb.init(
        project=_PROJECT,
        name=name,
        # A resumed run continues the curves of the one that was interrupted.
        id=_wandb_id(directory),
        resume='allow',
        dir=directory,
        config=config.to_dict(),
    ) as run:
      yield lambda step, row: run.log(scalars(row), step=step)
  else:
    yield lambda step, row: None


def _wandb_id(directory: pathlib.Path) -> str:
  """Returns the identifier of a run, which is kept in its directory.

  A run that begins anew in an emptied directory is another run.
  """
  path = directory / WANDB_ID_FILE
  if not path.exists():
    directory.mkdir(parents=True, exist_ok=True)
    text = secrets.token_hex(8) + '\n'
    manifest_lib.replace_file(path, lambda p: p.write_text(text))
  return path.read_text().strip()


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
  """Returns the finite numbers of a row; 'name/k' for policy k of a list."""
  found = {}
  for name, value in row.items():
    values = np.asarray(value, float)
    for k, x in enumerate(values.ravel()):
      if np.isfinite(x):
        found[f'{name}/{k}' if values.ndim else name] = float(x)
  return found


class _TensorBoard:
  """Writes event files.

  Args:
    directory: of the run.
  """

  def __init__(self, directory: pathlib.Path):
    self._directory = directory / 'tensorboard'
    self._writer: Any = None

  def __call__(self, step: int, row: Mapping[str, Any]) -> None:
    import tensorboardX

    if self._writer is None:
      # A killed run may have written steps that are now repeated; TensorBoard
      # drops what was written from here on.
      self._writer = tensorboardX.SummaryWriter(
          str(self._directory),
          purge_step=step,
          # The name has the second of the start, which two may share.
          filename_suffix=f'.{step}',
      )
    for name, value in scalars(row).items():
      self._writer.add_scalar(name, value, step)

  def close(self) -> None:
    """Writes what is still in memory."""
    if self._writer is not None:
      self._writer.close()
