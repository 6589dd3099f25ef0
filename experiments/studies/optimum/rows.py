"""Computes the rows of the table: learner x process x protocol x budget."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import hashlib
import json
import pathlib
import time

import numpy as np

from experiments.studies.optimum import recipe as recipe_lib
from routing import objectives
from routing import policy
from routing import simulation
from routing import training
from routing.shards import manifest as manifest_lib
from routing.simulation import history_tree as tree_lib
from routing.simulation import optimum
from routing.simulation import process as process_lib

BUDGETS = (0.4, 0.6)
PROCESSES = {
    'two routes': process_lib.Process(),
    'three routes': process_lib.three_routes(num_steps=3),
}


def shares(
    tree: tree_lib.HistoryTree, tables: Sequence[np.ndarray], budget: float
) -> dict[str, float]:
  """Returns the figures of the policies of several seeds.

  Args:
    tree: process and protocol that they were trained for.
    tables: for each level `[seeds, n, A]`, the action probabilities.
    budget: cost fraction that they were trained for.

  Returns:
    The columns of the table except `plan`; see `optimum.__main__`.
  """
  values = [
      tree_lib.evaluate(tree, policy) for policy in zip(*tables, strict=True)
  ]
  # `[3, seeds]`: accuracy, cost and loss.
  correct, cost, _ = np.array(values).T
  # Compared at each policy's own cost, not at the budget: a policy that spends
  # more must not look better for it.
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


def share_of_plan(tree: tree_lib.HistoryTree, budget: float) -> float:
  """Returns the best plan's share of the optimal gain at a budget.

  A plan is made beforehand. It knows the process, but observes nothing.
  """
  blind = tree_lib.build(process_lib.uninformative(tree.process), tree.protocol)
  plan, best = (optimum.solve(x, budget).values.correct for x in (blind, tree))
  lowest = float(optimum.random_accuracy(tree, budget))
  return (plan - lowest) / (best - lowest)


def measure(
    recipe: recipe_lib.Recipe,
    size: recipe_lib.Size,
    out: pathlib.Path | None = None,
) -> dict[str, object]:
  """Measures and prints all rows; returns the object of the last line.

  Args:
    recipe: how to train.
    size: how much to train.
    out: file of finished rows; it is read first and written after each learner.
  """
  made_by = _made_by(recipe, size)
  rows = _read(out, made_by)
  for row in rows:
    print(_line(row), flush=True)
  for name, process in PROCESSES.items():
    for protocol in recipe_lib.EVERY:
      tree = tree_lib.build(process, protocol, recipe.features)
      for estimator, source, allowed in recipe.learners:
        case = {
            'estimator': estimator,
            'source': source,
            'process': name,
            'protocol': f'{protocol.name} {protocol.view}'.strip(),
        }
        # Finished rows of --out are skipped; all budgets of a case are one run.
        is_done = any(case.items() <= row.items() for row in rows)
        if is_done or protocol not in allowed:
          continue
        for row in _measure(recipe, tree, estimator, source, size):
          rows.append(case | row)
          print(_line(rows[-1]), flush=True)
        _write(out, made_by, rows)
  return {
      'worst_share_of_optimal_gain': min(row['worst'] for row in rows),
      'worst_excess': max(row['excess'] for row in rows),
      'worst_mean_excess': max(row['mean'] for row in rows),
      'by_estimator': by_estimator(rows),
      **dataclasses.asdict(size),
      'seconds': round(sum(row['seconds'] for row in rows)),
      'table': rows,
  }


def by_estimator(
    rows: Sequence[Mapping[str, object]],
) -> dict[str, dict[str, float]]:
  """Returns the extremes over all rows of each estimator.

  `least` and `most`: of the mean shares of the optimal gain; `worst`: the share
  of the worst seed; `excess`: the largest, of one seed.
  """
  found = {}
  for name in dict.fromkeys(row['estimator'] for row in rows):
    own = [row for row in rows if row['estimator'] == name]
    found[name] = {
        'least': min(row['share'] for row in own),
        'most': max(row['share'] for row in own),
        'worst': min(row['worst'] for row in own),
        'excess': max(row['excess'] for row in own),
    }
  return found


def _measure(
    recipe: recipe_lib.Recipe,
    tree: tree_lib.HistoryTree,
    estimator: str,
    source: str,
    size: recipe_lib.Size,
) -> list[dict[str, float]]:
  """Returns the rows of one learner on one process, one per budget."""
  start = time.perf_counter()
  tables = recipe.train(tree, estimator, source, size, BUDGETS)
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


def _made_by(
    recipe: recipe_lib.Recipe, size: recipe_lib.Size
) -> dict[str, object]:
  """Returns what rows must have in common to be in one table.

  Finished rows are kept only if the code that makes them is unchanged.
  """
  files = [pathlib.Path(__file__), *map(pathlib.Path, recipe.files)]
  for module in (objectives, policy, simulation, training):
    files += sorted(pathlib.Path(module.__file__).parent.glob('*.py'))
  code = b''.join(path.read_bytes() for path in files)
  return {
      **dataclasses.asdict(size),
      'recipe': recipe.name,
      'code': hashlib.sha256(code).hexdigest(),
  }


def _read(
    out: pathlib.Path | None, made_by: dict[str, object]
) -> list[dict[str, object]]:
  if out is None or not out.exists():
    return []
  found = json.loads(out.read_text())
  return found['rows'] if found['made_by'] == made_by else []


def _write(
    out: pathlib.Path | None,
    made_by: dict[str, object],
    rows: Sequence[dict[str, object]],
) -> None:
  if out is not None:
    text = json.dumps({'made_by': made_by, 'rows': rows})
    manifest_lib.replace_file(out, lambda path: path.write_text(text))


def _line(row: dict[str, object]) -> str:
  return '  '.join(
      f'{name} {x:+.4f}' if isinstance(x, float) else f'{x:<10}'
      for name, x in row.items()
  )
