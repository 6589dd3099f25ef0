"""Scores the small model's steps in collected ladders with `config.scorer`.

Run:    python -m experiments.scoring.score_steps --config=configs/paper.py:gsm8k --workdir=runs/paper/gsm8k
Plan:   the same with --dry_run
Resume: the same command; files that are finished are kept.
Writes: step_scores/{select,test}/, one Parquet file for each shard of ladders

`experiments.evaluate` then adds the threshold on step scores to its tables.
"""  # noqa: E501  Commands stay on one line.

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any

from absl import logging
import ml_collections

from experiments import builders
from experiments import command_line
from experiments import records_on_disk
from routing import costs
from routing import progress as progress_lib
from routing.engines import process_reward
from routing.engines import route as route_lib
from routing.engines import scorers
from routing.engines import step_scorer
from routing.shards import manifest as manifest_lib
from routing.shards import step_scores

STAGE = 'score steps'  # As the pipeline calls it.
FOLDER = 'step_scores'
KEY_FILE = 'key.json'
SPLITS = ('select', 'test')  # Thresholds are chosen on one, evaluated on both.


def is_on(config: ml_collections.ConfigDict) -> bool:
  """Returns whether a configuration names a step scorer."""
  # Older saved configurations have no `scorer`.
  return bool(config.get('scorer', {}).get('model', ''))


def route(config: ml_collections.ConfigDict) -> route_lib.Route:
  """Returns the scorer as a route, which says how it is charged."""
  given = config.scorer
  return route_lib.Route(
      'scorer',
      'process_reward',
      given.model,
      revision=given.revision,
      spec=dict(given.spec),
  )


def settings(config: ml_collections.ConfigDict) -> process_reward.Settings:
  """Returns how the scorer is run.

  Raises:
    ValueError: if a setting is unknown, or its value is not allowed.
  """
  try:
    return process_reward.Settings(**config.scorer.settings)
  except TypeError as error:
    raise ValueError(f'config.scorer.settings: {error}') from error


def check(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError if the scorer does not fit the other settings."""
  if not is_on(config):
    return
  settings(config)
  if config.data.kind != 'ladders':
    raise ValueError(
        f'config.scorer.model is {config.scorer.model!r} and data.kind is '
        f'{config.data.kind!r}; steps are scored in ladders only.'
    )


def check_is_on(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError if there is no scorer, or as `check` does."""
  check(config)
  if not is_on(config):
    raise ValueError(
        'config.scorer.model is empty; name a process reward model, e.g. '
        'shipped/reward or Qwen/Qwen2.5-Math-PRM-7B.'
    )


def directory(workdir: pathlib.Path | str, split: str) -> pathlib.Path:
  """Returns the directory of the scores of a split."""
  return pathlib.Path(workdir).absolute() / FOLDER / split


def _named(config, opened) -> dict[str, Any]:
  """Returns what a configuration says of the scores: scorer and ladders.

  It needs no weights: scores may be evaluated where the scorer is not.
  """
  made = settings(config)
  return {
      'model': config.scorer.model,
      'revision': config.scorer.revision,
      'system': made.system,
      'dtype': made.dtype,
      'shards': opened.manifest.content_hash,
      # Shared shards may hold more problems than this run reads.
      'num_problems': opened.num_problems,
  }


def score_split(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    split: str,
    scorer: step_scorer.StepScorer,
) -> pathlib.Path:
  """Scores the ladders of a split that have no scores yet.

  Returns:
    The directory of the scores.

  Raises:
    ValueError: if the ladders are not all collected, an answer cannot be
      scored, or the directory holds scores of another scorer or other ladders.
  """
  opened = records_on_disk.open_split(config, workdir, split)
  where = directory(workdir, split)
  where.mkdir(parents=True, exist_ok=True)
  scored_by = route(config)
  current = _named(config, opened) | {
      # The same name may stand for other weights another day.
      'identity': scored_by.identity,
      'spec': dataclasses.asdict(scored_by.cost_spec()),
  }
  if not (where / KEY_FILE).exists():
    text = json.dumps(current, indent=2) + '\n'
    manifest_lib.replace_file(where / KEY_FILE, lambda p: p.write_text(text))
  _check_key(where, current)
  numbers = opened.file_numbers
  with progress_lib.Progress(
      len(numbers), f'score {split}', unit='file'
  ) as shown:
    for index in numbers:
      path = _file(where, index)
      if not path.exists():
        ladders = opened.file(index)
        found = scorer.score(
            [
                (
                    x.problem.question,
                    [s.text for s in x.steps[: x.num_decisions]],
                )
                for x in ladders
            ]
        )
        ids = [x.problem.id for x in ladders]
        step_scores.write(path, dict(zip(ids, found, strict=True)))
      shown.update()
  logging.info('Step scores of %s are in %s', split, where)
  return where


def read(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str, split: str
) -> dict[str, step_scorer.StepScores]:
  """Returns the scores of a split: id of the problem -> scores of its steps.

  Raises:
    ValueError: if the split is not scored, or by another scorer.
  """
  opened = records_on_disk.open_split(config, workdir, split)
  where = directory(workdir, split)
  if not is_scored(config, workdir, split):
    raise ValueError(
        f'The ladders of {split} are not all scored in {where}. Run '
        'experiments.scoring.score_steps with the same flags first.'
    )
  _check_key(where, _named(config, opened))
  found = {}
  for index in opened.file_numbers:
    found |= step_scores.read(_file(where, index))
  return found


def spec(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> costs.RouteSpec:
  """Returns the size and prices of the scorer whose scores are on the disk."""
  saved = json.loads((directory(workdir, SPLITS[0]) / KEY_FILE).read_text())
  found = costs.RouteSpec(**saved['spec'])
  return dataclasses.replace(found, **config.scorer.spec)


def identities(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> list[str | None]:
  """Returns which scorer scored each split; None where none did."""
  if not is_on(config):
    return []
  paths = [directory(workdir, split) / KEY_FILE for split in SPLITS]
  return [
      json.loads(path.read_text())['identity'] if path.exists() else None
      for path in paths
  ]


def is_scored(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str, split: str
) -> bool:
  """Returns whether the scores of all ladders of a split are on the disk."""
  numbers = records_on_disk.open_split(config, workdir, split).file_numbers
  where = directory(workdir, split)
  files = [where / KEY_FILE, *(_file(where, i) for i in numbers)]
  return all(path.exists() for path in files)


def is_current(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> bool:
  """Returns whether all splits are scored, by this scorer.

  Raises:
    ValueError: if a split is not collected, or scored by another scorer.
  """
  for split in SPLITS:
    if not is_scored(config, workdir, split):
      return False
    opened = records_on_disk.open_split(config, workdir, split)
    _check_key(directory(workdir, split), _named(config, opened))
  return True


def _file(where: pathlib.Path, index: int) -> pathlib.Path:
  return where / f'scores-{index:05d}.parquet'


def _check_key(where: pathlib.Path, current: Mapping[str, Any]) -> None:
  """Raises ValueError if scores are of another scorer or of other ladders."""
  found = json.loads((where / KEY_FILE).read_text())
  # Older scores are of all problems on the disk, and do not say how many.
  found.setdefault('num_problems', current['num_problems'])
  for name, value in current.items():
    # Prices may be changed after the scores were computed.
    if name != 'spec' and found.get(name) != value:
      raise ValueError(
          f'{where} holds scores with {name} {found.get(name)!r}; here it is '
          f'{value!r}. Delete that directory to score again.'
      )


def score_all(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> None:
  """Scores the splits that the evaluation needs.

  Raises:
    ValueError: if the configuration names no scorer; as `score_split` does.
  """
  check_is_on(config)
  builders.set_environment(config)
  scorer = scorers.load(route(config).folder, settings(config))
  try:
    for split in SPLITS:
      score_split(config, workdir, split, scorer)
  finally:
    scorer.close()


if __name__ == '__main__':
  # Here, since the plans import the stages.
  from experiments import stage_plans

  command_line.run(
      score_all, 'config', 'workdir', plan=stage_plans.show_score_steps
  )
