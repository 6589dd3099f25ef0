"""The one driver: a coroutine that answers one problem, step by step.

Collecting, live evaluation and serving all run `answer`, in every protocol;
what differs is the router, the engines and what is done with the trajectory.
All randomness follows
from the seed, the problem and the place in the trace, so a hand-over happens
live exactly as its completion was collected.
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

_SEED_BITS = 31  # Engines hold seeds in signed 32 bits.


class Router(Protocol):
  """What the driver asks of a router."""

  def decide(self, trace: types.Trace) -> types.Decision:
    """The route that writes the next step."""
    ...


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How traces are written, the same for every engine.

  temperature: 0 is greedy.
  max_decisions: decisions at most, T; after the last one the route that was
    named writes to the end.
  max_tokens: new tokens of a whole answer at most, hand-over included.
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
  """The seed of one request: a hash, so no two requests share their noise."""
  key = repr((seed, problem_id, step, route, sample)).encode()
  digest = hashlib.blake2b(key, digest_size=8).digest()
  return int.from_bytes(digest, 'big') >> (64 - _SEED_BITS)


def new_session(problem: types.Problem) -> str:
  """A session that no other trajectory has, of this problem or another."""
  return f'{problem.id}#{uuid.uuid4().hex}'


def forget(engines: Sequence[engine_lib.Engine], session: str) -> None:
  """Tells the engines that a session is over, so that others get its cache."""
  for engine in engines:
    engine.forget(session)


def tokens_left(kept: Sequence[types.Step], max_tokens: int) -> int:
  """Tokens that may still be written after the steps `kept`."""
  return max_tokens - steps_lib.count_written(kept)


def is_open(kept: Sequence[types.Step], sampling: Sampling) -> bool:
  """Whether another step may be written after the steps `kept`."""
  if not kept:
    return True
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
  """Has `engine` go on after the steps `kept`: one step, or to the end.

  Live steps and hand-overs, and the completions of a ladder, are all written
  here, so that one request is the same request wherever it comes from.

  Args:
    problem: the problem.
    kept: the steps of the trace; at least one token must be left.
    engine: who writes.
    to_end: True = the rest of the answer; False = one step.
    seed: of the run; the request's own seed is derived from it.
    sampling: see `Sampling`.
    session: whose prefix cache to use.
    sample: tells several completions of one prefix apart.
    may_speculate: it may write on until it is asked again, or cut off.

  Returns:
    The new steps.
  """
  request = engine_lib.Request(
      question=problem.question,
      trace=steps_lib.join(kept),
      to_end=to_end,
      may_speculate=may_speculate,
      max_tokens=tokens_left(kept, sampling.max_tokens),
      temperature=sampling.temperature,
      seed=request_seed(seed, problem.id, len(kept), engine.route, sample),
      session=session,
  )
  return await engine.write(request)


async def grade_text(
    grade: equivalence.Grader, text: str, problem: types.Problem
) -> bool:
  """Grades in a thread: a slow grader must not hold up the other traces."""
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

  At each step boundary the router names the route that writes the next step or,
  in `escalate`, the rest of the trace, in one request. Where it is shown a
  draft of the step, route 0 keeps it, any other discards it; it is paid either
  way. After the last of `max_decisions` decisions the named route writes to the
  end (after its draft, where that is kept); only `max_tokens` limits the text.
  What is written ahead, and in vain, while the router decides is a call of its
  own.

  Args:
    problem: the problem.
    router: asked at each of at most `max_decisions` boundaries.
    engines: A engines, `engines[m].route == m`.
    protocol: who may write when.
    accounting: tells the router what was spent; None (the router is told 0)
      only for routers that do not look at it.
    grade: the grader.
    seed: of the run; with the problem's id it fixes every request's seed.
    sampling: see `Sampling`.
    sample: tells several trajectories of one problem apart.

  Returns:
    The trajectory; `calls` holds every call's usage in order.

  Raises:
    ValueError: if the router names a route that may not write now, or the
      engines are not in the order of their routes.
  """
  check_routes(engines)
  walk = _Walk(problem, engines, protocol, accounting, seed, sampling, sample)
  try:
    while walk.is_open():
      written = await walk.write(0) if protocol.has_draft else ()
      decision = walk.decide(router, written)
      is_last = walk.is_last(decision)
      if decision.route > 0 or not protocol.has_draft:
        walk.discarded.extend(written)
        written = await walk.write(decision.route, to_end=is_last)
      walk.steps.extend(written)
      if is_last:
        await walk.finish(decision.route)
        break
    await walk.cancel_speculation()
  finally:
    walk.close()
  text = steps_lib.join(walk.steps)
  return walk.trajectory(await grade_text(grade, text, problem))


def check_routes(engines: Sequence[engine_lib.Engine]) -> None:
  """Raises ValueError unless `engines[m]` writes as route m."""
  routes = [engine.route for engine in engines]
  if routes != list(range(len(engines))):
    raise ValueError(
        f'Engines have routes {routes}; they must be 0, 1, ... in this order.'
    )


class _Walk:
  """A trajectory under way; see `types.Trajectory` for the lists."""

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
    """Another step may be written."""
    return is_open(self.steps, self._sampling)

  def is_last(self, decision: types.Decision) -> bool:
    """Nothing is asked after `decision`, the latest one."""
    return (
        self._protocol.is_absorbing(decision.route)
        or len(self.decisions) == self._sampling.max_decisions
    )

  async def finish(self, route: int) -> None:
    """After the last decision: where a draft was kept, its writer goes on."""
    if self.is_open():
      self.steps.extend(await self.write(route, to_end=True))

  async def write(
      self, route: int, *, to_end: bool = False
  ) -> tuple[types.Step, ...]:
    """Has a model write after the accepted steps, and pays for it."""
    engine = self._engines[route]
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
        may_speculate=not to_end and self._may_write_next(route),
    )
    self.calls.append(steps_lib.call_usage(written))
    return written

  def _may_write_next(self, route: int) -> bool:
    """`route` may be asked for the step after this one."""
    return route == 0 or not self._protocol.has_draft

  async def cancel_speculation(self) -> None:
    """Has the last writer stop, and pays for what it has written in vain."""
    if self._writer is None:
      return
    usage = await self._writer.cancel_speculation(self._session)
    if usage is not None:
      self.calls.append(usage)

  def decide(
      self, router: Router, draft: Sequence[types.Step]
  ) -> types.Decision:
    """Asks the router; `draft` is one step or none."""
    decision = router.decide(self._trace(draft))
    _check_decision(decision, self._protocol, len(self._engines))
    self.decisions.append(decision)
    return decision

  def _trace(self, draft: Sequence[types.Step]) -> types.Trace:
    """What the router may look at now."""
    spent = (
        0.0 if self._accounting is None else self._accounting.spent(self.calls)
    )
    self._seen = types.Trace(
        question=self._problem.question,
        steps=tuple(self.steps),
        draft=draft[0] if draft else None,
        spent=spent,
        previous=self._seen,
    )
    return self._seen

  def close(self) -> None:
    """Lets the engines forget the session."""
    forget(self._engines, self._session)

  def trajectory(self, is_correct: bool) -> types.Trajectory:
    """The finished trajectory."""
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
  """Raises ValueError if the chosen route may not write now."""
  allowed = protocol.action_mask(0, num_routes)
  if not (0 <= decision.route < num_routes and allowed[decision.route]):
    raise ValueError(
        f'The router chose route {decision.route}; {protocol.name} allows '
        f'{[m for m in range(num_routes) if allowed[m]]} here.'
    )
