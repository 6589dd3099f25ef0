"""Counts on all sets of problems, resumably, and writes the results."""

from collections.abc import Callable
from collections.abc import Iterable
import dataclasses
import functools
import json
import pathlib
import re
import time
from typing import Any

from absl import logging

from experiments import train
from experiments.studies import results_page
from experiments.studies.coverage import answers as answers_lib
from experiments.studies.coverage import cells as cells_lib
from experiments.studies.coverage import data as data_lib
from experiments.studies.coverage import joint as joint_lib
from experiments.studies.coverage import page as page_lib
from experiments.studies.coverage import report as report_lib
from experiments.studies.coverage import rollouts as rollouts_lib
from experiments.studies.coverage import service as service_lib
from routing.routers import learned
from routing.shards import json_cache


@dataclasses.dataclass(frozen=True)
class Source:
  """A set of problems, and how promises are counted on it.

  name: of the set; also names its files.
  make: loads or simulates the set; FileNotFoundError if a file is missing.
  count: (set, plan, sample size) -> rows.
  version: identifies the content, where it can change; e.g. a checkpoint hash.
  """

  name: str
  make: Callable[[], Any]
  count: Callable[[Any, cells_lib.Plan, int], Iterable[dict[str, Any]]]
  version: str = ''


def sources(plan: cells_lib.Plan, workdir: str | None) -> list[Source]:
  """Returns all sets of problems, the simulated ones first.

  Raises:
    ValueError: if the work directory holds no trained router.
  """
  ladders = cells_lib.of_ladders
  made_up = lambda: data_lib.simulated(
      plan.num_splits, max(plan.sizes), plan.seed
  )
  found = [Source('simulated', made_up, ladders)]
  found += [
      Source(
          f'simulated {name}',
          functools.partial(rollouts_lib.roll_out, name, seed=plan.seed),
          cells_lib.of_rollouts,
      )
      for name in rollouts_lib.NAMES
  ]
  routes = functools.partial(joint_lib.by_routes, seed=plan.seed)
  found.append(Source('three routes', routes, cells_lib.of_routes))
  if workdir is not None:
    mark = learned.load(train.run_directory(workdir, 0)).checkpoint_hash
    embedded = functools.partial(data_lib.embedded, workdir)
    found.append(Source('embedded', embedded, ladders, mark))
  return found + [
      Source(name, functools.partial(answers_lib.load, name), ladders)
      for name in answers_lib.READERS
  ]


def _timed(make: Callable[[], Any]) -> dict[str, Any]:
  """Returns what `make` returns, JSON-like, and the seconds it took."""
  start = time.monotonic()
  rows = make()
  return {'rows': rows, 'seconds': time.monotonic() - start}


def count_all(
    plan: cells_lib.Plan, workdir: str | None, out: pathlib.Path
) -> tuple[list[dict[str, Any]], float, dict[str, str]]:
  """Returns the rows of all sets, their seconds, and why sets were skipped."""
  rows, seconds = [], 0.0
  skipped = {} if workdir else {'embedded': 'no --workdir'}
  for source in sources(plan, workdir):
    # Made once for all sizes, and only if a size is not on disk yet.
    make = functools.cache(source.make)
    for size in plan.sizes:
      name = f'{re.sub("[^a-z0-9.]+", "_", source.name.lower())}-{size}.json'
      key = {
          'plan': dataclasses.asdict(plan),
          'size': size,
          'version': source.version,
      }
      # Defaults bind the present values; a closure would see later ones.
      count = lambda make=make, size=size, source=source: list(
          source.count(make(), plan, size)
      )
      try:
        content = _cached(
            out / 'cells' / name, key, functools.partial(_timed, count)
        )
      except FileNotFoundError as error:
        logging.warning('Skipped %s: %s', source.name, error)
        skipped[source.name] = f'{error.filename or error} is missing'
        break  # The set is missing for all other sizes, too.
      rows += content['rows']
      seconds += content['seconds']
      logging.info('%s, n = %d: %.0f s so far', source.name, size, seconds)
  return rows, seconds, skipped


def _cached(path: pathlib.Path, key: Any, make: Callable[[], Any]) -> Any:
  """Returns the saved content for `key`, or makes and saves it."""
  made = json_cache.load(path, key)
  if made is None:
    made = make()
    json_cache.save(path, key, made)
  return made


def serve(plan: cells_lib.Plan) -> dict[str, list[dict[str, Any]]]:
  """Measures what happens in service: `online` thresholds, `drift` alarms."""
  # The quick plan is recognised by its number of samples.
  is_quick = plan.num_splits < 1_000
  num, num_streams = (2_000, 100) if is_quick else (10_000, 1_000)
  return {
      'online': service_lib.long_run(20_000, 3 if is_quick else 10, plan.seed),
      'drift': service_lib.alarms(num, num_streams, plan.seed),
  }


def run(
    plan: cells_lib.Plan,
    workdir: str | None,
    out: pathlib.Path,
    docs: pathlib.Path | None = None,
) -> dict[str, Any]:
  """Counts, prints and writes everything; returns the summary.

  Raises:
    ValueError, FileNotFoundError: if the work directory is not finished.
  """
  rows, seconds, skipped = count_all(plan, workdir, out)
  key = {'plan': dataclasses.asdict(plan)}
  service = _cached(
      out / 'cells' / 'service.json',
      key,
      lambda: _timed(lambda: serve(plan)),
  )
  seconds += service['seconds']
  served, alarmed = service['rows']['online'], service['rows']['drift']
  figures = report_lib.summary(rows, served, alarmed, skipped)
  figures['minutes'] = round(seconds / 60, 1)
  content = {**key, 'summary': figures, 'cells': rows, **service['rows']}
  (out / 'coverage.json').write_text(json.dumps(content, allow_nan=False))
  (out / 'table.md').write_text(report_lib.markdown(rows, served, alarmed))
  report_lib.draw(rows, out / 'coverage.png')
  if docs is not None:
    page = page_lib.page(plan, rows, served, alarmed, figures, workdir)
    (docs / 'coverage.md').write_text(page)
    results_page.write(
        'coverage',
        page_lib.made(workdir),
        {'summary': figures, **service['rows']},
        docs / 'results',
    )
    report_lib.draw(rows, docs / 'coverage.png')
  report_lib.show(rows, served, alarmed)
  return figures
