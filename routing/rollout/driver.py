"""The driver: a coroutine that answers one problem under a router.

Collection, live evaluation and serving all run `answer`, in every protocol.
They differ in the router, the engines and what they do with the trajectory. The
seed of each request follows from the run's seed, the problem and the position
in the trace. So a live hand-over generates exactly the completion that was
collected in the ladder for this step and route.
"""

import asyncio
from collections.abc import Awaitable
from collections.abc import Sequence
import dataclasses
import inspect
from typing import Protocol

from routing import costs
from routing import protocols
from routing import types
from routing.engines import engine as engine_lib
from routing.grading import equivalence
from routing.rollout import inquiry as inquiry_lib
from routing.rollout import step_requests
from routing.rollout import steps as steps_lib
from routing.rollout import watching


class Router(Protocol):
  """The interface of a router: one method, called at each step boundary.

  A router that needs more than the trace also has an attribute `informant`; see
  `rollout.inquiry`. One that wants a certain model to write the end of every
  answer has `final_route`, the index of this model.
  """

  def decide(
      self, trace: types.Trace
  ) -> types.Decision | Awaitable[types.Decision]:
    """Chooses the route that writes the next step, at once or awaited."""
    ...


async def grade_text(
    grade: equivalence.Grader, text: str, problem: types.Problem
) -> bool:
  """Returns whether the final answer in `text` is right, according to `grade`.

  The grader runs in a thread: a slow one would block all other trajectories.
  """
  verdict = await asyncio.to_thread(grade, text, problem.answer, problem.meta)
  return verdict.is_correct


async def answer(
    problem: types.Problem,
    router: Router,
    engines: Sequence[engine_lib.Engine],
    *,
    protocol: protocols.Protocol,
    accounting: costs.Accounting | None,
    grade: equivalence.Grader | None,
    seed: int,
    sampling: step_requests.Sampling,
    sample: int = 0,
    watcher: watching.Watcher = watching.NOBODY,
) -> types.Trajectory:
  """Answers one problem under a router.

  At each step boundary the router chooses a route. The model of this route
  writes the next step or, at a hand-over of `escalate`, the rest of the answer
  in one request. If the protocol has drafts, route 0 accepts the draft and any
  other route discards it; the draft's cost is charged in both cases. After the
  last decision the chosen route writes the rest of the answer.

  Args:
    problem: the problem to answer.
    router: asked at no more than `sampling.max_decisions` step boundaries.
    engines: A engines, with `engines[m].route == m`.
    protocol: which routes may write when, and whether there are drafts.
    accounting: computes `Trace.spent`; None = the router sees a cost of 0.
    grade: the grader of the final answer; None = it is not graded, as in
      service, where nobody knows the right answer.
    seed: of the run; together with the problem's id it determines the seed of
      every request.
    sampling: sampling settings and limits of the answer.
    sample: index of this trajectory among several of the same problem.
    watcher: is told of every decision, call and step as they come.

  Returns:
    The trajectory; its `calls` hold every call in order, also of wasted text.

  Raises:
    ValueError: if the router chooses a route that is not allowed, or the
      engines are not in the order of their routes.
  """
  engine_lib.check_order(engines)
  # The sessions end after an error as well, or engines would keep the caches.
  async with engine_lib.open_all(engines, problem.question) as sessions:
    walk = _Walk(
        problem, sessions, protocol, accounting, seed, sampling, sample, watcher
    )
    walk.engines = engines
    try:
      await walk.run(router)
    finally:
      # After a cancellation too: what was written for nothing is recorded.
      await walk.close()
  if grade is None:
    return walk.trajectory(None)
  text = steps_lib.join(walk.steps)
  return walk.trajectory(await grade_text(grade, text, problem))


check_routes = engine_lib.check_order  # For systems that ask models directly.


class _Walk:
  """A trajectory in progress: sends requests to engines and records the calls.

  The public lists become the fields of `types.Trajectory` of the same names.
  """

  def __init__(
      self,
      problem: types.Problem,
      sessions: Sequence[engine_lib.Session],
      protocol: protocols.Protocol,
      accounting: costs.Accounting | None,
      seed: int,
      sampling: step_requests.Sampling,
      sample: int,
      watcher: watching.Watcher,
  ):
    self._problem, self._sessions = problem, sessions
    self._protocol = protocol
    self._accounting, self._sampling = accounting, sampling
    self._seed, self._sample, self._watcher = seed, sample, watcher
    self.steps: list[types.Step] = []
    self.discarded: list[types.Step] = []
    self.decisions: list[types.Decision] = []
    self.calls: list[types.Call] = []
    self.engines: Sequence[engine_lib.Engine] = ()
    self._writer: engine_lib.Session | None = None
    self._seen: types.Trace | None = None
    self._paid = 0.0  # For all calls, in the metric's own unit.

  async def run(self, router: Router) -> None:
    """Writes the answer, one decision after the other."""
    has_draft = self._protocol.has_draft
    while self.is_open():
      written = await self.draft() if has_draft else ()
      decision = await self.decide(router, written)
      is_last = self.is_last(decision)
      if decision.route > 0 or not has_draft:
        self.discarded.extend(written)  # The draft; empty if there is none.
        written = await self.write(decision.route, to_end=is_last)
      self._accept(written)
      if is_last:
        await self.finish(decision.route)
        break
    await self._end_by(getattr(router, 'final_route', None))

  def is_open(self) -> bool:
    """Returns whether another step may follow the accepted steps."""
    return step_requests.is_open(self.steps, self._sampling)

  def is_last(self, decision: types.Decision) -> bool:
    """Returns whether `decision`, the latest, is the last of the trajectory."""
    return (
        self._protocol.is_absorbing(decision.route)
        or len(self.decisions) == self._sampling.max_decisions
    )

  async def finish(self, route: int) -> None:
    """Requests the rest of the answer after the last decision, if there is any.

    There is a rest only if the last decision accepted a draft, because a draft
    is a single step. Any other choice has requested the whole rest already.
    """
    if self.is_open():
      self._accept(await self.write(route, to_end=True))

  async def _end_by(self, route: int | None) -> None:
    """Has the model of a route write the end; nothing if it did, or for None.

    If another model wrote the last step, this step is discarded, and charged.
    """
    if route is None or self.steps[-1].route == route:
      return
    # Without the last step there is room for at least as much as it took. An
    # empty one leaves none where the limit was reached before it.
    if not self.steps[-1].num_tokens:
      return
    self.discarded.append(self.steps.pop())
    self._accept(await self.write(route, to_end=True))

  async def draft(self) -> tuple[types.Step, ...]:
    """Requests the draft of the next step, and records the call."""
    return await self._write(0, 'draft')

  async def write(
      self, route: int, *, to_end: bool = False
  ) -> tuple[types.Step, ...]:
    """Requests one step, or the rest of the answer, and records the call.

    Returns:
      The new steps, one or more. They are not added to `self.steps`.
    """
    return await self._write(route, 'hand_over' if to_end else 'step')

  async def _probe(self, route: int, limit: int) -> tuple[types.Step, ...]:
    """Requests text of at most `limit` tokens that can never be a step."""
    left = step_requests.tokens_left(self.steps, self._sampling.max_tokens)
    longest = self._sampling.max_tokens - left + min(limit, left)
    probing = dataclasses.replace(self._sampling, max_tokens=longest)
    return await self._write(route, 'probe', probing)

  async def _write(
      self,
      route: int,
      kind: str,
      sampling: step_requests.Sampling | None = None,
  ) -> tuple[types.Step, ...]:
    """Makes a call of this kind, one of `types.CALL_KINDS`, and records it."""
    session = self._sessions[route]
    # The same writer's session resumes the text that it wrote speculatively.
    # For another writer this text is wasted, and charged before the new call.
    if self._writer is not None and self._writer is not session:
      self._waste(await self._writer.cancel_speculation())
    self._writer = session
    to_end = kind == 'hand_over'
    self._watcher.asked(kind, route)
    written = await step_requests.write(
        self._problem,
        self.steps,
        session,
        to_end=to_end,
        seed=self._seed,
        sampling=sampling or self._sampling,
        sample=self._sample,
        # After the rest of the answer, nothing is left to write speculatively,
        # and a probe is not continued.
        may_speculate=kind in ('draft', 'step') and self._may_write_next(route),
        # Where nobody watches, a back end may answer in one piece.
        on_step=None
        if self._watcher is watching.NOBODY
        else self._watcher.told,
        on_billed=self._watcher.billed,
    )
    self._record(steps_lib.as_call(kind, steps_lib.call_usage(written)))
    return written

  def _record(self, call: types.Call) -> None:
    """Records a call."""
    self.calls.append(call)
    # Added up call by call: a router sees the sum at every decision.
    if (by := self._accounting) is not None:
      spec = by.specs[call.route]
      self._paid += float(costs.call_cost(call, spec, by.metric))
    self._watcher.called(call)

  def _accept(self, written: Sequence[types.Step]) -> None:
    """Adds steps to the answer."""
    self.steps.extend(written)
    self._watcher.accepted(written)

  def _may_write_next(self, route: int) -> bool:
    """Returns whether `route`, now asked for a step, may also write the next.

    With drafts, only route 0 may: it drafts every next step. Without drafts,
    the router may choose any route again.
    """
    return route == 0 or not self._protocol.has_draft

  async def close(self) -> None:
    """Ends the sessions; records what was written speculatively for nothing."""
    for session in self._sessions:
      self._waste(await session.close())

  def _waste(self, usage: types.Usage | None) -> None:
    """Records the usage of cancelled text, if there is any, as a call."""
    if usage is not None:
      self._record(steps_lib.as_call('wasted', usage))

  async def decide(
      self, router: Router, draft: Sequence[types.Step]
  ) -> types.Decision:
    """Asks the router for a decision, and records it.

    `draft` holds the draft of the next step, or nothing without drafts.
    """
    inquiry = inquiry_lib.Inquiry(
        self._probe, self._spent, self._record, self.engines
    )
    # `_seen` is the trace with the evidence: later traces lead back to it, and
    # a router may compare the evidence of several decisions.
    self._seen = await inquiry.informed(router, self._trace(draft))
    decision = router.decide(self._seen)
    if inspect.isawaitable(decision):
      decision = await decision
    self._protocol.check_route(decision.route, len(self._sessions))
    # `is_last` counts the decisions, so this one must be recorded first.
    self.decisions.append(decision)
    self._watcher.decided(self._seen, decision)
    return decision

  def _trace(self, draft: Sequence[types.Step]) -> types.Trace:
    """Returns the trace that the router sees at the current decision."""
    return types.Trace(
        question=self._problem.question,
        steps=tuple(self.steps),
        draft=draft[0] if draft else None,
        # The call that wrote the draft has been recorded, so it is included.
        spent=self._spent(),
        # Earlier traces hold discarded drafts, which `steps` does not show.
        previous=self._seen,
    )

  def _spent(self) -> float:
    """Returns the cost of all calls so far, as `Trace.spent`."""
    if self._accounting is None:
      return 0.0
    return self._paid / self._accounting.reference

  def trajectory(self, is_correct: bool | None) -> types.Trajectory:
    """Returns the record of the finished trajectory, with its grade."""
    return types.Trajectory(
        problem=self._problem,
        steps=tuple(self.steps),
        discarded=tuple(self.discarded),
        decisions=tuple(self.decisions),
        calls=tuple(self.calls),
        is_correct=is_correct,
    )
