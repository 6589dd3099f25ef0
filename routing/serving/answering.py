"""Answers a question through the driver, and looks after what may go wrong."""

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Sequence
import contextlib
import dataclasses
import functools
import hashlib
import random
from typing import Any

from routing import costs
from routing import types
from routing.engines import engine as engine_lib
from routing.outcomes import live_answers
from routing.rollout import driver
from routing.routers import learned
from routing.serving import back_ends
from routing.serving import batched_decisions
from routing.serving import feedback as feedback_lib
from routing.serving import ledger as ledger_lib
from routing.serving import monitoring
from routing.serving import points as points_lib
from routing.serving import record as record_lib
from routing.serving import refusals
from routing.serving import settings as settings_lib
from routing.serving import store as store_lib
from routing.serving import waiting_room

# Who pays in the ledger for answers that no client asked for; no key can be
# called so.
SHADOW = '(shadow)'


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
  is_shown: whether steps are shown as they come, and cannot be taken back.
  """

  id: str
  text: str
  choice: points_lib.Choice
  sampling: driver.Sampling
  seed: int
  sample: int = 0
  owner: str = ''
  is_shown: bool = False


class Service:
  """A router with its engines, ready to answer.

  Args:
    answering: how engines answer; the same as in evaluation.
    engines: one per route, smallest first; the caller closes them.
    router: the router, with operating points.
    settings: of the service.
    store: keeps what outlives a restart.
    rng: draws which answers have a shadow.
  """

  def __init__(
      self,
      answering: live_answers.Answering,
      engines: Sequence[engine_lib.Engine],
      router: learned.LearnedRouter,
      settings: settings_lib.Settings,
      store: store_lib.Store,
      rng: random.Random | None = None,
  ):
    self.answering, self.router = answering, router
    self.settings, self.store = settings, store
    self.metrics = monitoring.Metrics()
    self.health = back_ends.Health(
        settings.retry_down_after, self.metrics.back_end
    )
    self.engines = [
        back_ends.WatchedEngine(engine, self.health) for engine in engines
    ]
    self.specs = answering.accounting.specs
    self.ledger = ledger_lib.Ledger(store, self.specs)
    self.feedback = feedback_lib.Feedback(
        router, settings, store, answering.grade, self._on_alarm
    )
    self.batches = batched_decisions.BatchedDecisions(
        router, self.metrics.batch.observe
    )
    self.points = points_lib.Points(
        router, settings.point, self.batches.at, self.feedback.threshold
    )
    self.room = waiting_room.WaitingRoom(settings.concurrency, settings.queue)
    self.metrics.running.set_function(lambda: self.room.num_running)
    self.metrics.waiting.set_function(lambda: self.room.num_waiting)
    for engine in self.engines:
      self.metrics.back_end_up.labels(engine.name).set(1)
    for point, is_raised in self.feedback.alarms().items():
      self.metrics.alarm.labels(point).set(is_raised)
    if (threshold := self.feedback.threshold) is not None:
      self.metrics.threshold.set_function(lambda: threshold()[1])
    self._rng = rng or random.Random()
    self._shadows: set[asyncio.Task] = set()

  def sampling(
      self, temperature: float | None, max_tokens: int | None
  ) -> driver.Sampling:
    """Returns the configured sampling with what a request changes of it.

    The configured limit of tokens holds besides a larger one: the answer is
    then cut off there, and says so.
    """
    sampling = self.answering.sampling
    if temperature is not None:
      sampling = dataclasses.replace(sampling, temperature=temperature)
    if max_tokens is not None:
      limit = min(max_tokens, sampling.max_tokens)
      sampling = dataclasses.replace(sampling, max_tokens=limit)
    return sampling

  def check_question(self, text: str, param: str) -> None:
    """Raises the refusal of a question that a model cannot read."""
    for engine in self.engines:
      if engine.capabilities.counts_tokens:
        try:
          engine.count_tokens(text, '')
        except ValueError as error:
          raise refusals.Refusal(
              400, str(error), param=param, code='question_refused'
          ) from error

  async def close(self) -> None:
    """Waits for answers in the background."""
    await asyncio.gather(*self._shadows, return_exceptions=True)

  def _on_alarm(self, point: str) -> None:
    """Says that the promise of a point no longer holds."""
    self.metrics.alarm.labels(point).set(1)
    monitoring.log('drift_alarm', level='ERROR', point=point)

  def in_trouble(self, choice: points_lib.Choice) -> tuple[str, Any] | None:
    """Returns why something else must answer, and what; None if nothing must.

    Raises:
      refusals.Refusal: if a back end is down, and nothing else may answer.
    """
    if self.settings.alarm_falls_back and choice.point is not None:
      if self.feedback.alarms().get(choice.point.name):
        largest = self.points.alone(len(self.specs) - 1)
        return 'drift_alarm', self._without(None, largest)
    needed = range(len(self.specs)) if choice.alone is None else [choice.alone]
    for route in needed:
      if self.health.is_down(route):
        return 'back_end_down', self.fall_back(choice, route)
    return None

  def fall_back(
      self, choice: points_lib.Choice, route: int
  ) -> points_lib.Choice:
    """Returns what answers for a choice while the back end of a route is down.

    Raises:
      refusals.Refusal: if nothing does.
    """
    name = self.settings.fall_back
    # A model that was asked for by its name is not replaced by another.
    if name != 'none' and choice.alone is None:
      last = len(self.specs) - 1 if name == 'large' else 0
      return self._without(route, self.points.alone(last))
    raise self._down(route)

  def _without(
      self, route: int | None, choice: points_lib.Choice
  ) -> points_lib.Choice:
    """Returns the choice, unless its model is that of `route` or is down."""
    if choice.alone == route or self.health.is_down(choice.alone):
      raise self._down(choice.alone)
    return choice

  def _down(self, route: int) -> refusals.Refusal:
    return refusals.back_end_down(
        self.specs[route].name, max(1.0, self.settings.retry_down_after)
    )

  def pay(self, owner: str, usage: types.Usage) -> None:
    """Writes down what a call has used."""
    self.ledger.pay(owner, usage)
    name = self.specs[usage.route].name
    for kind in ('read', 'cached', 'written'):
      self.metrics.tokens.labels(name, kind).inc(getattr(usage, kind))

  async def drive(self, question: Question, writing: 'Writing') -> None:
    """Answers a question; `writing` then has the answer, and what answered.

    Raises:
      refusals.Refusal: if it cannot be answered.
    """
    if (trouble := self.in_trouble(question.choice)) is not None:
      self._fall_back_to(*trouble, writing)
    try:
      await self._answer(question, writing.choice, writing.record)
    except back_ends.BackEndDown as error:
      # The failure may come from the end of a session whose client has gone.
      if asyncio.current_task().cancelling():
        raise
      # Steps that a client has seen are not taken back.
      is_seen = question.is_shown and not writing.record.is_empty
      if is_seen or writing.choice is not question.choice:
        raise self._down(error.route) from error
      other = self.fall_back(question.choice, error.route)
      self._fall_back_to('back_end_down', other, writing)
      try:
        await self._answer(question, other, writing.record)
      except back_ends.BackEndDown as second:
        raise self._down(second.route) from second

  def _fall_back_to(
      self, reason: str, choice: points_lib.Choice, writing: 'Writing'
  ) -> None:
    """Notes that another choice answers, from the beginning."""
    self.metrics.fall_backs.labels(reason).inc()
    monitoring.log('fall_back', level='WARNING', reason=reason, to=choice.name)
    writing.choice = choice
    writing.record.restart(choice.threshold_at)

  async def _answer(
      self,
      question: Question,
      choice: points_lib.Choice,
      record: record_lib.Record,
  ) -> None:
    """Runs the driver, as evaluation does."""
    # The name of a problem seeds its requests; the same question has the same.
    digest = hashlib.sha256(question.text.encode()).hexdigest()
    problem = types.Problem(f'served/{digest}', question.text, '')
    try:
      await driver.answer(
          problem,
          choice.router,
          self.engines,
          protocol=choice.protocol,
          accounting=self.answering.accounting,
          grade=None,
          seed=question.seed,
          sampling=question.sampling,
          sample=question.sample,
          watcher=record,
      )
    except engine_lib.Refused as error:
      raise refusals.Refusal(
          400, str(error), param='messages', code='question_refused'
      ) from error

  @contextlib.asynccontextmanager
  async def writing(self, question: Question) -> AsyncIterator['Writing']:
    """Lets a question be answered in its turn; ends it with the context."""
    writing = Writing(self, question)
    try:
      yield writing
    finally:
      await writing.end()

  def remember(self, question: Question, writing: 'Writing') -> None:
    """Keeps a finished answer for its feedback; may answer it a second time."""
    is_shadowed = (
        writing.choice.alone is None
        # Under load fewer have one: that says nothing of how good they are.
        and len(self._shadows) <= self.settings.queue
        and self._rng.random() < self.settings.shadow_share
    )
    largest = len(self.specs) - 1
    self.store.add_answer(
        question.id,
        owner=question.owner,
        model=writing.choice.name,
        text=writing.record.text,
        is_all_large=all(x.route == largest for x in writing.record.steps),
        is_shadowed=is_shadowed,
    )
    if is_shadowed:
      task = asyncio.get_running_loop().create_task(self._shadow(question))
      self._shadows.add(task)
      task.add_done_callback(self._shadows.discard)

  async def _shadow(self, question: Question) -> None:
    """Has the largest model alone answer a question, for its feedback."""
    choice = self.points.alone(len(self.specs) - 1)
    record = record_lib.Record(
        self.specs,
        choice.threshold_at,
        pay=lambda usage: self.pay(SHADOW, usage),
    )
    try:
      async with self.room.turn():
        await self._answer(question, choice, record)
    except Exception as error:  # It is nobody's answer, so nobody is told.
      monitoring.log(
          'shadow_failed',
          level='WARNING',
          id=question.id,
          reason=type(error).__name__,
      )
      return
    self.metrics.shadows.inc()
    self.store.add_shadow(question.id, record.text)


class Writing:
  """One answer while it is being written.

  Args:
    service: writes it.
    question: the question.

  Attributes:
    record: what is known of the answer so far.
    choice: what answers; another one after a fall-back.
  """

  def __init__(self, service: Service, question: Question):
    self._service, self._question = service, question
    self._steps: asyncio.Queue[types.Step | None] = asyncio.Queue()
    self.choice = question.choice
    self.record = record_lib.Record(
        service.specs,
        question.choice.threshold_at,
        finders=question.sampling.finders,
        pay=lambda usage: service.pay(question.owner, usage),
        on_step=self._steps.put_nowait,
    )
    self._task = asyncio.get_running_loop().create_task(self._run())
    self._task.add_done_callback(lambda task: self._steps.put_nowait(None))

  async def steps(self) -> AsyncIterator[types.Step]:
    """Yields the steps of the answer as they come.

    If another model has to begin anew, steps come again from the first;
    `record` then has the right ones. That is never so where steps are shown.

    Raises:
      refusals.Refusal: if the answer fails.
    """
    while (step := await self._steps.get()) is not None:
      yield step
    if not self._task.cancelled():  # Given up by `end`.
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
    self._task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
      await self._task
    self.record.close()

  async def _run(self) -> None:
    """Waits for a turn, and answers."""
    async with self._service.room.turn():
      self.record.begin()
      try:
        await self._service.drive(self._question, self)
      finally:
        self.record.close()
