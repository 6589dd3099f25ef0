"""Sends figures to TensorBoard or Weights & Biases, besides the files.

`config.track` names one of `KINDS`; '' sends nothing. Needs the extra `track`.
Training sends the rows of `metrics.jsonl`; calibration, evaluation and a sweep
send the figures that they end with.

TensorBoard's files are in `tensorboard/` of the run's directory; those of
Weights & Biases in `wandb/`. Its own environment variables hold:
WANDB_MODE=offline keeps everything on this machine until `wandb sync`.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import importlib.util
import pathlib
import re
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
    with contextlib.closing(_TensorBoard(directory / 'tensorboard')) as report:
      yield report
  elif kind == 'wandb':
    with _wandb_run(directory, name, config.to_dict()) as run:
      yield lambda step, row: run.log(scalars(row), step=step)
  else:
    yield lambda step, row: None


def final(
    config: ml_collections.ConfigDict,
    directory: pathlib.Path,
    name: str,
    stage: str,
    row: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
) -> None:
  """Sends the figures that a stage ends with; those of before are replaced.

  TensorBoard shows them as a run of its own, `tensorboard/<stage>`, at step 0.
  In Weights & Biases they stand in the summary of the run of the directory, as
  `<stage>/<figure>`.

  Args:
    config: of the run.
    directory: of the run, where files are written.
    name: of the run, as it is shown.
    stage: e.g. 'evaluation'.
    row: figure -> number; what is None or not finite is left out.
    settings: shown in Weights & Biases besides the configuration.

  Raises:
    ValueError: see `check`.
  """
  check(config)
  kind = kind_of(config)
  if kind == 'tensorboard':
    folder = directory / 'tensorboard' / stage
    with contextlib.closing(_TensorBoard(folder)) as report:
      report(0, row)
  elif kind == 'wandb':
    shown = config.to_dict() | dict(settings or {})
    with _wandb_run(directory, name, shown) as run:
      found = scalars(row)
      run.summary.update({f'{stage}/{x}': y for x, y in found.items()})


@contextlib.contextmanager
def _wandb_run(
    directory: pathlib.Path, name: str, settings: Mapping[str, Any]
) -> Iterator[Any]:
  """Yields the run of a directory, which continues where there is one."""
  import wandb  # The import takes seconds.

  with wandb.init(
      project=_PROJECT,
      name=name,
      # A resumed run continues the curves of the one that was interrupted.
      id=_wandb_id(directory),
      resume='allow',
      dir=directory,
      config=dict(settings),
  ) as run:
    yield run


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
    values = np.asarray(value, float)  # None becomes NaN.
    for k, x in enumerate(values.ravel()):
      if np.isfinite(x):
        found[f'{name}/{k}' if values.ndim else name] = float(x)
  return found


def tag(name: str) -> str:
  """Returns a name as TensorBoard allows it: 'loss<=0.1' is 'loss_0.1'."""
  return re.sub(r'[^-/\w.]+', '_', name)


def of_results(content: Mapping[str, Any]) -> dict[str, float | None]:
  """Returns the figures of a `results.json` that evaluation sends.

  Of each operating point of the first seed: accuracy, cost and relative loss.
  Of each method in each cost metric: its area, and the share of the gap in
  accuracy that it recovers. What could not be measured is None.
  """
  row: dict[str, float | None] = {}
  for point in content['operating_points']:
    row[f'{point["name"]}/accuracy'] = point['accuracy']['mean']
    row[f'{point["name"]}/cost'] = point['cost']
    row[f'{point["name"]}/loss'] = point['loss']['mean']
  for metric, figures in content['cost_metrics'].items():
    for name, method in figures['methods'].items():
      area = method['area']
      row[f'{metric}/{name}/area'] = None if area is None else area['mean']
      row[f'{metric}/{name}/gap recovered'] = method['mean_gap_recovered']
  return row


class _TensorBoard:
  """Writes event files.

  Args:
    directory: of the files.
  """

  def __init__(self, directory: pathlib.Path):
    self._directory = directory
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
      self._writer.add_scalar(tag(name), value, step)

  def close(self) -> None:
    """Writes what is still in memory."""
    if self._writer is not None:
      self._writer.close()
