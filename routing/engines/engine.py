"""The protocol that every back end fulfils, and what each declares it can do.

An engine writes text: one step, or everything up to the end, from a question
and the trace so far. It knows nothing of routers, problems or costs.
"""

from collections.abc import Sequence
import dataclasses
from typing import Protocol

from routing import types
from routing.engines import prefix_cache as prefix_cache_lib


@dataclasses.dataclass(frozen=True)
class Capabilities:
  """What a back end can do; asking for more fails before the first request.

  continues_prefix: it can go on from a half-written answer.
  num_log_probs: how many top log-probabilities it gives per token; 0 = none.
  hidden_size: length H of the hidden state it gives at a step's end; 0 = none.
  seeds: a request's result depends on its seed alone.
  counts_tokens: it knows its own tokeniser, so token ids are real.
  reports_cached: it says how many prompt tokens came from its prefix cache.
  prefix_cache: how it keeps what a session has read and written.
  """

  continues_prefix: bool
  num_log_probs: int
  hidden_size: int
  seeds: bool
  counts_tokens: bool
  reports_cached: bool
  prefix_cache: prefix_cache_lib.PrefixCache = prefix_cache_lib.PrefixCache()


@dataclasses.dataclass(frozen=True)
class Request:
  """One continuation to write.

  question: the problem's text, before any chat template.
  trace: the answer so far; ends at a step boundary, or is empty.
  to_end: False = write one step; True = write to the end of the answer.
  may_speculate: the step after this one will probably be asked for, too, so
    that the model may write on until then; see `Engine.cancel_speculation`.
  max_tokens: new tokens at most.
  temperature: 0 is greedy.
  seed: non-negative; the result is a function of (question, trace, seed).
  session: requests of one session share the engine's prefix cache, and none is
    shared across sessions, so that what a trajectory is charged for reading
    never depends on what else was running.
  """

  question: str
  trace: str = ''
  to_end: bool = False
  may_speculate: bool = False
  max_tokens: int = 256
  temperature: float = 0.0
  seed: int = 0
  session: str = ''


class Unavailable(ConnectionError):
  """A request that may succeed if it is made again.

  Args:
    message: what happened.
    retry_after: seconds for which the back end asked to be left alone.
  """

  def __init__(self, message: str, retry_after: float = 0.0):
    super().__init__(message)
    self.retry_after = retry_after


class Refused(ValueError):
  """A request that no repetition heals: its problem fails, others go on."""


class Stop(RuntimeError):
  """No request will succeed any more: time to end all that is under way."""


class EngineDied(Stop):
  """A back end's process is gone and is not started again: time to stop."""


class Engine(Protocol):
  """A back end, bound to one route."""

  name: str
  route: int
  capabilities: Capabilities

  async def write(self, request: Request) -> tuple[types.Step, ...]:
    """Writes one step, or with `to_end` all steps to the end of the answer.

    Returns:
      The steps in order. The first carries the call's reads and cached tokens
      in its usage, each its own written tokens, its share of the seconds and
      what the call held before it, so that the steps cost what the call does.
      The last has `is_final` False only when `max_tokens` ran out.
    """
    ...

  async def cancel_speculation(self, session: str) -> types.Usage | None:
    """What `session` was written ahead of being asked for is not wanted.

    Returns:
      What was written and is in no step; None if the engine did not write on.
    """
    ...

  def count_tokens(self, question: str, trace: str) -> int:
    """Prompt tokens of a request, under this engine's own tokeniser."""
    ...

  def encode(self, question: str, trace: str) -> Sequence[int] | None:
    """Ids of that prompt, template included; None if they are not known."""
    ...

  def forget(self, session: str) -> None:
    """No request of `session` follows: what is kept for it may be released.

    Until then what the session has read or written must not be given up for
    another one's sake, or its next read would be charged by what else ran.
    """
    ...

  async def close(self) -> None:
    """Releases what the engine holds; no request may follow."""
    ...


def require(engines: Sequence[Engine], **needed: bool | int) -> None:
  """Raises ValueError, naming engine and capability, if one is missing.

  Args:
    engines: the back ends that are about to be used.
    **needed: capability name = True, or the least number, e.g. hidden_size=64.
  """
  for engine in engines:
    for name, least in needed.items():
      given = getattr(engine.capabilities, name)
      if given < least:
        raise ValueError(
            f'Engine {engine.name!r} (route {engine.route}) offers '
            f'{name}={given!r}, but {least!r} is needed.'
        )
