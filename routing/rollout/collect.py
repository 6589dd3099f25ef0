"""Collects ladders: the small trace, and every hand-over from it, graded.

From each step prefix of the small trace each larger model writes the rest of
the answer. Under greedy decoding this need not always be generated. If a larger
model's completion begins with exactly the small model's next step, then the
rest of it is also its completion of the next longer prefix.
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

Record = TypeVar('Record')  # The data of one problem, e.g. a `types.Ladder`.
Result = TypeVar('Result')
Sink = Callable[[int, types.Ladder], None]


class StayRouter:
  """A router that never hands over; it yields the small model's own trace."""

  def decide(self, trace: types.Trace) -> types.Decision:
    """Chooses route 0 at every trace."""
    del trace
    return types.Decision(route=0, score=0.0)


@dataclasses.dataclass(frozen=True)
class Plan:
  """Settings of a ladder collection; equal plans give equal ladders.

  sampling: sampling settings and limits of every answer.
  seed: of the collection; the seed of each request is derived from it.
  num_samples: number of completions per prefix and larger model. It must be 1
    at temperature 0, where all samples would be equal.
  reuse: whether to reuse greedy completions that are already known, and to keep
    the prefix cache between the completions of a problem. This saves time only:
    the recorded tokens are the same, but recorded seconds are lower with reuse.
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
    """Whether every model always writes its most likely token."""
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
  """Collects the ladder of every problem, many problems concurrently.

  Args:
    problems: the problems; they are started in this order.
    engines: A >= 2 engines, smallest first; each batches concurrent requests.
    sink: called with (index, ladder) when a ladder is complete, in any order.
    plan: the settings.
    grade: the grader.
    **loop: `concurrency` and the other keyword arguments of `collect_each`.

  Raises:
    ValueError: if there are fewer than 2 engines, or the smallest one cannot
      continue a half-written answer.
    Exception: as `collect_each` does.
  """
  if len(engines) < 2:
    raise ValueError(f'A ladder needs 2 engines or more, got {len(engines)}.')
  # Only the small model, which writes its trace step by step, needs this. A
  # larger one may get the kept steps as an instruction (mode 'instruct').
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
  """Collects one record per problem, many problems concurrently.

  Args:
    problems: the problems; they are started in this order.
    collect_one: returns the record of a problem.
    sink: called with (index, record) when a record is complete, in any order.
    concurrency: the number of problems in flight.
    on_begin: called before each problem, for a progress bar.
    on_done: called after each problem.
    on_refused: called with (index, error) when an engine has refused a request
      for good, instead of raising the error; the other problems continue.
    may_begin: called with the index of the next problem; if it returns False,
      the problem is skipped.

  Raises:
    ValueError: if `concurrency` < 1.
    Exception: the first error of `collect_one` or `sink`, with a note that
      names the problem. All other work is cancelled first.
  """
  if concurrency < 1:
    raise ValueError(f'concurrency is {concurrency}; allowed: >= 1.')
  # One iterator for all workers. No lock is needed: they run on one event loop,
  # and taking the next item does not await.
  waiting = iter(enumerate(problems))

  async def work() -> None:
    for index, problem in waiting:
      if not may_begin(index):
        continue
      on_begin()
      try:
        # At once, so that the sink can write it before a kill.
        sink(index, await collect_one(problem))
      except Exception as error:
        if on_refused is None or not isinstance(error, engine_lib.Refused):
          # A note keeps the type of the error, by which callers decide.
          error.add_note(f'while collecting problem {problem.id}')
          raise
        on_refused(index, error)
      on_done()

  await _together(work() for _ in range(min(concurrency, len(problems))))


async def _together(
    coroutines: Iterable[Coroutine[Any, Any, Result]],
) -> list[Result]:
  """Runs coroutines concurrently and returns their results, in order.

  The first error cancels the others.
  """
  try:
    async with asyncio.TaskGroup() as group:
      tasks = [group.create_task(coroutine) for coroutine in coroutines]
  except* Exception as errors:
    # The bare error instead of a group, so that callers can catch its type.
    raise errors.exceptions[0] from None
  return [task.result() for task in tasks]


async def collect_ladder(
    problem: types.Problem,
    engines: Sequence[engine_lib.Engine],
    plan: Plan,
    grade: equivalence.Grader,
) -> types.Ladder:
  """Returns the ladder of one problem."""
  trajectory = await driver.answer(
      problem,
      StayRouter(),
      engines,
      protocol=protocols.Protocol('escalate', 'peek'),
      accounting=None,  # `StayRouter` does not read `Trace.spent`.
      grade=grade,
      seed=plan.seed,
      sampling=plan.sampling,
  )
  # No decision follows step T, so no completion from there is needed.
  decided = trajectory.steps[: plan.sampling.max_decisions]
  per_model = await _together(
      _complete_prefixes(problem, decided, engine, sample, plan, grade)
      for engine in engines[1:]
      for sample in range(plan.num_samples)
  )
  completions = [completion for found in per_model for completion in found]
  # `types.Ladder` promises this order, whatever order the models finished in.
  completions.sort(key=lambda c: (c.step, c.route, c.sample))
  return types.Ladder(
      problem=problem,
      steps=trajectory.steps,
      is_correct=trajectory.is_correct,
      completions=tuple(completions),
  )


async def _complete_prefixes(
    problem: types.Problem,
    small_steps: Sequence[types.Step],
    engine: engine_lib.Engine,
    sample: int,
    plan: Plan,
    grade: equivalence.Grader,
) -> list[types.Completion]:
  """Returns one larger model's completions of all prefixes, shortest first."""
  completions, written = [], ()
  # The engine never read the prompt of a reused completion. So its tokens must
  # be counted here, by the engine's own tokenizer.
  can_reuse = (
      plan.reuse
      and plan.is_greedy
      and engine.capabilities.continues_prefix
      and engine.capabilities.counts_tokens
  )
  with contextlib.ExitStack() as sessions:
    session = _open_session(sessions, problem, engine)
    # One after the other, since each completion may contain the next one. Other
    # problems keep the engine busy meanwhile.
    for t in range(len(small_steps)):
      kept = small_steps[:t]
      known = ()
      if t and can_reuse:
        left = driver.tokens_left(kept, plan.sampling.max_tokens)
        known = known_rest(written, small_steps[t - 1], left)
      if not plan.reuse:
        # An empty cache for each request: its tokens and seconds then do not
        # depend on the completions before it.
        sessions.close()
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
  """Opens a new session, which ends when the stack unwinds."""
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
  """Grades what `engine` wrote after the steps `kept`, as a completion."""
  prefix, text = steps_lib.join(kept), steps_lib.join(written)
  usage = steps_lib.call_usage(written)
  return types.Completion(
      step=len(kept),
      route=engine.route,
      sample=sample,
      text=text,
      # All prompt tokens count as read: at a live hand-over none is cached.
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
  """Returns the completion of the next longer prefix, if it is known already.

  It is known, under greedy decoding, if `written` begins with exactly the text
  of `small_step`, ends by itself, and the rest of it fits the token limit.

  Args:
    written: the completion of a prefix.
    small_step: the small model's step that extends this prefix by one.
    tokens_left: tokens that may follow the longer prefix.

  Returns:
    The steps of the known completion; empty if it must be generated. Each has
    its share of the seconds, in proportion to its tokens.
  """
  if not written or written[0].text != small_step.text:
    return ()
  # The text decides, not the tokens: a prompt holds text only, and the larger
  # model reads it with its own tokenizer whoever wrote it.
  rest = written[1:]
  count = steps_lib.count_written(rest)
  # A completion that was cut by its limit might go on from the longer prefix,
  # because the small model's step may have used fewer tokens of the limit.
  if not rest or not rest[-1].is_final or count > tokens_left:
    return ()
  # The seconds of single steps are shares of batches that served many requests;
  # shares by tokens of the whole call vary less.
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
