"""How near training comes to what any policy can do.

Run:    python -m benchmarks.optimum [--quick] [--out=runs/optimum.json] [--page=docs/optimum.md]
Resume: the same command; rows of --out that this very code made are kept.
On made-up processes whose constrained optimum is known (`routing.simulation`),
each estimator trains several seeds at several budgets, on problems that are
made up as it goes. The policy is the mean of the weights over the last quarter
of the updates. It is not sampled but evaluated exactly. Its share of the
optimal gain is

  (accuracy - random) / (optimum - random)

at the cost that each really has, `random` being the best of chance. The table:

  share, spread, worst  of the gain: mean, deviation and least over seeds
  least, mean, excess   smallest, mean and largest cost, relative to the budget
  plan                  share of the best plan made beforehand, which knows the
                        process but looks at nothing

The last line is a JSON object: `worst_share_of_optimal_gain`, `worst_excess`,
`worst_mean_excess` and the table.

Source of the mean: Polyak and Juditsky 1992, "Acceleration of Stochastic
Approximation by Averaging".
"""  # noqa: E501  Commands stay on one line.

from collections.abc import Sequence
import dataclasses
import hashlib
import json
import os
import pathlib
import platform
import subprocess
import time

from absl import app
from absl import flags
import numpy as np

from benchmarks import optimum_learners
from routing import objectives
from routing import policy
from routing import protocols
from routing import simulation
from routing import training
from routing.shards import manifest as manifest_lib
from routing.simulation import optimum
from routing.simulation import process as process_lib
from routing.simulation import tree as tree_lib

BUDGETS = (0.4, 0.6)
PROCESSES = {
    'two routes': process_lib.Process(),
    'three routes': process_lib.three_routes(num_steps=3),
}
ESCALATE = (
    protocols.Protocol('escalate', 'peek'),
    protocols.Protocol('escalate', 'commit'),
)
EVERY = (*ESCALATE, protocols.Protocol('switch'), protocols.Protocol('redraft'))
# What learns, from whose trajectories, in which protocols.
LEARNERS = (
    ('exact', 'ladders', ESCALATE),
    ('vtrace', 'uniform', EVERY),
    ('vtrace', 'mismatched', EVERY),
    ('on_policy', 'its own', EVERY),
)
# Of the cost of one off-policy batch of a thousand, chance alone is some
# percent; to come within one, batches are large. And a policy that is to find
# its way among three routes must be undecided for long.
FULL = optimum_learners.Size(num_seeds=5, batch_size=4_096, num_steps=3_000)
QUICK = optimum_learners.Size(num_seeds=2, batch_size=512, num_steps=400)
_PAGE = """# How near training comes to the optimum

Made by `python -m benchmarks.optimum --page=docs/optimum.md`, which says what
each column is: commit {commit}, {date}, {num_seeds} seeds, {num_steps} updates
of {batch_size} new problems each, {machine}, {seconds} seconds in all.

The least share of the optimal gain is {worst_share_of_optimal_gain:.4f}. The
largest excess over a budget is {worst_excess:+.4f} of it for one seed, and
{worst_mean_excess:+.4f} for the mean over seeds.

{rows}
"""


def shares(
    tree: tree_lib.Tree, tables: Sequence[np.ndarray], budget: float
) -> dict[str, float]:
  """The figures of several seeds' policies; see the top of the file.

  Args:
    tree: what they were trained for.
    tables: for each level `[seeds, n, A]`.
    budget: what they were trained to cost.
  """
  values = [
      tree_lib.evaluate(tree, policy) for policy in zip(*tables, strict=True)
  ]
  correct, cost, _ = np.array(values).T
  lowest = optimum.random_accuracy(tree, cost)
  best = np.array([optimum.solve(tree, c).values.correct for c in cost])
  share = (correct - lowest) / (best - lowest)
  return {
      'share': float(share.mean()),
      'spread': float(share.std(ddof=1)),
      'worst': float(share.min()),
      'least': float(cost.min() / budget - 1.0),
      'mean': float(cost.mean() / budget - 1.0),
      'excess': float(cost.max() / budget - 1.0),
  }


def share_of_plan(tree: tree_lib.Tree, budget: float) -> float:
  """What the best plan made beforehand has of the optimal gain."""
  blind = tree_lib.grow(process_lib.unseen(tree.process), tree.protocol)
  plan, best = (optimum.solve(x, budget).values.correct for x in (blind, tree))
  lowest = float(optimum.random_accuracy(tree, budget))
  return (plan - lowest) / (best - lowest)


def measure(
    size: optimum_learners.Size,
    out: pathlib.Path | None = None,
    learners: Sequence[tuple[str, str, Sequence]] = LEARNERS,
) -> dict[str, object]:
  """Prints the table; returns what the last line holds.

  Args:
    size: how much is trained.
    out: file of finished rows: read first, and written after each training.
    learners: some of `LEARNERS`.
  """
  rows = _read(out, size)
  for row in rows:
    print(_line(row), flush=True)
  for name, process in PROCESSES.items():
    for protocol in EVERY:
      tree = tree_lib.grow(process, protocol)
      for estimator, source, allowed in learners:
        case = {
            'estimator': estimator,
            'source': source,
            'process': name,
            'protocol': f'{protocol.name} {protocol.view}'.strip(),
        }
        is_done = any(case.items() <= row.items() for row in rows)
        if is_done or protocol not in allowed:
          continue
        for row in _measure(tree, estimator, source, size):
          rows.append(case | row)
          print(_line(rows[-1]), flush=True)
        _write(out, size, rows)
  return {
      'worst_share_of_optimal_gain': min(row['worst'] for row in rows),
      'worst_excess': max(row['excess'] for row in rows),
      'worst_mean_excess': max(row['mean'] for row in rows),
      **dataclasses.asdict(size),
      'seconds': round(sum(row['seconds'] for row in rows)),
      'table': rows,
  }


def _measure(
    tree: tree_lib.Tree,
    estimator: str,
    source: str,
    size: optimum_learners.Size,
) -> list[dict[str, float]]:
  """The rows of one learner on one process, one a budget."""
  start = time.perf_counter()
  tables = optimum_learners.train(tree, estimator, source, size, BUDGETS)
  seconds = time.perf_counter() - start
  return [
      {
          'budget': budget,
          **shares(tree, [x[:, k] for x in tables], budget),
          'plan': share_of_plan(tree, budget),
          'seconds': seconds / len(BUDGETS),
      }
      for k, budget in enumerate(BUDGETS)
  ]


def _made_by(size: optimum_learners.Size) -> dict[str, object]:
  """What rows must have in common to stand in one table."""
  files = [pathlib.Path(__file__), pathlib.Path(optimum_learners.__file__)]
  for module in (objectives, policy, simulation, training):
    files += sorted(pathlib.Path(module.__file__).parent.glob('*.py'))
  code = b''.join(path.read_bytes() for path in files)
  return {
      **dataclasses.asdict(size),
      'code': hashlib.sha256(code).hexdigest(),
  }


def _read(
    out: pathlib.Path | None, size: optimum_learners.Size
) -> list[dict[str, object]]:
  if out is None or not out.exists():
    return []
  found = json.loads(out.read_text())
  return found['rows'] if found['made_by'] == _made_by(size) else []


def _write(
    out: pathlib.Path | None,
    size: optimum_learners.Size,
    rows: Sequence[dict[str, object]],
) -> None:
  if out is not None:
    text = json.dumps({'made_by': _made_by(size), 'rows': rows})
    manifest_lib.replace_file(out, lambda path: path.write_text(text))


def page(result: dict[str, object]) -> str:
  """The table in Markdown, with what it rests on."""
  commit = subprocess.run(
      ['git', 'rev-parse', '--short', 'HEAD'],
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      text=True,
      check=False,
  ).stdout.strip()
  columns = ('share', 'spread', 'worst', 'least', 'mean', 'excess', 'plan')
  words = ('estimator', 'source', 'process', 'protocol')
  head = [*words, 'budget', *columns]
  lines = [head, ['---'] * len(head)]
  lines += [
      [
          *(row[name] for name in words),
          f'{row["budget"]:g}',
          *(f'{100 * row[name]:.1f} %' for name in columns),
      ]
      for row in result['table']
  ]
  return _PAGE.format(
      **result,
      commit=commit or 'unknown',
      machine=f'{os.cpu_count()} cores, {platform.machine()}',
      date=time.strftime('%Y-%m-%d'),
      rows='\n'.join(f'| {" | ".join(line)} |' for line in lines),
  )


def _line(row: dict[str, object]) -> str:
  return '  '.join(
      f'{name} {x:+.4f}' if isinstance(x, float) else f'{x:<10}'
      for name, x in row.items()
  )


def main(argv: Sequence[str]) -> None:
  """Prints the table, then the JSON line."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  given = flags.FLAGS
  out = pathlib.Path(given.out) if given.out else None
  result = measure(QUICK if given.quick else FULL, out)
  if given.page:
    text = page(result)
    manifest_lib.replace_file(
        pathlib.Path(given.page), lambda path: path.write_text(text)
    )
  print(json.dumps(result))


if __name__ == '__main__':
  flags.DEFINE_bool('quick', False, 'Fewer seeds, problems and updates.')
  flags.DEFINE_string('out', None, 'File of finished rows.')
  flags.DEFINE_string('page', None, 'File of the table in Markdown.')
  app.run(main)
