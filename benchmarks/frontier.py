"""How fast the exact frontier is, and what it takes.

Run: python -m benchmarks.frontier [--quick]
Times one sort against the plain loop over 1,000 thresholds, and against the
same loop tuned, in turns, on trajectories of at most 20 steps: 10^3 to 10^6 of
them, or to 10^5 with --quick, which also times only one threshold in 20. All
use one thread; the seconds are those of its processor, so that a busy machine
counts for less. Each threshold of the loops is checked against the frontier.
The last line is a JSON object: `ratio_to_loop`, `ratio_to_tuned_loop`, seconds,
growth and peak memory.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import json
import math
import statistics
import time
import tracemalloc
from typing import Any

from absl import app
from absl import flags
import numpy as np
from rich import console as console_lib
from rich import table as table_lib

from routing.outcomes import frontier as frontier_lib
from routing.outcomes import stopping as stopping_lib

NUM_STEPS, NUM_THRESHOLDS = 20, 1_000
_NAMES = ('correct', 'cost', 'loss', 'gain')
_REPEATS = 3  # On each side of the loop.


def make(num: int) -> tuple[np.ndarray, stopping_lib.Outcomes]:
  """`[N, T]` float32 scores and a table; half of the steps or more exist."""
  rng = np.random.default_rng(num)
  lengths = rng.integers(NUM_STEPS // 2, NUM_STEPS + 1, num)
  tables = {name: rng.random((num, NUM_STEPS + 1)) for name in _NAMES}
  mask = np.arange(NUM_STEPS) < lengths[:, None]
  scores = rng.random((num, NUM_STEPS), np.float32)
  return scores, stopping_lib.Outcomes(mask=mask, **tables)


def loop(
    scores: np.ndarray,
    outcomes: stopping_lib.Outcomes,
    thresholds: Sequence[float],
) -> Iterator[list[float]]:
  """The plain way: all trajectories again at each threshold."""
  rows = np.arange(outcomes.num_problems)
  for threshold in thresholds:
    is_reached = outcomes.mask & (scores >= threshold)
    times = np.where(
        is_reached.any(axis=1), is_reached.argmax(axis=1), outcomes.num_steps
    )
    yield [getattr(outcomes, name)[rows, times].mean() for name in _NAMES]


def tuned_loop(
    scores: np.ndarray,
    outcomes: stopping_lib.Outcomes,
    thresholds: Sequence[float],
) -> Iterator[list[float]]:
  """The same, with all that does not depend on the threshold done before it.

  A last column that always stops makes each pass one comparison, one `argmax`
  and a look-up in four flat tables.
  """
  stops = np.where(outcomes.mask, scores, np.float32(-np.inf))
  stops = np.pad(stops, [(0, 0), (0, 1)], constant_values=np.inf)
  first = np.arange(outcomes.num_problems) * (outcomes.num_steps + 1)
  tables = [getattr(outcomes, name).ravel() for name in _NAMES]
  for threshold in thresholds:
    at = first + np.argmax(stops >= threshold, axis=1)
    yield [table[at].mean() for table in tables]


def _timed(run: Callable[..., Any], *args: Any) -> tuple[float, Any]:
  start = time.process_time()
  result = run(*args)
  return time.process_time() - start, result


def _peak_bytes(run: Callable[[], Any]) -> int:
  """What `run` allocates at its worst, its arguments not counted."""
  tracemalloc.start()
  try:
    run()
    return tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()


def _check(
    exact: frontier_lib.Frontier,
    scores: np.ndarray,
    thresholds: np.ndarray,
    points: Sequence[Sequence[float]],
) -> None:
  # Between two thresholds of the frontier the upper one says what happens, but
  # up to the lowest first score all stop at once, which it calls -inf.
  index = np.searchsorted(exact.thresholds, thresholds)
  index[thresholds <= scores[:, 0].min()] = 0
  figures = exact.accuracy, exact.cost, exact.loss, exact.gain
  np.testing.assert_allclose(np.stack(figures, 1)[index], points, rtol=1e-9)


def measure(num: int, share: float) -> dict[str, Any]:
  """One size: the three ways in turns, seconds of whole loops, peak memory.

  Args:
    num: trajectories.
    share: of the thresholds that the loops are timed on, then scaled up.
  """
  scores, outcomes = make(num)
  ours = lambda: frontier_lib.frontier(scores, outcomes)
  thresholds = np.quantile(scores, np.linspace(0, 1, NUM_THRESHOLDS))
  thresholds = thresholds[:: round(1 / share)]
  seconds, loop_seconds = [], {}
  for name, way in (('loop', loop), ('tuned_loop', tuned_loop)):
    seconds += [_timed(ours)[0] for _ in range(_REPEATS)]
    elapsed, points = _timed(list, way(scores, outcomes, thresholds))
    loop_seconds[name] = elapsed * NUM_THRESHOLDS / len(thresholds)
    elapsed, exact = _timed(ours)
    seconds.append(elapsed)
    _check(exact, scores, thresholds, points)
  return {
      'trajectories': num,
      'thresholds': len(exact.thresholds),
      'seconds': statistics.median(seconds),
      'loop_seconds': loop_seconds['loop'],
      'tuned_loop_seconds': loop_seconds['tuned_loop'],
      'peak_bytes': _peak_bytes(ours),
  }


def show(rows: Sequence[dict[str, Any]], share: float) -> None:
  """Prints the table."""
  table = table_lib.Table(
      title=f'The exact frontier, {NUM_STEPS} steps; loops over '
      f'{NUM_THRESHOLDS:,} thresholds'
      + ('' if share == 1 else f', of which {share:.0%} are timed')
  )
  for name in (
      'trajectories',
      'thresholds',
      'CPU s',
      'ns / (n log n)',
      'loop, CPU s',
      'ratio',
      'tuned loop, CPU s',
      'ratio',
      'peak, MiB',
      'bytes / trajectory',
  ):
    table.add_column(name, justify='right', no_wrap=True)
  for row in rows:
    num, seconds = row['trajectories'], row['seconds']
    cells = [
        f'{num:,}',
        f'{row["thresholds"]:,}',
        f'{seconds:.4f}',
        f'{1e9 * seconds / (num * NUM_STEPS * math.log(num * NUM_STEPS)):.2f}',
    ]
    for name in ('loop_seconds', 'tuned_loop_seconds'):
      cells += [f'{row[name]:.2f}', f'{row[name] / seconds:.0f}']
    cells += [
        f'{row["peak_bytes"] / 2**20:.1f}',
        f'{row["peak_bytes"] / num:.0f}',
    ]
    table.add_row(*cells)
  console_lib.Console(width=140).print(table)


def summary(rows: Sequence[dict[str, Any]], share: float) -> dict[str, Any]:
  """The figures of the last line: the largest size, and growth up to it.

  `growth` is by how much the time grew from the smallest size to the largest,
  `growth_n_log_n` by how much n log n did.
  """
  first, last = rows[0], rows[-1]
  work = [
      row['trajectories'] * math.log(row['trajectories'] * NUM_STEPS)
      for row in (first, last)
  ]
  return {
      'trajectories': last['trajectories'],
      'steps': NUM_STEPS,
      'thresholds': last['thresholds'],
      'loop_thresholds': NUM_THRESHOLDS,
      'loop_share_timed': share,
      'seconds': round(last['seconds'], 3),
      'loop_seconds': round(last['loop_seconds'], 1),
      'tuned_loop_seconds': round(last['tuned_loop_seconds'], 1),
      'ratio_to_loop': round(last['loop_seconds'] / last['seconds'], 1),
      'ratio_to_tuned_loop': round(
          last['tuned_loop_seconds'] / last['seconds'], 1
      ),
      'growth': round(last['seconds'] / first['seconds'], 1),
      'growth_n_log_n': round(work[1] / work[0], 1),
      'peak_mib': round(last['peak_bytes'] / 2**20, 1),
      'bytes_per_trajectory': {
          row['trajectories']: round(row['peak_bytes'] / row['trajectories'])
          for row in rows
      },
  }


def main(argv: Sequence[str]) -> None:
  """Prints the table, then the JSON line."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  largest, share = (5, 0.05) if flags.FLAGS.quick else (6, 1.0)
  rows = [measure(10**power, share) for power in range(3, largest + 1)]
  show(rows, share)
  print(json.dumps(summary(rows, share)))


if __name__ == '__main__':
  flags.DEFINE_bool('quick', False, 'Fewer trajectories, part of the loops.')
  app.run(main)
