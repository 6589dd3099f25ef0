"""Requests for the next step, or for the rest of an answer.

Collection, live evaluation, serving, and systems that write whole answers all
ask models through `write`. So equal requests have equal seeds and limits.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses

import numpy as np

from routing import types
from routing.engines import boundaries
from routing.engines import engine as engine_lib
from routing.rollout import seeds
from routing.rollout import steps as steps_lib
from routing.tasks import delimiter as delimiter_lib


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
    on_step: Callable[[int, types.Step], None] | None = None,
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
    on_step: see `engine.Request`.

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
      seed=seeds.of_request(seed, problem.id, len(kept), session.route, sample),
      delimiter=sampling.delimiter,
      on_step=on_step,
  )
  written = await session.write(request)
  return steps_lib.until_answer(written, request.trace, sampling.finders)
