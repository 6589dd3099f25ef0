"""Defines the interface of an engine, the back end of one model.

An engine opens a session for each question. In a session it writes the step
after a trace, or all steps to the end of the answer. It knows nothing about
routers, graded problems or costs. The errors that an engine may raise are
defined here as well.
"""

import abc
from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import dataclasses
from typing import Protocol

from routing import types
from routing.engines import prefix_cache as prefix_cache_lib
from routing.tasks import delimiter as delimiter_lib


@dataclasses.dataclass(frozen=True)
class Capabilities:
  """The capabilities of an engine, known before its first request.

  `require` compares these fields with what an experiment needs.

  continues_prefix: the engine can continue a half-written answer.
  num_log_probs: number of top log-probabilities that the engine returns for
    each token; 0 = none.
  hidden_size: length H of the hidden state that the engine returns with each
    step; 0 = none.
  seeds: repeating a request with the same seed gives the same result.
  counts_tokens: the engine has the model's tokenizer, so it can count tokens
    and the token ids of its steps are the model's.
  reports_cached: the engine reports how many prompt tokens came from its prefix
    cache.
  tells_steps: the engine calls `Request.on_step`.
  names_tokens: the text of each token of a step is known, from `Step.pieces` or
    from the function `pieces`, unless the back end leaves one out.
  temperature: the only one at which the model samples; None = any.
  prefix_cache: the rules by which the engine caches the text of a session.
  """

  continues_prefix: bool
  num_log_probs: int
  hidden_size: int
  seeds: bool
  counts_tokens: bool
  reports_cached: bool
  tells_steps: bool = False
  names_tokens: bool = False
  temperature: float | None = None
  # By default a cache holds the latest sequence of a session, token by token,
  # as in the embedded engine. The vLLM engine declares blocks instead.
  prefix_cache: prefix_cache_lib.PrefixCache = prefix_cache_lib.PrefixCache()


@dataclasses.dataclass(frozen=True)
class Request:
  """A request to continue one answer to the question of a session.

  trace: the answer so far; it ends at a step boundary or is empty.
  to_end: False = write one step; True = write to the end of the answer.
  may_speculate: the step after this one will probably be requested too, so the
    engine may continue speculatively; see `Session.cancel_speculation`.
  max_tokens: maximum number of new tokens.
  temperature: sampling temperature; 0 is greedy decoding.
  seed: non-negative seed of the sampling noise. With the other fields fixed,
    the result is a function of (question, trace, seed).
  delimiter: what ends a step.
  on_step: called in the event loop with each step once it is written, before
    the request ends, and with its place among the steps of the request, from 0.
    Where the back end has to begin anew, places begin anew. If the request is
    cancelled, it is also called with the part of a step that was paid for. An
    engine that learns of steps only at the end never calls it, and none has to
    tell steps that are returned at once.
  on_billed: called with each usage of an attempt that has failed, and that the
    back end has billed all the same; see `Unavailable.billed`.
  """

  trace: str = ''
  to_end: bool = False
  may_speculate: bool = False
  max_tokens: int = 256
  temperature: float = 0.0
  seed: int = 0
  delimiter: delimiter_lib.Delimiter = delimiter_lib.BLANK_LINE
  # Two requests are the same whoever listens.
  on_step: Callable[[int, types.Step], None] | None = dataclasses.field(
      default=None, compare=False, repr=False
  )
  on_billed: Callable[[types.Usage], None] | None = dataclasses.field(
      default=None, compare=False, repr=False
  )


# An engine reports the kind of a failure only by the type of its error. The
# module `resilience` decides by this type whether to retry the request, to give
# up one problem, or to stop the run.


class Unavailable(ConnectionError):
  """A failed request that may succeed if it is repeated later.

  Args:
    message: description of the failure.
    retry_after: seconds that the back end asks callers to wait; 0 = not given.
    may_be_billed: the back end may have worked on the request and bill it, e.g.
      after a time-out.

  Attributes:
    billed: the usages that the back end billed, as far as they are known.
  """

  billed: tuple[types.Usage, ...] = ()

  def __init__(
      self,
      message: str,
      retry_after: float = 0.0,
      *,
      may_be_billed: bool = False,
  ):
    super().__init__(message)
    self.retry_after = retry_after
    self.may_be_billed = may_be_billed


class Refused(ValueError):
  """A failed request that would fail again however often it is repeated.

  The run gives up the problem that made the request and continues with others.

  Attributes:
    billed: the usages that the back end billed, as far as they are known.
    may_be_billed: whether there may be more.
    is_quoted: whether the message quotes the back end, which may quote the
      question.
  """

  billed: tuple[types.Usage, ...] = ()
  may_be_billed: bool = False
  is_quoted: bool = False


class Stop(RuntimeError):
  """A failure after which no request can succeed, so the whole run stops."""


class EngineDied(Stop):
  """The death of a back end's process, which loses all requests in flight."""


class Session(abc.ABC):
  """All requests about one question to one engine, which share a prefix cache.

  Two sessions never share a cache, so the tokens charged to one trajectory do
  not depend on other trajectories. A session is an asynchronous context
  manager, which closes the session at its end, also after an error or a
  cancellation:

    async with engine.open(question) as session:
      steps = await session.write(Request(trace))

  A `write` that is cancelled ends its request in the back end as well.

  Args:
    question: the problem's text, before any chat template.
    route: the route index of the engine.
  """

  def __init__(self, question: str, route: int):
    self.question, self.route = question, route

  @abc.abstractmethod
  async def write(self, request: Request) -> tuple[types.Step, ...]:
    """Writes the next step; if `request.to_end`, all steps to the answer's end.

    The usages of the returned steps add up to the cost of this call.

    Returns:
      The steps in order. The usage of the first step includes the prompt
      tokens, read anew or from the cache. The usage of every step includes the
      tokens written for the step, its share of the seconds, and the number of
      tokens in the request's context before the step. With `request.to_end`,
      the last step has `is_final` False only if `max_tokens` ran out.
    """

  async def cancel_speculation(self) -> types.Usage | None:
    """Discards the text that was generated past the last written step.

    The session can go on with another request.

    Returns:
      The usage of the discarded tokens, which belong to no step; None if there
      are none that an earlier call has not returned. By default None, for
      engines that never speculate.
    """
    return None

  async def close(self) -> types.Usage | None:
    """Ends the session, which may make no further request; repeatable.

    Until then an engine should not evict the session's cache in favour of other
    sessions. Otherwise the session would read tokens again, and its cost would
    depend on which other requests were running.

    Returns:
      The usage of discarded tokens, as `cancel_speculation` does.
    """
    return await self.cancel_speculation()

  async def __aenter__(self) -> 'Session':
    return self

  async def __aexit__(self, *error: object) -> None:
    await self.close()


class Engine(Protocol):
  """The interface of a back end that serves one route, i.e. one model.

  name: name of the model, for messages.
  route: index of the model; 0 is the smallest.
  capabilities: see `Capabilities`.
  """

  name: str
  route: int
  capabilities: Capabilities

  def open(self, question: str) -> Session:
    """Opens a session about a question; it costs nothing until it is used."""
    ...

  def count_tokens(self, question: str, trace: str) -> int:
    """Returns the number of prompt tokens under this engine's tokenizer.

    The prompt consists of the question and the trace, as the model reads them.
    """
    ...

  def encode(self, question: str, trace: str) -> Sequence[int] | None:
    """Returns the token ids of the prompt, including the chat template's.

    The result is None if the engine does not have the model's tokenizer.
    """
    ...

  async def close(self) -> None:
    """Releases all resources of the engine; no request may follow."""
    ...


@contextlib.asynccontextmanager
async def open_all(
    engines: Sequence[Engine], question: str
) -> AsyncIterator[list[Session]]:
  """Opens a session about one question at each engine; closes them at the end.

  Yields:
    The sessions, in the order of the engines.
  """
  # The stack closes every session, even if closing another one fails.
  async with contextlib.AsyncExitStack() as stack:
    yield [
        await stack.enter_async_context(engine.open(question))
        for engine in engines
    ]


def pieces(engine: Engine, ids: Sequence[int]) -> list[str] | None:
  """Returns the text of each token that an engine wrote; None if not known.

  For engines whose tokens have the same text wherever they stand. Others write
  `Step.pieces`.
  """
  # Only what shows single tokens to a user needs this, so that it is no part of
  # the interface that every engine must have.
  find = getattr(engine, 'pieces', None)
  return None if find is None else find(ids)


def prepare(engines: Sequence[Engine], num_requests: int) -> None:
  """Says before the first request how many will be made at the same time.

  An engine may use this to get ready for them, e.g. to compile.
  """
  # Optional, like `pieces`: most engines have nothing to do.
  for engine in engines:
    getattr(engine, 'prepare', lambda _: None)(num_requests)


def check_order(engines: Sequence[Engine]) -> None:
  """Raises ValueError unless `engines[m].route == m` for every index m."""
  routes = [engine.route for engine in engines]
  if routes != list(range(len(engines))):
    raise ValueError(
        f'The engines have routes {routes}; they must be 0, 1, ... in this '
        'order, smallest model first.'
    )


def room(name: str, num_prompt: int, max_tokens: int, max_length: int) -> int:
  """Returns how many tokens may follow a prompt.

  Args:
    name: the engine's name, for the message.
    num_prompt: number of prompt tokens.
    max_tokens: maximum number of new tokens that the request wants.
    max_length: maximum number of tokens of prompt and answer together.

  Raises:
    Refused: if the prompt leaves no room for a token.
  """
  left = min(max_tokens, max_length - num_prompt)
  if left < 1:
    raise Refused(
        f'No token can be written: the prompt has {num_prompt} tokens, '
        f'max_tokens is {max_tokens}, and max_length of {name} is '
        f'{max_length}. Raise the limit, or end the answer earlier.'
    )
  return left


def require(engines: Sequence[Engine], **needed: bool | int) -> None:
  """Raises ValueError if an engine lacks a capability that is needed.

  Args:
    engines: the engines to check.
    **needed: names of fields of `Capabilities`, each with True or a minimum,
      e.g. seeds=True, hidden_size=64.
  """
  for engine in engines:
    for name, minimum in needed.items():
      given = getattr(engine.capabilities, name)
      # False < True, so one comparison serves flags and numbers.
      if given < minimum:
        raise ValueError(
            f'Engine {engine.name!r} (route {engine.route}) has '
            f'{name}={given!r}, but {minimum!r} is needed. Use another engine, '
            'or turn off what needs this capability.'
        )
