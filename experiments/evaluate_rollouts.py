"""Evaluates routers of `switch` and `redraft` on the trees of test problems.

Run:    python -m experiments.evaluate_rollouts --config=configs/arithmetic_redraft.py --workdir=runs/redraft --replies=runs/replies
Writes: results.json, results.md

Thresholds and hulls are picked on validation problems, and seen on test ones.
Trees need replies (see `experiments.replies`), but no model; a few problems are
answered live by the driver at a threshold of each member, to compare.
"""  # noqa: E501  Commands stay on one line.

from collections.abc import Mapping
from collections.abc import Sequence
import functools
import json
import pathlib
from typing import Any

from absl import flags
from absl import logging
import ml_collections
import numpy as np

from experiments import behave
from experiments import evaluate
from experiments import grown as grown_lib
from experiments import launch
from experiments import live
from experiments import replies
from experiments import training_sets
from routing import costs
from routing import types
from routing.calibration import thresholds as thresholds_lib
from routing.evaluation import bootstrap
from routing.evaluation import methods
from routing.outcomes import points as points_lib
from routing.evaluation import results as results_lib
from routing.evaluation import tables
from routing.evaluation import walks
from routing.features import batching
from routing.features import forests
from routing.routers import card as card_lib
from routing.routers import learned
from routing.routers import uplift
from routing.shards import manifest as manifest_lib
from routing.shards import schema


def thresholded(
    pair: Sequence[forests.Forest],
    scores: Sequence[np.ndarray],
    ruler: str,
    routes: Sequence[np.ndarray | None] = (None, None),
) -> methods.Candidates:
  """Thresholds on one score; [validation, test] in all sequences."""
  every = scores[0][:, None]
  grid = thresholds_lib.grid(every, np.ones_like(every, bool))
  return methods.Candidates(
      *(
          walks.at_thresholds(forest, score, grid, ruler, route)
          for forest, score, route in zip(pair, scores, routes, strict=True)
      )
  )


def _policy_seed(
    pair: Sequence[forests.Forest],
    choices: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]],
    ruler: str,
) -> methods.Candidates:
  """All members of one seed, pooled."""
  members = []
  for seen, unseen in zip(*choices, strict=True):
    scores, routes = zip(seen, unseen, strict=True)
    members.append(thresholded(pair, scores, ruler, routes))
  return methods.pooled(members)


def _coin(pair: Sequence[forests.Forest], ruler: str) -> methods.Candidates:
  """A coin decides between the two models before anything is written."""
  return methods.Candidates(
      *(
          points_lib.concatenate(
              [walks.at_rates(x, [0.0], ruler), walks.largest_alone(x)]
          )
          for x in pair
      )
  )


def in_ruler(
    pair: Sequence[forests.Forest],
    policy: Sequence[Sequence[Sequence[tuple[np.ndarray, np.ndarray]]]],
    learners: Mapping[str, Sequence[np.ndarray]],
    draws: bootstrap.Draws,
    ruler: str,
) -> dict[str, Any]:
  """All figures in one ruler.

  Args:
    pair: validation and test.
    policy: per seed: of validation and of test, `scores_of`.
    learners: by name: `[M]` scores of validation and of test.
    draws: resamples of the test problems and of the seeds.
    ruler: of the costs.
  """
  found = {
      'policy': [_policy_seed(pair, choices, ruler) for choices in policy],
      **{
          name: [thresholded(pair, scores, ruler)]
          for name, scores in learners.items()
      },
      'confidence': [thresholded(pair, [x.doubt for x in pair], ruler)],
      'coin': [_coin(pair, ruler)],
      'random': [
          methods.Candidates(
              *(walks.at_rates(x, methods.HAZARDS, ruler) for x in pair),
              is_selective=False,
          )
      ],
  }
  anchors = results_lib.anchors_of(
      walks.at_rates(pair[1], [0.0], ruler), walks.largest_alone(pair[1])
  )
  return results_lib.of_ruler(
      found,
      walks.oracle(pair[1], methods.PRICES, ruler),
      anchors,
      draws,
      evaluate.REFERENCE,
  )


def read_rollouts(workdir: pathlib.Path | str) -> list[types.Rollouts]:
  """The behaviour trajectories on train, where a run has any."""
  directory = behave.shard_directory(workdir, 'train')
  if not (directory / manifest_lib.FILE_NAME).exists():
    return []
  return training_sets.Split(directory, schema.ROLLOUTS).all()


def fit_learners(
    forest: forests.Forest,
    rollouts: Sequence[types.Rollouts],
    card: card_lib.Card,
    seed: int,
) -> dict[str, Any]:
  """The supervised learners, by name; each with the policy's features.

  'supervised' learns from every decision of the trees what handing over now
  changes; 'supervised, rollouts', where there are any, from every decision of
  the behaviour trajectories what naming a route is worth.
  """
  learners: dict[str, Any] = {
      'supervised': uplift.fit_change(forest, seed=seed)
  }
  if rollouts:
    batch = batching.trajectory_batch(
        rollouts, card.features, card.accounting, card.protocol
    )
    learners['supervised, rollouts'] = uplift.fit_effect(batch, seed=seed)
  return learners


def compare_live(
    config: ml_collections.ConfigDict,
    directory: pathlib.Path | str,
    router: learned.LearnedRouter,
    grown: grown_lib.Grown,
    choices: Sequence[tuple[np.ndarray, np.ndarray]],
    num_problems: int,
) -> list[dict[str, Any]]:
  """Each member at its median score: what the driver gets, and what the trees.

  One entry a member, as `live.answer_at_points` has them.
  """
  first = grown.rollouts[:num_problems]
  if not first:
    return []
  at = [
      router.with_threshold(member, float(np.median(scores)))
      for member, (scores, _) in enumerate(choices)
  ]
  measured = live.measure(
      config,
      at,
      first,
      router.card.accounting,
      make_engines=functools.partial(
          replies.engines, known=replies.memories(config, directory, ['test'])
      ),
  )
  entries = []
  for row, (routed, (scores, routes)) in enumerate(
      zip(at, choices, strict=True)
  ):
    walked = walks.at_thresholds(
        grown.forest,
        scores,
        np.array([routed.threshold]),
        router.card.ruler,
        routes,
    )
    size = len(first)
    agrees = (measured.correct[row] == walked.correct[0, :size]) & (
        np.abs(measured.cost[row] - walked.cost[0, :size]) < live.SAME_COST
    )
    entries.append(
        {
            'name': f'member {row}',
            'seed': config.train_seeds[0],
            'num_problems': size,
            'accuracy': float(measured.accuracy[row]),
            'cost': float(measured.mean_cost[row]),
            'predicted_accuracy': float(walked.correct[0, :size].mean()),
            'predicted_cost': float(walked.cost[0, :size].mean()),
            'num_agreeing': int(agrees.sum()),
        }
    )
  return entries


def figures(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    directory: pathlib.Path | str,
    num_problems: int | None = None,
) -> dict[str, Any]:
  """All that `results.json` holds.

  Args:
    config: of the run.
    workdir: of the run.
    directory: of the replies.
    num_problems: the first so many test problems; None = all there are.
  """
  routers = evaluate.load_routers(config, workdir)
  card = routers[0].card
  grown = grown_lib.grow_all(config, directory, card, num_problems)
  pair = [grown[name].forest for name in ('validation', 'test')]
  policy = [
      [grown_lib.scores_of(router, x) for x in pair] for router in routers
  ]
  rollouts = read_rollouts(workdir)
  learners = {
      name: [learner.score(x.features) for x in pair]
      for name, learner in fit_learners(
          grown['train'].forest, rollouts, card, config.seed
      ).items()
  }
  draws = bootstrap.draw(
      pair[1].num_problems,
      [1, len(routers)],
      config.evaluation.resamples,
      seed=config.seed,
  )
  return {
      'schema': results_lib.SCHEMA,
      'config': json.loads(config.to_json_best_effort()),
      'ruler': card.ruler,
      'num_problems': {
          **{name: len(x.rollouts) for name, x in grown.items()},
          **({'train': len(rollouts)} if rollouts else {}),
      },
      'seeds': list(config.train_seeds),
      'resamples': config.evaluation.resamples,
      'checkpoints': [router.checkpoint_hash for router in routers],
      'rulers': {
          ruler: in_ruler(pair, policy, learners, draws, ruler)
          for ruler in costs.RULERS
      },
      'live': compare_live(
          config,
          directory,
          routers[0],
          grown['test'],
          policy[0][1],
          config.evaluation.live,
      ),
  }


def run(
    config: ml_collections.ConfigDict,
    workdir: str,
    directory: str,
    num_problems: int | None = None,
) -> pathlib.Path:
  """Evaluates all seeds; returns the path of `results.json`.

  Raises:
    ValueError: if an earlier stage is not finished, or its files do not belong
      together.
  """
  content = figures(config, workdir, directory, num_problems)
  path = pathlib.Path(workdir).absolute() / evaluate.RESULTS_FILE
  text = json.dumps(results_lib.to_json(content), allow_nan=False) + '\n'
  manifest_lib.replace_file(path, lambda p: p.write_text(text))
  shown = tables.markdown(json.loads(text))
  manifest_lib.replace_file(
      path.with_suffix('.md'), lambda p: p.write_text(shown)
  )
  logging.info('Results in %s\n%s', path, shown)
  return path


if __name__ == '__main__':
  flags.DEFINE_string('replies', None, 'Directory of the replies.')
  flags.DEFINE_integer('problems', None, 'Only the first test problems.', 1)
  flags.mark_flag_as_required('replies')
  launch.run(run, 'config', 'workdir', 'replies', 'problems')
