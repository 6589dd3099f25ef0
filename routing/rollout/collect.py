"""Collects ladders: the small trace, and every graded way out of it.

From each step prefix of the small trace each larger model writes the rest.
Under greedy decoding a model that begins with just the small model's next step
has thereby told its completion of the longer prefix too: that one is taken over
rather than generated again.
"""

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Iterable
from collections.abc import Sequence
import contextlib
import dataclasses
from typing import Any
from typing import TypeVar

from routing import protocols
from routing import types
from routing.engines import engine as engine_lib
from routing.grading import equivalence
from routing.rollout import driver
from routing.rollout import steps as steps_lib

Record = TypeVar('Record')  # What is collected of one problem.
Result = TypeVar('Result')
Sink = Callable[[int, types.Ladder], None]


class StayRouter:
  """Never hands over: the small model's own trace."""

  def decide(self, trace: types.Trace) -> types.Decision:
    """Stays."""
    del trace
    return types.Decision(route=0, score=0.0)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is collected of each problem; the same plan gives the same ladders.

  sampling: how traces are written.
  seed: of the collection; each request's seed follows from it.
  num_samples: completions per prefix and larger model. Greedy ones are all
    alike, so more than 1 is refused at temperature 0.
  reuse: take over greedy completions that are already known, and do not read
    again what two completions of a problem have in common. Tokens are charged
    the same either way; the seconds of a completion that did without are less.
  """

  sampling: driver.Sampling
  seed: int = 0
  num_samples: int = 1
  reuse: bool = True

  def __post_init__(self):
    if self.num_samples < 1:
      raise ValueError(f'num_samples is {self.num_samples}; allowed: >= 1.')
    if self.is_greedy and self.num_samples > 1:
      raise ValueError(
          f'num_samples is {self.num_samples} at temperature 0, where all '
          'samples are the same; allowed: 1, or a positive temperature.'
      )

  @property
  def is_greedy(self) -> bool:
    """Every model writes its most likely token."""
    return self.sampling.temperature == 0


async def collect_ladders(
    problems: Sequence[types.Problem],
    engines: Sequence[engine_lib.Engine],
    sink: Sink,
    *,
    plan: Plan,
    grade: equivalence.Grader,
    **loop: Any,
) -> None:
  """Collects the ladder of every problem, many at a time.

  Args:
    problems: what to collect; they start in this order.
    engines: A >= 2 engines, smallest first; they batch what waits.
    sink: called with (index, ladder) as each ladder is ready, in any order.
    plan: what to collect of each.
    grade: the grader.
    **loop: `concurrency` and the rest of `collect_each`.

  Raises:
    ValueError: if there is no larger model, or the smallest one cannot go on
      with its own trace.
    Exception: as `collect_each` does.
  """
  if len(engines) < 2:
    raise ValueError(f'A ladder needs 2 engines or more, got {len(engines)}.')
  engine_lib.require(engines[:1], continues_prefix=True)
  await collect_each(
      problems,
      lambda problem: collect_ladder(problem, engines, plan, grade),
      sink,
      **loop,
  )


async def collect_each(
    problems: Sequence[types.Problem],
    collect_one: Callable[[types.Problem], Awaitable[Record]],
    sink: Callable[[int, Record], None],
    *,
    concurrency: int,
    on_begin: Callable[[], None] = lambda: None,
    on_done: Callable[[], None] = lambda: None,
    on_refused: Callable[[int, engine_lib.Refused], None] | None = None,
    may_begin: Callable[[int], bool] = lambda index: True,
) -> None:
  """Collects one record of every problem, many at a time.

  Args:
    problems: what to collect; they start in this order.
    collect_one: collects the record of a problem.
    sink: called with (index, record) as each is ready, in any order.
    concurrency: problems in flight.
    on_begin: called before each problem, for a progress bar.
    on_done: called after each problem.
    on_refused: called with (index, error) for a problem of which a request was
      refused for good, instead of raising the error.
    may_begin: called with the index of the next problem; if False, it is
      passed over.

  Raises:
    ValueError: if `concurrency` < 1.
    Exception: the first error of `collect_one` or `sink`, with a note that
      names the problem; all other work is then cancelled.
  """
  if concurrency < 1:
    raise ValueError(f'concurrency is {concurrency}; allowed: >= 1.')
  waiting = iter(enumerate(problems))

  async def work() -> None:
    for index, problem in waiting:
      if not may_begin(index):
        continue
      on_begin()
      try:
        sink(index, await collect_one(problem))
      except Exception as error:
        if on_refused is None or not isinstance(error, engine_lib.Refused):
          error.add_note(f'while collecting problem {problem.id}')
          raise
        on_refused(index, error)
      on_done()

  await _together(work() for _ in range(min(concurrency, len(problems))))


async def _together(
    coroutines: Iterable[Coroutine[Any, Any, Result]],
) -> list[Result]:
  """What the coroutines return; the first error ends them all."""
  try:
    async with asyncio.TaskGroup() as group:
      tasks = [group.create_task(coroutine) for coroutine in coroutines]
  except* Exception as errors:
    raise errors.exceptions[0] from None
  return [task.result() for task in tasks]


async def collect_ladder(
    problem: types.Problem,
    engines: Sequence[engine_lib.Engine],
    plan: Plan,
    grade: equivalence.Grader,
) -> types.Ladder:
  """The ladder of one problem."""
  trajectory = await driver.answer(
      problem,
      StayRouter(),
      engines,
      protocol=protocols.Protocol('escalate', 'peek'),
      accounting=None,
      grade=grade,
      seed=plan.seed,
      sampling=plan.sampling,
  )
  # After the last decision the small model writes to the end by itself.
  decided = trajectory.steps[: plan.sampling.max_decisions]
  rails = await _together(
      _climb(problem, decided, engine, sample, plan, grade)
      for engine in engines[1:]
      for sample in range(plan.num_samples)
  )
  completions = [completion for rail in rails for completion in rail]
  completions.sort(key=lambda c: (c.step, c.route, c.sample))
  return types.Ladder(
      problem=problem,
      steps=trajectory.steps,
      is_correct=trajectory.is_correct,
      completions=tuple(completions),
  )


async def _climb(
    problem: types.Problem,
    small_steps: Sequence[types.Step],
    engine: engine_lib.Engine,
    sample: int,
    plan: Plan,
    grade: equivalence.Grader,
) -> list[types.Completion]:
  """One larger model's completions of all prefixes, shortest first.

  They are written one after the other since each may give away the next; other
  problems fill the engine meanwhile.
  """
  completions, written = [], ()
  # What is taken over was never read: its prompt must be counted.
  can_reuse = (
      plan.reuse
      and plan.is_greedy
      and engine.capabilities.continues_prefix
      and engine.capabilities.counts_tokens
  )
  with contextlib.ExitStack() as sessions:
    session = _open_session(sessions, problem, engine)
    for t in range(len(small_steps)):
      kept = small_steps[:t]
      known = ()
      if t and can_reuse:
        left = driver.tokens_left(kept, plan.sampling.max_tokens)
        known = known_rest(written, small_steps[t - 1], left)
      if not plan.reuse:
        sessions.close()  # What is read must not hang on what ran before.
        session = _open_session(sessions, problem, engine)
      written = known or await driver.write(
          problem,
          kept,
          engine,
          to_end=True,
          seed=plan.seed,
          sampling=plan.sampling,
          session=session,
          sample=sample,
      )
      completions.append(
          await graded(
              problem,
              kept,
              written,
              engine,
              grade,
              sample=sample,
              is_reused=bool(known),
          )
      )
  return completions


def _open_session(
    stack: contextlib.ExitStack,
    problem: types.Problem,
    engine: engine_lib.Engine,
) -> str:
  """A session of its own, forgotten when the stack unwinds."""
  session = driver.new_session(problem)
  stack.callback(driver.forget, [engine], session)
  return session


async def graded(
    problem: types.Problem,
    kept: Sequence[types.Step],
    written: Sequence[types.Step],
    engine: engine_lib.Engine,
    grade: equivalence.Grader,
    *,
    sample: int = 0,
    is_reused: bool = False,
) -> types.Completion:
  """What `engine` has `written` after the steps `kept`, as a completion."""
  prefix, text = steps_lib.join(kept), steps_lib.join(written)
  usage = steps_lib.call_usage(written)
  return types.Completion(
      step=len(kept),
      route=engine.route,
      sample=sample,
      text=text,
      read=engine.count_tokens(problem.question, prefix)
      if engine.capabilities.counts_tokens
      else int(usage.read + usage.cached),
      written=int(usage.written),
      seconds=float(usage.seconds),
      is_correct=await driver.grade_text(grade, prefix + text, problem),
      is_reused=is_reused,
  )


def known_rest(
    written: Sequence[types.Step], small_step: types.Step, tokens_left: int
) -> tuple[types.Step, ...]:
  """The completion of the prefix that `small_step` makes longer, if known.

  It is known if `written`, the completion of the shorter prefix, begins with
  just that step, came to its end, and would have come to it within the tokens
  left. The seconds are shared by tokens, since a batch's time is no step's own.

  Returns:
    The steps of the known completion; empty if it must be generated.
  """
  if not written or written[0].text != small_step.text:
    return ()
  rest = written[1:]
  count = steps_lib.count_written(rest)
  if not rest or not rest[-1].is_final or count > tokens_left:
    return ()
  whole = steps_lib.call_usage(written)
  return tuple(
      dataclasses.replace(
          step,
          usage=dataclasses.replace(
              step.usage,
              seconds=whole.seconds * step.usage.written / whole.written,
          ),
      )
      for step in rest
  )
