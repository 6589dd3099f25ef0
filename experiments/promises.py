"""A router's promises: chosen on half of validation, tested on the other half.

The first half also stopped training early, so it may choose: which member, and
which thresholds are worth testing. The other half has been seen by nothing.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from routing.outcomes import frontier as frontier_lib
from routing.calibration import groups as groups_lib
from routing.calibration import joint as joint_lib
from routing.outcomes import stopping as stopping_lib
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from routing.problems import splits

_GRID_SIZE = 200


@dataclasses.dataclass(frozen=True)
class Member:
  """One policy on the validation problems: its scores, and where they lead."""

  scores: np.ndarray
  outcomes: stopping_lib.Outcomes

  def take(self, problems: np.ndarray) -> 'Member':
    """The same on some of the problems."""
    return Member(self.scores[problems], self.outcomes.take(problems))


def select_member(
    members: Sequence[Member], risks: Sequence[risks_lib.Risk]
) -> int:
  """The member that does best within all levels, on problems it may see."""
  return best_member(
      [frontier_lib.frontier(x.scores, x.outcomes) for x in members], risks
  )


def best_member(
    frontiers: Sequence[frontier_lib.Frontier],
    risks: Sequence[risks_lib.Risk],
) -> int:
  """The one whose best threshold within all levels is best.

  Raises:
    risks.Refusal: if none has a threshold within all levels.
  """
  values = []
  for frontier in frontiers:
    is_within = np.all(
        [getattr(frontier, x.quantity) <= x.level for x in risks], axis=0
    )
    value = (
        frontier.accuracy
        if any(risk.quantity == 'cost' for risk in risks)
        else -frontier.cost
    )
    values.append(value[is_within].max(initial=-np.inf))
  if max(values) == -np.inf:
    names = ' and '.join(risk.name for risk in risks)
    raise risks_lib.Refusal(
        f'No threshold of any member keeps {names}, even on the problems it '
        'was chosen on.',
        None,
    )
  return int(np.argmax(values))


@dataclasses.dataclass(frozen=True)
class Candidates:
  """A member and a grid, chosen on one half; the other half is untouched.

  member: its index.
  whole: that member on all problems.
  unseen: the same on the half to be tested on.
  grid: `[K]` thresholds.
  """

  member: int
  whole: Member
  unseen: Member
  grid: np.ndarray


def choose(
    members: Sequence[Member], risks: Sequence[risks_lib.Risk]
) -> Candidates:
  """Chooses, on one half of the problems, what is tested on the other."""
  selection, calibration = splits.halves(
      np.arange(members[0].outcomes.num_problems)
  )
  seen = [member.take(selection) for member in members]
  for risk in risks:
    if risk.quantity == 'cost':
      thresholds_lib.check_budget(
          risk.level, seen[0].outcomes.cost[:, -1].mean()
      )
  best = select_member(seen, risks)
  return Candidates(
      member=best,
      whole=members[best],
      unseen=members[best].take(calibration),
      grid=thresholds_lib.grid(
          seen[best].scores, seen[best].outcomes.mask, _GRID_SIZE
      ),
  )


def promised_point(
    members: Sequence[Member], risks: Sequence[risks_lib.Risk]
) -> tuple[int, thresholds_lib.OperatingPoint]:
  """Promises: chosen on one half of the problems, tested on the other.

  Raises:
    risks.Refusal: if the tested half is too small for the promises.
    ValueError: if a budget is outside [small cost, 1].
  """
  chosen = choose(members, risks)
  unseen = chosen.unseen
  return chosen.member, thresholds_lib.for_risks(
      unseen.scores, unseen.outcomes, risks, thresholds=chosen.grid
  )


def group_points(
    members: Sequence[Member],
    risks: Sequence[risks_lib.Risk],
    labels: np.ndarray,
) -> tuple[int, dict[str, thresholds_lib.OperatingPoint | risks_lib.Refusal]]:
  """A promise or a refusal to each group, delta shared among them.

  Args:
    members: the policies on all validation problems.
    risks: what is promised to each group.
    labels: `[N]` str, the group of each problem.
  """
  chosen = choose(members, risks)
  _, calibration = splits.halves(labels)
  return chosen.member, groups_lib.for_groups(
      chosen.unseen.scores,
      chosen.unseen.outcomes,
      risks,
      labels=calibration,
      names=np.unique(labels),
      thresholds=chosen.grid,
  )


def step_point(
    members: Sequence[Member],
    risks: Sequence[risks_lib.Risk],
    starts: Sequence[int],
) -> tuple[int, thresholds_lib.OperatingPoint]:
  """A promise of one threshold per group of steps; see `joint.by_step`."""
  chosen = choose(members, risks)
  is_searched = np.zeros(len(chosen.whole.scores), bool)
  is_searched[splits.halves(np.arange(len(is_searched)))[0]] = True
  return chosen.member, joint_lib.search_then_test(
      joint_lib.by_step(chosen.whole.scores, starts),
      [chosen.whole.outcomes],
      risks,
      is_searched=is_searched,
  )
