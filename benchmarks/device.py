"""How near to a device's peaks the training step and the embedded pair come.

Run: python -m benchmarks.device --device=cuda --peak_flops=67e12 --peak_bytes=4.8e12
CPU: python -m benchmarks.device --quick
Prints, and as JSON on the last line:
- `training`: for each batch size, the jitted step against the fastest twin in
  PyTorch (`benchmarks.training_step`); its arithmetic and memory traffic by the
  second, counted by hand (`step_work`); and `roofline`, the time that the
  device would need at its peaks as a share of the time that the step took. The
  peaks are those of the data sheet, in the number format that is used: on a GPU,
  jax multiplies float32 in TF32. Without them there is no `roofline`.
- `decoding`: tokens a second of each embedded model, by the number of rows that
  are written at once; `pays` is the largest number that is faster by a
  twentieth than all smaller ones.
"""  # noqa: E501  Commands stay on one line.

import asyncio
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
import time
from typing import Any

from absl import app
from absl import flags
import jax
import torch

from benchmarks import training_step
from configs import arithmetic
from experiments import builders
from routing import types
from routing.engines import engine as engine_lib
from routing.engines import jitted_batches
from routing.rollout import collect
from routing.rollout import steps as steps_lib
from routing.training import memory

_GAIN = 1.05  # Of a larger batch, to pay.
_STYLES = ('compiled, question once', 'compiled, vectorized')


def step_work(
    size: training_step.Size, num_inner_steps: int, num_routes: int = 2
) -> tuple[float, float]:
  """Returns the arithmetic and the least memory traffic of a training step.

  Policies and critics are each evaluated once, and once forward and once
  backward in each inner step. No gradient of the features is needed. Each of
  these passes reads the features; each inner step reads weights, gradients and
  both moments of AdamW, and writes all but the gradients.

  Args:
    size: what is trained.
    num_inner_steps: gradient steps on a batch.
    num_routes: outputs of a policy; critics have 2.

  Returns:
    Floating-point operations of the matrix products, and bytes.
  """
  members, hidden = size.num_levels, size.hidden
  num_varying = size.num_features - size.num_constant
  # The constant features are multiplied once a trajectory.
  read = size.batch_size * (size.num_constant + size.num_steps * num_varying)
  rows = size.batch_size * size.num_steps
  flops = moved = 0
  for outputs in (num_routes, 2):
    first, last = 2 * members * hidden * read, 2 * members * hidden * rows
    flops += (1 + 2 * num_inner_steps) * first
    # The last layer has a gradient of its inputs as well.
    flops += (1 + 3 * num_inner_steps) * last * outputs
    weights = members * (size.num_features + 1) * hidden
    weights += members * (hidden + 1) * outputs
    moved += 4 * (1 + 2 * num_inner_steps) * read
    moved += 4 * 7 * num_inner_steps * weights
  return float(flops), float(moved)


def roofline(
    flops: float, moved: float, seconds: float, peaks: Sequence[float]
) -> float | None:
  """Returns the least seconds at the peaks, as a share of those it took.

  Args:
    flops: floating-point operations.
    moved: bytes.
    seconds: that it took.
    peaks: of the device, operations and bytes a second; 0 = not known.
  """
  if not all(peaks):
    return None
  return max(flops / peaks[0], moved / peaks[1]) / seconds


def measure_training(
    batch_sizes: Sequence[int],
    size: training_step.Size,
    device: str,
    peaks: Sequence[float],
) -> list[dict[str, Any]]:
  """Returns a row for each batch size; see the module."""
  num_inner = training_step.get_config(size).objective.num_inner_steps
  rows = []
  for batch_size in batch_sizes:
    given = dataclasses.replace(size, batch_size=batch_size)
    known = training_step.styles(given)
    found = training_step.measure(
        str(batch_size), given, {x: known[x] for x in _STYLES}, device
    )
    best = min(found, key=lambda row: row['ratio_to_pytorch'])
    seconds = 1.0 / best['steps_per_second']
    flops, moved = step_work(given, num_inner)
    row = {
        'batch_size': batch_size,
        'steps_per_second': best['steps_per_second'],
        'trajectories_per_second': best['trajectories_per_second'],
        'pytorch': best['pytorch'],
        'ratio_to_pytorch': best['ratio_to_pytorch'],
        'flops_per_second': flops / seconds,
        'bytes_per_second': moved / seconds,
        'roofline': roofline(flops, moved, seconds, peaks),
    }
    rows.append(row)
    print('training', json.dumps(row), flush=True)
  return rows


async def _write_all(
    engine: engine_lib.Engine, problems: Sequence[types.Problem]
) -> float:
  """Returns tokens a second of whole answers, all asked for at once."""

  async def write(problem: types.Problem) -> int:
    async with engine.open(problem.question) as session:
      steps = await session.write(engine_lib.Request(to_end=True))
    return steps_lib.count_tokens(steps)

  start = time.perf_counter()
  counts = await collect.together(map(write, problems))
  return sum(counts) / (time.perf_counter() - start)


def measure_decoding(
    batch_sizes: Sequence[int], num_problems: int
) -> dict[str, dict[int, float]]:
  """Returns tokens a second: {model: {rows at once: the figure}}."""
  config = arithmetic.get_config('smoke')
  config.problems.train = num_problems
  problems = builders.problems(config, 'train')

  async def measure() -> dict[str, float]:
    found = {}
    for engine in builders.engines(config):
      await _write_all(engine, problems)  # Compiles.
      found[engine.name] = await _write_all(engine, problems)
      await engine.close()
    return found

  rates = {}
  for batch_size in batch_sizes:
    for route in config.routes:
      route['settings'].update(max_batch=batch_size, num_slots=num_problems)
    num_rows = jitted_batches.rows_at_once(batch_size)
    for name, rate in asyncio.run(measure()).items():
      rates.setdefault(name, {})[num_rows] = rate
      print(f'decoding {name}, {num_rows} rows: {rate:,.0f} a second')
  return rates


def largest_that_pays(rates: Mapping[int, float]) -> int:
  """Returns the largest batch that is faster than all smaller ones.

  Args:
    rates: {rows at once: tokens a second}.
  """
  pays, best = 0, 0.0
  for num_rows, rate in sorted(rates.items()):
    if rate > _GAIN * best:
      pays = num_rows
    best = max(best, rate)
  return pays


def main(argv: Sequence[str]) -> None:
  """Prints each figure, then the JSON line."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  given = flags.FLAGS
  jax.config.update('jax_platforms', given.device)
  tf32 = given.device == 'cuda'  # As jax has it there.
  torch.set_float32_matmul_precision('high' if tf32 else 'highest')
  memory.keep_freed()
  is_quick = given.quick
  size = training_step.default_size(repeats=2 if is_quick else 20)
  sizes = (64,) if is_quick else (64, 512, 4_096)
  peaks = given.peak_flops, given.peak_bytes
  training = measure_training(sizes, size, given.device, peaks)
  largest = min(64 if is_quick else 512, jitted_batches.BATCH_BUCKETS[-1])
  rows = [2**i for i in range(3, 12) if 2**i <= largest]
  rates = measure_decoding(rows, 2 * largest)
  decoding = {
      name: {'tokens_per_second': found, 'pays': largest_that_pays(found)}
      for name, found in rates.items()
  }
  print(
      json.dumps(
          {
              'device': str(jax.devices()[0]),
              'peak_flops': given.peak_flops,
              'peak_bytes': given.peak_bytes,
              'training': training,
              'decoding': decoding,
          }
      )
  )


if __name__ == '__main__':
  flags.DEFINE_enum('device', 'cpu', ('cpu', 'cuda'), 'Where both sides run.')
  flags.DEFINE_float('peak_flops', 0.0, 'Operations a second; 0 = not known.')
  flags.DEFINE_float('peak_bytes', 0.0, 'Bytes of memory a second.')
  flags.DEFINE_bool('quick', False, 'Small sizes and few steps.')
  app.run(main)
