"""Measures what is left to win on collected ladders: bounds beside the policy.

Run:    python -m experiments.studies.headroom --config=configs/gsm8k_qwen25_coder.py:shipped --workdir=runs/real
Writes: headroom.json in the run directory, in the form of results.json

The run must be evaluated. Each learner is fitted three times, with the setting
that was chosen for it on `select`:

  on `train`           what the table of the run shows
  , all others         on all problems but a tenth, whichever tenth is judged:
                       what as many problems as there are would bring
  , has seen the test  on all problems, those of `test` among them. This is no
                       router, but more than its features can bring here

The oracle knows how each problem ends.
"""  # noqa: E501  Commands stay on one line.

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
import pathlib
from typing import Any

import ml_collections
import numpy as np

from experiments import command_line
from experiments import records_on_disk
from experiments import report
from experiments import train
from routing import progress
from routing.evaluation import evaluator
from routing.evaluation import markdown
from routing.evaluation import methods
from routing.evaluation import results as results_lib
from routing.evaluation import tables
from routing.outcomes import joined_tables
from routing.outcomes import sources
from routing.outcomes import table as table_lib
from routing.routers import families
from routing.routers import learned
from routing.routers import learners as learners_lib
from routing.shards import manifest as manifest_lib
from routing.tasks import splits

HEADROOM_FILE = 'headroom.json'
FOLDS = 10
OTHERS, SEEN = ', all others', ', has seen the test'


@dataclasses.dataclass(frozen=True)
class Folds:
  """All problems of a run, each split in `FOLDS` parts.

  tables: split -> the outcome table of each part.
  problems: split -> the problems of all parts, in their order.
  """

  tables: Mapping[str, Sequence[table_lib.OutcomeTable]]
  problems: Mapping[str, Sequence[Any]]

  def source(self, split: str) -> sources.Known:
    """Returns a split, its problems in the order of the parts."""
    table = joined_tables.joined(self.tables[split])
    return sources.Known(table, self.problems[split])

  def without(self, fold: int | None) -> table_lib.OutcomeTable:
    """Returns the problems of all splits, except those of one part."""
    return joined_tables.joined(
        table
        for parts in self.tables.values()
        for i, table in enumerate(parts)
        if i != fold
    )


def read(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    router: learned.LearnedRouter,
) -> Folds:
  """Reads the ladders of all splits, and deals them into parts in turn.

  Raises:
    ValueError: if the run has no ladders, or a split has fewer problems than
      there are parts.
  """
  if config.data.kind != 'ladders':
    raise ValueError(
        f'data.kind is {config.data.kind!r}; allowed: ladders, whose outcomes '
        'are all known.'
    )
  parts, problems = {}, {}
  for split in splits.SPLITS:
    ladders = list(records_on_disk.known_records(config, workdir, split))
    if len(ladders) < FOLDS:
      raise ValueError(
          f'{split} has {len(ladders)} problems; allowed: {FOLDS} or more.'
      )
    dealt = [ladders[i::FOLDS] for i in range(FOLDS)]
    card = router.card
    parts[split] = [
        records_on_disk.known_table(
            part, card.features, card.accounting, card.protocol
        )
        for part in dealt
    ]
    problems[split] = [ladder.problem for part in dealt for ladder in part]
  return Folds(parts, problems)


class _Given:
  """A family whose scores are given, for the decisions of some tables.

  Args:
    scores: pairs of decisions and what `sources.Family.score` returns of them.
  """

  fingerprint = ''  # No live answers.

  def __init__(self, scores):
    self._scores = {id(decisions): (decisions, x) for decisions, x in scores}

  def score(self, decisions):
    return self._scores[id(decisions)][1]


def cross_fitted(
    fit, folds: Folds, pair: methods.Pair, on_fit
) -> list[sources.Family]:
  """Returns families whose scores are of fits without the scored problem.

  Args:
    fit: returns the families that are fitted on an outcome table.
    folds: the problems.
    pair: `select` and `test`, as `Folds.source` returns them.
    on_fit: called after each fit.
  """
  found = []  # [fold, family] -> scores of `select`, scores of `test`.
  for fold in range(FOLDS):
    fitted = fit(folds.without(fold))
    of_split = [folds.tables[x][fold].decisions for x in ('select', 'test')]
    found.append([[x.score(y) for y in of_split] for x in fitted])
    on_fit()
  given = []
  for family in zip(*found, strict=True):
    joined = [
        tuple(map(_joined, zip(*x, strict=True)))
        for x in zip(*family, strict=True)
    ]
    where = (pair.select.table.decisions, pair.test.table.decisions)
    given.append(_Given(zip(where, joined, strict=True)))
  return given


def _joined(values: Sequence[np.ndarray | None]) -> np.ndarray | None:
  """Returns the scores or routes of all parts; None stays None."""
  return None if values[0] is None else np.concatenate(values)


def measure(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> dict[str, Any]:
  """Returns the figures of the policy, the learners and their bounds.

  Raises:
    ValueError: see `read`; also if the run is not evaluated.
  """
  results = report.load(workdir)
  routers = [
      learned.load(train.run_directory(workdir, seed))
      for seed in config.train_seeds
  ]
  folds = read(config, workdir, routers[0])
  train_table = joined_tables.joined(folds.tables['train'])
  pair = methods.Pair(folds.source('select'), folds.source('test'))
  metric, others = routers[0].card.metric, {}
  total = (FOLDS + 2) * len(results['tuning'])
  with progress.Progress(total, 'fit', unit='fit') as bar:
    for name, tried in results['tuning'].items():

      def fit(table, name=name, tried=tried):
        return learners_lib.LEARNERS[name].fit(
            table,
            metric=metric,
            features=routers[0].card.features,
            setting=tried['setting'],
            seed=config.seed,
        )

      others[name] = fit(train_table)
      bar.update()
      others[name + OTHERS] = cross_fitted(fit, folds, pair, bar.update)
      others[name + SEEN] = fit(folds.without(None))
      bar.update()
  return {
      'schema': results_lib.SCHEMA,
      'cost_metric': metric,
      'num_problems': {x: len(y) for x, y in folds.problems.items()},
      'seeds': list(config.train_seeds),
      'resamples': config.evaluation.resamples,
      'cost_metrics': evaluator.figures(
          list(map(families.policies, routers)),
          others,
          pair,
          resamples=config.evaluation.resamples,
          seed=config.seed,
      ),
  }


def main(config: ml_collections.ConfigDict, workdir: str) -> pathlib.Path:
  """Writes headroom.json, prints its table and returns its path."""
  content = measure(config, workdir)
  path = pathlib.Path(workdir) / HEADROOM_FILE
  text = json.dumps(results_lib.to_json(content), allow_nan=False) + '\n'
  manifest_lib.replace_file(path, lambda to: to.write_text(text))
  print(
      markdown.table(
          tables.COLUMNS, tables.rows(content, content['cost_metric'])
      )
  )
  return path


if __name__ == '__main__':
  command_line.run(main, 'config', 'workdir')
