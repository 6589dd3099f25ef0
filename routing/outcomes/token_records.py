"""The raw token records of answers: every call, and what its tokens were for.

Costs are sums over these records; `costs.py` is the only place that prices
them. Here tokens are counted by purpose, for tables that say where a router's
cost comes from.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from routing import protocols
from routing import types
from routing.rollout import steps as steps_lib

# Written tokens that stand in the answer; written tokens of drafts, samples and
# speculation that do not; tokens that routes write to inform the router; all
# tokens of models that write no steps (scorers, judges, embeddings); prompt
# tokens of the question, read once by each model that is called; prompt tokens
# that a model reads beyond that, e.g. the answer so far at a hand-over.
KINDS = ('kept', 'discarded', 'probe', 'scorer', 'question', 're-read')
_NOT_WRITING = ('wasted', 'probe')


def as_json(call: types.Call) -> dict[str, Any]:
  """Returns the fields of a call as plain numbers, which JSON can store."""
  return {
      name: value.item() if isinstance(value, np.generic) else value
      for name, value in vars(call).items()
  }


def num_discarded(trajectory: types.Trajectory) -> int:
  """Returns the tokens that were written to become steps and did not.

  They are drafts, samples that were not elected, and rejected tokens.
  """
  written = sum(
      int(x.written) for x in trajectory.calls if x.kind not in _NOT_WRITING
  )
  return max(written - sum(int(x.usage.written) for x in trajectory.steps), 0)


def count(
    calls: Sequence[types.Call],
    num_discarded: int,
    question_read: Sequence[float],
) -> np.ndarray:
  """Returns how many tokens of each of `KINDS` an answer took, `[6]` float64.

  Args:
    calls: every call of the answer.
    num_discarded: tokens written for drafts and samples that were not kept.
    question_read: `[A]`, prompt tokens that each route reads anew when it is
      first called on this question, before any step.
  """
  num_routes = len(question_read)
  writing = [
      x for x in calls if x.route < num_routes and x.kind not in _NOT_WRITING
  ]
  total = lambda name, found: sum(float(getattr(x, name)) for x in found)
  of_kind = lambda kind: [
      x for x in calls if x.kind == kind and x.route < num_routes
  ]
  wasted, probes = of_kind('wasted'), of_kind('probe')
  scorers = [x for x in calls if x.route >= num_routes]
  read = total('read', [*writing, *probes])
  first = sum(
      question_read[route] for route in {x.route for x in (*writing, *probes)}
  )
  return np.array(
      [
          total('written', writing) - num_discarded,
          num_discarded + total('written', wasted),
          total('written', probes),
          total('read', scorers) + total('written', scorers),
          min(first, read),
          max(read - first, 0.0),
      ]
  )


def question_read(ladder: types.Ladder, num_routes: int) -> list[float]:
  """Returns `question_read` of `count` for the problem of a ladder."""
  large = {x.route: x.read for x in ladder.completions if x.step == 0}
  first = ladder.steps[0].usage.read
  return [float(first), *(float(large[m]) for m in range(1, num_routes))]


@dataclasses.dataclass(frozen=True)
class Record:
  """The raw token record of one answer that a ladder allows.

  calls: its calls, one for each step of the small model and, after a hand-over,
    one for the completion.
  num_discarded: written tokens of the draft that the hand-over discarded.
  """

  calls: tuple[types.Call, ...]
  num_discarded: int


def of_ladder(
    ladder: types.Ladder,
    num_routes: int,
    num_decisions: int,
    protocol: protocols.Protocol,
) -> Iterator[list[Record]]:
  """Yields the records of each ending of a ladder, one per sample.

  The order is that of the ladder's endings in an outcome table: by step and
  larger route, and at last the answer without a hand-over.

  Args:
    ladder: the ladder.
    num_routes: A.
    num_decisions: T, the largest number of decisions.
    protocol: `escalate`; under `peek` a hand-over has paid for a draft.
  """
  kind = 'draft' if protocol.has_draft else 'step'
  small = [steps_lib.as_call(kind, step.usage) for step in ladder.steps]
  found: Mapping[tuple[int, int], list[types.Completion]] = {}
  for completion in ladder.completions:
    found.setdefault((completion.step, completion.route), []).append(completion)
  for step in range(min(len(small), num_decisions)):
    paid = small[: step + protocol.has_draft]
    discarded = sum(int(x.written) for x in paid[step:])
    for route in range(1, num_routes):
      yield [
          Record((*paid, hand_over(completion)), discarded)
          for completion in found[step, route]
      ]
  yield [Record(tuple(small), 0)]


def hand_over(completion: types.Completion) -> types.Call:
  """Returns the call that wrote a completion."""
  return types.Call(
      route=completion.route,
      read=completion.read,
      cached=completion.cached,
      written=completion.written,
      seconds=completion.seconds,
      kind='hand_over',
  )
