"""A driver's other way through vLLM: let the model run on past the boundary.

`RunOnEngine` asks once for a whole answer and hands out its steps as they are
written, so that a trace that stays costs one request; while the policy decides
the model writes on, and what it has written when the answer is to leave is
wasted. Here to be measured against asking for one step at a time, which is what
the engine of the project does; see `benchmarks.collection`.
"""

import asyncio
import dataclasses
from typing import Any

import numpy as np

from routing import types
from routing.engines import cutting
from routing.engines import engine as engine_lib
from routing.engines import vllm


@dataclasses.dataclass
class _Run:
  """An answer under way: what was written, and how much was handed out.

  trace: the answer up to where the next step begins.
  num_taken: tokens of it that the run has handed out.
  table: vLLM's: of each token its log-probability, then the largest ones.
  """

  prompt: list[int]
  trace: str
  task: asyncio.Task | None = None
  ids: list[int] = dataclasses.field(default_factory=list)
  table: Any = None
  num_taken: int = 0
  has_ended: bool = False
  news: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)


class RunOnEngine(vllm.VllmEngine):
  """Writes a session's steps in one request, until it is cut off.

  Only for models that write the delimiter as one token, outside any block.

  Attributes:
    runs_on: False = ask for one step at a time, as the base class does.
    num_wasted: tokens that came and that no step has; what was written but had
      not come when the run was cut off is not among them.
    num_requests: requests for steps that vLLM has got.
  """

  def __init__(self, *args, **kwargs):
    super().__init__(*args, **kwargs)
    self.runs_on = True
    self.num_wasted = self.num_requests = 0
    self._runs: dict[str, _Run] = {}

  async def write(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """See `engine.Engine.write`."""
    if request.to_end or not self.runs_on:
      return await super().write(request)
    run = self._runs.get(request.session)
    is_new = run is None or run.trace != request.trace
    if is_new:
      await self.cut_off(request.session)
      run = self._begin(request)
    while not run.has_ended and not self._step_ids(run):
      run.news.clear()
      await run.news.wait()
    await asyncio.sleep(0)  # An error of the run is raised where it is.
    if run.task.done():
      run.task.result()
    return self._take(run, is_new)

  def forget(self, session: str) -> None:
    """See `engine.Engine.forget`."""
    run = self._runs.pop(session, None)
    if run is not None:
      run.task.cancel()
      self.num_wasted += len(run.ids) - run.num_taken

  async def cut_off(self, session: str) -> None:
    """Ends what is under way for a session; what nobody took is wasted."""
    run = self._runs.pop(session, None)
    if run is None:
      return
    if not run.has_ended:
      run.task.cancel()  # Which makes vLLM give the request up.
      await asyncio.gather(run.task, return_exceptions=True)
    self.num_wasted += len(run.ids) - run.num_taken

  def _begin(self, request: engine_lib.Request) -> _Run:
    """Asks for the whole rest of the answer."""
    prompt = self._prompter.ids(request.question, request.trace)
    run = _Run(prompt, request.trace)
    run.task = asyncio.create_task(self._follow(run, request))
    self._runs[request.session] = run
    self.num_requests += 1
    return run

  async def _follow(self, run: _Run, request: engine_lib.Request) -> None:
    """Notes the tokens of a run as they come."""
    import vllm as vllm_lib
    from vllm import sampling_params

    room = min(request.max_tokens, self._settings.max_length - len(run.prompt))
    params = self._sampling_params(request, None, room)
    # vLLM joins deltas that nobody was in time for, and drops what the table of
    # log-probabilities has twice.
    params.output_kind = sampling_params.RequestOutputKind.CUMULATIVE
    inputs = {'prompt_token_ids': run.prompt, 'cache_salt': request.session}
    name = f'{self.name}-run-{next(self._ids)}'
    try:
      async for output in self._llm.generate(
          vllm_lib.TokensPrompt(**inputs), params, name
      ):
        count = len(run.ids)
        run.ids = list(output.outputs[0].token_ids)
        run.table = output.outputs[0].logprobs
        # A step's worth is news; a token is not.
        if set(self._stop_ids) & set(run.ids[count:]):
          run.news.set()
    finally:
      run.has_ended = True
      run.news.set()

  def _step_ids(self, run: _Run) -> list[int]:
    """The tokens of the next step; none if it is still being written."""
    rest = run.ids[run.num_taken :]
    for count, token in enumerate(rest, 1):
      if token in self._stop_ids:
        return rest[:count]
    return rest if run.has_ended else []

  def _take(self, run: _Run, is_new: bool) -> tuple[types.Step, ...]:
    """The next step, which is there."""
    ids, start = self._step_ids(run), run.num_taken
    before = [*run.prompt, *run.ids[:start]]
    run.num_taken += len(ids)
    width = len(run.table.logprobs) // len(run.table)
    table = np.asarray(
        run.table.logprobs[start * width : run.num_taken * width], np.float32
    ).reshape(-1, width)
    is_last = run.has_ended and run.num_taken == len(run.ids)
    pieces = self._prompter.spell(before, ids)
    steps = cutting.to_steps(
        cutting.Written(
            pieces=pieces,
            token_ids=ids,
            log_probs=table[:, 0],
            top_log_probs=table[:, 1:],
            is_final=is_last and not pieces[-1],
        ),
        types.Usage(
            route=self.route,
            read=len(run.prompt) if is_new else 0,
            cached=0,
            written=len(ids),
        ),
    )
    run.trace += ''.join(pieces)
    return steps


class Successor:
  """The larger engine, whose turn ends the smaller one's run.

  Args:
    engine: writes.
    before: the engine that may be running on.
  """

  def __init__(self, engine: engine_lib.Engine, before: RunOnEngine):
    self.name, self.route = engine.name, engine.route
    self.capabilities = engine.capabilities
    self._engine, self._before = engine, before

  async def write(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """See `engine.Engine.write`."""
    await self._before.cut_off(request.session)
    return await self._engine.write(request)

  def count_tokens(self, question: str, trace: str) -> int:
    """See `engine.Engine.count_tokens`."""
    return self._engine.count_tokens(question, trace)

  def forget(self, session: str) -> None:
    """See `engine.Engine.forget`."""
    self._engine.forget(session)

  async def close(self) -> None:
    """See `engine.Engine.close`."""
    await self._engine.close()
