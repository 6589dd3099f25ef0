"""One request for completions: its questions, their answers, what is sent."""

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
import secrets
from typing import Any
import uuid

from routing import types
from routing.serving import answering
from routing.serving import keys as keys_lib
from routing.serving import openai_answers
from routing.serving import openai_schema
from routing.serving import refusals
from routing.serving import stop_strings
from routing.serving import waiting_room
from routing.serving import writing as writing_lib


class Exchange:
  """The answers to one request.

  Args:
    service: answers.
    body: of the request.
    key: who pays.
    arrived: when the request came; see `record.Record`.

  Raises:
    refusals.Refusal: if the request asks for what there is not.
  """

  def __init__(
      self,
      service: answering.Service,
      body: openai_schema.Chat | openai_schema.Completion,
      key: keys_lib.Key,
      arrived: float | None = None,
  ):
    self._arrived = arrived
    self.service, self.body = service, body
    body.check()
    self._stops = body.stops()
    self._wants_logprobs = body.wants_logprobs()
    self._sampling = service.sampling(body.temperature, body.limit())
    self.choice = service.choose(body, self._sampling)
    self._check_engines()
    texts = body.questions()
    count = (body.n or 1) * len(texts)
    # More than have room at once would find the queue full for ever.
    allowed = min(service.settings.max_choices, service.room.size)
    if count > allowed:
      raise refusals.invalid(
          'n',
          f'{count} answers are asked for; allowed: at most {allowed} in one '
          'request.',
      )
    self.id = f'{body.ID_BEGINNING}-{uuid.uuid4().hex}'
    self.questions = [
        # Each answer has an id of its own, for its feedback.
        dataclasses.replace(x, id=f'{self.id}-{i}') if count > 1 else x
        for i, x in enumerate(self._questions(texts, key))
    ]
    self._format = openai_answers.Format(
        service,
        self.id,
        is_chat=isinstance(body, openai_schema.Chat),
        wants_logprobs=self._wants_logprobs,
    )

  def _check_engines(self) -> None:
    """Raises the refusal of what a back end that may answer cannot do."""
    temperature = self.body.temperature
    for engine in self.service.engines_of(self.choice):
      given = engine.capabilities
      if temperature is not None and given.temperature not in (
          None,
          temperature,
      ):
        raise refusals.unsupported(
            'temperature',
            f'{engine.name!r} samples at {given.temperature} only.',
        )
      if self._wants_logprobs and not (
          given.num_log_probs and given.names_tokens
      ):
        raise refusals.unsupported(
            'logprobs', f'the back end of {engine.name!r} does not give them.'
        )

  def _questions(
      self, texts: Sequence[str], key: keys_lib.Key
  ) -> Iterable[writing_lib.Question]:
    """Yields the questions, `n` times each."""
    service, body, sampling = self.service, self.body, self._sampling
    seed = body.seed
    if seed is None:
      # What was evaluated has the configured seed; a client that samples and
      # names no seed expects another answer each time.
      is_same = body.temperature is None or sampling.is_greedy
      seed = service.answering.seed if is_same else secrets.randbits(31)
    for text in texts:
      most = service.settings.max_question_characters
      refusals.check_question(text, most, body.QUESTION_FIELD)
      service.check_question(text, body.QUESTION_FIELD)
      for sample in range(body.n or 1):
        yield writing_lib.Question(
            id=self.id,
            text=text,
            field=body.QUESTION_FIELD,
            choice=self.choice,
            sampling=sampling,
            seed=seed,
            sample=sample,
            owner=key.name,
            is_shown=bool(body.stream),
            arrived=self._arrived,
        )

  async def whole(self) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the body and the headers of a response that is no stream."""
    with self.service.room.admitted(len(self.questions)) as places:
      async with contextlib.AsyncExitStack() as stack:
        answers = [await self._open(stack, x, places) for x in self.questions]
        # Ending the stack gives up the others when one fails.
        await asyncio.gather(*map(self._read, answers))
    for answer in answers:
      self._finish(answer)
    return self._format.whole(answers)

  async def events(self) -> AsyncIterator[list[dict[str, Any]]]:
    """Yields the chunks of a stream, those of steps that came together in one.

    The last chunk has usage and routing.

    Raises:
      refusals.Refusal: if an answer fails.
    """
    with self.service.room.admitted(len(self.questions)) as places:
      async with contextlib.AsyncExitStack() as stack:
        answers = [await self._open(stack, x, places) for x in self.questions]
        left = len(answers)
        async with contextlib.aclosing(_merged(answers)) as merged:
          async for index, steps in merged:
            answer = answers[index]
            if not steps:
              left -= 1
              answer.writing.record.close()
              try:
                yield list(self._ended(index, answer, answers, not left))
              finally:
                self._finish(answer)  # The client need not wait for it.
            elif not answer.is_stopped:
              first, record = answer.num_sent, answer.writing.record
              chunks = self._chunks(index, answer, steps)
              # It is asked for the next ones when these were sent.
              with record.writing(range(first, answer.num_sent)):
                yield chunks
              if answer.is_stopped:
                await answer.writing.end()

  def _chunks(
      self, index: int, answer: openai_answers.Answer, steps: list[types.Step]
  ) -> list[dict[str, Any]]:
    """Returns the chunks of steps, up to a stop string."""
    chunks = []
    for step in steps:
      if not answer.is_stopped:
        with answer.writing.record.writing([answer.num_sent]):
          chunks.append(self._format.step(index, answer, step, self._stops))
    return chunks

  async def _open(
      self,
      stack: contextlib.AsyncExitStack,
      question: writing_lib.Question,
      places: waiting_room.Places,
  ) -> openai_answers.Answer:
    """Begins an answer, which ends with the stack."""
    writing = await stack.enter_async_context(
        self.service.writing(question, places.leave)
    )
    return openai_answers.Answer(question, writing)

  async def _read(self, answer: openai_answers.Answer) -> None:
    """Reads an answer to its end, or to a stop string."""
    writing = answer.writing
    async for _ in writing.runs():
      # The whole text, since another model may have begun anew.
      if stop_strings.end(writing.record.text, self._stops) is not None:
        await writing.end()
        break
    at = stop_strings.end(writing.record.text, self._stops)
    answer.is_stopped, answer.text = at is not None, writing.record.text[:at]

  def _ended(
      self,
      index: int,
      answer: openai_answers.Answer,
      answers: Sequence[openai_answers.Answer],
      is_last: bool,
  ) -> Iterator[dict[str, Any]]:
    """Yields the last chunks of an answer and, with the last one, the sums."""
    options = self.body.stream_options
    has_own_chunk = options is not None and options.include_usage
    yield self._format.end(
        index, answer, answers if is_last and not has_own_chunk else ()
    )
    if is_last and has_own_chunk:
      yield self._format.sums(answers)

  def _finish(self, answer: openai_answers.Answer) -> None:
    """Keeps a finished answer, and counts it."""
    service, record = self.service, answer.writing.record
    record.close()
    with record.writing([max(len(record.steps) - 1, 0)]):
      service.remember(answer.question, answer.writing)
      service.metrics.add(
          self.choice.name,
          record,
          [spec.name for spec in service.specs],
          answer.writing.large_alone,
      )


async def _merged(
    answers: Sequence[openai_answers.Answer],
) -> AsyncIterator[tuple[int, list[types.Step]]]:
  """Yields (index, steps) of several answers as they come; no steps = ended.

  Raises:
    Exception: the first error of any of them.
  """
  if len(answers) == 1:  # Mostly so; one can be waited for without a task.
    async with contextlib.aclosing(answers[0].writing.runs()) as runs:
      async for steps in runs:
        yield 0, steps
    yield 0, []
    return
  found: asyncio.Queue[tuple[int, list[types.Step] | Exception]] = (
      asyncio.Queue()
  )

  async def read(index: int, answer: openai_answers.Answer) -> None:
    try:
      async for steps in answer.writing.runs():
        found.put_nowait((index, steps))
      found.put_nowait((index, []))
    except Exception as error:  # It is raised below, where the client is.
      found.put_nowait((index, error))

  tasks = [
      asyncio.get_running_loop().create_task(read(*pair))
      for pair in enumerate(answers)
  ]
  left = len(answers)
  try:
    while left:
      index, item = await found.get()
      if isinstance(item, Exception):
        raise item
      left -= not item
      yield index, item
  finally:
    for task in tasks:
      task.cancel()
