"""Reconstructs the traces that a router saw from a recorded answer.

Training computes features from these traces with the same function that a live
router uses. So a feature in training equals the feature in service, and cannot
depend on anything that comes after the decision.
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
  """Returns the trace that a router sees before step `step` of a ladder.

  The field `previous` is None, because observations do not depend on it.

  Args:
    ladder: the ladder; the small model has written all steps so far.
    step: index of the step that the decision is about, from 0.
    accounting: computes the cost so far.
    protocol: decides whether the trace has a draft.
  """
  # If there is a draft, the call that wrote it is charged before the decision.
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
  """Returns how many of a trajectory's calls were charged before each decision.

  Returns:
    One number per decision, followed by the total number of calls. The call
    that wrote the draft on view counts as before the decision. Wasted tokens
    that were written during a decision count as after it.

  Raises:
    ValueError: if the calls do not fit this protocol.
  """
  seen, ends = _places(trajectory, protocol)
  return [*(ends[num] for num in seen), len(trajectory.calls)]


def _places(
    trajectory: types.Trajectory, protocol: protocols.Protocol
) -> tuple[list[int], list[int]]:
  """Locates the calls that wrote steps among all calls of a trajectory.

  All other calls are records of wasted tokens.

  Returns:
    seen: for each decision, the number of step-writing calls before it.
    ends: entry i is the number of calls, wasted ones included, up to and
      including the i-th step-writing call; entry 0 is 0.

  Raises:
    ValueError: if the calls do not fit this protocol.
  """
  # First, `routes` lists in order which model must have received each call that
  # writes a step. It follows from the decisions and the protocol.
  routes, seen = [], []
  if not trajectory.decisions:
    raise ValueError(
        f'Problem {trajectory.problem.id} has no decision; at least 1 is '
        'needed.'
    )
  for decision in trajectory.decisions:
    routes += [0] * protocol.has_draft
    seen.append(len(routes))
    # An accepted draft is the step itself. Any other choice needs another call.
    if decision.route > 0 or not protocol.has_draft:
      routes.append(decision.route)
  if _continues_after_draft(trajectory, protocol):
    routes.append(0)
  # Then find the wasted calls between them: at most one follows each
  # step-writing call. The pairs are (writer of a call, writer of the next one).
  ends = [0]
  for before, route in itertools.pairwise([None, *routes, None]):
    is_wasted = _is_wasted(trajectory.calls[ends[-1] :], before, route)
    ends.append(ends[-1] + is_wasted + 1)
  # The last pair has no next call, so the loop has counted one too many.
  total = ends.pop() - 1
  if not seen or total != len(trajectory.calls):
    raise ValueError(
        f'Problem {trajectory.problem.id}: {len(seen)} decisions make {total} '
        f'calls in protocol {protocol.name}, view {protocol.view}; the '
        f'trajectory has {len(trajectory.calls)} calls. Was it collected in '
        'another protocol?'
    )
  return seen, ends


def _continues_after_draft(
    trajectory: types.Trajectory, protocol: protocols.Protocol
) -> bool:
  """Returns whether the small model made a call after the last decision.

  If the last decision accepted a draft that does not end the answer, the small
  model writes the rest in one more call.
  """
  if not protocol.has_draft or trajectory.decisions[-1].route > 0:
    return False
  return len(trajectory.steps) > len(trajectory.decisions)


def _is_wasted(
    calls: Sequence[types.Call], before: int | None, route: int | None
) -> bool:
  """Returns whether the first of `calls` records wasted tokens of `before`.

  Args:
    calls: the calls that follow a step-writing call.
    before: the route that wrote this step-writing call; None = there is none.
    route: the route that writes the next step, which cancels what `before` has
      written speculatively; None = there is no next step.
  """
  if not calls or before == route:
    return False  # The same writer resumes what it wrote speculatively.
  if calls[0].kind:
    return calls[0].kind == 'wasted'
  # Older files do not say of what kind a call is. A call that wrote steps has
  # read a prompt. Wasted tokens belong to a request that was running already,
  # so their record has no prompt tokens.
  return calls[0].route == before and not calls[0].read + calls[0].cached


def of_trajectory(
    trajectory: types.Trajectory,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
) -> Iterator[types.Trace]:
  """Yields the trace that the router saw at each decision, in order.

  Args:
    trajectory: the recorded answer.
    accounting: computes the cost so far.
    protocol: the protocol in which the trajectory was collected.

  Raises:
    ValueError: if the calls do not fit this protocol.
  """
  discarded = iter(trajectory.discarded)
  seen = None
  counts = num_calls_seen(trajectory, protocol)
  for t, decision in enumerate(trajectory.decisions):
    draft = None
    if protocol.has_draft:
      # A hand-over or a rewrite has discarded the draft; an accepted draft is
      # step t.
      draft = next(discarded) if decision.route > 0 else trajectory.steps[t]
    seen = types.Trace(
        question=trajectory.problem.question,
        steps=trajectory.steps[:t],
        draft=draft,
        spent=accounting.spent(trajectory.calls[: counts[t]]),
        previous=seen,
    )
    yield seen
