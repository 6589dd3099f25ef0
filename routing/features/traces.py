"""What the router saw, again: the live traces of a record.

Training observes these with the same function as the live router does its own,
so a feature can neither differ between the two nor come from the future.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import itertools

from routing import costs
from routing import protocols
from routing import types


def of_ladder(
    ladder: types.Ladder,
    step: int,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
) -> types.Trace:
  """The trace that the live driver shows a router at decision `step`.

  It leaves `previous` out, which follows from `ladder`, and which a `Trace`
  made for its observation has no use for.
  """
  drafted = step + 1 if protocol.has_draft else step
  return types.Trace(
      question=ladder.problem.question,
      steps=ladder.steps[:step],
      draft=ladder.steps[step] if protocol.has_draft else None,
      spent=accounting.spent(s.usage for s in ladder.steps[:drafted]),
  )


def num_calls_seen(
    trajectory: types.Trajectory, protocol: protocols.Protocol
) -> list[int]:
  """How many of a trajectory's calls were paid when each decision was taken.

  Returns:
    One number a decision, the draft on view included, and last the number of
    all calls. What was written in vain while a decision was taken is paid after
    it.

  Raises:
    ValueError: if the calls are not those of this protocol.
  """
  seen, ends = _places(trajectory, protocol)
  return [*(ends[num] for num in seen), len(trajectory.calls)]


def wasted(
    trajectory: types.Trajectory, protocol: protocols.Protocol
) -> list[types.Usage]:
  """The calls that wrote no step: ahead of being asked, and cut off.

  Raises:
    ValueError: if the calls are not those of this protocol.
  """
  _, ends = _places(trajectory, protocol)
  numbered = enumerate(trajectory.calls, 1)
  return [call for num, call in numbered if num not in ends]


def _places(
    trajectory: types.Trajectory, protocol: protocols.Protocol
) -> tuple[list[int], list[int]]:
  """Where among all calls those stand that wrote steps.

  Returns:
    How many of those were paid at each decision; and, for each number of those,
    0 included, how many calls there were in all up to and with the last.
  """
  routes, seen = [], []
  if not trajectory.decisions:
    raise ValueError(f'Problem {trajectory.problem.id} has no decision.')
  for decision in trajectory.decisions:
    routes += [0] * protocol.has_draft
    seen.append(len(routes))
    # A draft that is kept is the step; all else is another call.
    if decision.route > 0 or not protocol.has_draft:
      routes.append(decision.route)
  if _goes_on_after_draft(trajectory, protocol):
    routes.append(0)
  ends = [0]
  for before, route in itertools.pairwise([None, *routes, None]):
    wasted = _is_wasted(trajectory.calls[ends[-1] :], before, route)
    ends.append(ends[-1] + wasted + 1)
  total = ends.pop() - 1  # After the last step there is no other.
  if not seen or total != len(trajectory.calls):
    raise ValueError(
        f'Problem {trajectory.problem.id}: {len(seen)} decisions make {total} '
        f'calls in {protocol.name}, {protocol.view}; the trajectory has '
        f'{len(trajectory.calls)}. Is it of another protocol?'
    )
  return seen, ends


def _goes_on_after_draft(
    trajectory: types.Trajectory, protocol: protocols.Protocol
) -> bool:
  """Whether the small model wrote to the end after the last draft was kept."""
  if not protocol.has_draft or trajectory.decisions[-1].route > 0:
    return False
  return len(trajectory.steps) > len(trajectory.decisions)


def _is_wasted(
    calls: Sequence[types.Usage], before: int | None, route: int | None
) -> bool:
  """Whether the first of `calls` is what the writer `before` wrote in vain.

  Args:
    calls: those after the one of `before`.
    before: who wrote last; None = nobody.
    route: who writes next, which cuts another one off; None = nobody.
  """
  if not calls or before == route:
    return False
  return calls[0].route == before and not calls[0].read + calls[0].cached


def of_trajectory(
    trajectory: types.Trajectory,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
) -> Iterator[types.Trace]:
  """Yields just what the router saw live at each decision.

  Raises:
    ValueError: if the trajectory is of another protocol.
  """
  discarded = iter(trajectory.discarded)
  seen = None
  counts = num_calls_seen(trajectory, protocol)
  for t, decision in enumerate(trajectory.decisions):
    draft = None
    if protocol.has_draft:
      draft = next(discarded) if decision.route > 0 else trajectory.steps[t]
    seen = types.Trace(
        question=trajectory.problem.question,
        steps=trajectory.steps[:t],
        draft=draft,
        spent=accounting.spent(trajectory.calls[: counts[t]]),
        previous=seen,
    )
    yield seen
