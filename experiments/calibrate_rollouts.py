"""Named points of a router of `switch` or `redraft`.

Another threshold writes another text there, so nothing can be looked up. With
`calibration.source` = 'rollouts' validation problems are answered anew, at each
threshold of a grid (what is answered is kept); with 'trees' the same is looked
up where all replies are known (`calibrate_trees`); with 'off_policy' the
recorded behaviour trajectories are weighed instead, which takes far more of
them, or a behaviour policy close to the router, and is refused otherwise.

Member and thresholds are chosen on the half of validation that training may see
too, and tested on the other. The grid is of scores that the behaviour policy
met on the first half; what came of them has no say in it.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools
import pathlib
from typing import Any

import ml_collections
import numpy as np

from experiments import graded as graded_lib
from experiments import keeping
from experiments import live
from experiments import points as points_lib
from experiments import promises as promises_lib
from routing import types
from routing.outcomes import frontier as frontier_lib
from routing.outcomes import importance
from routing.calibration import off_policy_risks
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from routing.outcomes import points as points_lib
from routing.features import batching
from routing.problems import splits
from routing.routers import learned

SOURCES = ('rollouts', 'trees', 'off_policy')
Risks = Sequence[risks_lib.Risk]
Point = thresholds_lib.OperatingPoint
# (member, [K] thresholds, problems) -> K policies on N problems.
Answer = Callable[[int, np.ndarray, Sequence[types.Rollouts]], points_lib.Points]


@dataclasses.dataclass(frozen=True)
class Half:
  """One half of validation, as a router sees its behaviour trajectories.

  records: of N problems.
  batch: all their trajectories, B of them.
  problems: `[B]`, which problem each one answers.
  choices: per member `[B, T]` scores, and `[B, T]` routes.
  """

  records: Sequence[types.Rollouts]
  batch: types.TrajectoryBatch
  problems: np.ndarray
  choices: list[tuple[np.ndarray, np.ndarray]]

  def grid(self, member: int, size: int) -> np.ndarray:
    """`[K]` thresholds, from the scores that were met; no outcome is read."""
    met = self.choices[member][0][np.asarray(self.batch.mask, bool)][:, None]
    return thresholds_lib.grid(met, np.ones_like(met, bool), size)


def see(
    router: learned.LearnedRouter, records: Sequence[types.Rollouts]
) -> Half:
  """What a router makes of records."""
  card = router.card
  batch = batching.trajectory_batch(
      records, card.features, card.accounting, card.protocol
  )
  counts = [len(x.trajectories) for x in records]
  return Half(
      records=records,
      batch=batch,
      problems=np.repeat(np.arange(len(records)), counts),
      choices=graded_lib.member_choices(router, batch),
  )


def answer_live(
    config: ml_collections.ConfigDict,
    router: learned.LearnedRouter,
    folder: pathlib.Path,
    content_hash: str,
    **kwargs: Any,
) -> Answer:
  """Answers anew what was not answered before, one file a member and part.

  Args:
    config: names the engines.
    router: whose members are tried.
    folder: where answers are kept.
    content_hash: of the problems.
    **kwargs: of `live.measure`.
  """

  def answer(member, thresholds, records):
    first = records[0].problem.id
    # JSON knows no infinity; scores are chances, so these are the same.
    kappas = np.clip(thresholds, 0.0, 2.0).tolist()
    key = {
        'checkpoint': router.checkpoint_hash,
        'problems': [content_hash, first, len(records)],
        'member': member,
        'thresholds': kappas,
        'seed': config.seed,
    }

    def measure():
      at = [router.with_threshold(member, kappa) for kappa in kappas]
      found = live.measure(
          config, at, records, router.card.accounting, **kwargs
      )
      return {name: x.tolist() for name, x in vars(found).items()}

    name = f'member{member}-{first.replace("/", "_")}-{len(records)}.json'
    made = keeping.kept(folder / name, key, measure)['made']
    return points_lib.Points(**{name: np.array(x) for name, x in made.items()})

  return answer


def points_of(
    config: ml_collections.ConfigDict,
    router: learned.LearnedRouter,
    halves: tuple[Half, Half],
    promises: Sequence[Risks],
    hashes: dict[str, str],
    answer: Answer,
) -> list[dict[str, Any]]:
  """All named points of one router, as entries of `operating_points.json`.

  Args:
    config: `calibration` says what is wanted.
    router: of `switch` or `redraft`.
    halves: to choose on, and to test on.
    promises: what is promised together, for each.
    hashes: of checkpoint and rollouts.
    answer: tries thresholds; not called for 'off_policy'.

  Raises:
    ValueError: if something is wanted that is not had here, a budget is
      outside [small cost, 1], or a promise cannot be made.
  """
  wanted = config.calibration
  if wanted.source not in SOURCES:
    raise ValueError(
        f'calibration.source is {wanted.source!r}; allowed: '
        f'{", ".join(SOURCES)}.'
    )
  for name in ('group_by', 'joint_starts'):
    if wanted[name]:
      raise ValueError(
          f'calibration.{name} is {wanted[name]!r}; in '
          f'{router.card.protocol.name} it must be empty.'
      )
  seen, unseen = halves
  grids = [seen.grid(k, wanted.grid) for k in range(router.num_members)]
  make = _off_policy if wanted.source == 'off_policy' else _by_rollouts
  num_chosen_on = _num_chosen_on(seen, wanted)
  frontiers, promise = make(seen, unseen, grids, answer, num_chosen_on)
  to_json = functools.partial(points_lib.to_json, hashes=hashes)
  points = []
  for budget in wanted.budgets:
    thresholds_lib.check_budget(
        budget, min(frontier.cost.min() for frontier in frontiers)
    )
    member, point = _within(frontiers, budget, num_chosen_on)
    points.append((point.name, member, point))
  for risks in promises:
    member = promises_lib.best_member(frontiers, risks)
    point = promise(member, risks)
    points.append((point.name, member, point))
  return [to_json(*x, source=wanted.source) for x in points]


def _num_chosen_on(seen: Half, wanted: ml_collections.ConfigDict) -> int:
  if wanted.source == 'rollouts':  # Which are dear.
    return min(len(seen.records), wanted.selection)
  return len(seen.records)


def _within(
    frontiers: Sequence[frontier_lib.Frontier], budget: float, num: int
) -> tuple[int, Point]:
  """The most accurate member and threshold within budget; no promise."""
  best = None
  for member, frontier in enumerate(frontiers):
    allowed = np.flatnonzero(frontier.cost <= budget)
    if allowed.size:
      index = thresholds_lib.best(allowed, frontier.accuracy, frontier.cost)
      if best is None or frontier.accuracy[index] > best[1].accuracy:
        promise = thresholds_lib.Promise('cost', budget, None, num)
        point = thresholds_lib.point_at(frontier, index, promise)
        best = member, point
  return best


def _by_rollouts(seen, unseen, grids, answer, num_chosen_on):
  """(frontiers of the members, a promise of a member), by answering anew."""
  chosen_on = seen.records[:num_chosen_on]
  frontiers = [
      frontier_lib.from_rollouts(grid, **vars(answer(member, grid, chosen_on)))
      for member, grid in enumerate(grids)
  ]

  @functools.cache
  def tested(member):
    return vars(answer(member, grids[member], unseen.records))

  def promise(member, risks):
    return thresholds_lib.from_values(tested(member), grids[member], risks)

  return frontiers, promise


def _off_policy(seen, unseen, grids, answer, num_chosen_on):
  """The same by weighing what the behaviour policy did."""
  del answer, num_chosen_on
  frontiers = [
      _estimated(seen, member, grid) for member, grid in enumerate(grids)
  ]

  def promise(member, risks):
    scores, routes = unseen.choices[member]
    return off_policy_risks.for_risks(
        scores,
        unseen.batch,
        risks,
        thresholds=grids[member],
        routes=routes,
        problems=unseen.problems,
    )

  return frontiers, promise


def _estimated(seen: Half, member: int, grid: np.ndarray):
  """The weighted frontier, of the thresholds that enough problems speak of.

  Raises:
    risks.Refusal: if that is none.
  """
  scores, routes = seen.choices[member]
  found, refusals = [], []
  for kappa in grid:
    try:
      estimates = importance.estimate(
          scores,
          seen.batch,
          np.array([kappa]),
          routes=routes,
          problems=seen.problems,
      )
      found.append(estimates.weighted)
    except risks_lib.Refusal as refusal:
      refusals.append(refusal)
  if not found:
    raise min(refusals, key=lambda x: x.needed or np.inf)
  return frontier_lib.Frontier(
      **{
          field.name: np.concatenate([getattr(x, field.name) for x in found])
          for field in dataclasses.fields(frontier_lib.Frontier)
      }
  )


def halves_of(
    router: learned.LearnedRouter, records: Sequence[types.Rollouts]
) -> tuple[Half, Half]:
  """To choose on, and to test on."""
  chosen_on, tested = splits.halves(records)
  return see(router, chosen_on), see(router, tested)
