"""vLLM in this process: one asynchronous engine a model, two or more at a time.

Each engine keeps its model in a process of its own, batches what it is asked
for, and keeps the prefixes it has read in blocks: what is charged as cached is
what vLLM says it did not read again, in whole blocks. Built on vLLM's V1 engine
(Kwon et al. 2023, arXiv 2309.06180).
"""

import asyncio
from collections.abc import Mapping
import dataclasses
import functools
import itertools
import pathlib
from typing import Any

from absl import logging

from routing import types
from routing.engines import engine as engine_lib
from routing.engines import prefix_cache
from routing.engines import prompts
from routing.engines import repetition
from routing.engines import segmentation
from routing.engines import shared_time
from routing.engines import speculation

_BLOCK_SIZE = 16  # Tokens; vLLM's default on most devices.


@dataclasses.dataclass(frozen=True)
class Settings:
  """How a model is loaded and run.

  max_length: tokens of question and answer together.
  dtype: of weights and activations; 'auto' = as they were saved.
  memory_share: of the accelerator's memory, in (0, 1], for weights and cache;
    models that share one must sum to less than 1. None = vLLM's own choice.
  cache_bytes: of the prefix cache, instead of what `memory_share` leaves over.
    Where it is too small for all traces under way, vLLM gives up the oldest
    blocks, and their traces are read, and charged, again.
  tensor_parallel_size: accelerators that share the model.
  num_slots: answers written at once; further ones wait.
  num_log_probs: k, the top log-probabilities asked for with each token.
  speculates: where more is likely to be asked for, a greedy model writes on
    past
    the end of a step, and is cut off when it is not. One that samples never
    does: each step has a seed of its own.
  enforce_eager: do not compile; starts sooner, runs slower.
  extra: further arguments of vLLM's `AsyncEngineArgs`; they win over the above.
  """

  max_length: int = 4_096
  dtype: str = 'auto'
  memory_share: float | None = None
  cache_bytes: int | None = None
  tensor_parallel_size: int = 1
  num_slots: int = 256
  num_log_probs: int = 5
  speculates: bool = True
  enforce_eager: bool = False
  extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    share = self.memory_share
    if share is not None and not 0 < share <= 1:
      raise ValueError(f'memory_share is {share}; allowed: above 0, up to 1.')
    for name in ('max_length', 'tensor_parallel_size', 'num_slots'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name} is {getattr(self, name)}; allowed: >= 1.')
    if self.num_log_probs < 0:
      raise ValueError(f'num_log_probs is {self.num_log_probs}; allowed: >= 0.')

  def engine_args(self, model: str) -> dict[str, Any]:
    """The arguments of vLLM's engine."""
    wanted = dict(
        model=model,
        dtype=self.dtype,
        max_model_len=self.max_length,
        gpu_memory_utilization=self.memory_share,
        kv_cache_memory_bytes=self.cache_bytes,
        tensor_parallel_size=self.tensor_parallel_size,
        max_num_seqs=self.num_slots,
        max_logprobs=self.num_log_probs,
        enforce_eager=self.enforce_eager,
        enable_prefix_caching=True,
        disable_log_stats=True,
        seed=0,
    )
    given = {name: value for name, value in wanted.items() if value is not None}
    return given | dict(self.extra)


class VllmEngine:
  """Writes steps with one model that vLLM runs.

  Results depend on a request's seed alone, up to the rounding of matrix
  products that other requests in the batch give another shape. A process that
  dies is started again once, and what was under way is asked again. A model
  that runs on (`speculation.Run`) writes what it would write if it were asked
  for each step; only how much of it is wasted hangs on what else is running.

  Args:
    name: the model's name.
    route: its route index.
    model: directory of the weights, or a name on the Hugging Face hub.
    settings: see `Settings`.
    prompter: makes prompts for the model; None = the plain text of question
      and trace, by the model's own tokenizer.
    num_equal: see `repetition.truncate_repetition`.

  Raises:
    ValueError: if `settings.extra` names what vLLM does not have.
  """

  def __init__(
      self,
      name: str,
      route: int,
      model: str | pathlib.Path,
      settings: Settings,
      prompter: prompts.Prompter | None = None,
      num_equal: int = repetition.NUM_EQUAL,
  ):
    self.name = name
    self.route = route
    self._engine_args = settings.engine_args(str(model))
    self.capabilities = engine_lib.Capabilities(
        continues_prefix=True,
        num_log_probs=settings.num_log_probs,
        hidden_size=0,
        seeds=True,
        counts_tokens=True,
        reports_cached=True,
        prefix_cache=prefix_cache.PrefixCache(
            block=self._engine_args.get('block_size', _BLOCK_SIZE),
            keeps_all=True,
        ),
    )
    self.num_restarts = 0
    self._settings = settings
    self._prompter = prompter or prompts.Prompter(prompts.load_tokenizer(model))
    self._stop_ids = _delimiter_ids(self._prompter.tokenizer)
    self._num_equal = num_equal
    # By session: what runs on, and what was written in vain so far.
    self._runs: dict[str, speculation.Run] = {}
    self._wasted: dict[str, types.Usage] = {}
    self._ending: set[asyncio.Task] = set()
    self._ids = itertools.count()
    self._time = shared_time.SharedTime()
    self._restarting = asyncio.Lock()
    self._llm = self._start()

  def count_tokens(self, question: str, trace: str) -> int:
    """Prompt tokens of a request for `question`, continued after `trace`."""
    return len(self.encode(question, trace))

  def encode(self, question: str, trace: str) -> list[int]:
    """See `engine.Engine.encode`."""
    return self._prompter.ids(question, trace)

  async def write(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """Writes one step, or all to the end; see `engine.Engine.write`.

    Raises:
      engine_lib.Refused: if the prompt leaves no room for a token.
      engine_lib.EngineDied: if the process has died for the second time.
    """
    written = []

    async def call(text: str, stop: str | None, max_tokens: int):
      asked = dataclasses.replace(
          request,
          trace=request.trace + text,
          max_tokens=max_tokens,
          seed=request.seed + len(written),  # No noise comes twice.
      )
      part, usage = await self._call(asked, stop)
      written.append(usage.written)
      return part, usage

    steps = await segmentation.write_steps(
        call, to_end=request.to_end, max_tokens=request.max_tokens
    )
    kept = repetition.truncate_repetition(steps, request.trace, self._num_equal)
    return segmentation.charged(kept, sum(written))

  async def cancel_speculation(self, session: str) -> types.Usage | None:
    """Ends the session's run; see `engine.Engine.cancel_speculation`."""
    await self._end(session)
    return self._wasted.pop(session, None)

  def forget(self, session: str) -> None:
    """Ends the session's run, for which nobody pays any more.

    The cache is left alone: vLLM gives up first what was not used for longest.
    """
    self._wasted.pop(session, None)
    if session in self._runs:
      task = asyncio.create_task(self.cancel_speculation(session))
      self._ending.add(task)  # Or it might be collected while it runs.
      task.add_done_callback(self._ending.discard)

  async def restart(self) -> None:
    """Starts the process again if it is dead; it may die once.

    Raises:
      engine_lib.EngineDied: if it has been started again before.
    """
    async with self._restarting:
      if not self._llm.errored:
        return  # Another request has seen to it.
      if self.num_restarts:
        raise engine_lib.EngineDied(
            f'The process of {self.name} (route {self.route}) has died a '
            'second time. Its own last words are above.'
        )
      self.num_restarts += 1
      logging.warning('The process of %s has died; starting it.', self.name)
      await asyncio.to_thread(self._llm.shutdown)
      try:
        self._llm = await asyncio.to_thread(self._start)
      except Exception as error:
        raise engine_lib.EngineDied(
            f'The process of {self.name} (route {self.route}) has died and '
            f'does not start again: {error}'
        ) from error

  async def close(self) -> None:
    """Ends the process."""
    await asyncio.gather(
        *map(self.cancel_speculation, self._runs), *self._ending
    )
    llm, self._llm = self._llm, None
    if llm is not None:
      await asyncio.to_thread(llm.shutdown)

  def _start(self):
    """Loads the model; returns vLLM's engine."""
    import vllm

    known = {field.name for field in dataclasses.fields(vllm.AsyncEngineArgs)}
    unknown = sorted(self._engine_args.keys() - known)
    if unknown:
      raise ValueError(
          f'vLLM has no engine argument {", ".join(unknown)}; allowed: the '
          'fields of its AsyncEngineArgs.'
      )
    return vllm.AsyncLLMEngine.from_engine_args(
        vllm.AsyncEngineArgs(**self._engine_args)
    )

  async def _call(
      self, request: engine_lib.Request, stop: str | None
  ) -> tuple[segmentation.Written, types.Usage]:
    """What follows the trace, up to and with the string `stop`.

    It comes from the session's run where that brings what a new request would.
    """
    from vllm.v1.engine import exceptions

    run = self._runs.get(request.session)
    if run is not None and not run.may_speculate(request):
      await self._end(request.session)
    run = self._runs.pop(request.session, None)
    while True:
      run = run or self._begin(request, stop)
      try:
        part, usage = await run.take(stop, request.max_tokens)
        break
      except exceptions.EngineDeadError:
        run = None
        await self.restart()
    if not run.is_over:
      self._runs[request.session] = run
    if repetition.ends_in_blank_steps(request.trace + ''.join(part.pieces)):
      part = dataclasses.replace(part, is_final=True)
    return part, usage

  async def _end(self, session: str) -> None:
    """Ends the session's run, if any.

    What it wrote in vain is for `cancel_speculation` to tell: in a step it
    would count
    against the tokens that are left, and the answer hang on who was faster.
    """
    run = self._runs.pop(session, None)
    if run is not None:
      usages = [await run.end()]
      if session in self._wasted:
        usages.append(self._wasted[session])
      self._wasted[session] = segmentation.wasted(usages)

  def _begin(
      self, request: engine_lib.Request, stop: str | None
  ) -> speculation.Run:
    """A new request to vLLM."""
    import vllm

    prompt = self._prompter.ids(request.question, request.trace)
    room = min(request.max_tokens, self._settings.max_length - len(prompt))
    if room < 1:
      raise engine_lib.Refused(
          f'No room to write: the prompt has {len(prompt)} tokens, max_tokens '
          f'is {request.max_tokens}, and {self.name} holds '
          f'{self._settings.max_length}.'
      )
    inputs = vllm.TokensPrompt(prompt_token_ids=prompt)
    if request.session:
      inputs['cache_salt'] = request.session
    params = self._sampling_params(request, stop, room)
    name = f'{self.name}-{next(self._ids)}'
    return speculation.Run(
        self._llm.generate(inputs, params, name),
        functools.partial(self._llm.abort, name),
        self._prompter,
        request,
        prompt,
        self.route,
        self._time,
    )

  def _sampling_params(
      self, request: engine_lib.Request, stop: str | None, room: int
  ):
    """What to sample, and where to stop.

    At a delimiter that is one token vLLM stops at once, and not only when the
    text is looked at: nothing is written past it, and what is in the cache
    later does not hang on who was faster.
    """
    import vllm
    from vllm import sampling_params

    kinds = sampling_params.RequestOutputKind
    speculates = (
        self._settings.speculates
        and request.may_speculate
        and not request.to_end
        and request.session
        and not request.temperature
    )
    if speculates:
      stop = None
    return vllm.SamplingParams(
        temperature=request.temperature,
        seed=request.seed,
        max_tokens=room,
        stop=stop,
        stop_token_ids=self._stop_ids if stop == types.DELIMITER else None,
        include_stop_str_in_output=True,
        # We spell the tokens ourselves; of those that came close, nobody needs
        # the text.
        detokenize=stop is not None,
        logprobs=self._settings.num_log_probs,
        flat_logprobs=True,
        output_kind=kinds.CUMULATIVE if speculates else kinds.FINAL_ONLY,
    )


def _delimiter_ids(tokenizer: prompts.Tokenizer) -> list[int]:
  """The tokens that spell a whole delimiter, and perhaps more."""
  ids = sorted(tokenizer.get_vocab().values())
  texts = tokenizer.batch_decode([[i] for i in ids])
  return [
      i for i, text in zip(ids, texts, strict=True) if types.DELIMITER in text
  ]
