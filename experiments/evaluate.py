"""Replays every method on the test ladders, and answers some problems live.

Run:    python -m experiments.evaluate --config=configs/arithmetic.py --workdir=runs/arithmetic
Writes: results.json
"""  # noqa: E501  Commands stay on one line.

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
import pathlib
import time
from typing import Any

from absl import logging
import ml_collections
import numpy as np

from experiments import graded as graded_lib
from experiments import launch
from experiments import live
from experiments import train
from experiments.coverage import router as coverage
from routing import costs
from routing import types
from routing.outcomes import stopping as stopping_lib
from routing.evaluation import bootstrap
from routing.evaluation import methods
from routing.outcomes import points as points_lib
from routing.evaluation import results as results_lib
from routing.problems import splits
from routing.routers import learned
from routing.routers import supervised
from routing.shards import manifest as manifest_lib

RESULTS_FILE = 'results.json'
REFERENCE = 'policy'  # The method that all others are compared with.


@dataclasses.dataclass(frozen=True)
class Scores:
  """What every scoring method says of one split; none of it knows a ruler.

  policy: per seed and member, scores and routes; see `graded.member_choices`.
  supervised, confidence: `[N, T]`.
  """

  policy: list[list[tuple[np.ndarray, np.ndarray]]]
  supervised: np.ndarray
  confidence: np.ndarray


def load_routers(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> list[learned.LearnedRouter]:
  """The trained router of every seed."""
  return [
      learned.load(train.run_directory(workdir, seed))
      for seed in config.train_seeds
  ]


def load_splits(
    workdir: pathlib.Path | str, router: learned.LearnedRouter
) -> dict[str, graded_lib.Graded]:
  """All three splits, checked to share no question."""
  loaded = {
      split: graded_lib.load(workdir, split, router.card)
      for split in ('train', 'validation', 'test')
  }
  splits.check_disjoint(
      **{
          name: [
              splits.question_hash(x.problem.question) for x in graded.ladders
          ]
          for name, graded in loaded.items()
      }
  )
  return loaded


def score(
    routers: Sequence[learned.LearnedRouter],
    scorer: supervised.Scorer,
    graded: graded_lib.Graded,
) -> Scores:
  """Every scoring method on one split."""
  return Scores(
      policy=[
          graded_lib.member_choices(router, graded.batch) for router in routers
      ],
      supervised=scorer.score(graded.batch.features),
      confidence=graded.doubt,
  )


def _policy_seed(
    batches: Sequence[types.LadderBatch],
    choices: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]],
) -> methods.Candidates:
  """All members of one seed, pooled; [validation, test] in both arguments."""
  pairs = []
  for (seen, seen_routes), (unseen, unseen_routes) in zip(
      *choices, strict=True
  ):
    pairs.append(
        methods.thresholded(
            stopping_lib.from_batch(batches[0], seen_routes),
            seen,
            stopping_lib.from_batch(batches[1], unseen_routes),
            unseen,
        )
    )
  return methods.pooled(pairs)


def candidates_in_ruler(
    batches: Sequence[types.LadderBatch], scores: Sequence[Scores]
) -> dict[str, list[methods.Candidates]]:
  """Every method's candidates; [validation, test] in both arguments."""
  validation, test = (stopping_lib.from_batch(batch) for batch in batches)
  by_score = lambda name: methods.thresholded(
      validation,
      getattr(scores[0], name),
      test,
      getattr(scores[1], name),
  )
  return {
      'policy': [
          _policy_seed(batches, choices)
          for choices in zip(*(x.policy for x in scores), strict=True)
      ],
      'supervised': [by_score('supervised')],
      'confidence': [by_score('confidence')],
      'fixed step': [methods.fixed_step(validation, test)],
      'coin': [methods.coin_per_question(validation, test)],
      'random': [methods.random_hazard(validation, test)],
  }


def replay_in_ruler(
    batches: Sequence[types.LadderBatch],
    scores: Sequence[Scores],
    draws: bootstrap.Draws,
) -> dict[str, Any]:
  """All figures in the ruler that the batches were charged in."""
  test = stopping_lib.from_batch(batches[1])
  shape = batches[1].mask.shape
  tables = [
      stopping_lib.from_batch(batches[1], np.full(shape, route + 1))
      for route in range(batches[1].handover_correct.shape[-1])
  ]
  anchors = results_lib.anchors_of(
      replay.at_steps(test, [test.num_steps]), replay.largest_alone(test)
  )
  return results_lib.of_ruler(
      candidates_in_ruler(batches, scores),
      replay.oracle(tables, methods.PRICES),
      anchors,
      draws,
      REFERENCE,
  )


def replay_all(
    config: ml_collections.ConfigDict,
    routers: Sequence[learned.LearnedRouter],
    loaded: Mapping[str, graded_lib.Graded],
) -> dict[str, Any]:
  """Everything in `results.json` that needs no engine."""
  card = routers[0].card
  start = time.monotonic()
  scorer = supervised.fit(loaded['train'].batch)
  logging.info('Supervised learner: %.0f s', time.monotonic() - start)
  pair = [loaded['validation'], loaded['test']]
  scores = [score(routers, scorer, graded) for graded in pair]
  draws = bootstrap.draw(
      len(loaded['test'].ladders),
      [1, len(routers)],
      config.evaluation.resamples,
      seed=config.seed,
  )
  rulers = {}
  for ruler in costs.RULERS:
    batches = [graded_lib.recharge(graded, card, ruler) for graded in pair]
    rulers[ruler] = replay_in_ruler(batches, scores, draws)
    area = rulers[ruler]['methods'][REFERENCE]['area']
    logging.info('Ruler %s: policy area %.4f', ruler, area['mean'])
  return {
      'schema': results_lib.SCHEMA,
      'config': json.loads(config.to_json_best_effort()),
      'ruler': card.ruler,
      'num_problems': {k: len(v.ladders) for k, v in loaded.items()},
      'seeds': list(config.train_seeds),
      'resamples': config.evaluation.resamples,
      'checkpoints': [router.checkpoint_hash for router in routers],
      'shards': {k: v.content_hash for k, v in loaded.items()},
      'rulers': rulers,
  }


def evaluate(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> pathlib.Path:
  """Evaluates all seeds and writes `results.json`; returns its path.

  Raises:
    ValueError: if an earlier stage is not finished, or its files do not belong
      together.
  """
  routers = load_routers(config, workdir)
  loaded = load_splits(workdir, routers[0])
  content = replay_all(config, routers, loaded)
  content['live'] = live.answer_at_points(
      config, routers[0], config.train_seeds[0], loaded['test']
  )
  content['coverage'] = coverage.count_for_router(
      routers[0],
      list(loaded.values()),
      num_samples=config.evaluation.coverage,
      seed=config.seed,
  )
  path = pathlib.Path(workdir).absolute() / RESULTS_FILE
  text = json.dumps(results_lib.to_json(content), allow_nan=False) + '\n'
  manifest_lib.replace_file(path, lambda p: p.write_text(text))
  logging.info('Results in %s', path)
  return path


if __name__ == '__main__':
  launch.run(evaluate, 'config', 'workdir')
