"""Reconstructs, from a record, the traces that the router saw live.

Training computes features from these traces with the function that the live
router uses. So a feature can neither differ between the two nor come from the
future.
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
  """Returns the trace that the driver shows a router at decision `step`.

  `previous` is left out: an observation does not need it, and it could be built
  from the same ladder.
  """
  # With a draft, the call that wrote it is paid before the decision.
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
  """Returns how many of a trajectory's calls were paid before each decision.

  Returns:
    One number per decision, which counts the call of the draft on view, and
    then the number of all calls. Wasted tokens that were written during a
    decision are charged after it.

  Raises:
    ValueError: if the calls do not fit this protocol.
  """
  seen, ends = _places(trajectory, protocol)
  return [*(ends[num] for num in seen), len(trajectory.calls)]


def wasted(
    trajectory: types.Trajectory, protocol: protocols.Protocol
) -> list[types.Usage]:
  """Returns the calls of wasted tokens: speculative text that was cancelled.

  Raises:
    ValueError: if the calls do not fit this protocol.
  """
  _, ends = _places(trajectory, protocol)
  numbered = enumerate(trajectory.calls, 1)
  return [call for num, call in numbered if num not in ends]


def _places(
    trajectory: types.Trajectory, protocol: protocols.Protocol
) -> tuple[list[int], list[int]]:
  """Locates the calls that wrote steps among all calls of a trajectory.

  The other calls are wasted tokens.

  Returns:
    seen: for each decision, the number of step-writing calls before it.
    ends: entry i is the number of calls of any sort up to the i-th step-writing
      call, itself included; entry 0 is 0.
  """
  # First the writers of the step-writing calls, as the protocol orders them.
  routes, seen = [], []
  if not trajectory.decisions:
    raise ValueError(
        f'Problem {trajectory.problem.id} has no decision; at least 1 is '
        'needed.'
    )
  for decision in trajectory.decisions:
    routes += [0] * protocol.has_draft
    seen.append(len(routes))
    # A kept draft is itself the step; any other choice needs another call.
    if decision.route > 0 or not protocol.has_draft:
      routes.append(decision.route)
  if _continues_after_draft(trajectory, protocol):
    routes.append(0)
  # Then wasted calls in between: at most one follows each step-writing call.
  ends = [0]
  for before, route in itertools.pairwise([None, *routes, None]):
    is_wasted = _is_wasted(trajectory.calls[ends[-1] :], before, route)
    ends.append(ends[-1] + is_wasted + 1)
  # The last entry counted a step-writing call after the last one.
  total = ends.pop() - 1
  if not seen or total != len(trajectory.calls):
    raise ValueError(
        f'Problem {trajectory.problem.id}: {len(seen)} decisions make {total} '
        f'calls in {protocol.name}, {protocol.view}; the trajectory has '
        f'{len(trajectory.calls)}. Was it collected in another protocol?'
    )
  return seen, ends


def _continues_after_draft(
    trajectory: types.Trajectory, protocol: protocols.Protocol
) -> bool:
  """Returns whether the small model wrote on after a kept last draft.

  After the last decision the writer of a kept draft writes to the end, which is
  one more call.
  """
  if not protocol.has_draft or trajectory.decisions[-1].route > 0:
    return False
  return len(trajectory.steps) > len(trajectory.decisions)


def _is_wasted(
    calls: Sequence[types.Usage], before: int | None, route: int | None
) -> bool:
  """Returns whether the first of `calls` is wasted tokens of route `before`.

  Args:
    calls: the calls after the one by `before`.
    before: the route that wrote last; None = nobody.
    route: the route that writes next, which cancels `before`; None = nobody.
  """
  if not calls or before == route:
    return False  # The same writer resumes what it wrote speculatively.
  # A call that wrote steps has read a prompt; speculation is part of a request
  # that is running already, and has read nothing.
  return calls[0].route == before and not calls[0].read + calls[0].cached


def of_trajectory(
    trajectory: types.Trajectory,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
) -> Iterator[types.Trace]:
  """Yields the trace that the router saw live at each decision, in order.

  Raises:
    ValueError: if the calls do not fit this protocol.
  """
  discarded = iter(trajectory.discarded)
  seen = None
  counts = num_calls_seen(trajectory, protocol)
  for t, decision in enumerate(trajectory.decisions):
    draft = None
    if protocol.has_draft:
      # A hand-over or a rewrite discards its draft; a kept draft is step t.
      draft = next(discarded) if decision.route > 0 else trajectory.steps[t]
    seen = types.Trace(
        question=trajectory.problem.question,
        steps=trajectory.steps[:t],
        draft=draft,
        spent=accounting.spent(trajectory.calls[: counts[t]]),
        previous=seen,
    )
    yield seen
