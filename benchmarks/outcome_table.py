"""What the one table of ladders and trees costs where there are ladders alone.

Run: python -m benchmarks.outcome_table [--quick]
On made-up ladders of as many problems as are trained on, the sparse table
(`outcomes.known`) and dense arrays by stopping time (`outcomes.stopping`) say
what 200 thresholds earn, and give the exact frontier. Both have the scores
already, use one thread, and take turns; the seconds are those of its processor.
What they say must agree. The last line is a JSON object: of each question the
seconds of the table over those of the arrays, above 1 where the table is
slower.
"""

from collections.abc import Callable
from collections.abc import Sequence
import json
import statistics
import time
from typing import Any

from absl import app
from absl import flags
import numpy as np
from rich import console as console_lib
from rich import table as table_lib

from routing.outcomes import frontier as frontier_lib
from routing.outcomes import known
from routing.outcomes import stopping as stopping_lib
from routing.outcomes import table as outcome_table

NUM_STEPS, NUM_THRESHOLDS = 8, 200
_METRIC = 'price'
_TURNS = 7


def make(num: int) -> tuple[outcome_table.OutcomeTable, np.ndarray]:
  """The table of `num` ladders of two routes, and `[M]` scores."""
  rng = np.random.default_rng(num)
  builder = outcome_table.TableBuilder((_METRIC,))
  none = np.zeros(1, np.float32)
  for length in rng.integers(NUM_STEPS // 2, NUM_STEPS + 1, num):
    builder.begin_problem(1.0)
    before = None
    right = rng.random(length + 1) < 0.7
    for step in range(length):
      here = builder.add_decision(none, 0.0, 2, before)
      cost = 1.0 - 0.8 * step / length
      correct = float(right[step])
      builder.add_ending((here, 1), correct, 1.0 - correct, [cost])
      before = here, 0
    correct = float(right[-1])
    builder.add_ending(before, correct, 1.0 - correct, [0.1])
  table = builder.table()
  return table, rng.random(len(table.decisions.depth))


def questions(
    num: int,
) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
  """Of each question how the table and the arrays answer it; both are checked.

  Answers are `[4, K]` means of correct, cost, loss and gain.
  """
  table, scores = make(num)
  dense, laid = stopping_lib.from_table(table, scores, None, _METRIC)
  kappas = np.quantile(scores, np.linspace(0, 1, NUM_THRESHOLDS))

  def means(found) -> np.ndarray:
    values = found if isinstance(found, dict) else found.values()
    return np.array([values[x].mean(axis=1) for x in sorted(values)])

  def curve(found: frontier_lib.Frontier) -> np.ndarray:
    return np.array([found.accuracy, found.cost, found.loss, found.gain])

  def by_times() -> np.ndarray:
    times = stopping_lib.stopping_times(laid, dense.mask, kappas)
    return means(stopping_lib.at_times(dense, times))

  found = {
      '200 thresholds': (
          lambda: means(known.at_thresholds(table, scores, kappas, _METRIC)),
          by_times,
      ),
      'frontier': (
          lambda: curve(known.frontier(table, scores, _METRIC)),
          lambda: curve(frontier_lib.frontier(laid, dense)),
      ),
  }
  for ours, theirs in found.values():
    np.testing.assert_allclose(ours(), theirs(), atol=1e-6)
  return found


def _seconds(call: Callable[[], Any], repeats: int) -> float:
  """Of the processor, a call."""
  start = time.process_time()
  for _ in range(repeats):
    call()
  return (time.process_time() - start) / repeats


def measure(num: int, repeats: int) -> list[dict[str, Any]]:
  """A row for each question."""
  rows = []
  for name, (ours, theirs) in questions(num).items():
    pairs = [
        (_seconds(ours, repeats), _seconds(theirs, repeats))
        for _ in range(_TURNS)
    ]
    ratios = [a / b for a, b in pairs]
    table, arrays = (statistics.median(x) for x in zip(*pairs, strict=True))
    rows.append(
        {
            'question': name,
            'problems': num,
            'table_seconds': table,
            'arrays_seconds': arrays,
            'ratio': statistics.median(ratios),
            'least_ratio': min(ratios),
            'largest_ratio': max(ratios),
        }
    )
  return rows


def main(argv: Sequence[str]) -> None:
  """Prints the table, then the JSON line."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  rows = measure(1_000 if flags.FLAGS.quick else 6_000, 5)
  shown = table_lib.Table(title='The sparse table against dense arrays')
  for name in rows[0]:
    shown.add_column(name.replace('_', ' '), justify='right')
  for row in rows:
    shown.add_row(
        *(f'{x:.4f}' if isinstance(x, float) else str(x) for x in row.values())
    )
  console_lib.Console(width=120).print(shown)
  print(json.dumps({'ratios': {x['question']: x['ratio'] for x in rows}}))


if __name__ == '__main__':
  flags.DEFINE_bool('quick', False, 'Fewer problems.')
  app.run(main)
