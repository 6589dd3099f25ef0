"""Gathers what `report.html` shows from the files of a run.

Figures are those of `results.json`. The dials and the single answers come from
the records of `test`, scored by the router of the first seed.
"""

from collections.abc import Mapping
import dataclasses
import functools
import pathlib
from typing import Any

import ml_collections

from experiments import command_line
from experiments import records_on_disk
from experiments import split_on_disk
from experiments import train
from routing import costs
from routing import types
from routing.evaluation import courses
from routing.evaluation import dials as dials_lib
from routing.evaluation import page
from routing.evaluation import page_figures
from routing.outcomes import known
from routing.outcomes import records
from routing.outcomes import sources
from routing.outcomes import table as table_lib
from routing.routers import families as families_lib
from routing.routers import learned
from routing.routers import saved as saved_lib
from routing.shards import manifest as manifest_lib
from routing.training import metrics as metrics_lib

METRICS_FILE = 'metrics.jsonl'
# Single answers on a page; the dials and the curves are of all problems.
MAX_PROBLEMS = 2_000


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
      'training': None,
      'points': [],
      'dials': [],
      'answers': None,
      'why_not': _why_not(workdir, results),
  }
  opened = None
  if not content['why_not']:
    opened = _Opened.read(command_line.saved_config(workdir), workdir)
    content |= _of_router(opened, workdir, results)
  num_shown = MAX_PROBLEMS
  while True:
    if opened:
      content['answers'] = opened.answers(num_shown)
    text = page.render('report.html', content)
    num_bytes = len(text.encode())
    if num_bytes <= page.MAX_BYTES or not opened or not num_shown:
      break
    # Most of a page too large is answers, so fewer of them make it fit.
    num_shown = min(num_shown, len(content['answers']['problem']['id']))
    num_shown = int(0.9 * num_shown * page.MAX_BYTES / num_bytes)
  manifest_lib.replace_file(
      path, lambda to: to.write_text(text, encoding='utf-8')
  )


def _why_not(workdir: pathlib.Path, results: Mapping[str, Any]) -> str:
  """Returns why a page cannot show single answers; '' if it can."""
  if not (workdir / 'config.json').exists():
    return f'{workdir.name}/config.json does not exist.'
  config = command_line.saved_config(workdir)
  seed = results['seeds'][0]
  if not train.is_finished(workdir, seed):
    return f'The router of seed {seed} is not there any more.'
  directory = train.run_directory(workdir, seed)
  if saved_lib.read_card(directory)['hash'] != results['checkpoints'][0]:
    return f'The router of seed {seed} was trained again after the evaluation.'
  split = records_on_disk.directory(config, workdir, 'test')
  if not (split / 'manifest.json').exists():
    return f'The records in {split.name} are not there any more.'
  return ''


def _of_router(
    opened: '_Opened', workdir: pathlib.Path, results: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns what the page shows of the router of the first seed."""
  router, config = opened.router, opened.config
  rows = {
      seed: metrics_lib.read_rows(path)
      for seed in results['seeds']
      if (path := train.run_directory(workdir, seed) / METRICS_FILE).exists()
  }
  card = router.card
  return {
      'protocol': {'name': card.protocol.name, 'view': card.protocol.view},
      'routes': [spec.name for spec in card.specs],
      'settings': {
          'task': str(config.task.name),
          'estimator': str(config.objective.get('estimator', '')),
          'source': str(results['source']),
      },
      'points': page_figures.points(results, router.points),
      'training': page_figures.training(rows, card.levels, card.form),
      'dials': [
          {
              'policy': dial.policy_index,
              'thresholds': _finite(dial),
              'points': {str(k): name for k, name in dial.points.items()},
              'figures': figures,
          }
          for dial, figures in opened.turned
      ],
  }


def _finite(dial: dials_lib.Dial) -> list[Any]:
  """Returns thresholds for JSON, which has no infinity."""
  if dial.thresholds.ndim == 2:
    return [[str(x) for x in dial.thresholds[0]]]
  return [str(x) for x in dial.thresholds.tolist()]


@dataclasses.dataclass(frozen=True)
class _Opened:
  """The router of the first seed and the records of `test`.

  config: of the run.
  router: of the first seed.
  source: evaluates thresholds on the problems.
  first: the first `MAX_PROBLEMS` records.
  """

  config: ml_collections.ConfigDict
  router: learned.LearnedRouter
  source: sources.Known | sources.Recorded
  first: list[Any]

  @classmethod
  def read(
      cls, config: ml_collections.ConfigDict, workdir: pathlib.Path
  ) -> '_Opened':
    """Reads a run; its files must exist."""
    router = train.load_router(workdir, config.train_seeds[0])
    card = router.card
    opened = records_on_disk.open_split(config, workdir, 'test')
    split_on_disk.check_card(card, config, opened)
    if config.data.kind == 'rollouts':
      read = list(opened.records())
      source = records.recorded_source(
          read,
          card.features,
          card.accounting,
          card.protocol,
          config.calibration.min_effective_size,
      )
      return cls(config, router, source, read[:MAX_PROBLEMS])
    problems, first, num_samples = [], [], 1

    def noted():
      nonlocal num_samples
      for record in records_on_disk.known_records(config, workdir, 'test'):
        if len(first) < MAX_PROBLEMS:
          first.append(record)
        problems.append(record.problem)
        for completion in getattr(record, 'completions', ()):
          num_samples = max(num_samples, 1 + completion.sample)
        yield record

    table = records_on_disk.known_table(noted(), card)
    source = sources.Known(table, problems, is_graded_once=num_samples == 1)
    return cls(config, router, source, first)

  @functools.cached_property
  def families(self) -> list[sources.Family]:
    """One family for each policy."""
    return families_lib.policies(self.router)

  @functools.cached_property
  def turned(self) -> list[tuple[dials_lib.Dial, dict[str, Any]]]:
    """The dials that the records can evaluate, with their figures."""
    found = dials_lib.of_points(self.router.points, self.families, self.source)
    figures = [
        dials_lib.figures(
            dial,
            self.families[dial.policy_index],
            self.source,
            costs.COST_METRICS,
        )
        for dial in found
    ]
    return [(x, y) for x, y in zip(found, figures, strict=True) if y]

  @property
  def decisions(self) -> table_lib.Decisions:
    """All decisions on the problems."""
    if isinstance(self.source, sources.Known):
      return self.source.table.decisions
    return self.source.decisions

  def answers(self, num_problems: int) -> dict[str, Any]:
    """Returns every answer to the first problems that a dial can reach."""
    dials = [dial for dial, _ in self.turned]
    scored = dials_lib.scores(dials, self.families, self.decisions)
    columns = courses.Columns(self.router.card.accounting, self._protocol)
    shown = self.first[:num_problems]
    is_alive = None
    if shown and not isinstance(shown[0], types.Ladder | types.Rollouts):
      table = self.source.table
      reached = [
          known.reached(table, x['score'], x['route']).ending for x in scored
      ]
      is_alive = courses.alive(table, reached)
    for n, record in enumerate(shown):
      if isinstance(record, types.Ladder):
        columns.add_ladder(record, self.source.table, n)
      elif isinstance(record, types.Rollouts):
        columns.add_rollouts(record, self.source, n)
      else:
        columns.add_tree(record, self.source.table, n, is_alive)
    content = columns.to_json()
    content['dials'] = [
        {
            'score': [round(float(x['score'][row]), 4) for row in columns.rows],
            'rank': [int(x['rank'][row]) for row in columns.rows],
            'route': [int(x['route'][row]) for row in columns.rows],
        }
        for x in scored
    ]
    content['is_graded_once'] = self.source.is_graded_once
    content['total'] = len(self.source.problems)
    return content

  @property
  def _protocol(self):
    return self.router.card.protocol
