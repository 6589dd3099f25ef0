"""Defines an engine that writes prepared texts, for tests without models.

A script maps a request to the text with which the model completes the answer.
Everything else (tokens, log-probabilities, seconds, prefix cache) follows from
this text by simple rules, so that costs can be checked by hand. A token is one
character, and writing it takes one second.
"""

import asyncio
from collections.abc import Callable
from collections.abc import Sequence
import dataclasses

import numpy as np

from routing import types
from routing.engines import engine as engine_lib
from routing.engines import segmentation
from routing.tasks import delimiter as delimiter_lib


@dataclasses.dataclass(frozen=True)
class Asked(engine_lib.Request):
  """A request as it reached the engine, with its question and its session.

  session: number of the session, from 0 in the order in which they were opened.
  """

  question: str = ''
  session: int = 0


Script = Callable[[Asked], str]
LogProbs = Callable[[str], np.ndarray]


def even_log_probs(text: str) -> np.ndarray:
  """Returns `[n]` float32, a log-probability of -0.5 for each character."""
  return np.full(len(text), -0.5, np.float32)


def recite(text: str) -> Script:
  """Returns a script for a model whose whole answer is `text`.

  The script skips as many characters of `text` as the trace has. It therefore
  also continues a trace that another model wrote, whatever its characters.
  """
  return lambda request: text[len(request.trace) :]


@dataclasses.dataclass
class ScriptedEngine:
  """An engine that writes the text that its script returns.

  name, route: see `engine.Engine`.
  script: function from a request to the rest of the answer.
  log_probs: function from a step of n characters to their log-probabilities,
    `[n]` float32.
  num_top: k, the number of columns of `top_log_probs`. Column j is j nats below
    the log-probability of the written token.
  hidden_size: length of the hidden state, which consists of the first
    character codes of the step, padded with zeros; 0 = no hidden state.
  delay: seconds to sleep per request: a number, or a function of the request.
  fails_at: function of the request; if it returns True, it fails with a
    ConnectionError.
  num_ahead: maximum number of characters to write speculatively after a step,
    if the request allows it; 0 = no speculation.
  requests: all requests so far, for tests.
  num_sessions, num_open: number of sessions so far, and of those not closed.
  num_in_flight: current number of concurrent requests.
  max_in_flight: largest number of concurrent requests so far.
  """

  name: str
  route: int
  script: Script
  log_probs: LogProbs = even_log_probs
  num_top: int = 2
  hidden_size: int = 0
  delay: float | Callable[[Asked], float] = 0.0
  fails_at: Callable[[Asked], bool] = lambda request: False
  num_ahead: int = 0
  requests: list[Asked] = dataclasses.field(default_factory=list)
  num_sessions: int = 0
  num_open: int = 0
  num_in_flight: int = 0
  max_in_flight: int = 0

  @property
  def capabilities(self) -> engine_lib.Capabilities:
    """Returns capabilities in which every flag is True."""
    return engine_lib.Capabilities(
        continues_prefix=True,
        num_log_probs=self.num_top,
        hidden_size=self.hidden_size,
        seeds=True,
        counts_tokens=True,
        reports_cached=True,
        names_tokens=True,
    )

  def open(self, question: str) -> 'ScriptedSession':
    """Opens a session about a question; see `engine.Engine.open`."""
    self.num_sessions += 1
    self.num_open += 1
    return ScriptedSession(self, question, self.num_sessions - 1)

  async def reply(
      self, session: 'ScriptedSession', request: Asked
  ) -> tuple[types.Step, ...]:
    """Returns the steps that the script writes next in a session.

    Raises:
      ConnectionError: if `fails_at` is true for the request.
      ValueError: if `request.max_tokens` is less than 1.
    """
    if request.max_tokens < 1:
      raise ValueError(f'max_tokens is {request.max_tokens}; allowed: >= 1.')
    # The request is recorded before the sleep, so that `requests` has the order
    # in which requests arrive.
    self.requests.append(request)
    self.num_in_flight += 1
    self.max_in_flight = max(self.max_in_flight, self.num_in_flight)
    try:
      await asyncio.sleep(
          self.delay(request) if callable(self.delay) else self.delay
      )
    # The request may be cancelled during the sleep, hence `finally`.
    finally:
      self.num_in_flight -= 1
    if self.fails_at(request):
      raise ConnectionError(
          f'The engine {self.name!r} fails as prepared: fails_at is true for '
          f'{request!r}.'
      )
    return self._recite(session, request)

  def count_tokens(self, question: str, trace: str) -> int:
    """Returns the number of prompt tokens, one for each character."""
    return len(question) + len(trace)

  def encode(self, question: str, trace: str) -> list[int]:
    """Returns the token ids of the prompt, which are its character codes."""
    return list(map(ord, question + trace))

  def pieces(self, ids: Sequence[int]) -> list[str]:
    """Returns the characters; see `engine.pieces`."""
    return list(map(chr, ids))

  async def close(self) -> None:
    """Does nothing: there are no resources to release."""

  def _recite(
      self, session: 'ScriptedSession', request: Asked
  ) -> tuple[types.Step, ...]:
    """Returns the steps of the script's text, with their usage."""
    prompt = request.question + request.trace
    cached = _common_prefix(session.known, prompt)
    read, in_context = len(prompt) - cached, 0
    # If the session's speculative text continues exactly this prompt, no token
    # is read: the prompt is already in the context of the speculative request.
    run, session.run = session.run, None
    if run is not None and run[0] == prompt:
      read, cached, in_context = 0, 0, len(prompt)
    whole = self.script(request)
    steps, position = [], 0
    # An empty text still gives one empty step, which ends the answer.
    while position < len(whole) or not steps:
      # One character is one token, so the token limit is a limit on characters.
      whole_step, is_complete = _next_step(whole[position:], request.delimiter)
      text = whole_step[: request.max_tokens - position]
      usage = types.Usage(
          self.route,
          read=0 if steps else read,
          cached=0 if steps else cached,
          written=len(text),
          seconds=len(text) * 1.0,
          in_context=len(prompt) + position if steps else in_context,
      )
      position += len(text)
      steps.append(
          self._step(
              text,
              is_final=position == len(whole),
              usage=usage,
              is_complete=is_complete and text == whole_step,
          )
      )
      if not request.to_end or position == request.max_tokens:
        break
    remaining = len(whole) - position
    if self.num_ahead and request.may_speculate and remaining:
      session.run = prompt + whole[:position], min(self.num_ahead, remaining)
    # The cache keeps the latest sequence only, like that of the embedded
    # engine.
    session.known = prompt + whole[:position]
    return tuple(steps)

  def _step(
      self,
      text: str,
      *,
      is_final: bool,
      usage: types.Usage,
      is_complete: bool,
  ) -> types.Step:
    """Returns the step with the given text; its arrays follow from the text."""
    log_probs = np.asarray(self.log_probs(text), np.float32)
    # The hidden state holds character codes, so that it differs between steps
    # and tests can recognize it.
    hidden = np.zeros(self.hidden_size, np.float32)
    codes = [ord(c) for c in text[: self.hidden_size]]
    hidden[: len(codes)] = codes
    return types.Step(
        text=text,
        token_ids=tuple(map(ord, text)),
        log_probs=log_probs,
        top_log_probs=log_probs[:, None]
        - np.arange(self.num_top, dtype=np.float32),
        is_final=is_final,
        usage=usage,
        hidden=hidden if self.hidden_size else None,
        is_complete=is_complete,
    )


class ScriptedSession(engine_lib.Session):
  """A session of a scripted engine.

  Args:
    engine: the engine, which replies.
    question: the question.
    number: number of the session, which tells it apart in `engine.requests`.

  Attributes:
    known: the prefix cache: the latest text that was read and written.
    run: the speculative text: the prompt that it continues, and the number of
      its characters; None = there is none.
  """

  def __init__(self, engine: ScriptedEngine, question: str, number: int):
    super().__init__(question, engine.route)
    self._engine, self._number, self._is_open = engine, number, True
    self.known = ''
    self.run: tuple[str, int] | None = None

  async def write(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """Writes the requested steps; see `ScriptedEngine.reply`."""
    asked = Asked(**vars(request), question=self.question, session=self._number)
    return await self._engine.reply(self, asked)

  async def cancel_speculation(self) -> types.Usage | None:
    """Discards text written ahead; see `engine.Session`."""
    if self.run is None:
      return None
    (text, count), self.run = self.run, None
    return types.Usage(self.route, 0, 0, count, count * 1.0, len(text))

  async def close(self) -> types.Usage | None:
    """Ends the session; see `engine.Session`."""
    if self._is_open:
      self._is_open, self.known = False, ''
      self._engine.num_open -= 1
    return await self.cancel_speculation()


def _next_step(
    text: str, delimiter: delimiter_lib.Delimiter
) -> tuple[str, bool]:
  """Returns the first step of `text`, and whether it is complete."""
  if not text:
    return '', False
  first = segmentation.slices(text, delimiter, is_final=True)[0]
  return first.text, first.is_complete


def _common_prefix(a: str, b: str) -> int:
  """Returns the length of the longest common prefix of two texts."""
  length = min(len(a), len(b))
  return next((i for i in range(length) if a[i] != b[i]), length)
