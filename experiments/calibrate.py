"""Gives every trained router its named operating points.

Run:    python -m experiments.calibrate --config=configs/arithmetic.py --workdir=runs/arithmetic
        [--replies=runs/replies]: in switch and redraft, what is known already is not written again
Resume: the same command; in switch and redraft, what was answered is kept
Writes: runs/seed<k>/operating_points.json

'cost<=b' is picked on all validation problems and promises nothing. All others
are promises: member and threshold grid are chosen on one half of validation,
the half that also stopped training early, and tested on the other, which
nothing has seen before. Its problems must not occur in training, by hash. Each
named promise is kept with its own probability, not all of a file together.

    loss<=a@p              relative loss <= a with probability p
    cost<=b@p              mean cost <= b with probability p
    loss<=a@p&cost<=b@p    both, each with probability p
    loss<=a@p[group]       the loss of one group; p for all groups together
    loss<=a@p/steps0,3     a threshold for steps 0 to 2, another from 3 on

Under escalate all follows from the ladders of validation. In switch and redraft
its problems are answered anew, or recorded trajectories weighed: see
`calibrate_rollouts`.
"""  # noqa: E501  Commands stay on one line.

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools
import json
import pathlib
from typing import Any

from absl import flags
from absl import logging
import ml_collections
import numpy as np

from experiments import builders
from experiments import calibrate_rollouts
from experiments import calibrate_trees
from experiments import graded as graded_lib
from experiments import grown as grown_lib
from experiments import launch
from experiments import points as points_lib
from experiments import promises as promises_lib
from experiments import replies
from experiments import train
from experiments import training_sets
from routing import types
from routing.calibration import groups as groups_lib
from routing.outcomes import stopping as stopping_lib
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from routing.problems import splits
from routing.routers import card as card_lib
from routing.routers import learned
from routing.shards import manifest as manifest_lib
from routing.shards import reader

_COST_CAP = 2.0  # A promise of cost counts dearer problems as this.


def members_of(
    router: learned.LearnedRouter, graded: graded_lib.Graded
) -> list[promises_lib.Member]:
  """Every policy of a router on a split, in the router's own ruler."""
  return [
      promises_lib.Member(scores, stopping_lib.from_batch(graded.batch, routes))
      for scores, routes in graded_lib.member_choices(router, graded.batch)
  ]


def budget_point(
    members: Sequence[promises_lib.Member], budget: float
) -> tuple[int, thresholds_lib.OperatingPoint]:
  """The most accurate member and threshold within budget on the sample."""
  points = [
      thresholds_lib.for_budget(member.scores, member.outcomes, budget)
      for member in members
  ]
  best = max(range(len(points)), key=lambda k: points[k].accuracy)
  return best, points[best]


def loss_test(ladders: Sequence[types.Ladder]) -> str:
  """Which test fits how the ladders were collected, not what they show.

  One answer per prefix is right or wrong; of several, losses are shares.
  """
  is_single = all(x.sample == 0 for y in ladders for x in y.completions)
  return 'binomial' if is_single else 'betting'


def risks_of(
    config: ml_collections.ConfigDict, test: str
) -> list[tuple[risks_lib.Risk, ...]]:
  """What is promised together, for each named promise of a configuration.

  Args:
    config: `calibration` holds `delta`, `alphas`, `confident_budgets`, and
      `both`, pairs of a loss and a cost.
    test: of losses; see `loss_test`.
  """
  wanted = config.calibration
  loss = lambda x: risks_lib.Risk('loss', x, wanted.delta, p_value=test)
  cost = lambda x: risks_lib.Risk('cost', x, wanted.delta, _COST_CAP, 'betting')
  return (
      [(loss(alpha),) for alpha in wanted.alphas]
      + [(cost(budget),) for budget in wanted.confident_budgets]
      + [(loss(alpha), cost(budget)) for alpha, budget in wanted.both]
  )


def points_of(
    config: ml_collections.ConfigDict,
    router: learned.LearnedRouter,
    validation: graded_lib.Graded,
) -> list[dict[str, Any]]:
  """All named points of one router.

  Raises:
    ValueError: if a budget is outside [small cost, 1], or a promise cannot be
      made from so few problems. A group's promise is left out instead.
  """
  members = members_of(router, validation)
  wanted = config.calibration
  hashes = {
      'checkpoint_hash': router.checkpoint_hash,
      'shards_hash': validation.content_hash,
  }
  points = []
  for budget in wanted.budgets:
    member, point = budget_point(members, budget)
    points.append(points_lib.to_json(point.name, member, point, hashes))
  promises = risks_of(config, loss_test(validation.ladders))
  for risks in promises:
    member, point = promises_lib.promised_point(members, risks)
    points.append(points_lib.to_json(point.name, member, point, hashes))
  losses = promises[: len(wanted.alphas)]
  if wanted.group_by:
    labels = groups_lib.labels_of(
        [ladder.problem for ladder in validation.ladders], wanted.group_by
    )
    for risks in losses:
      member, found = promises_lib.group_points(members, risks, labels)
      points += _groups_json(risks[0], member, found, hashes)
  if wanted.joint_starts:
    for risks in losses:
      points.append(_steps_json(members, risks, wanted.joint_starts, hashes))
  return points


def _groups_json(
    risk: risks_lib.Risk,
    member: int,
    found: dict[str, thresholds_lib.OperatingPoint | risks_lib.Refusal],
    hashes: dict[str, str],
) -> list[dict[str, Any]]:
  """The groups that can be promised; the others are logged."""
  points = []
  for label, point in found.items():
    name = f'{risk.name}[{label}]'
    if isinstance(point, risks_lib.Refusal):
      logging.warning('%s is refused: %s', name, point)
      continue
    extra = {'group': label, 'delta_of_all_groups': risk.delta}
    points.append(points_lib.to_json(name, member, point, hashes, **extra))
  return points


def _steps_json(
    members: Sequence[promises_lib.Member],
    risks: Sequence[risks_lib.Risk],
    starts: Sequence[int],
    hashes: dict[str, str],
) -> dict[str, Any]:
  """A point whose `threshold` is a list: one for each of the T decisions."""
  member, point = promises_lib.step_point(members, risks, starts)
  num_steps = members[0].outcomes.num_steps
  counts = np.diff([*starts, num_steps])
  by_decision = np.repeat(point.threshold, counts)
  name = f'{point.name}/steps{",".join(map(str, starts))}'
  point = dataclasses.replace(point, threshold=tuple(by_decision.tolist()))
  return points_lib.to_json(name, member, point, hashes)


def check_trained_on(
    directory: pathlib.Path, shards: pathlib.Path | str
) -> None:
  """Raises ValueError unless a run was trained on the shards that are there."""
  record = json.loads((directory / 'features.json').read_text())
  for split, wanted in record['shards'].items():
    found = reader.read_manifest(pathlib.Path(shards) / split).content_hash
    if found != wanted:
      raise ValueError(
          f'{directory} was trained on {split} shards {wanted[:12]}, but '
          f'{shards}/{split} holds {found[:12]}; train again, or put the '
          'others back.'
      )


def check_unseen(
    train_ladders: Sequence[types.Ladder],
    validation_ladders: Sequence[types.Ladder],
) -> None:
  """Raises ValueError if a question to be tested on was seen before, by hash.

  Neither training nor the half of validation that stopped it early, and chose
  what is tested, may hold a question of the other half.
  """
  selection, calibration = splits.halves(_hashes(validation_ladders))
  splits.check_disjoint(
      train=_hashes(train_ladders),
      selection=selection,
      calibration=calibration,
  )


def _hashes(ladders: Sequence[types.Ladder]) -> list[str]:
  return [splits.question_hash(x.problem.question) for x in ladders]


def calibrate_all(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    directory_of_replies: str | None = None,
) -> list[pathlib.Path]:
  """Calibrates every seed, or none; returns the files.

  Args:
    config: of the run.
    workdir: of the run.
    directory_of_replies: see `experiments.replies`; for switch and redraft.

  Raises:
    ValueError: if a seed is not trained, has seen what it would be tested on,
      or a point cannot be had.
  """
  content: dict[pathlib.Path, list[dict[str, Any]]] = {}
  find = None
  for seed in config.train_seeds:
    directory = train.run_directory(workdir, seed)
    router = learned.load(directory)
    if find is None:
      if router.card.protocol.name == 'escalate':
        find = _by_ladders(config, workdir, router)
      elif config.calibration.source == 'trees':
        find = _by_trees(config, workdir, router, directory_of_replies)
      else:
        find = _by_trajectories(config, workdir, router, directory_of_replies)
    points = find(directory, router)
    content[directory / learned.POINTS_FILE] = points
    for point in points:
      logging.info('%s: %s', directory.name, _line(point))
  # All seeds are done, so that an error above has left every file as it was.
  for path, points in content.items():
    text = json.dumps(points, indent=2, allow_nan=False) + '\n'
    manifest_lib.replace_file(path, lambda p, text=text: p.write_text(text))
  return list(content)


Find = Callable[[pathlib.Path, learned.LearnedRouter], list[dict[str, Any]]]


def _by_ladders(config, workdir, router) -> Find:
  """Finds the points of a seed on the ladders of validation."""
  shards = pathlib.Path(workdir) / 'shards'
  validation = graded_lib.load(workdir, 'validation', router.card)
  check_unseen(reader.read_ladders(shards / 'train'), validation.ladders)

  def find(directory, router):
    check_trained_on(directory, shards)
    return points_of(config, router, validation)

  return find


def _by_trajectories(config, workdir, router, directory_of_replies) -> Find:
  """Finds the points of a seed where control returns."""
  split = {
      name: training_sets.open_split(config, workdir, name)
      for name in ('train', 'validation')
  }
  manifest = split['validation'].manifest
  _check_same(router.card, manifest.settings, split['validation'].directory)
  records = split['validation'].all()
  check_unseen(split['train'].all(), records)
  make_engines = builders.engines
  if directory_of_replies:
    known = replies.memories(config, directory_of_replies, ['validation'])
    make_engines = functools.partial(replies.engines, known=known)

  def find(directory, router):
    check_trained_on(directory, split['train'].directory.parent)
    return calibrate_rollouts.points_of(
        config,
        router,
        calibrate_rollouts.halves_of(router, records),
        risks_of(config, 'binomial'),  # One answer at each threshold.
        {
            'checkpoint_hash': router.checkpoint_hash,
            'shards_hash': manifest.content_hash,
        },
        calibrate_rollouts.answer_live(
            config,
            router,
            directory / 'calibration',
            manifest.content_hash,
            make_engines=make_engines,
        ),
    )

  return find


def _by_trees(config, workdir, router, directory_of_replies) -> Find:
  """Finds the points of a seed where all replies are known."""
  if not directory_of_replies:
    raise ValueError(
        'calibration.source is trees, which takes --replies; see '
        'experiments.replies.'
    )
  grown = grown_lib.grow(
      config, directory_of_replies, 'validation', router.card
  )
  trained_on = calibrate_trees.trained_on(config, workdir, directory_of_replies)
  check_unseen(trained_on, grown.rollouts)
  folder = pathlib.Path(directory_of_replies) / 'validation'
  shards_hash = reader.read_manifest(folder).content_hash

  def find(directory, router):
    if calibrate_trees.is_tree_trained(config):
      problems = [x.problem for x in grown.rollouts]
      calibrate_trees.check_chosen_on(directory, problems)
    halves, answer = calibrate_trees.halves_of(router, grown)
    return calibrate_rollouts.points_of(
        config,
        router,
        halves,
        risks_of(config, 'binomial'),
        {
            'checkpoint_hash': router.checkpoint_hash,
            'shards_hash': shards_hash,
        },
        answer,
    )

  return find


def _check_same(
    card: card_lib.Card, settings: dict[str, Any], directory: pathlib.Path
) -> None:
  """Raises ValueError if rollouts are of other models or another protocol."""
  found = settings.get('plan', {}).get('protocol')
  wanted = dataclasses.asdict(card.protocol)
  if builders.specs_of(settings) != card.specs or found != wanted:
    raise ValueError(
        f'{directory} is of other models, or of another protocol ({found}), '
        f'than the router ({wanted}).'
    )


def _line(point: dict[str, Any]) -> str:
  figures = point['promise']['measured']
  thresholds = np.unique(point['threshold'])
  kappas = ', '.join(f'{kappa:.4g}' for kappa in thresholds)
  return (
      f'{point["name"]}: member {point["member"]}, threshold {kappas}, '
      f'accuracy {figures["accuracy"]:.3f}, cost {figures["cost"]:.3f}, '
      f'loss {figures["loss"]:.3f}'
  )


if __name__ == '__main__':
  flags.DEFINE_string('replies', None, 'Directory of the replies, if any.')
  launch.run(calibrate_all, 'config', 'workdir', 'replies')
