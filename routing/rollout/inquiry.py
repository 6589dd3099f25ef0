"""What a router may ask before it decides: scores, judgements, probes.

Some routers read more than the trace: the score of a process reward model, a
larger model's judgement of the draft, or the first token that a model would
write next. Such a router has an attribute `informant`. The driver calls it once
before each decision and puts its answer into `Trace.evidence`, so `decide`
remains a function of the trace. Everything that the informant consumes is
charged to the answer, as calls of the kind 'probe'.
"""

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import Protocol

from routing import types
from routing.engines import engine as engine_lib
from routing.engines import prefix_cache
from routing.rollout import steps as steps_lib
from routing.tasks import prompt as prompt_lib


class Informant(Protocol):
  """A source of evidence about the step that a decision is about."""

  async def ask(
      self, trace: types.Trace, inquiry: 'Inquiry'
  ) -> tuple[float, ...]:
    """Returns evidence about a trace; charges its compute to `inquiry`.

    The result must be a function of the trace, like that of `decide`.

    Args:
      trace: what the router will see, its `evidence` still empty. The evidence
        of earlier decisions is in `trace.history`.
      inquiry: charges the compute; also gives access to the models.
    """
    ...


async def ask(
    engine: engine_lib.Engine,
    text: str,
    max_tokens: int,
    *,
    earlier: str | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> tuple[str, types.Usage]:
  """Puts a text to a model as it is, e.g. to have it judge a step.

  Args:
    engine: of the model, which must understand instructions.
    text: what the model is asked; the task's examples do not stand before it.
    max_tokens: the largest number of tokens of the reply.
    earlier: the text that the model was asked before this one about the same
      answer; the tokens that both begin with count as cached. None = none.
    temperature: 0 = greedy.
    seed: of the sampling noise.

  Returns:
    The reply, and what it consumed.
  """
  put = prompt_lib.Plain(text)
  async with engine.open(put) as session:
    steps = await session.write(
        engine_lib.Request(
            to_end=True,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
        )
    )
  usage = steps_lib.call_usage(steps)
  if engine.capabilities.counts_tokens:
    count, cached = engine.count_tokens(put, ''), 0
    if earlier is not None:
      cached = _num_cached(engine, put, prompt_lib.Plain(earlier))
    usage = dataclasses.replace(usage, read=count - cached, cached=cached)
  return steps_lib.join(steps), usage


def _num_cached(
    engine: engine_lib.Engine, put: prompt_lib.Plain, earlier: prompt_lib.Plain
) -> int:
  """Returns how many tokens of a text a cache has that holds an earlier one."""
  # A cache of the task's examples, which all prompts of an engine are taken to
  # begin with, has nothing of a text that is put as it is.
  cache = dataclasses.replace(engine.capabilities.prefix_cache, shared=0)
  before, now = (
      prefix_cache.prompt(
          text, '', engine.count_tokens(text, ''), engine.encode(text, '')
      )
      for text in (earlier, put)
  )
  return cache.found(prefix_cache.num_common(before, now), now.count)


@dataclasses.dataclass(frozen=True)
class Inquiry:
  """The means of an informant at one decision; records what it consumes.

  write: `await write(route, max_tokens)` lets the model of a route continue the
    accepted steps, for at most `max_tokens` tokens. It returns the steps, which
    do not become a part of the answer, and charges the call.
  spent: returns the cost of the answer so far, as `Trace.spent`.
  record: adds a call to the calls of the answer.
  engines: those of the writers, which `ask` puts other questions to.
  """

  write: Callable[[int, int], Awaitable[tuple[types.Step, ...]]]
  spent: Callable[[], float]
  record: Callable[[types.Call], None]
  engines: Sequence[engine_lib.Engine] = ()

  async def ask(
      self, route: int, text: str, max_tokens: int, earlier: str | None = None
  ) -> str:
    """Returns a model's greedy reply to a text, see `ask`; charges it."""
    engine = self.engines[route]
    reply, usage = await ask(engine, text, max_tokens, earlier=earlier)
    self.charge(usage)
    return reply

  def charge(self, usage: types.Usage) -> None:
    """Charges the compute of a scorer or judge.

    Args:
      usage: its tokens and seconds. A model that writes no steps has a route
        beyond those of the writers; `costs.Accounting.specs` has its price
        there.
    """
    self.record(steps_lib.as_call('probe', usage))

  async def informed(self, router: Any, trace: types.Trace) -> types.Trace:
    """Returns the trace with what the router's informant says about it.

    A router without an informant gets the trace as it is.

    Raises:
      ValueError: if the informant returns no number at all.
    """
    informant = getattr(router, 'informant', None)
    if informant is None:
      return trace
    found = tuple(map(float, await informant.ask(trace, self)))
    if not found:
      raise ValueError(
          f'{type(informant).__name__} returned no evidence; allowed: one or '
          'more numbers.'
      )
    # What was asked has been paid by now, so the router sees it in `spent`.
    return dataclasses.replace(trace, evidence=found, spent=self.spent())
