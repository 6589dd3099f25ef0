"""An engine that recites: for tests, and for trying things without models.

A script maps a request to the text that "the model" writes from there to the
end. All else - tokens, log-probabilities, seconds, the prefix cache - follows
from the text by simple rules, so that costs can be checked by hand: a token is
one character, and it takes one second.
"""

import asyncio
from collections.abc import Callable
import dataclasses

import numpy as np

from routing import types
from routing.engines import boundaries
from routing.engines import engine as engine_lib

Script = Callable[[engine_lib.Request], str]
LogProbs = Callable[[str], np.ndarray]


def even_log_probs(text: str) -> np.ndarray:
  """`[n]` float32: the same -0.5 for each character."""
  return np.full(len(text), -0.5, np.float32)


def recite(text: str) -> Script:
  """A script that writes `text`, from wherever the trace has got to.

  It goes by the length of the trace alone, so it goes on after a trace that
  another model has written differently.
  """
  return lambda request: text[len(request.trace) :]


@dataclasses.dataclass
class ScriptedEngine:
  """Writes what its script says.

  name, route: see `engine.Engine`.
  script: the whole continuation of a request.
  log_probs: `[n]` float32 for a step of n characters.
  num_top: k, the columns of `top_log_probs`; column j is j nats below the
    chosen token.
  hidden_size: length of the hidden state, the step's character codes; 0 gives
    None.
  delay: seconds slept per request; a number, or a function of the request.
  fails_at: a request for which this is true raises ConnectionError.
  num_ahead: characters that it writes on, where it may, before it is asked
    again or cut off; 0 = it never does.
  """

  name: str
  route: int
  script: Script
  log_probs: LogProbs = even_log_probs
  num_top: int = 2
  hidden_size: int = 0
  delay: float | Callable[[engine_lib.Request], float] = 0.0
  fails_at: Callable[[engine_lib.Request], bool] = lambda request: False
  num_ahead: int = 0
  requests: list[engine_lib.Request] = dataclasses.field(default_factory=list)
  num_in_flight: int = 0
  max_in_flight: int = 0
  _sessions: dict[str, str] = dataclasses.field(default_factory=dict)
  # By session: where a run stands, and what it has written from there.
  _runs: dict[str, tuple[str, int]] = dataclasses.field(default_factory=dict)

  @property
  def capabilities(self) -> engine_lib.Capabilities:
    """All that an engine can have."""
    return engine_lib.Capabilities(
        continues_prefix=True,
        num_log_probs=self.num_top,
        hidden_size=self.hidden_size,
        seeds=True,
        counts_tokens=True,
        reports_cached=True,
    )

  async def write(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """See `engine.Engine.write`.

    Raises:
      ConnectionError: where `fails_at` says so.
      ValueError: if no token may be written.
    """
    if request.max_tokens < 1:
      raise ValueError(f'max_tokens is {request.max_tokens}; allowed: >= 1.')
    self.requests.append(request)
    self.num_in_flight += 1
    self.max_in_flight = max(self.max_in_flight, self.num_in_flight)
    try:
      await asyncio.sleep(
          self.delay(request) if callable(self.delay) else self.delay
      )
    finally:
      self.num_in_flight -= 1
    if self.fails_at(request):
      raise ConnectionError(f'{self.name} was told to fail at {request!r}.')
    return self._recite(request)

  def count_tokens(self, question: str, trace: str) -> int:
    """One token a character."""
    return len(question) + len(trace)

  def encode(self, question: str, trace: str) -> list[int]:
    """One id a character."""
    return list(map(ord, question + trace))

  async def cancel_speculation(self, session: str) -> types.Usage | None:
    """See `engine.Engine.cancel_speculation`."""
    if session not in self._runs:
      return None
    text, count = self._runs.pop(session)
    return types.Usage(self.route, 0, 0, count, count * 1.0, len(text))

  def forget(self, session: str) -> None:
    """See `engine.Engine.forget`."""
    self._sessions.pop(session, None)
    self._runs.pop(session, None)

  async def close(self) -> None:
    """Nothing is held."""

  def _recite(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """Cuts the script's text into steps, and books them."""
    prompt = request.question + request.trace
    known = self._sessions.get(request.session, '')
    cached = _common_prefix(known, prompt)
    read, held = len(prompt) - cached, 0
    if self._runs.pop(request.session, ('', 0))[0] == prompt:
      read, cached, held = 0, 0, len(prompt)
    whole = self.script(request)
    steps, position = [], 0
    while position < len(whole) or not steps:
      text = _next_step(whole[position:])[: request.max_tokens - position]
      usage = types.Usage(
          self.route,
          read=0 if steps else read,
          cached=0 if steps else cached,
          written=len(text),
          seconds=len(text) * 1.0,
          in_context=len(prompt) + position if steps else held,
      )
      position += len(text)
      steps.append(
          self._step(text, is_final=position == len(whole), usage=usage)
      )
      if not request.to_end or position == request.max_tokens:
        break
    rest = len(whole) - position
    if self.num_ahead and request.may_speculate and rest:
      self._runs[request.session] = (
          prompt + whole[:position],
          min(self.num_ahead, rest),
      )
    self._sessions[request.session] = prompt + whole[:position]
    return tuple(steps)

  def _step(
      self, text: str, *, is_final: bool, usage: types.Usage
  ) -> types.Step:
    """One step with the evidence that its text implies."""
    log_probs = np.asarray(self.log_probs(text), np.float32)
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
    )


def _next_step(text: str) -> str:
  """The first step of `text`."""
  return next(iter(boundaries.split(text)), '')


def _common_prefix(a: str, b: str) -> int:
  """Length of the longest common prefix."""
  length = min(len(a), len(b))
  return next((i for i in range(length) if a[i] != b[i]), length)
