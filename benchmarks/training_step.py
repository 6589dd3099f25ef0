"""How fast the jitted training step is, against the same update in PyTorch.

Run: python -m benchmarks.training_step [--quick] [--device=cuda]
One step is an actor-critic update of every member of a run, as
`routing.training` does it: rows of a batch, dropout, importance ratios, V-trace
of reward and cost, the multiplier's PID controller, gradient steps of policy
and critics with clipping and AdamW. The other side is the same update in
PyTorch, in six styles: eager or with `torch.compile`; one member after another,
with the question multiplied at every decision, as it is commonly written, or,
as the jitted step does, once a trajectory; or also all members at once, their
matrix products merged. `tests/training_step_test.py` checks that all give the
same numbers.

All sides have the same device or cores and take turns; the figures are medians
over the turns, with the least and largest ratio. The last line is a JSON
object: `ratio_to_pytorch` (the default size against the fastest style of
PyTorch), `ratio_to_pytorch_large_batch` (the same in batches of 512), and the
table.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
import os
import statistics
import time
from typing import Any

from absl import app
from absl import flags
import jax
import ml_collections
import numpy as np
from rich import console as console_lib
from rich import table as table_lib
import torch

from benchmarks import pytorch_twin
from benchmarks import pytorch_vectorized
from configs import arithmetic_redraft
from routing import types
from routing.features import observation
from routing.training import fit
from routing.training import memory
from routing.training import sources

_TIMINGS = 7  # Turns of each side.
_HIDDEN_STATE = 128  # Numbers that the embedded engine tells of a step.


@dataclasses.dataclass(frozen=True)
class Size:
  """What is trained; the configuration says the rest.

  batch_size: trajectories a step.
  num_steps: T, decisions of the longest.
  num_features: F.
  num_constant: of them, the first ones, the same at every decision of a
    trajectory.
  hidden: units of the one hidden layer.
  num_levels: K, members.
  repeats: steps a turn.
  """

  batch_size: int
  num_steps: int
  num_features: int
  num_constant: int
  hidden: int
  num_levels: int
  repeats: int


# What `check` and tests train.
TINY = Size(
    batch_size=24,
    num_steps=4,
    num_features=10,
    num_constant=4,
    hidden=8,
    num_levels=3,
    repeats=1,
)


def default_size(repeats: int = 40) -> Size:
  """What `configs/arithmetic_redraft.py:vtrace` trains on the embedded pair."""
  config = arithmetic_redraft.get_config('vtrace')
  features = observation.configure(
      config.features,
      num_routes=2,
      max_decisions=config.protocol.max_decisions,
      hidden_size=_HIDDEN_STATE,
  )
  constant = observation.constant(features)
  return Size(
      batch_size=config.batch_size,
      num_steps=features.max_decisions,
      num_features=features.size,
      num_constant=constant.stop - constant.start,
      hidden=config.network.hidden[0],
      num_levels=len(config.objective.levels),
      repeats=repeats,
  )


def get_config(size: Size) -> ml_collections.ConfigDict:
  """The default configuration at another size."""
  config = arithmetic_redraft.get_config('vtrace')
  config.batch_size = size.batch_size
  config.network.hidden = (size.hidden,)
  config.objective.levels = tuple(
      np.linspace(0.25, 0.7, size.num_levels).tolist()
  )
  return config


def make_data(
    size: Size, num: int, num_routes: int = 2
) -> types.TrajectoryBatch:
  """`num` made-up trajectories; the last two steps may be missing."""
  rng = np.random.default_rng(0)
  shape = num, size.num_steps
  lengths = rng.integers(max(size.num_steps - 2, 1), size.num_steps + 1, num)
  mask = np.arange(size.num_steps) < lengths[:, None]
  features = rng.standard_normal((*shape, size.num_features), np.float32)
  constant = features[..., : size.num_constant]
  constant[:] = constant[:, :1]
  correct = rng.integers(0, 2, num).astype(np.float32)
  return types.TrajectoryBatch(
      features=features * mask[..., None],
      mask=mask,
      available=np.repeat(mask[..., None], num_routes, axis=-1),
      actions=(rng.integers(0, num_routes, shape) * mask).astype(np.int32),
      behaviour=np.where(mask, rng.uniform(0.2, 1.0, shape), 1.0).astype(
          np.float32
      ),
      costs=(rng.uniform(0.05, 0.2, shape) * mask).astype(np.float32),
      correct=correct,
      loss=1.0 - correct,
      gain=np.zeros(num, np.float32),
  )


class Jitted:
  """The run as `routing.training` steps it, on data that is on the device."""

  def __init__(self, config, data: types.TrajectoryBatch, num_constant: int):
    _, self.state, self._step = fit.make_learner(
        config, data.available.shape[-1], data.features.shape[-1], seed=0
    )
    self._data = jax.device_put(
        sources.with_constant(data, slice(0, num_constant))
    )

  def step(self, rows: np.ndarray) -> jax.Array:
    """The same as `pytorch_twin.Twin.step`."""
    self.state, metrics = self._step(self.state, (self._data, rows))
    return jax.block_until_ready(metrics['loss'])


def _turn(
    step: Callable[[np.ndarray], Any], batches: Sequence[np.ndarray]
) -> float:
  """Seconds a step, mean over the batches."""
  start = time.perf_counter()
  for rows in batches:
    step(rows)
  return (time.perf_counter() - start) / len(batches)


def styles(size: Size) -> dict[str, pytorch_twin.Style]:
  """How the other side is written, by name."""
  once = size.num_constant
  return {
      'eager': pytorch_twin.Style(),
      'eager, question once': pytorch_twin.Style(once),
      'compiled': pytorch_twin.Style(is_compiled=True),
      'compiled, question once': pytorch_twin.Style(once, is_compiled=True),
      'vectorized': pytorch_twin.Style(once, is_vectorized=True),
      'compiled, vectorized': pytorch_twin.Style(
          once, is_compiled=True, is_vectorized=True
      ),
  }


def make_twin(
    config,
    state,
    data: types.TrajectoryBatch,
    style: pytorch_twin.Style,
    device: str = 'cpu',
) -> pytorch_twin.Twin:
  """Returns the other side in a style; arguments as of `pytorch_twin.Twin`."""
  module = pytorch_vectorized if style.is_vectorized else pytorch_twin
  return module.Twin(config, state, data, style, device)


def check(style: pytorch_twin.Style, device: str = 'cpu') -> None:
  """Compares three updates of a style with those of the jitted step.

  They are made at a small size without dropout, whose masks are each library's
  own, and with steps that are coarse enough to reach the clips.

  Raises:
    AssertionError: if the losses or the weights differ by more than rounding.
  """
  config = get_config(TINY)
  config.network.dropout = 0.0
  config.optimizer.learning_rate = config.critics.learning_rate = 0.05
  config.objective.update(reach_clip=1.1, clip=0.02, entropy_weight=0.03)
  data, rng = make_data(TINY, 60), np.random.default_rng(0)
  jitted = Jitted(config, data, TINY.num_constant)
  given = dataclasses.replace(
      style, num_constant=TINY.num_constant if style.num_constant else 0
  )
  twin = make_twin(config, jitted.state, data, given, device)
  for _ in range(3):
    # Each update begins with the same weights: an update divides by the size of
    # the gradient, which turns rounding of the last one into differences.
    twin.load(jitted.state)
    rows = rng.choice(60, TINY.batch_size, replace=False)
    np.testing.assert_allclose(
        jitted.step(rows), twin.step(rows).numpy(), rtol=1e-5, atol=1e-6
    )
    for k, policy in enumerate(twin.policies):
      np.testing.assert_allclose(
          jitted.state.params['Dense_0']['kernel'][k],
          policy.policy.first.weight.T.detach().cpu().numpy(),
          atol=2e-5,
      )


def small_size(repeats: int = 40) -> Size:
  """Where there is little to compute, so that overheads show."""
  return Size(
      batch_size=128,
      num_steps=5,
      num_features=32,
      num_constant=0,
      hidden=32,
      num_levels=4,
      repeats=repeats,
  )


def measure(
    name: str,
    size: Size,
    chosen: Mapping[str, pytorch_twin.Style] | None = None,
    device: str = 'cpu',
) -> list[dict[str, Any]]:
  """One size: all sides in turns; a row for each style of PyTorch.

  Args:
    name: of the size.
    size: what is trained.
    chosen: of `styles`; None = all of them.
    device: of PyTorch, that on which jax computes.
  """
  config, rng = get_config(size), np.random.default_rng(1)
  data = make_data(size, 4 * size.batch_size)
  jitted = Jitted(config, data, size.num_constant)
  draw = lambda num=size.repeats: [
      rng.choice(len(data.mask), size.batch_size, replace=False)
      for _ in range(num)
  ]
  sides = {
      style: make_twin(config, jitted.state, data, given, device).step
      for style, given in (chosen or styles(size)).items()
  }
  sides = {'jitted': jitted.step, **sides}
  # The first call compiles; what it takes beyond a step is the compilation.
  first = {side: _turn(step, draw(1)) for side, step in sides.items()}
  seconds = {side: [] for side in sides}
  for _ in range(_TIMINGS):
    for side, step in sides.items():
      seconds[side].append(_turn(step, draw()))
  ours = seconds.pop('jitted')
  own = statistics.median(ours)
  rows = []
  for style, theirs in seconds.items():
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    pytorch = statistics.median(theirs)
    rows.append(
        {
            'size': name,
            **dataclasses.asdict(size),
            'pytorch': style,
            'steps_per_second': 1.0 / own,
            'trajectories_per_second': size.batch_size / own,
            'compile_seconds': first['jitted'] - own,
            'pytorch_steps_per_second': 1.0 / pytorch,
            'pytorch_compile_seconds': first[style] - pytorch,
            'ratio_to_pytorch': statistics.median(ratios),
            'least_ratio': min(ratios),
            'largest_ratio': max(ratios),
        }
    )
  return rows


_INTEGERS = (
    'batch_size',
    'num_steps',
    'num_features',
    'num_constant',
    'hidden',
    'num_levels',
)
_FIGURES = (
    'steps_per_second',
    'compile_seconds',
    'pytorch_steps_per_second',
    'pytorch_compile_seconds',
    'ratio_to_pytorch',
    'least_ratio',
    'largest_ratio',
)
_HEADS = (
    *('size', 'B', 'T', 'F', 'constant', 'hidden', 'policies', 'steps / s'),
    *('compiled, s', 'PyTorch', 'steps / s', 'compiled, s'),
    *('ratio', 'least', 'largest'),
)


def show(rows: Sequence[dict[str, Any]], where: str) -> None:
  """Prints the table."""
  table = table_lib.Table(title=f'A training step of all members, on {where}')
  for name in _HEADS:
    table.add_column(name, justify='right', no_wrap=True)
  for row in rows:
    figures = [f'{row[name]:,.1f}' for name in _FIGURES]
    table.add_row(
        row['size'],
        *(f'{row[name]:,}' for name in _INTEGERS),
        *figures[:2],
        row['pytorch'],
        *figures[2:],
    )
  console_lib.Console(width=180).print(table)


def main(argv: Sequence[str]) -> None:
  """Prints the table, then the JSON line."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  device = flags.FLAGS.device
  jax.config.update('jax_platforms', device)
  # jax takes all that this process may use; so does PyTorch.
  num_cores = len(os.sched_getaffinity(0))
  torch.set_num_threads(num_cores)
  memory.keep_freed()  # As `experiments.train` does; both sides have it.
  default = default_size(repeats=5 if flags.FLAGS.quick else 40)
  # Where matrix products are nearly all there is to do, on either side.
  large = dataclasses.replace(
      default, batch_size=512, repeats=1 if flags.FLAGS.quick else 8
  )
  small = small_size(repeats=5 if flags.FLAGS.quick else 40)
  sizes = {'default': default, 'large batch': large, 'small': small}
  for style in styles(default).values():
    with jax.default_matmul_precision('highest'):
      check(style, device)  # What is fast but wrong is no bar.
  # On a GPU, jax multiplies in TF32 unless told otherwise.
  torch.set_float32_matmul_precision('high' if device == 'cuda' else 'highest')
  rows = [
      row
      for name, size in sizes.items()
      for row in measure(name, size, device=device)
  ]
  where = f'{num_cores} cores' if device == 'cpu' else str(jax.devices()[0])
  show(rows, where)
  least = lambda size: min(
      row['ratio_to_pytorch'] for row in rows if row['size'] == size
  )
  print(
      json.dumps(
          {
              'ratio_to_pytorch': least('default'),
              'ratio_to_pytorch_large_batch': least('large batch'),
              'device': device,
              'num_cores': num_cores,
              'jax': jax.__version__,
              'torch': torch.__version__,
              'table': rows,
          }
      )
  )


if __name__ == '__main__':
  flags.DEFINE_bool('quick', False, 'Fewer steps a turn.')
  flags.DEFINE_enum('device', 'cpu', ('cpu', 'cuda'), 'Of both sides.')
  app.run(main)
