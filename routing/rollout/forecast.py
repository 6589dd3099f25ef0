"""Forecasts the requests and tokens of a collection before it runs.

For each route there are three estimates of each quantity:

  low, high: bounds that follow from the limits of an answer and the lengths of
    the prompts. The upper bounds suppose that no cache finds anything and that
    no answer ends by itself. Failed requests, which are repeated, are left out.
  expected: the mean over problems that were collected already; not known before
    the first.

A bound takes a text to be as many tokens when it is read as when it was
written, under every tokenizer.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses
from typing import Any

from routing import protocols
from routing import types
from routing.rollout import all_replies
from routing.rollout import step_requests

QUANTITIES = ('requests', 'read', 'cached', 'written')


@dataclasses.dataclass(frozen=True)
class Demand:
  """What one route does, for one problem or for a sum of problems.

  A quantity that is not known is None.

  requests: number of requests.
  read, cached: prompt tokens that are read anew, and found in a cache.
  written: number of tokens written.
  """

  requests: float | None = None
  read: float | None = None
  cached: float | None = None
  written: float | None = None

  def __add__(self, other: 'Demand') -> 'Demand':
    pairs = ((getattr(self, x), getattr(other, x)) for x in QUANTITIES)
    return Demand(*(None if None in pair else sum(pair) for pair in pairs))

  def times(self, count: float) -> 'Demand':
    """Returns the demand of `count` such problems."""
    values = (getattr(self, x) for x in QUANTITIES)
    return Demand(*(None if x is None else x * count for x in values))


NOTHING = Demand(0, 0, 0, 0)


@dataclasses.dataclass(frozen=True)
class Scheme:
  """What a collection asks of its models.

  kind: of the records: 'ladders', 'replies' or 'rollouts'.
  protocol: of the decisions.
  sampling: limits of an answer.
  num_routes: A.
  num_samples: completions of a ladder per step prefix and larger route, or
    trajectories of a problem.
  max_replies: of `all_replies.collect_replies`.
  shares_prefix: `[A]`, whether a route caches what all prompts begin with.
  """

  kind: str
  protocol: protocols.Protocol
  sampling: step_requests.Sampling
  num_routes: int
  num_samples: int
  max_replies: int
  shares_prefix: tuple[bool, ...]


def bounds(
    scheme: Scheme, route: int, prompt: int | None
) -> tuple[Demand, Demand]:
  """Returns the lowest and the highest demand of one problem on a route.

  Args:
    scheme: what is collected.
    route: index of the route.
    prompt: tokens of the question as the route is asked; None = not known.
  """
  least, most = _num_calls(scheme, route)
  limit = scheme.sampling.max_tokens
  if prompt is None:
    # A call writes one token or more, and reads a prompt of unknown length.
    low_read = high_read = high_cached = None
  else:
    # The first call of a session finds nothing but what all prompts share. A
    # prompt holds all but the last token of an answer, at most.
    low_read = 0 if scheme.shares_prefix[route] else min(least, 1) * prompt
    high_read = most * (prompt + limit - 1)
    high_cached = high_read - low_read
  low = Demand(least, low_read, 0, least)
  return low, Demand(most, high_read, high_cached, _most_written(scheme, route))


def _num_calls(scheme: Scheme, route: int) -> tuple[int, int]:
  """Returns the least and the largest number of requests for one problem."""
  is_largest = route == scheme.num_routes - 1
  # Each step has a token, so a tight token limit also limits the steps.
  steps = min(scheme.sampling.max_decisions, scheme.sampling.max_tokens)
  # After the last decision, a further request may write to the end.
  to_end = min(steps + 1, scheme.sampling.max_tokens)
  if scheme.kind == 'ladders':
    if route == 0:
      return 1, to_end
    return scheme.num_samples, scheme.num_samples * steps
  if scheme.kind == 'replies':
    # A model is asked once about a trace, and each trace but the empty one ends
    # with a reply. The requests that pass the limit write A answers, at most.
    return 1, 1 + scheme.num_routes * (scheme.max_replies + steps)
  reference = int(is_largest)  # The answer of the largest model alone.
  least = int(scheme.protocol.has_draft and route == 0)  # The first draft.
  most = to_end if route == 0 else steps
  if route and scheme.protocol.name == 'escalate':
    most = 1  # It writes the rest in one request.
  return (
      reference + scheme.num_samples * least,
      reference + scheme.num_samples * most,
  )


def _most_written(scheme: Scheme, route: int) -> int:
  """Returns the largest number of tokens that a route writes for a problem."""
  limit, (_, calls) = scheme.sampling.max_tokens, _num_calls(scheme, route)
  steps = min(scheme.sampling.max_decisions, limit)
  if scheme.kind == 'ladders' and route == 0:
    return limit  # One answer; no draft of it is discarded.
  if scheme.kind == 'ladders':
    # After t steps, t tokens or more are written already.
    return scheme.num_samples * sum(limit - t for t in range(steps))
  # A request may write all that the limit allows, and be discarded.
  return calls * limit


@dataclasses.dataclass
class Measured:
  """The demand of problems that were collected, and the seconds it took.

  num_problems: number of problems.
  demand: `[A]`, summed over them. In ladders, and in the reference answers of
    rollouts, prompts of larger models are recorded as if nothing but the shared
    beginning of all prompts had been in the cache.
  seconds: `[A]`, time that the calls took, with shared time divided.
  """

  num_problems: int
  demand: list[Demand]
  seconds: list[float]

  def add(self, record: Any) -> None:
    """Adds a record of any kind."""
    self.num_problems += 1
    for route, is_request, usage in _calls(record):
      self.demand[route] += Demand(
          int(is_request), usage.read, usage.cached, usage.written
      )
      self.seconds[route] += usage.seconds

  def mean(self, route: int) -> Demand:
    """Returns the mean demand of a problem; unknown without a problem."""
    if not self.num_problems:
      return Demand()
    return self.demand[route].times(1 / self.num_problems)

  def tokens_a_second(self, route: int) -> float | None:
    """Returns how fast a route wrote; None if this is not known."""
    written, seconds = self.demand[route].written, self.seconds[route]
    return written / seconds if written and seconds else None


def measured(records: Iterable[Any], num_routes: int) -> Measured:
  """Returns the demand of records; see `Measured`."""
  found = Measured(0, [NOTHING] * num_routes, [0.0] * num_routes)
  for record in records:
    found.add(record)
  return found


def _calls(record: Any) -> list[tuple[int, bool, types.Usage]]:
  """Returns (route, is a request, usage) of each call of a record."""
  if isinstance(record, types.Ladder):
    # After the last decision one request writes all remaining steps.
    first = record.num_decisions + 1
    return [
        *(
            (step.route, index < first, step.usage)
            for index, step in enumerate(record.steps)
        ),
        # A reused completion was not written.
        *_completions(x for x in record.completions if not x.is_reused),
    ]
  if isinstance(record, types.Rollouts):
    return [
        *_completions([record.reference]),
        *(
            # Speculative text is billed, but belongs to an earlier request.
            (call.route, call.kind != 'wasted', call)
            for trajectory in record.trajectories
            for call in trajectory.calls
        ),
    ]
  if isinstance(record, all_replies.Replies):
    # One request gives several replies. Its first one counts the prompt.
    return [
        (x.step.route, bool(x.step.usage.read or x.step.usage.cached), usage)
        for x in record.replies
        for usage in [x.step.usage]
    ]
  raise TypeError(f'A record is a {type(record).__name__}.')


def _completions(
    completions: Sequence[types.Completion] | Iterable[types.Completion],
) -> list[tuple[int, bool, types.Usage]]:
  """Returns the entries of `_calls` for completions."""
  return [
      (
          x.route,
          True,
          types.Usage(x.route, x.read, x.cached, x.written, x.seconds),
      )
      for x in completions
  ]
