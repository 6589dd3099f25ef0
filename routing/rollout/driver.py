"""The driver: a coroutine that answers one problem under a router.

Collection, live evaluation and serving all run `answer`, in every protocol.
They differ in the router, in the engines and in what they do with the
trajectory. The seed of each request follows from the run's seed, the problem
and the position in the trace. So a live hand-over produces exactly the
completion that a ladder holds for it.
"""

import asyncio
from collections.abc import Sequence
import dataclasses
import hashlib
from typing import Protocol
import uuid

from routing import costs
from routing import protocols
from routing import types
from routing.engines import engine as engine_lib
from routing.grading import equivalence
from routing.rollout import steps as steps_lib

_SEED_BITS = 31  # Engines store seeds as non-negative signed 32-bit integers.


class Router(Protocol):
  """The interface of a router: one method, called at each step boundary."""

  def decide(self, trace: types.Trace) -> types.Decision:
    """Chooses the route that writes the next step."""
    ...


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Sampling settings and limits of one answer, the same for every engine.

  temperature: 0 = greedy decoding.
  max_decisions: T, the largest number of decisions. After the last one, the
    chosen route writes to the end.
  max_tokens: the largest number of new tokens in a whole answer, those written
    after a hand-over included.
  """

  temperature: float = 0.0
  max_decisions: int = 8
  max_tokens: int = 192

  def __post_init__(self):
    if self.temperature < 0:
      raise ValueError(f'temperature is {self.temperature}; allowed: >= 0.')
    for name in ('max_decisions', 'max_tokens'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name} is {getattr(self, name)}; allowed: >= 1.')


def request_seed(
    seed: int, problem_id: str, step: int, route: int, sample: int = 0
) -> int:
  """Returns the seed of one request, in [0, 2**31).

  It is a hash of all arguments, so no two requests share their random numbers.
  """
  # Not `hash`: Python salts it for each process, and a resumed collection must
  # draw the same seeds.
  key = repr((seed, problem_id, step, route, sample)).encode()
  digest = hashlib.blake2b(key, digest_size=8).digest()
  return int.from_bytes(digest, 'big') >> (64 - _SEED_BITS)


def new_session(problem: types.Problem) -> str:
  """Returns the name of a new session, unique to one trajectory."""
  # Unique even for the same problem: two trajectories that shared a prefix
  # cache would each pay less, depending on which ran first.
  return f'{problem.id}#{uuid.uuid4().hex}'


def forget(engines: Sequence[engine_lib.Engine], session: str) -> None:
  """Ends a session at all engines, so that they can free its prefix cache."""
  for engine in engines:
    engine.forget(session)


def tokens_left(kept: Sequence[types.Step], max_tokens: int) -> int:
  """Returns how many tokens may still be written after the steps `kept`."""
  return max_tokens - steps_lib.count_written(kept)


def is_open(kept: Sequence[types.Step], sampling: Sampling) -> bool:
  """Returns whether another step may be written after the steps `kept`."""
  if not kept:
    return True  # Every answer has at least one step.
  return (
      not kept[-1].is_final
      and not steps_lib.is_cut(kept[-1])
      and tokens_left(kept, sampling.max_tokens) > 0
  )


async def write(
    problem: types.Problem,
    kept: Sequence[types.Step],
    engine: engine_lib.Engine,
    *,
    to_end: bool,
    seed: int,
    sampling: Sampling,
    session: str,
    sample: int = 0,
    may_speculate: bool = False,
) -> tuple[types.Step, ...]:
  """Requests the next step, or the rest of the answer, from one engine.

  Live steps, hand-overs and the completions of a ladder all come from this
  function. So equal requests have equal seeds and limits, wherever they are
  made.

  Args:
    problem: the problem.
    kept: the accepted steps; they must leave at least one token.
    engine: the engine that writes.
    to_end: True = the rest of the answer; False = one step.
    seed: of the run; the seed of the request is derived from it.
    sampling: see `Sampling`.
    session: the requests of one session share the engine's prefix cache.
    sample: index of this completion among several of one prefix.
    may_speculate: whether the engine may continue speculatively past the step,
      until it is asked for the next one or cancelled.

  Returns:
    The new steps, one or more.
  """
  request = engine_lib.Request(
      question=problem.question,
      trace=steps_lib.join(kept),
      to_end=to_end,
      may_speculate=may_speculate,
      max_tokens=tokens_left(kept, sampling.max_tokens),
      temperature=sampling.temperature,
      # The position is part of the seed, the router's name is not: a hand-over
      # at a prefix is the same request live as in a ladder.
      seed=request_seed(seed, problem.id, len(kept), engine.route, sample),
      session=session,
  )
  return await engine.write(request)


async def grade_text(
    grade: equivalence.Grader, text: str, problem: types.Problem
) -> bool:
  """Returns whether the answer in `text` grades right.

  The grader runs in a thread, so that a slow one does not block the event loop
  and with it all other trajectories.
  """
  return await asyncio.to_thread(grade, text, problem.answer)


async def answer(
    problem: types.Problem,
    router: Router,
    engines: Sequence[engine_lib.Engine],
    *,
    protocol: protocols.Protocol,
    accounting: costs.Accounting | None,
    grade: equivalence.Grader,
    seed: int,
    sampling: Sampling,
    sample: int = 0,
) -> types.Trajectory:
  """Answers one problem under a router.

  At each step boundary the router names a route. It writes the next step or, at
  a hand-over of `escalate`, the rest of the answer in one request. If there is
  a draft, route 0 keeps it and any other route discards it; it is paid for
  either way. After the last decision the named route writes to the end. Wasted
  speculative tokens are recorded as a call of their own.

  Args:
    problem: the problem.
    router: asked at no more than `sampling.max_decisions` step boundaries.
    engines: A engines, with `engines[m].route == m`.
    protocol: which routes may write when, and whether there are drafts.
    accounting: computes `Trace.spent`; None = the router is shown 0.
    grade: the grader.
    seed: of the run; with the problem's id it fixes the seed of every request.
    sampling: see `Sampling`.
    sample: index of this trajectory among several of one problem.

  Returns:
    The trajectory; `calls` holds the usage of every call in order.

  Raises:
    ValueError: if the router names a route that is not allowed, or the engines
      are not in the order of their routes.
  """
  check_routes(engines)
  walk = _Walk(problem, engines, protocol, accounting, seed, sampling, sample)
  try:
    while walk.is_open():
      written = await walk.write(0) if protocol.has_draft else ()
      decision = walk.decide(router, written)
      is_last = walk.is_last(decision)
      if decision.route > 0 or not protocol.has_draft:
        walk.discarded.extend(written)  # The draft, or nothing.
        written = await walk.write(decision.route, to_end=is_last)
      walk.steps.extend(written)
      if is_last:
        await walk.finish(decision.route)
        break
    # Before the sessions end: afterwards no engine reports wasted tokens.
    await walk.cancel_speculation()
  finally:
    walk.close()  # Also after an error, or engines would keep the cache.
  text = steps_lib.join(walk.steps)
  return walk.trajectory(await grade_text(grade, text, problem))


def check_routes(engines: Sequence[engine_lib.Engine]) -> None:
  """Raises ValueError unless `engines[m].route == m` for every m."""
  routes = [engine.route for engine in engines]
  if routes != list(range(len(engines))):
    raise ValueError(
        f'The engines have routes {routes}; they must be 0, 1, ... in this '
        'order, smallest model first.'
    )


class _Walk:
  """An unfinished trajectory; the lists are those of `types.Trajectory`."""

  def __init__(
      self,
      problem: types.Problem,
      engines: Sequence[engine_lib.Engine],
      protocol: protocols.Protocol,
      accounting: costs.Accounting | None,
      seed: int,
      sampling: Sampling,
      sample: int,
  ):
    self._problem, self._engines = problem, engines
    self._protocol = protocol
    self._accounting, self._sampling = accounting, sampling
    self._seed, self._sample = seed, sample
    self._session = new_session(problem)
    self.steps: list[types.Step] = []
    self.discarded: list[types.Step] = []
    self.decisions: list[types.Decision] = []
    self.calls: list[types.Usage] = []
    self._writer: engine_lib.Engine | None = None
    self._seen: types.Trace | None = None

  def is_open(self) -> bool:
    """Returns whether another step may be written."""
    return is_open(self.steps, self._sampling)

  def is_last(self, decision: types.Decision) -> bool:
    """Returns whether no decision follows `decision`, the latest one."""
    return (
        self._protocol.is_absorbing(decision.route)
        or len(self.decisions) == self._sampling.max_decisions
    )

  async def finish(self, route: int) -> None:
    """Writes to the end after the last decision, if the answer is still open.

    It is open only if the last decision kept a draft, which is a single step.
    """
    if self.is_open():
      self.steps.extend(await self.write(route, to_end=True))

  async def write(
      self, route: int, *, to_end: bool = False
  ) -> tuple[types.Step, ...]:
    """Requests text after the accepted steps, and records the call."""
    engine = self._engines[route]
    # The same engine would resume its speculative text. For another engine that
    # text is wasted, and must be charged before the new call.
    if engine is not self._writer:
      await self.cancel_speculation()
    self._writer = engine
    written = await write(
        self._problem,
        self.steps,
        engine,
        to_end=to_end,
        seed=self._seed,
        sampling=self._sampling,
        session=self._session,
        sample=self._sample,
        # A request to the end has nothing left to write after it.
        may_speculate=not to_end and self._may_write_next(route),
    )
    self.calls.append(steps_lib.call_usage(written))
    return written

  def _may_write_next(self, route: int) -> bool:
    """Returns whether `route` may be asked for the step after this one.

    With drafts only route 0 is: it drafts the next step, whatever wrote this
    one. Without drafts the router may name any route again.
    """
    return route == 0 or not self._protocol.has_draft

  async def cancel_speculation(self) -> None:
    """Cancels the last writer's speculation, and records its wasted tokens."""
    if self._writer is None:
      return
    usage = await self._writer.cancel_speculation(self._session)
    if usage is not None:
      self.calls.append(usage)

  def decide(
      self, router: Router, draft: Sequence[types.Step]
  ) -> types.Decision:
    """Asks the router and records its decision; `draft` is 0 or 1 steps."""
    decision = router.decide(self._trace(draft))
    _check_decision(decision, self._protocol, len(self._engines))
    # Counted before `is_last` looks at the number of decisions.
    self.decisions.append(decision)
    return decision

  def _trace(self, draft: Sequence[types.Step]) -> types.Trace:
    """Returns what the router may look at now, and links it to its past."""
    # The draft's call is recorded by now, so `spent` includes it.
    spent = (
        0.0 if self._accounting is None else self._accounting.spent(self.calls)
    )
    self._seen = types.Trace(
        question=self._problem.question,
        steps=tuple(self.steps),
        draft=draft[0] if draft else None,
        spent=spent,
        previous=self._seen,  # The chain keeps discarded drafts in view.
    )
    return self._seen

  def close(self) -> None:
    """Ends the session at all engines."""
    forget(self._engines, self._session)

  def trajectory(self, is_correct: bool) -> types.Trajectory:
    """Returns the finished trajectory."""
    return types.Trajectory(
        problem=self._problem,
        steps=tuple(self.steps),
        discarded=tuple(self.discarded),
        decisions=tuple(self.decisions),
        calls=tuple(self.calls),
        is_correct=is_correct,
    )


def _check_decision(
    decision: types.Decision, protocol: protocols.Protocol, num_routes: int
) -> None:
  """Raises ValueError if the chosen route is not allowed."""
  # Writer 0: after a larger model wrote, `escalate` asks no more, and the other
  # protocols allow every route.
  allowed = protocol.action_mask(0, num_routes)
  if not (0 <= decision.route < num_routes and allowed[decision.route]):
    raise ValueError(
        f'The router chose route {decision.route}; {protocol.name} allows '
        f'{[m for m in range(num_routes) if allowed[m]]} here.'
    )
