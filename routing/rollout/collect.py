"""Collects ladders: the small model's answer, and graded hand-overs from it.

From each step prefix of the small model's answer, each larger model writes a
completion, i.e. the rest of the answer. Under greedy decoding not every
completion must be generated. If the completion of one prefix begins with
exactly the small model's next step, then the rest of this completion is also
the completion of the next longer prefix.
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
from routing.rollout import step_requests
from routing.rollout import steps as steps_lib

Record = TypeVar('Record')  # The data of one problem, e.g. a `types.Ladder`.
Result = TypeVar('Result')
Sink = Callable[[int, types.Ladder], None]
# Errors that concern one problem. All others end the collection.
Failure = engine_lib.Refused | engine_lib.Unavailable


class StayRouter:
  """A router that never hands over: the small model writes the whole answer."""

  def decide(self, trace: types.Trace) -> types.Decision:
    """Chooses route 0, whatever the trace is."""
    del trace
    return types.Decision(route=0, score=0.0)


@dataclasses.dataclass(frozen=True)
class Plan:
  """Settings of a ladder collection; equal plans give equal ladders.

  sampling: sampling settings and limits of every answer.
  seed: of the collection; the seed of each request is derived from it.
  num_samples: number of completions per prefix and larger model. It must be 1
    at temperature 0, where all samples would be equal.
  reuse: whether to reuse a greedy completion where the completion of a shorter
    prefix contains it, and to keep the prefix cache between the completions of
    a problem. Both save time: the recorded tokens are the same with and without
    reuse, but the recorded seconds are lower with it.
  """

  sampling: step_requests.Sampling
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
    """True if every model always writes its most likely token."""
    return self.sampling.is_greedy


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
    engines: A >= 2 engines, smallest model first; each must accept concurrent
      requests.
    sink: called with (index of the problem, its ladder) when a ladder is
      complete; ladders are completed in any order.
    plan: settings of the collection.
    grade: the grader of final answers.
    **loop: `concurrency` and the other keyword arguments of `collect_each`.

  Raises:
    ValueError: if there are fewer than 2 engines, or the smallest model's
      engine cannot continue a half-written answer.
    Exception: as `collect_each` does.
  """
  if len(engines) < 2:
    raise ValueError(f'A ladder needs 2 engines or more, got {len(engines)}.')
  # Only the small model must be able to continue a half-written answer, because
  # it writes step by step. A larger model may instead be shown the kept steps
  # in its instruction (mode 'instruct').
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
    on_failed: Callable[[int, Failure], None] | None = None,
    may_begin: Callable[[int], Awaitable[bool]] | None = None,
    stopped: asyncio.Event | None = None,
) -> None:
  """Collects one record per problem, many problems concurrently.

  Args:
    problems: the problems; they are started in this order.
    collect_one: returns the record of a problem, e.g. its ladder.
    sink: called with (index of the problem, its record) when a record is
      complete; records are completed in any order.
    concurrency: the largest number of problems in progress at a time.
    on_begin: called before each problem, e.g. to update a progress bar.
    on_done: called after each problem.
    on_failed: called with (index of the problem, error) when an engine raised
      `engine.Refused`, i.e. a request would fail again if repeated, or
      `engine.Unavailable`, i.e. it may succeed later. The problem gets no
      record, and the others continue. None = raise the error.
    may_begin: called with the index of the next problem; it may wait. If it
      returns False, the problem is skipped. None = all may begin.
    stopped: set once `may_begin` returns only False, for collectors that wait
      before they ask it; this one does not.

  Raises:
    ValueError: if `concurrency` < 1.
    Exception: the first error of `collect_one` or `sink`, with a note that
      names the problem. The other problems in progress are cancelled first.
  """
  del stopped
  if concurrency < 1:
    raise ValueError(f'concurrency is {concurrency}; allowed: >= 1.')
  # Workers take problems from this iterator. They need no lock, since they run
  # on one event loop and do not await while they take an item.
  waiting = iter(enumerate(problems))

  async def work() -> None:
    for index, problem in waiting:
      if may_begin is not None and not await may_begin(index):
        continue
      on_begin()
      try:
        # At once, so that a killed process loses as few records as possible.
        sink(index, await collect_one(problem))
      except Exception as error:
        if on_failed is None or not isinstance(error, Failure):
          # Not a new exception, because callers catch the error by its type.
          error.add_note(f'while collecting problem {problem.id}')
          raise
        on_failed(index, error)
      on_done()

  await together(work() for _ in range(min(concurrency, len(problems))))


async def together(
    coroutines: Iterable[Coroutine[Any, Any, Result]],
) -> list[Result]:
  """Runs coroutines concurrently and returns their results, in order.

  If one of the coroutines fails, the others are cancelled and its error is
  raised.
  """
  try:
    async with asyncio.TaskGroup() as group:
      tasks = [group.create_task(coroutine) for coroutine in coroutines]
  except* Exception as errors:
    # The bare error instead of an exception group, so that callers can catch
    # it by its type.
    raise errors.exceptions[0] from None
  return [task.result() for task in tasks]


async def collect_ladder(
    problem: types.Problem,
    engines: Sequence[engine_lib.Engine],
    plan: Plan,
    grade: equivalence.Grader,
) -> types.Ladder:
  """Collects the ladder of one problem; arguments as in `collect_ladders`."""
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
  # A router makes at most T decisions, so there is no hand-over after T steps
  # or more, and no completion of such a prefix is needed.
  decided = trajectory.steps[: plan.sampling.max_decisions]
  per_model = await together(
      _complete_prefixes(problem, decided, engine, sample, plan, grade)
      for engine in engines[1:]
      for sample in range(plan.num_samples)
  )
  completions = [completion for found in per_model for completion in found]
  # `types.Ladder` promises this order; the models may finish in any other.
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
  """Returns one larger model's completions of all prefixes, shortest first.

  A hand-over is possible before each of `small_steps`.
  """
  completions, written = [], ()
  # No engine reports the prompt tokens of a completion that is reused instead
  # of requested. They must be counted here, with the engine's own tokenizer.
  can_reuse = (
      plan.reuse
      and plan.is_greedy
      and engine.capabilities.continues_prefix
      and engine.capabilities.counts_tokens
  )
  async with contextlib.AsyncExitStack() as sessions:
    session = await sessions.enter_async_context(engine.open(problem.question))
    # Completions are requested one after the other, because each may contain
    # the next one. Other problems keep the engine busy in the meantime.
    for t in range(len(small_steps)):
      kept = small_steps[:t]
      known = ()
      if t and can_reuse:
        left = step_requests.tokens_left(kept, plan.sampling.max_tokens)
        known = known_rest(written, small_steps[t - 1], left)
      if not plan.reuse:
        # A new session has an empty prefix cache. So the tokens and seconds of
        # a request do not depend on the completions before it.
        await sessions.aclose()
        session = await sessions.enter_async_context(
            engine.open(problem.question)
        )
      written = known or await step_requests.write(
          problem,
          kept,
          session,
          to_end=True,
          seed=plan.seed,
          sampling=plan.sampling,
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
  """Grades an answer that `engine` completed, and returns the completion.

  Args:
    problem: the problem.
    kept: the small model's steps before the hand-over.
    written: the steps that `engine` wrote after `kept`.
    engine: the engine of the larger model.
    grade: the grader of final answers.
    sample: index of the completion among the samples for the same prefix.
    is_reused: whether `written` comes from the completion of a shorter prefix.
  """
  prefix, text = steps_lib.join(kept), steps_lib.join(written)
  usage = steps_lib.call_usage(written)
  # All prompt tokens of the problem count as read, because at a live hand-over
  # the prefix cache of the larger model has none of them.
  able = engine.capabilities
  if able.counts_tokens:
    num_read = engine.count_tokens(problem.question, prefix)
  else:
    num_read = int(usage.read + usage.cached)
  cached = able.prefix_cache.found(0, num_read)
  return types.Completion(
      step=len(kept),
      route=engine.route,
      sample=sample,
      text=text,
      read=num_read - cached,
      cached=cached,
      written=int(usage.written),
      seconds=float(usage.seconds),
      is_correct=await driver.grade_text(grade, prefix + text, problem),
      is_reused=is_reused,
      is_cut=not written[-1].is_final,
  )


def known_rest(
    written: Sequence[types.Step], small_step: types.Step, tokens_left: int
) -> tuple[types.Step, ...]:
  """Returns the greedy completion of the next longer prefix, if it is known.

  The completion is known if `written` begins with exactly the text of
  `small_step`, was not cut off by the token limit, and its other steps fit the
  token limit after the longer prefix.

  Args:
    written: the larger model's steps after a prefix.
    small_step: the small model's step that extends this prefix by one step.
    tokens_left: number of tokens that may be written after the longer prefix.

  Returns:
    The steps of the completion; empty if the completion must be generated. The
    seconds of each step are its share, in proportion to its tokens, of the
    seconds of `written`.
  """
  if not written or written[0].text != small_step.text:
    return ()
  # Texts are compared, not token ids: a prompt holds text only, which the
  # larger model reads with its own tokenizer, whichever model wrote it.
  rest = written[1:]
  count = steps_lib.count_tokens(rest)
  # After the longer prefix, the token limit may allow more tokens, because the
  # small model's step may be shorter in tokens. A completion that was cut off
  # by the limit could then be longer, so it is not reused.
  if not rest or not rest[-1].is_final or count > tokens_left:
    return ()
  # The seconds of a single step depend on which other requests were in its
  # batch. A share of the whole call's seconds, by tokens, varies less.
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
