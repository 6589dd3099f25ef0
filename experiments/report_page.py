"""Gathers what `report.html` shows from the files of a run.

Figures are those of `results.json`. The dials and the single answers come from
the records of `test`, scored by the router of the first seed.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
from typing import Any

import ml_collections
import numpy as np
import pyarrow as pa

from experiments import command_line
from experiments import records_on_disk
from experiments import train
from routing.evaluation import page_figures
from routing.evaluation import report_data
from routing.outcomes import records
from routing.outcomes import sources
from routing.rollout import trees
from routing.routers import families
from routing.routers import learned
from routing.routers import saved as saved_lib
from routing.shards import manifest as manifest_lib
from routing.shards import schema
from routing.training import metrics as metrics_lib

METRICS_FILE = 'metrics.jsonl'


def write(
    workdir: pathlib.Path, results: Mapping[str, Any], path: pathlib.Path
) -> None:
  """Writes the page of a run.

  Where the router or the records are not there any more, the page has the
  curves only, and says why.

  Args:
    workdir: of the run.
    results: the content of its `results.json`.
    path: of the page.
  """
  content = {
      'title': workdir.name,
      **page_figures.of_results(results),
      'points': [],
      'training': None,
      'why_not': _why_not(workdir, results),
  }
  shown = None
  if not content['why_not']:
    config = command_line.saved_config(workdir)
    router = train.load_router(workdir, config.train_seeds[0])
    content |= _of_router(config, router, workdir, results)
    shown = _shown(config, router, workdir)
  text = report_data.render(content, shown)
  manifest_lib.replace_file(
      path, lambda to: to.write_text(text, encoding='utf-8')
  )


def _why_not(workdir: pathlib.Path, results: Mapping[str, Any]) -> str:
  """Returns why a page cannot show single answers; '' if it can."""
  if not (workdir / 'config.json').exists():
    return f'{workdir.name}/config.json does not exist.'
  config = command_line.saved_config(workdir)
  seed = config.train_seeds[0]
  if not train.is_finished(workdir, seed):
    return f'the router of seed {seed} is not there any more.'
  directory = train.run_directory(workdir, seed)
  if saved_lib.read_card(directory)['hash'] != results['checkpoints'][0]:
    return f'the router of seed {seed} was trained again after the evaluation.'
  # New thresholds beside the figures of old ones would look like one router.
  points = directory / learned.POINTS_FILE
  calibrated = manifest_lib.hash_file(points) if points.exists() else None
  if calibrated != results['points_sha256'][0]:
    return (
        f'the router of seed {seed} was calibrated again after the evaluation.'
    )
  try:
    found = records_on_disk.open_split(config, workdir, 'test').manifest
  except (ValueError, FileNotFoundError):
    return 'the records of the test problems are not there any more.'
  if found.content_hash != results['shards']['test']:
    return 'the test problems were collected again after the evaluation.'
  return ''


def _of_router(
    config: ml_collections.ConfigDict,
    router: learned.LearnedRouter,
    workdir: pathlib.Path,
    results: Mapping[str, Any],
) -> dict[str, Any]:
  """Returns what the page says of a router besides its dials and answers."""
  rows = {
      seed: metrics_lib.read_rows(path)
      for seed in results['seeds']
      if (path := train.run_directory(workdir, seed) / METRICS_FILE).exists()
  }
  card = router.card
  return {
      'protocol': {'name': card.protocol.name, 'view': card.protocol.view},
      'routes': [spec.name for spec in card.specs],
      'settings': {'task': config.task.name, 'source': results['source']},
      'points': page_figures.points(router.points),
      'training': page_figures.training(rows, card.levels, card.form),
  }


def _shown(
    config: ml_collections.ConfigDict,
    router: learned.LearnedRouter,
    workdir: pathlib.Path,
) -> report_data.Shown:
  """Reads the records of `test`."""
  if config.data.kind == 'ladders':
    return _of_ladders(config, router, workdir)
  if config.data.kind == 'replies':
    return _of_trees(config, router, workdir)
  card = router.card
  # Also where the evaluation answers live: no model is asked for a page.
  read = list(records_on_disk.open_split(config, workdir, 'test').records())
  source = records.recorded_source(
      read,
      card.features,
      card.accounting,
      card.protocol,
      config.calibration.min_effective_size,
  )
  return _put_together(router, source, read[: report_data.MAX_PROBLEMS])


def _put_together(
    router: learned.LearnedRouter,
    source: sources.Known | sources.Recorded,
    records: Sequence[Any],
    places: Sequence[int] | None = None,
) -> report_data.Shown:
  """Returns records with all that a page says of them."""
  return report_data.Shown(
      router.card.accounting,
      router.card.protocol,
      router.points,
      families.policies(router),
      source,
      records,
      places,
  )


def _of_ladders(
    config: ml_collections.ConfigDict,
    router: learned.LearnedRouter,
    workdir: pathlib.Path,
) -> report_data.Shown:
  """Returns what a page shows of ladders, of some drawn where they are many."""
  card = router.card
  source = records_on_disk.known_outcomes(config, workdir, 'test', card)
  num, places = len(source.problems), None
  chosen = np.arange(num)
  if num > report_data.MAX_PROBLEMS:
    # The same at each report of a run, whose hashes the page may stand beside.
    rng = np.random.default_rng(config.seed)
    places = rng.permutation(num)[: report_data.MAX_PROBLEMS].tolist()
    chosen = np.sort(places)
  found, start = {}, 0
  for table in records_on_disk.open_split(config, workdir, 'test').tables():
    here = chosen[(chosen >= start) & (chosen < start + len(table))]
    some = table.take(pa.array(here - start))
    ladders = schema.LADDERS.from_table(some) if len(here) else []
    found.update(zip(here.tolist(), ladders, strict=True))
    start += len(table)
  order = chosen.tolist() if places is None else places
  return _put_together(router, source, [found[i] for i in order], places)


def _of_trees(
    config: ml_collections.ConfigDict,
    router: learned.LearnedRouter,
    workdir: pathlib.Path,
) -> report_data.Shown:
  """Returns what a page shows of reply trees: the first ones."""
  first: list[trees.ReplyTree] = []

  def keep(tree: trees.ReplyTree) -> None:
    if len(first) < report_data.MAX_PROBLEMS:
      first.append(tree)

  source = records_on_disk.tree_source(
      config, workdir, 'test', router.card, keep
  )
  return _put_together(router, source, first)
