"""A question to the service, and its answer while it is being written."""

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Callable
import dataclasses
import functools
from typing import Any

from routing import costs
from routing import types
from routing.rollout import step_requests
from routing.serving import points as points_lib
from routing.serving import record as record_lib


@dataclasses.dataclass(frozen=True)
class Question:
  """A question and how it is to be answered.

  id: of the answer, under which feedback may come.
  text: the question.
  choice: what answers.
  sampling: temperature and limits.
  seed: of the sampling.
  sample: index among several answers to the question.
  owner: name of the key that pays.
  field: of the body that has the question.
  is_shown: whether steps are shown as they come, and cannot be taken back.
  arrived: when the request came; see `record.Record`.
  """

  id: str
  text: str
  choice: points_lib.Choice
  sampling: step_requests.Sampling
  seed: int
  sample: int = 0
  owner: str = ''
  field: str = 'messages'
  is_shown: bool = False
  arrived: float | None = None


class Writing:
  """One answer while it is being written.

  Args:
    service: an `answering.Service`, which writes it.
    question: the question.
    on_end: called when it was written or given up.

  Attributes:
    record: what is known of the answer so far.
    choice: what answers; another one after a fall-back.
    reason: of the fall-back, a name for programs; None = there was none.
  """

  def __init__(
      self,
      service: Any,
      question: Question,
      on_end: Callable[[], None] = lambda: None,
  ):
    self._service, self._question = service, question
    self._steps: asyncio.Queue[types.Step | None] = asyncio.Queue()
    self.choice, self.reason = question.choice, None
    self.record = record_lib.Record(
        service.specs,
        question.choice.threshold_at,
        finders=question.sampling.finders,
        pay=lambda usage: service.pay(question.owner, usage),
        on_step=self._steps.put_nowait,
        is_seen=question.is_shown,
        arrived=question.arrived,
    )
    self._has_given_up = False  # By `end`.
    self._task = asyncio.get_running_loop().create_task(self._run())
    self._task.add_done_callback(lambda task: on_end())
    self._task.add_done_callback(lambda task: self._steps.put_nowait(None))

  async def runs(self) -> AsyncIterator[list[types.Step]]:
    """Yields the steps of the answer as they come, in runs of one or more.

    Those that came since the last run are in one: a model that has taken over
    may write several in one call. If another model has to begin anew, steps
    come again from the first; `record` then has the right ones. That is never
    so where steps are shown.

    Raises:
      refusals.Refusal: if the answer fails.
    """
    is_over = False
    while not is_over:
      run = [await self._steps.get()]
      while not self._steps.empty():
        run.append(self._steps.get_nowait())
      if is_over := run[-1] is None:
        run.pop()
      if run:
        yield run
    if not self._has_given_up:
      await self._task

  @functools.cached_property
  def large_alone(self) -> dict[str, float | None]:
    """What the largest model alone would have cost, estimated; at the end.

    It reads the question and writes an answer of the same length. Cost metric
    -> cost; None for latency, which does not follow from lengths.
    """
    large, record = self._service.engines[-1], self.record
    read = record.prompt_tokens
    if large.capabilities.counts_tokens:
      read = large.count_tokens(self._question.text, '')
    usage = types.Usage(large.route, read, 0, record.completion_tokens)
    return {
        metric: None
        if metric == 'latency'
        else float(costs.call_cost(usage, self._service.specs[-1], metric))
        for metric in costs.COST_METRICS
    }

  async def end(self) -> None:
    """Gives the answer up, unless it is finished, and waits until it has."""
    self._has_given_up = True
    self._task.cancel()
    try:
      # This raises nothing of the task's own, but that the caller is cancelled.
      await asyncio.wait([self._task])
    finally:
      self.record.close()
    if not self._task.cancelled():
      self._task.exception()  # Looked at, so that asyncio does not log it.

  async def _run(self) -> None:
    """Waits until a place for an answer is free, then writes the answer."""
    has_to_wait = self._service.room.is_full
    async with self._service.room.turn():
      self.record.begin(has_waited=has_to_wait)
      try:
        await self._service.drive(self._question, self)
      except asyncio.CancelledError:
        self._service.pay_given_up(self._question, self.record)
        raise
      finally:
        self.record.close()
