"""Answers a question through the driver, and looks after what may go wrong."""

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import hashlib
import random
from typing import Any

from routing import types
from routing.engines import engine as engine_lib
from routing.outcomes import live_answers
from routing.rollout import driver
from routing.rollout import step_requests
from routing.routers import card as card_lib
from routing.routers import learned
from routing.serving import back_ends
from routing.serving import batched_decisions
from routing.serving import feedback as feedback_lib
from routing.serving import ledger as ledger_lib
from routing.serving import monitoring
from routing.serving import openai_schema
from routing.serving import points as points_lib
from routing.serving import record as record_lib
from routing.serving import refusals
from routing.serving import settings as settings_lib
from routing.serving import shadows
from routing.serving import store as store_lib
from routing.serving import tracing as tracing_lib
from routing.serving import waiting_room
from routing.serving import writing as writing_lib


class Service:
  """A router with its engines, ready to answer.

  Args:
    answering: how engines answer; the same as in evaluation.
    engines: one per route, smallest first; the caller closes them.
    router: the router, with operating points.
    settings: of the service.
    store: keeps what outlives a restart.
    rng: draws which answers have a shadow.
    tracing: makes spans.
    example: a question that the chat page offers; '' = none.
    unpromised: name of a point -> why its promise holds for no answer here,
      e.g. since the models are others than in calibration.

  Raises:
    ValueError: if a model cannot sample as `answering` says.
  """

  def __init__(
      self,
      answering: live_answers.Answering,
      engines: Sequence[engine_lib.Engine],
      router: learned.LearnedRouter,
      settings: settings_lib.Settings,
      store: store_lib.Store,
      rng: random.Random | None = None,
      tracing: tracing_lib.Tracing = tracing_lib.OFF,
      example: str = '',
      unpromised: Mapping[str, str] | None = None,
  ):
    back_ends.check_temperatures(engines, answering.sampling)
    self.answering, self.router = answering, router
    self.settings, self.store, self.tracing = settings, store, tracing
    self.example, self.unpromised = example, dict(unpromised or {})
    self.metrics = monitoring.Metrics()
    self.health = back_ends.Health(
        settings.retry_down_after,
        self.metrics.back_end,
        lambda name: self.metrics.back_end_errors.labels(name).inc(),
    )
    self.engines = [
        back_ends.WatchedEngine(engine, self.health) for engine in engines
    ]
    self.specs = answering.accounting.specs
    self.ledger = ledger_lib.Ledger(store, self.specs)
    self.feedback = feedback_lib.Feedback(
        router,
        settings,
        store,
        answering.grade,
        self._on_alarm,
        self._on_loss,
    )
    self.batches = batched_decisions.BatchedDecisions(
        router,
        self.metrics.batch.observe,
        lambda: self.room.num_running == 1,
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
    self._shadows = shadows.Shadows(self, rng or random.Random())

  def sampling(
      self, temperature: float | None, max_tokens: int | None
  ) -> step_requests.Sampling:
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

  def choose(
      self,
      body: openai_schema.Asked | openai_schema.Decision,
      sampling: step_requests.Sampling | None = None,
  ) -> points_lib.Choice:
    """Returns what answers a request.

    Args:
      body: of the request.
      sampling: of the answer; None = that of the calibration.

    Raises:
      refusals.Refusal: see `points.Points.choose`.
    """
    return self.points.choose(
        body.model, body.routing, lambda point: self.why_void(point, sampling)
    )

  def why_void(
      self,
      point: card_lib.OperatingPoint,
      sampling: step_requests.Sampling | None = None,
  ) -> str | None:
    """Returns why the promise of a point does not hold; None if it does.

    Args:
      point: the operating point.
      sampling: see `choose`.
    """
    return points_lib.why_void(
        point,
        sampling or self.answering.sampling,
        self.answering.sampling,
        self.unpromised,
        is_alarm=self.feedback.alarms().get(point.name, False),
    )

  def engines_of(
      self, choice: points_lib.Choice
  ) -> Sequence[back_ends.WatchedEngine]:
    """Returns the engines that may write the answer of a choice."""
    return (
        self.engines if choice.alone is None else [self.engines[choice.alone]]
    )

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
    """Waits for answers in the background, and writes down what they took."""
    await self._shadows.wait()
    self.ledger.flush()

  def give_up_shadows(self) -> None:
    """Ends answers in the background, which nobody is told of."""
    self._shadows.give_up()

  def _on_alarm(self, point: str) -> None:
    """Says that the promise of a point no longer holds."""
    self.metrics.alarm.labels(point).set(1)
    monitoring.log('drift_alarm', level='ERROR', point=point)

  def _on_loss(self, model: str, loss: float) -> None:
    """Counts what the relative loss in service is estimated from."""
    self.metrics.graded_shadows.labels(model).inc()
    self.metrics.losses.labels(model).inc(loss)

  def in_trouble(
      self, choice: points_lib.Choice, who: object
  ) -> tuple[str, Any] | None:
    """Returns why something else must answer, and what; None if nothing must.

    Args:
      choice: what was asked for.
      who: the answer; see `back_ends.Health.may_ask`.

    Raises:
      refusals.Refusal: if a back end is down, and nothing else may answer.
    """
    if self.settings.alarm_falls_back and choice.point is not None:
      if self.feedback.alarms().get(choice.point.name):
        largest = self.points.alone(len(self.specs) - 1)
        return 'drift_alarm', self._without(None, largest, who)
    for engine in self.engines_of(choice):
      if not self.health.may_ask(engine.route, who):
        return 'back_end_down', self.fall_back(choice, engine.route, who)
    return None

  def fall_back(
      self, choice: points_lib.Choice, route: int, who: object
  ) -> points_lib.Choice:
    """Returns what answers for a choice while the back end of a route is down.

    Raises:
      refusals.Refusal: if nothing does.
    """
    name = self.settings.fall_back
    # A model that was asked for by its name is not replaced by another.
    if name != 'none' and choice.alone is None:
      last = len(self.specs) - 1 if name == 'large' else 0
      return self._without(route, self.points.alone(last), who)
    raise self._down(route)

  def _without(
      self, route: int | None, choice: points_lib.Choice, who: object
  ) -> points_lib.Choice:
    """Returns the choice, unless its model is that of `route` or is down."""
    if choice.alone == route or not self.health.may_ask(choice.alone, who):
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
      if count := getattr(usage, kind):  # A step has mostly one kind.
        self.metrics.tokens.labels(name, kind).inc(count)

  def pay_given_up(
      self, question: writing_lib.Question, record: record_lib.Record
  ) -> None:
    """Pays for the call in progress of an answer that was given up.

    A back end that tells nothing before the end of a call never says what this
    one has used: the whole prompt is counted as read, and no text.
    """
    if record.in_call is None:
      return
    engine = self.engines[record.in_call]
    if not engine.capabilities.tells_steps:
      read = (
          engine.count_tokens(question.text, record.text)
          if engine.capabilities.counts_tokens
          # There are about four bytes to a token.
          else len((question.text + record.text).encode()) // 4
      )
      self.pay(question.owner, types.Usage(engine.route, read, 0, 0))

  async def drive(
      self, question: writing_lib.Question, writing: writing_lib.Writing
  ) -> None:
    """Answers a question; `writing` then has the answer, and what answered.

    Raises:
      refusals.Refusal: if it cannot be answered.
    """
    try:
      await self._drive(question, writing)
    finally:
      self.health.leave(writing)

  async def _drive(
      self, question: writing_lib.Question, writing: writing_lib.Writing
  ) -> None:
    """Answers a question; falls back where a back end fails."""
    trouble = self.in_trouble(question.choice, writing)
    if trouble is not None:
      self._fall_back_to(*trouble, writing)
    try:
      await self.write_answer(question, writing.choice, writing.record)
    except back_ends.BackEndDown as error:
      # Steps that a client has seen are not taken back.
      is_seen = question.is_shown and bool(writing.record.num_shown)
      if is_seen or writing.choice is not question.choice:
        raise self._down(error.route) from error
      other = self.fall_back(question.choice, error.route, writing)
      self._fall_back_to('back_end_down', other, writing)
      try:
        await self.write_answer(question, other, writing.record)
      except back_ends.BackEndDown as second:
        raise self._down(second.route) from second

  def _fall_back_to(
      self, reason: str, choice: points_lib.Choice, writing: writing_lib.Writing
  ) -> None:
    """Notes that another choice answers, from the beginning."""
    self.metrics.fall_backs.labels(reason).inc()
    monitoring.log('fall_back', level='WARNING', reason=reason, to=choice.name)
    writing.choice, writing.reason = choice, reason
    writing.record.restart(choice.threshold_at)

  async def write_answer(
      self,
      question: writing_lib.Question,
      choice: points_lib.Choice,
      record: record_lib.Record,
  ) -> None:
    """Runs the driver, as evaluation does."""
    # The name of a problem seeds its requests; the same question has the same.
    digest = hashlib.sha256(question.text.encode()).hexdigest()
    problem = types.Problem(f'served/{digest}', question.text, '')
    try:
      with self.tracing.answer(
          choice.name, question.id, record, self.specs
      ) as watcher:
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
            watcher=watcher,
        )
    except back_ends.BackEndDown as error:
      # The end of a session has failed whose client has gone: the answer was
      # given up, and what was being written is still to be paid.
      if asyncio.current_task().cancelling():
        raise asyncio.CancelledError from error
      raise
    except engine_lib.Refused as error:
      message = str(error)
      if error.is_quoted:
        reason = message[:500]
        monitoring.log('question_refused', level='WARNING', reason=reason)
        message = 'The back end refuses the question.'
      raise refusals.Refusal(
          400, message, param=question.field, code='question_refused'
      ) from error

  @contextlib.asynccontextmanager
  async def writing(
      self,
      question: writing_lib.Question,
      on_end: Callable[[], None] = lambda: None,
  ) -> AsyncIterator[writing_lib.Writing]:
    """Answers a question when there is room; stops when the context is left.

    Args:
      question: the question.
      on_end: called when it was answered or given up, maybe before the context
        ends.
    """
    writing = writing_lib.Writing(self, question, on_end)
    try:
      yield writing
    finally:
      await writing.end()

  def remember(
      self, question: writing_lib.Question, writing: writing_lib.Writing
  ) -> None:
    """Keeps a finished answer for its feedback; may answer it a second time."""
    is_shadowed = self._shadows.draw(writing.choice)
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
      self._shadows.begin(question)
