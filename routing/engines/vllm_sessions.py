"""Defines the sessions of the vLLM engine, which may continue speculatively."""

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
import dataclasses
from typing import Any
import uuid

from routing import types
from routing.engines import engine as engine_lib
from routing.engines import repetition
from routing.engines import segmentation
from routing.engines import speculation
from routing.engines import telling

# A function (session, request, stop) that starts a vLLM request, which stops at
# the string `stop`, or at the end of the answer if `stop` is None.
Begin = Callable[[Any, engine_lib.Request, str | None], speculation.Run]


class VllmSession(engine_lib.Session):
  """A session of a vLLM engine: its running request and its part of the cache.

  Closing it leaves the cache alone: vLLM evicts the least recently used blocks.

  Args:
    question: the question.
    route: the route index of the engine.
    begin: function (session, request, stop) -> run that starts a request.
    restart: coroutine function that restarts vLLM's process if it has died.
    num_equal: see `repetition.truncate_repetition`.
    opening: see `prompts.Prompter.opening`.

  Attributes:
    salt: the cache salt of the session, which no other session has; None = the
      session shares its cache with others.
  """

  def __init__(
      self,
      question: str,
      route: int,
      begin: Begin,
      restart: Callable[[], Awaitable[None]],
      num_equal: int,
      *,
      opening: str = '',
  ):
    super().__init__(question, route)
    self._begin, self._restart = begin, restart
    self._num_equal, self._opening = num_equal, opening
    self.salt: str | None = uuid.uuid4().hex
    self._run: speculation.Run | None = None
    self._ending: asyncio.Task | None = None
    self._wasted: list[types.Usage] = []  # Not yet returned to the caller.

  async def write(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """Writes the requested steps; see `engine.Session.write`.

    Raises:
      engine_lib.Refused: if the prompt leaves no room for a token.
      engine_lib.EngineDied: if the process has died twice within an hour.
    """
    counts = []  # The number of tokens that each call wrote.
    teller = telling.Teller(
        request, self._num_equal, '' if request.trace else self._opening
    )

    async def call(text: str, stop: str | None, max_tokens: int):
      following = dataclasses.replace(
          request,
          trace=request.trace + text,
          max_tokens=max_tokens,
          # With one seed, all calls would draw the same sampling noise.
          seed=request.seed + len(counts),
      )
      part, usage = await self._call(following, stop, teller)
      counts.append(usage.written)
      return part, usage

    # With the opening before it, a first line break may end a step too many.
    return await teller.write(call, to_end=request.to_end)

  async def cancel_speculation(self) -> types.Usage | None:
    """Cancels the running request; see `engine.Session.cancel_speculation`."""
    await self._end()
    wasted, self._wasted = self._wasted, []
    return segmentation.wasted(wasted) if wasted else None

  async def _call(
      self,
      request: engine_lib.Request,
      stop: str | None,
      teller: telling.Teller,
  ) -> tuple[segmentation.Written, types.Usage]:
    """Returns the tokens after the trace, up to and including `stop`.

    They are taken from the running request if it can serve `request`, and
    otherwise from a new vLLM request. `teller` learns of them as they come.

    Returns:
      The tokens and their usage.
    """
    from vllm.v1.engine import exceptions

    if self._run is not None and not self._run.can_serve(request):
      await self._end()
    # The run is not in `_run` while in use: if `take` fails, it must not be
    # used again.
    run, self._run = self._run, None
    while True:
      run = run or self._begin(self, request, stop)
      try:
        teller.begin(run.so_far)
        part, usage = await run.take(stop, request.max_tokens, teller.look)
        break
      except exceptions.EngineDeadError:
        # Tokens that were not taken are lost, and a new request continues the
        # trace. If the process dies again, `restart` raises and ends the loop.
        run = None
        await self._restart()
    if not run.is_over:
      self._run = run
    whole = request.trace + ''.join(part.pieces)
    if repetition.ends_in_blank_steps(whole, delimiter=request.delimiter):
      part = dataclasses.replace(part, is_final=True)
    return part, usage

  async def _end(self) -> None:
    """Cancels the running request, if there is any; keeps its wasted tokens.

    Wasted tokens are returned by `cancel_speculation`, never in a step. They
    would otherwise count against the answer's token limit, and the answer would
    depend on timing.
    """
    run, self._run = self._run, None
    if run is not None:
      self._ending = asyncio.create_task(self._finish(run))
    # The request must end even if the caller is cancelled while it waits. The
    # session then waits again when it is closed.
    if self._ending is not None:
      await asyncio.shield(self._ending)

  async def _finish(self, run: speculation.Run) -> None:
    """Ends a run and keeps the usage of its wasted tokens."""
    self._wasted.append(await run.end())
