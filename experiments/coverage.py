"""Counts broken promises, where the truth is known.

Run:    python -m experiments.coverage [--quick] [--workdir=runs/arithmetic] [--out=runs/coverage] [--docs=docs]
Resume: the same command; what was counted is kept, a file for each set and size.
Prints: tables; last, one JSON object.

For each procedure, level, delta and sample size: how many of many calibration
samples led to a promise that is not true. New ladders of the made-up process,
and its rollouts where control returns; samples with replacement from the
ladders of a work directory, and from published answers (`coverage_answers`;
what is not there is skipped, and said). Next to them the same for thresholds
that were plainly picked on the sample, and what service adds: the threshold
that follows feedback, and the alarm. The threshold grids are fixed before any
sample is drawn. Writes coverage.json, table.md and coverage.png into `out`; and
with --docs the page of the documentation and its plot. After a change of the
code count into another `out`.
"""  # noqa: E501  Commands stay on one line.

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses
import functools
import json
import pathlib
import re
import sys
from typing import Any

from absl import app
from absl import flags
from absl import logging
import numpy as np

from experiments import calibrate
from experiments import coverage_answers
from experiments import coverage_cells
from experiments import coverage_data
from experiments import coverage_docs
from experiments import coverage_joint
from experiments import coverage_report
from experiments import coverage_rollouts
from experiments import coverage_streams
from experiments import graded as graded_lib
from experiments import keeping
from experiments import train
from routing.calibration import outcomes as outcomes_lib
from routing.calibration import thresholds as thresholds_lib
from routing.routers import learned

SAMPLE_SIZE = 500
ALPHA, DELTA = 0.05, 0.1
_GRID_SIZE = 200


def count_broken(
    scores: np.ndarray,
    outcomes: outcomes_lib.Outcomes,
    *,
    num_samples: int,
    seed: int,
    sample_size: int = SAMPLE_SIZE,
    alpha: float = ALPHA,
    delta: float = DELTA,
) -> dict[str, Any]:
  """How often 'loss <= alpha' is broken: as promised, and as plainly picked.

  Args:
    scores: `[N, T]` float, of every labelled problem.
    outcomes: their table; its means are the truth.
    num_samples: calibration samples.
    seed: of the draws.
    sample_size: problems in a sample.
    alpha: relative loss promised.
    delta: chance that the promise is broken.

  Returns:
    The settings; for `promised` (learn then test) and `picked` (the cheapest
    threshold with sample loss <= alpha): `broken`, and `cost`, the mean of the
    true cost; for `best` the cost of the cheapest threshold that truly holds.
  """
  grid = thresholds_lib.grid(scores, outcomes.mask, _GRID_SIZE)
  times = outcomes_lib.stopping_times(scores, outcomes.mask, grid)
  values = outcomes_lib.at_times(outcomes, times)
  loss, cost = values['loss'].mean(axis=1), values['cost'].mean(axis=1)
  rng = np.random.default_rng(seed)
  chosen = {'promised': [], 'picked': []}
  for _ in range(num_samples):
    rows = rng.integers(outcomes.num_problems, size=sample_size)
    point = thresholds_lib.learn_then_test(
        scores[rows],
        outcomes.take(rows),
        alpha=alpha,
        delta=delta,
        thresholds=grid,
    )
    chosen['promised'].append(int(np.searchsorted(grid, point.threshold)))
    allowed = np.flatnonzero(values['loss'][:, rows].mean(axis=1) <= alpha)
    sample_cost = values['cost'][:, rows].mean(axis=1)
    chosen['picked'].append(int(allowed[np.argmin(sample_cost[allowed])]))
  return {
      'alpha': alpha,
      'delta': delta,
      'sample_size': sample_size,
      'num_samples': num_samples,
      'num_problems': outcomes.num_problems,
      'best': {'cost': float(cost[loss <= alpha].min())},
      **{
          name: {
              'broken': int((loss[index] > alpha).sum()),
              'cost': float(cost[index].mean()),
          }
          for name, index in chosen.items()
      },
  }


def count_for_router(
    router: learned.LearnedRouter,
    splits: Sequence[graded_lib.Graded],
    *,
    num_samples: int,
    seed: int,
) -> dict[str, Any]:
  """The same for the policy behind the router's first promise of a loss."""
  promised = [p.member for p in router.points if p.promise['what'] == 'loss']
  member = promised[0] if promised else router.member
  parts = [calibrate.members_of(router, graded)[member] for graded in splits]
  outcomes = outcomes_lib.Outcomes(
      **{
          field.name: np.concatenate(
              [getattr(part.outcomes, field.name) for part in parts]
          )
          for field in dataclasses.fields(outcomes_lib.Outcomes)
      }
  )
  scores = np.concatenate([part.scores for part in parts])
  figures = count_broken(scores, outcomes, num_samples=num_samples, seed=seed)
  return {'member': member, **figures}


@dataclasses.dataclass(frozen=True)
class Source:
  """A set of problems, and how promises are counted on it.

  name: of its files.
  make: loads or makes it; FileNotFoundError if it is not there.
  count: rows of one sample size.
  version: what it was made of, if that can change.
  """

  name: str
  make: Callable[[], Any]
  count: Callable[[Any, coverage_cells.Plan, int], Iterable[dict[str, Any]]]
  version: str = ''


def sources(plan: coverage_cells.Plan, workdir: str | None) -> list[Source]:
  """All there may be, the made-up ones first.

  Raises:
    ValueError: if the work directory holds no trained router.
  """
  ladders = coverage_cells.of_ladders
  made_up = lambda: coverage_data.simulated(
      plan.num_splits, max(plan.sizes), plan.seed
  )
  found = [Source('simulated', made_up, ladders)]
  found += [
      Source(
          f'simulated {name}',
          functools.partial(coverage_rollouts.roll_out, name, seed=plan.seed),
          coverage_cells.of_rollouts,
      )
      for name in coverage_rollouts.NAMES
  ]
  routes = functools.partial(coverage_joint.by_routes, seed=plan.seed)
  found.append(Source('three routes', routes, coverage_cells.of_routes))
  if workdir is not None:
    mark = learned.load(train.run_directory(workdir, 0)).checkpoint_hash
    embedded = functools.partial(coverage_data.embedded, workdir)
    found.append(Source('embedded', embedded, ladders, mark))
  return found + [
      Source(name, functools.partial(coverage_answers.load, name), ladders)
      for name in coverage_answers.READERS
  ]


def count_all(
    plan: coverage_cells.Plan, workdir: str | None, out: pathlib.Path
) -> tuple[list[dict[str, Any]], float, dict[str, str]]:
  """Rows of all sets, the seconds they took, and why some sets are left out."""
  rows, seconds = [], 0.0
  skipped = {} if workdir else {'embedded': 'no --workdir'}
  for source in sources(plan, workdir):
    make = functools.cache(source.make)
    for size in plan.sizes:
      name = f'{re.sub("[^a-z0-9.]+", "_", source.name.lower())}-{size}.json'
      key = {
          'plan': dataclasses.asdict(plan),
          'size': size,
          'version': source.version,
      }
      count = lambda make=make, size=size, source=source: list(
          source.count(make(), plan, size)
      )
      try:
        content = keeping.kept(out / 'cells' / name, key, count)
      except FileNotFoundError as error:
        logging.warning('Skipped %s: %s', source.name, error)
        skipped[source.name] = f'{error.filename or error} is not there'
        break
      rows += content['made']
      seconds += content['seconds']
      logging.info('%s, n = %d: %.0f s so far', source.name, size, seconds)
  return rows, seconds, skipped


def serve(plan: coverage_cells.Plan) -> dict[str, list[dict[str, Any]]]:
  """What service adds: `online` thresholds, and `drift` alarms."""
  is_quick = plan.num_splits < 1_000
  num, num_streams = (2_000, 100) if is_quick else (10_000, 1_000)
  return {
      'online': coverage_streams.long_run(
          20_000, 3 if is_quick else 10, plan.seed
      ),
      'drift': coverage_streams.alarms(num, num_streams, plan.seed),
  }


def run(
    plan: coverage_cells.Plan,
    workdir: str | None,
    out: pathlib.Path,
    docs: pathlib.Path | None = None,
) -> dict[str, Any]:
  """Counts, prints and writes everything; returns the figures of the last line.

  Raises:
    ValueError, FileNotFoundError: if the work directory is not finished.
  """
  rows, seconds, skipped = count_all(plan, workdir, out)
  key = {'plan': dataclasses.asdict(plan)}
  service = keeping.kept(
      out / 'cells' / 'service.json', key, lambda: serve(plan)
  )
  seconds += service['seconds']
  served, alarmed = service['made']['online'], service['made']['drift']
  figures = coverage_report.summary(rows, served, alarmed, skipped)
  figures['minutes'] = round(seconds / 60, 1)
  content = {**key, 'summary': figures, 'cells': rows, **service['made']}
  (out / 'coverage.json').write_text(json.dumps(content, allow_nan=False))
  (out / 'table.md').write_text(coverage_report.markdown(rows, served, alarmed))
  coverage_report.draw(rows, out / 'coverage.png')
  if docs is not None:
    page = coverage_docs.page(plan, rows, served, alarmed, figures, workdir)
    (docs / 'coverage.md').write_text(page)
    coverage_report.draw(rows, docs / 'coverage.png')
  coverage_report.show(rows, served, alarmed)
  return figures


def main(argv: Sequence[str]) -> None:
  """Prints the tables, then the JSON line."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  logging.set_verbosity(logging.INFO)
  values = flags.FLAGS
  plan = coverage_cells.quick() if values.quick else coverage_cells.Plan()
  try:
    docs = pathlib.Path(values.docs) if values.docs else None
    figures = run(plan, values.workdir, pathlib.Path(values.out), docs)
    print(json.dumps(figures))
  except (ValueError, FileNotFoundError) as error:
    sys.exit(f'coverage: {error}')


if __name__ == '__main__':
  flags.DEFINE_bool('quick', False, 'Fewer samples and cells; about a minute.')
  flags.DEFINE_string('workdir', None, 'A finished work directory, if any.')
  flags.DEFINE_string('out', 'runs/coverage', 'Where the results are written.')
  flags.DEFINE_string('docs', None, 'Where the page about it is written.')
  app.run(main)
