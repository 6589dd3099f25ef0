"""The driver: a coroutine that answers one problem under a router.

Collection, live evaluation and serving all run `answer`, in every protocol.
They differ in the router, the engines and what they do with the trajectory. The
seed of each request follows from the run's seed, the problem and the position
in the trace. So a live hand-over generates exactly the completion that was
collected in the ladder for this step and route.
"""

import asyncio
from collections.abc import Sequence
import dataclasses
import hashlib
from typing import Protocol

import numpy as np

from routing import costs
from routing import protocols
from routing import types
from routing.engines import boundaries
from routing.engines import engine as engine_lib
from routing.grading import equivalence
from routing.rollout import final_answer
from routing.rollout import inquiry as inquiry_lib
from routing.rollout import steps as steps_lib
from routing.tasks import delimiter as delimiter_lib

_SEED_BITS = 31  # Engines store seeds as non-negative signed 32-bit integers.


class Router(Protocol):
  """The interface of a router: one method, called at each step boundary.

  A router that needs more than the trace also has an attribute `informant`; see
  `rollout.inquiry`. For the attribute `final_route` see `rollout.final_answer`.
  """

  def decide(self, trace: types.Trace) -> types.Decision:
    """Chooses the route that writes the next step."""
    ...


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Sampling settings and limits of one answer.

  temperature: 0 = greedy decoding. A tuple gives one value per route.
  max_decisions: T, the largest number of decisions in one answer. After the
    last decision, the chosen route writes the rest of the answer.
  max_tokens: the largest length of a whole answer in tokens, including those
    written after a hand-over. Text that a model wrote and that is no part of
    the answer does not count.
  finders: names of `grading.answers.FINDERS`. The step with the first complete
    answer ends the answer, whatever the model writes after it: some go on with
    another question. Empty = only the model ends the answer.
  delimiter: what ends a step.
  """

  temperature: float | tuple[float, ...] = 0.0
  max_decisions: int = 8
  max_tokens: int = 192
  finders: tuple[str, ...] = ()
  delimiter: delimiter_lib.Delimiter = delimiter_lib.BLANK_LINE

  def __post_init__(self):
    if np.min(self.temperature) < 0:
      raise ValueError(f'temperature is {self.temperature}; allowed: >= 0.')
    for name in ('max_decisions', 'max_tokens'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name} is {getattr(self, name)}; allowed: >= 1.')

  @property
  def is_greedy(self) -> bool:
    """True if every model always writes its most likely token."""
    return not np.any(self.temperature)

  def temperature_of(self, route: int) -> float:
    """Returns the temperature at which the model of a route samples."""
    if isinstance(self.temperature, tuple):
      return self.temperature[route]
    return self.temperature


def request_seed(
    seed: int, problem_id: str, step: int, route: int, sample: int = 0
) -> int:
  """Returns the random seed of one request to an engine, in [0, 2**31).

  The seed is a hash of all arguments, so that different requests draw different
  random numbers.

  `step` is the number of accepted steps before the request; `sample` tells
  apart requests that are otherwise equal.
  """
  # Python's own `hash` is salted for each process, but a resumed collection
  # must use the same seeds.
  key = repr((seed, problem_id, step, route, sample)).encode()
  digest = hashlib.blake2b(key, digest_size=8).digest()
  return int.from_bytes(digest, 'big') >> (64 - _SEED_BITS)


def tokens_left(kept: Sequence[types.Step], max_tokens: int) -> int:
  """Returns how many of `max_tokens` the accepted steps `kept` leave."""
  return max_tokens - steps_lib.count_tokens(kept)


def is_open(kept: Sequence[types.Step], sampling: Sampling) -> bool:
  """Returns whether another step may follow the accepted steps `kept`."""
  if not kept:
    return True  # Every answer has at least one step.
  return (
      not kept[-1].is_final
      and not boundaries.is_cut(kept[-1])
      and tokens_left(kept, sampling.max_tokens) > 0
  )


async def write(
    problem: types.Problem,
    kept: Sequence[types.Step],
    session: engine_lib.Session,
    *,
    to_end: bool,
    seed: int,
    sampling: Sampling,
    sample: int = 0,
    may_speculate: bool = False,
) -> tuple[types.Step, ...]:
  """Requests the next step, or the rest of the answer, in one session.

  Live steps, hand-overs and the completions of a ladder are all requested
  through this function. So equal requests have equal seeds and limits, in
  collection as in live evaluation.

  Args:
    problem: the problem that is being answered.
    kept: the accepted steps, which the new text continues; at least one token
      of `sampling.max_tokens` must be left after them.
    session: the session that writes; it must be about this problem.
    to_end: True = request the rest of the answer; False = request one step.
    seed: of the run; the seed of the request is derived from it.
    sampling: sampling settings and limits of the answer.
    sample: index of this text among several samples after the same prefix.
    may_speculate: whether the engine may continue speculatively past the step,
      until the next step is requested or the speculation is cancelled.

  Returns one or more new steps.
  """
  request = engine_lib.Request(
      trace=steps_lib.join(kept),
      to_end=to_end,
      # At a pattern or a length, text written ahead could not be used.
      may_speculate=may_speculate and sampling.delimiter.is_text,
      max_tokens=tokens_left(kept, sampling.max_tokens),
      temperature=sampling.temperature_of(session.route),
      # The position is part of the seed, but the router is not. So a live
      # hand-over and the ladder's completion at the same step are the same
      # request.
      seed=request_seed(seed, problem.id, len(kept), session.route, sample),
      delimiter=sampling.delimiter,
  )
  written = await session.write(request)
  return steps_lib.until_answer(written, request.trace, sampling.finders)


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
    grade: equivalence.Grader,
    seed: int,
    sampling: Sampling,
    sample: int = 0,
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
    grade: the grader of the final answer.
    seed: of the run; together with the problem's id it determines the seed of
      every request.
    sampling: sampling settings and limits of the answer.
    sample: index of this trajectory among several of the same problem.

  Returns the trajectory; its `calls` hold all calls in order, the wasted too.

  Raises:
    ValueError: if the router chooses a route that is not allowed, or the
      engines are not in the order of their routes.
  """
  engine_lib.check_order(engines)
  # The sessions end after an error as well, or engines would keep the caches.
  async with engine_lib.open_all(engines, problem.question) as sessions:
    walk = _Walk(
        problem, sessions, protocol, accounting, seed, sampling, sample
    )
    walk.engines = engines
    while walk.is_open():
      written = await walk.draft() if protocol.has_draft else ()
      decision = await walk.decide(router, written)
      is_last = walk.is_last(decision)
      if decision.route > 0 or not protocol.has_draft:
        walk.discarded.extend(written)  # The draft; empty if there is none.
        written = await walk.write(decision.route, to_end=is_last)
      walk.steps.extend(written)
      if is_last:
        await walk.finish(decision.route)
        break
    await final_answer.rewrite(walk, router)
    await walk.close()
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
      sampling: Sampling,
      sample: int,
  ):
    self._problem, self._sessions = problem, sessions
    self._protocol = protocol
    self._accounting, self._sampling = accounting, sampling
    self._seed, self._sample = seed, sample
    self.steps: list[types.Step] = []
    self.discarded: list[types.Step] = []
    self.decisions: list[types.Decision] = []
    self.calls: list[types.Call] = []
    self.engines: Sequence[engine_lib.Engine] = ()
    self._writer: engine_lib.Session | None = None
    self._seen: types.Trace | None = None

  def is_open(self) -> bool:
    """Returns whether another step may follow the accepted steps."""
    return is_open(self.steps, self._sampling)

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
      self.steps.extend(await self.write(route, to_end=True))

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
    left = tokens_left(self.steps, self._sampling.max_tokens)
    longest = self._sampling.max_tokens - left + min(limit, left)
    probing = dataclasses.replace(self._sampling, max_tokens=longest)
    return await self._write(route, 'probe', probing)

  async def _write(
      self, route: int, kind: str, sampling: Sampling | None = None
  ) -> tuple[types.Step, ...]:
    """Makes a call of this kind, one of `types.CALL_KINDS`, and records it."""
    session = self._sessions[route]
    # The same writer's session resumes the text that it wrote speculatively.
    # For another writer this text is wasted, and charged before the new call.
    if self._writer is not None and self._writer is not session:
      self._waste(await self._writer.cancel_speculation())
    self._writer = session
    to_end = kind == 'hand_over'
    written = await write(
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
    )
    self.calls.append(steps_lib.as_call(kind, steps_lib.call_usage(written)))
    return written

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
      self.calls.append(steps_lib.as_call('wasted', usage))

  async def decide(
      self, router: Router, draft: Sequence[types.Step]
  ) -> types.Decision:
    """Asks the router for a decision, and records it.

    `draft` holds the draft of the next step, or nothing without drafts.
    """
    inquiry = inquiry_lib.Inquiry(
        self._probe, self._spent, self.calls, self.engines
    )
    # With its evidence: later traces lead back to it.
    self._seen = await inquiry.informed(router, self._trace(draft))
    decision = router.decide(self._seen)
    self._protocol.check_route(decision.route, len(self._sessions))
    self.decisions.append(decision)  # `is_last` counts this one, too.
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
    return self._accounting.spent(self.calls)

  def trajectory(self, is_correct: bool) -> types.Trajectory:
    """Returns the record of the finished trajectory, once it is graded."""
    return types.Trajectory(
        problem=self._problem,
        steps=tuple(self.steps),
        discarded=tuple(self.discarded),
        decisions=tuple(self.decisions),
        calls=tuple(self.calls),
        is_correct=is_correct,
    )
