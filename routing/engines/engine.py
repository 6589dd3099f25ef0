"""Defines the protocol that every back end fulfils, and its error types.

An engine writes text: one step, or everything to the end of the answer, given a
question and the trace so far. It knows nothing about routers, problems or
costs.
"""

from collections.abc import Sequence
import dataclasses
from typing import Protocol

from routing import types
from routing.engines import prefix_cache as prefix_cache_lib


@dataclasses.dataclass(frozen=True)
class Capabilities:
  """What a back end can do, declared before the first request.

  `require` compares these fields with what an experiment needs.

  continues_prefix: it can continue a half-written answer.
  num_log_probs: number of top log-probabilities per token; 0 = none.
  hidden_size: length H of the hidden state at the end of a step; 0 = none.
  seeds: the result of a request depends on its seed alone.
  counts_tokens: the tokenizer is known, so token ids are real.
  reports_cached: it reports how many prompt tokens came from its prefix cache.
  prefix_cache: how it caches what a session has read and written.
  """

  continues_prefix: bool
  num_log_probs: int
  hidden_size: int
  seeds: bool
  counts_tokens: bool
  reports_cached: bool
  # The default is a token-exact cache of the latest sequence, as in the
  # embedded engine; vLLM declares blocks.
  prefix_cache: prefix_cache_lib.PrefixCache = prefix_cache_lib.PrefixCache()


@dataclasses.dataclass(frozen=True)
class Request:
  """A request to continue one answer.

  question: the problem's text, before any chat template.
  trace: the answer so far; ends at a step boundary, or is empty.
  to_end: False = write one step; True = write to the end of the answer.
  may_speculate: the step after this one will probably be requested too, so the
    engine may continue speculatively; see `Engine.cancel_speculation`.
  max_tokens: maximum number of new tokens.
  temperature: 0 is greedy.
  seed: non-negative; the result is a function of (question, trace, seed).
  session: name of the prefix cache to use. Requests of one session share the
    cache; sessions never share one. The tokens charged to a trajectory thus do
    not depend on other requests.
  """

  question: str
  trace: str = ''
  to_end: bool = False
  may_speculate: bool = False
  max_tokens: int = 256
  temperature: float = 0.0
  seed: int = 0
  session: str = ''


# The type of an error is the engine's whole verdict on a failure. What follows
# from it (retry, fail one problem, stop the run) is decided in `resilience`.


class Unavailable(ConnectionError):
  """A request failed, but the same request may succeed later.

  Args:
    message: what happened.
    retry_after: seconds that the back end asks callers to wait; 0 = not given.
  """

  def __init__(self, message: str, retry_after: float = 0.0):
    super().__init__(message)
    self.retry_after = retry_after


class Refused(ValueError):
  """A request that fails however often it is repeated.

  Only the problem that made the request fails; other problems continue.
  """


class Stop(RuntimeError):
  """No further request can succeed, so the whole run must stop."""


class EngineDied(Stop):
  """The process of a back end has died, so its requests are lost."""


class Engine(Protocol):
  """A back end that writes as one route."""

  name: str
  route: int
  capabilities: Capabilities

  async def write(self, request: Request) -> tuple[types.Step, ...]:
    """Writes one step, or with `to_end` all steps to the end of the answer.

    The usages of the steps add up to the cost of the call.

    Returns:
      The steps in order. The usage of the first step has the tokens that the
      call read anew and from the cache. Every usage has the written tokens of
      its step, a share of the seconds, and the tokens that were in the
      request's context before the step. The last step has `is_final` False only
      if `max_tokens` ran out.
    """
    ...

  async def cancel_speculation(self, session: str) -> types.Usage | None:
    """Discards text generated past the last requested step of a session.

    Returns:
      The usage of the discarded tokens, which belong to no step; None if
      nothing was generated speculatively.
    """
    ...

  def count_tokens(self, question: str, trace: str) -> int:
    """Returns the number of prompt tokens under this engine's tokenizer."""
    ...

  def encode(self, question: str, trace: str) -> Sequence[int] | None:
    """Returns the prompt's ids, chat template included; None if not known."""
    ...

  def forget(self, session: str) -> None:
    """Releases what is kept for a session; no request of it may follow.

    Until this call the cache of a session must not be evicted in favour of
    other sessions. Otherwise the tokens it reads anew, and their cost, would
    depend on what else was running.
    """
    ...

  async def close(self) -> None:
    """Releases all resources of the engine; no request may follow."""
    ...


def require(engines: Sequence[Engine], **needed: bool | int) -> None:
  """Raises ValueError if an engine lacks a capability that is needed.

  Args:
    engines: the back ends that are about to be used.
    **needed: capability name = True, or a minimum, e.g. hidden_size=64.
  """
  for engine in engines:
    for name, minimum in needed.items():
      given = getattr(engine.capabilities, name)
      # False < True, so one comparison serves flags and numbers.
      if given < minimum:
        raise ValueError(
            f'Engine {engine.name!r} (route {engine.route}) has '
            f'{name}={given!r}, but {minimum!r} is needed; use another engine, '
            'or configure what needs it to do without.'
        )
